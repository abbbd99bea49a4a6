"""Many runs and their statistics: does a knob matter? `compare` plans, runs, judges, and writes study.json and study.html."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gander.errors import UserError, shown
from gander.signals import heard

say = print


class Compared(NamedTuple):
    """The study's folder, its result as in study.json (None where two seeds are not complete), and the signal that stopped it."""

    folder: Path
    result: dict[str, Any] | None
    signal: int


def compare(
    recipe: str,
    *,
    data: str,
    vary: Sequence[str] | Mapping[str, Sequence[Any]],
    seeds: int = 5,
    equal: Literal["steps", "time", "parameters"] = "steps",
    outcome: str | None = None,
    jobs: int = 1,
    cluster: Literal["slurm", "local"] | None = None,
    study: str | None = None,
    **more: Any,
) -> Compared:
    """Does a knob matter? Train every arm with the same seeds and data order, and test the differences. Say it again to go on.

    All flags and knobs of `train` may stand beside; they are the same for all arms.

    Args:
        data: a folder or zip of images, a folder of parquet files, owner/name on the Hub, or probe:twins, probe:count.
        vary: KNOB=VALUE,VALUE,...: the arms, the first being what the others are held against. Of several knobs the grid of all
            values. So may --fraction be varied: fraction=0.1,0.3,1.
        seeds: runs of each arm; more of them later go on with the study.
        equal: what the arms have the same of: steps; time, by seconds a step measured first; or parameters, by moving the knob
            width.
        outcome: what a run is judged by, as top-1 accuracy, PSNR, coherent, Fréchet. By default the accuracy at the last exam; of a
            GAN its probe's main grade, else the Fréchet distance, of 2,560 samples at the last step.
        jobs: runs side by side; they share the cores.
        cluster: make them jobs of slurm, or local ones to try that with; sbatch's own variables (SBATCH_PARTITION, ...) say the
            rest.
        study: folder of the study; by default studies/RECIPE-DATA-KNOB.
    """
    from gander.study import making, record, runs, verdict
    from gander.study import outcome as outcomes
    from gander.study.plan import decoded, made_of

    if seeds < 2:
        raise UserError("an interval needs 2 seeds or more; --seeds 2")
    if jobs < 1:
        raise UserError(f"--jobs {jobs} is no number of runs side by side; take 1 or more")
    if cluster:
        from gander.study import cluster as machines

        machines.check(cluster)
    plan = made_of(recipe, data, vary, more, equal=equal, outcome=outcome, elsewhere=cluster is not None)
    folder = Path(study or f"studies/{Path(recipe).stem}-{plan.first.source.name}-{'-'.join(plan.vary)}")
    with record.Study.hold(folder), heard() as asked:
        if before := record.Study.begun(folder):
            record.Study.refuse_another(folder, before, plan.asked)  # before images are decoded
        features = before.get("features", plan.features)
        outcomes.check(outcome, plan.game, plan.probe, classes=plan.classes, features=features)
        described = decoded(plan, seeds, say)
        if isinstance(described, int):
            return Compared(folder, None, described)
        the_study = record.Study.start(folder, described)
        start: runs.Start = machines.start_on(cluster, folder) if cluster else runs.here
        if the_study.open_runs(seeds):
            making.make(the_study, plan, seeds, start=start, jobs=jobs, stopped=lambda: bool(asked[0]), say=say)
        result = making.keep(the_study)
        complete = len(the_study.complete())
        if result:
            say("\n".join(["", *map(shown, verdict.worded(result)), ""]))
        elif not asked[0]:
            say("every run failed; the logs in runs/ say why")
        left = len(the_study.open_runs(seeds))
        if left:
            say(f"stopped with {complete} seeds complete and {left} runs to make; say the same command again to go on")
        say(f"{folder / 'study.html'} shows it, {folder / 'study.json'} holds it")
        return Compared(folder, result, asked[0] if left else 0)
