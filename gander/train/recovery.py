"""To a checkpoint and from one: after a stop, and after a collapse."""

import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gander import distributed
from gander.errors import UserError
from gander.run import Run
from gander.train import checkpoint
from gander.train.learner import Learner

RATE, TIMES = 0.5, 3  # going back multiplies the rates by this, so many times at most


def save(learner: Learner, run: Run, step: int, went_back: int, *, must: bool = True) -> bool:
    """The first process saves. False where the disk hung; `must` raises GivenUp there."""
    state = {"step": step, "went_back": went_back, "learner": learner.state_dict()}

    def write() -> bool:
        try:
            checkpoint.save(run.checkpoints, step, learner.networks, state)
        except checkpoint.GivenUp as late:
            if must:
                raise
            tqdm.write(f"{late}; training goes on", file=sys.stderr)
            return False
        return True

    return distributed.by_chief(write) is not False


def prune(run: Run, keep_every: int, healthy: int | None = None) -> None:
    """Keep the last two checkpoints and every `keep_every`-th step.

    With `healthy` also the last that is not after that step, to go back to, and the next, which will take its place.
    """

    def delete() -> None:
        steps = checkpoint.saved(run.checkpoints)
        before = [step for step in steps if healthy is not None and step <= healthy]
        checkpoint.prune(run.checkpoints, keep_every, keep=steps[max(0, len(before) - 1) :][:2] if before else ())

    distributed.by_chief(delete)


def resume(learner: Learner, run: Run) -> tuple[int, int]:
    """Put the newest whole checkpoint of the run into the learner: (the step it was saved after, how often it went back).

    (0, 0) where there is none. What was logged and sampled after it is forgotten.
    """
    if not checkpoint.saved(run.checkpoints):
        distributed.by_chief(lambda: run.truncate_log(0))
        return 0, 0
    path, complaints = checkpoint.find(run.checkpoints)
    distributed.barrier()  # all have looked before the first tidies up
    for complaint in complaints if distributed.rank() == 0 else ():
        tqdm.write(f"{complaint}; the one before it is taken", file=sys.stderr)
    state = _load(learner, run, path, "damaged")
    return state["step"], state.get("went_back", 0)


def go_back(learner: Learner, run: Run, healthy: int, went_back: int, why: UserError) -> tuple[int, int]:
    """To the last checkpoint that is not after step `healthy`, else to the first: (its step, how often that has been done).

    The rates are lowered. UserError where that was done TIMES times before, or there is no checkpoint. Those after it are put
    aside as `<step>.collapsed`.
    """
    if went_back == TIMES:
        raise UserError(f"{why}; it went back {TIMES} times, to {RATE**TIMES:g} of the rates: take another recipe or knobs")
    steps = checkpoint.saved(run.checkpoints)
    if not steps:
        raise UserError(f"{why}; there is no checkpoint to go back to: take lower rates and --run NEW")
    step = max([step for step in steps if step <= healthy] or steps[:1])
    path, _ = checkpoint.find(run.checkpoints, step)
    distributed.barrier()
    _load(learner, run, path, "collapsed")
    learner.slow_down(RATE)
    save(learner, run, step, went_back + 1)  # the rates are in it: from here on a stop changes nothing
    return step, went_back + 1


def _load(learner: Learner, run: Run, path: Path, what: str) -> dict[str, Any]:
    """Load a checkpoint; those after it are renamed to `<step>.<what>`, and their steps go from the log."""
    step = int(path.name)
    for name, network in learner.networks.items():
        checkpoint.load_network(path / f"{name}.safetensors", network)
    state = checkpoint.load_state(path)
    if state.get("step") != step or "learner" not in state:
        raise UserError(f"{path / 'state.pt'} has no learner of step {step} in it; delete {path} to take the one before it")
    learner.load_state_dict(state["learner"])

    def tidy() -> None:
        checkpoint.put_aside(run.checkpoints, step, what)
        run.truncate_log(step)

    distributed.by_chief(tidy)
    return state
