"""From words to a run: check all that can be checked, prepare the images, build the experiment, fit it."""

import contextlib
import signal
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from gander.errors import UserError, missing_extra
from gander.run import Outcome, Run, circumstances
from gander.signals import heard

say = print


def train(
    recipe: str,
    *,
    data: str,
    run: str | None = None,
    split: str | None = None,
    channels: Literal[1, 3] = 3,
    device: str | None = None,
    precision: str | None = None,
    seed: int = 0,
    workers: int | None = None,
    log_every: int = 50,
    save_every: int = 500,
    sample_every: int = 250,
    score_every: int = 0,
    score_features: Literal["inception", "dinov2", "random-conv"] | None = None,
    keep_every: int = 0,
    on_collapse: Literal["warn", "stop", "rollback"] = "warn",
    init: str | None = None,
    allow_broken: bool = False,
    tensorboard: bool = False,
    **knobs: Any,
) -> Outcome:
    """Train a recipe on images. Stop it with Ctrl-C; say the same again to go on.

    Args:
        data: a folder or zip of images, a folder of parquet files, owner/name on the Hub, or probe:twins, probe:count.
        run: folder of the run; by default runs/RECIPE-DATA.
        split: which of the data's splits; by default train, where there are any.
        channels: 3 for colour, 1 for grey.
        device: cpu, cuda, cuda:1, mps; by default the best there is.
        precision: fp32, bf16 or fp16; by default bf16 on GPUs that have it, else fp32.
        seed: another seed is another run.
        workers: processes that decode images, once; by default one a core.
        log_every: steps between two lines of the log.
        save_every: steps between two checkpoints. The last two are kept, and to go back to (on-collapse) two older ones.
        sample_every: steps between two grids of samples; 0 is never.
        score_every: steps between two scores of 2,560 samples against 10,000 training images; the best is kept; 0 is never.
        score_features: for these scores; by default inception where its weights are in the cache, else random-conv.
        keep_every: keep the checkpoints of these steps for good; 0 is none.
        on_collapse: when the log shows that the run goes wrong: warn, stop, or rollback to the last healthy checkpoint at half the
            rates, three times at most.
        init: start from the weights of this run, or of this .safetensors file of the generator.
        allow_broken: go on with more than 1 % broken images.
        tensorboard: write event files too, to the run's folder.
    """
    import torch
    from tqdm import tqdm

    from gander import distributed, recipes
    from gander.data import open_source, prepare
    from gander.data.batches import Batches
    from gander.recipes.experiment import Facts
    from gander.scoring import FEWEST, features_for
    from gander.scoring.card import best_of_training
    from gander.scoring.watch import REFERENCE, SAMPLES, Watch
    from gander.train import checkpoint
    from gander.train import precision as precisions
    from gander.train.fit import fit
    from gander.train.recovery import lowest

    started = time.time()
    function = recipes.load(recipe)
    resolved = recipes.resolve(function, knobs)
    for name, value in {"log-every": log_every, "save-every": save_every}.items():
        if value < 1:
            raise UserError(f"--{name} {value} is not a number of steps; take 1 or more")
    if score_every < 0:
        raise UserError(f"--score-every {score_every} is not a number of steps; take 0 for never, or 500")
    where = distributed.device(device)
    source = open_source(data, split=split)
    if score_every and len(source) < FEWEST:
        raise UserError(f"{len(source)} images are too few to score samples against, which takes {FEWEST}; leave --score-every out")
    with torch.device("meta"):  # all that can be wrong with the knobs, before any image is decoded
        trial = function(Facts(len(source), source.num_classes, channels), **resolved)
    if trial.batch > len(source):
        raise UserError(f"{len(source):,} images are fewer than a batch of {trial.batch}; take --batch {len(source)} or less")
    if init and not Path(init).exists():
        raise UserError(f"--init {init}: there is no such run folder or .safetensors file")
    if tensorboard and not find_spec("tensorboard"):
        raise missing_extra("tensorboard", "tensorboard", "--tensorboard")
    folder = Path(run or f"runs/{Path(recipe).stem}-{source.name}")
    there = Run.open(folder) if (folder / "run.json").exists() else None
    kept = there.described.get("precision") if there else None
    precision = precisions.resolve(precision or (str(kept) if kept else None), where)
    asked_for = {"recipe": Path(recipe).name, "knobs": resolved, "seed": seed, "precision": precision, "init": init}
    if there:
        there.compare(asked_for, growing=trial.growing)

    with distributed.session(where), contextlib.ExitStack() as held:
        chief = distributed.rank() == 0
        distributed.check_batch(trial.batch, trial.learner.accumulate)
        judge = distributed.chief_first(lambda: features_for(where, score_features)) if score_every else None
        with heard() as asked:
            options: dict[str, Any] = {"channels": channels, "workers": workers, "allow_broken": allow_broken, "progress": chief}
            options["stopped"] = lambda: bool(asked[0])
            try:
                dataset = distributed.chief_first(lambda: prepare(source, trial.resolution, **options))
            except KeyboardInterrupt:
                asked[0] = asked[0] or signal.SIGINT
            if number := distributed.agree(asked[0]):
                say("stopped before the first step; nothing was lost")
                return Outcome(0, number)
        facts = Facts(len(dataset), dataset.num_classes, channels)
        torch.manual_seed(seed)
        experiment = function(facts, **resolved)
        learner = experiment.learner.to(where, precision)
        if init and not checkpoint.saved(folder / "checkpoints"):
            checkpoint.start_from(init, learner.networks)
        described = {
            **asked_for,
            "facts": vars(facts),
            "classes": list(dataset.classes),
            "data": {name: getattr(dataset, name) for name in ("name", "split", "fingerprint", "filter")} | {"where": data},
            "device": str(where),
            **circumstances(),
        }

        def folder_of_the_run() -> tuple[Run, bool]:
            if not chief:
                return Run(folder, described), True
            held.enter_context(Run.hold(folder))  # before the first file: of two first starts one is refused
            the_run, there = Run.start(folder, described, growing=trial.growing)
            the_run.grow(trial.steps)
            return the_run, there

        the_run, resumed = distributed.chief_first(folder_of_the_run)
        per_step, accumulate = learner.draws_per_step, learner.accumulate
        cut: dict[str, Any] = {
            "batch": experiment.batch,
            "seed": seed,
            "per_step": per_step,
            "accumulate": accumulate,
            "device": where,
        }
        batches = Batches(dataset.images, dataset.labels, **cut)
        if chief:
            for note in experiment.notes:
                say(f"note: {note}")
            verb = "going on with" if resumed else "training"
            say(
                f"{verb} {folder}: {recipe}, {len(dataset):,} images at {experiment.resolution} px, {where}, {precision}",
                flush=True,
            )
        watch = Watch(dataset, judge, the_run) if judge else None
        if watch and chief:
            name, real = watch.best.removeprefix("score/"), min(REFERENCE, len(dataset))
            what = f"{name} and kernel distance of {SAMPLES:,} samples against {real:,} training images"
            say(f"scores every {score_every:,} steps: {what}; the checkpoint with the lowest {name} is kept", flush=True)
        outcome = fit(
            learner,
            batches,
            the_run,
            steps=experiment.steps,
            batch=experiment.batch,
            seed=seed,
            log_every=log_every,
            save_every=save_every,
            sample_every=sample_every,
            keep_every=keep_every,
            on_collapse=on_collapse,
            watchers=[(score_every, watch)] if watch else [],
            best=watch.best if watch else best_of_training(the_run.folder / "scores.json") if chief else "",
            tensorboard=tensorboard,
        )
        if chief and outcome.signal:
            say(f"stopped and saved at step {outcome.step:,} of {experiment.steps:,}; say the same command again to go on")
        elif chief:
            took = tqdm.format_interval(time.time() - started)
            say(f"{folder} is finished: {outcome.step:,} steps, {took} this time; samples in {the_run.samples}")
        if chief and watch and (best := lowest(the_run, watch.best)) > 0:
            name = watch.best.removeprefix("score/")
            say(f"the lowest {name} was at step {best:,}: gander sample {folder} --step {best}")
    return outcome
