"""Runs on other machines, by submitit: SLURM's job arrays, or processes of this machine to try that with.

It is the extra `cluster`. The folder of the study, the images and `GANDER_CACHE` must be on a disk that all machines see. What your
cluster wants to know beside is said by sbatch's own variables:

    SBATCH_PARTITION=gpu SBATCH_GPUS=1 SBATCH_TIMELIMIT=10:00:00 gander compare ... --cluster slurm --jobs 24

submitit hands jobs over as pickles, which lie in the study's folder: take no such folder from a stranger and go on with it.
"""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gander.errors import UserError, missing_extra
from gander.study.runs import Job, Start, Worker

MINUTES = 24 * 60  # of a job, where SBATCH_TIMELIMIT does not say; a run that needs longer goes on from its checkpoint


class Task:
    """What a machine is given: it speaks a command and hands back its exit code. Before a job's end it is asked to save."""

    child: Any = None

    def __call__(self, words: Sequence[str], log: str, changes: Mapping[str, str]) -> int:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as file:
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
            options |= {"env": {**os.environ, **changes}, "start_new_session": True}
            self.child = subprocess.Popen([sys.executable, "-m", "gander", *words], **options)
        try:
            while self.child.poll() is None:
                time.sleep(0.2)
        except BaseException:
            self.save()
            raise
        return int(self.child.returncode)

    def checkpoint(self, *given: Any) -> Any:
        """submitit's question before a time limit or a preemption: what is to be queued in this job's place."""
        from submitit.helpers import DelayedSubmission

        self.save()
        return DelayedSubmission(Task(), *given)

    def save(self) -> None:
        self.child.terminate()
        for _ in range(300):
            if self.child.poll() is not None:
                return
            time.sleep(0.1)


class Submitted:
    """A job somewhere, as `gander.study.runs` sees a worker."""

    def __init__(self, job: Any):
        self.job, self.asked = job, False

    def poll(self) -> int | None:
        if not self.job.done():
            return None
        try:
            return int(self.job.result())
        except Exception as error:  # submitit's several ways to say that a job is gone
            logging.getLogger(__name__).debug("%s", error)
            return 143 if self.asked else 1

    def stop(self) -> None:
        self.asked = True
        self.job.cancel()


def check(cluster: str) -> None:
    """UserError where the extra is not installed."""
    if not find_spec("submitit"):
        raise missing_extra("submitit", "cluster", f"--cluster {cluster}")


def start_on(cluster: str, folder: Path) -> Start:
    """How `make` starts runs on this cluster; all that begin at once are one array. UserError where it is not there."""
    check(cluster)
    import submitit

    try:
        executor = submitit.AutoExecutor(folder=folder / "submitit", cluster=cluster)
    except RuntimeError as error:
        raise UserError(f"--cluster {cluster} is not to be had here ({error}); leave it out to run on this machine") from None
    executor.update_parameters(timeout_min=MINUTES, name=f"gander-{folder.name}")

    def start(jobs: Sequence[tuple[Job, Mapping[str, str]]]) -> list[Worker]:
        with executor.batch():
            handed = [
                executor.submit(Task(), job.words, str(job.log.absolute()), dict(changes) if cluster == "local" else {})
                for job, changes in jobs
            ]
        return [Submitted(job) for job in handed]

    return start
