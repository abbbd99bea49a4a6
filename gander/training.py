"""From words to a run: check all that can be checked, prepare the images, build the experiment, fit it."""

import contextlib
import signal
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gander.errors import UserError, missing_extra
from gander.run import Outcome, Run, circumstances
from gander.signals import heard

if TYPE_CHECKING:
    import torch

    from gander.data import Dataset, Source
    from gander.recipes import Recipe
    from gander.recipes.experiment import Experiment

say = print


def train(
    recipe: str,
    *,
    data: str,
    run: str | None = None,
    split: str | None = None,
    fraction: float = 1.0,
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
        fraction: of the images to train on, as large a part of each class; any seed has the same, a larger fraction has them too.
            Samples are scored against all images.
        channels: 3 for colour, 1 for grey.
        device: cpu, cuda, cuda:1, mps; by default the best there is.
        precision: fp32, bf16 or fp16; by default bf16 on GPUs that have it, else fp32.
        seed: another seed is another run.
        workers: processes that decode images, once; by default one a core.
        log_every: steps between two lines of the log.
        save_every: steps between two checkpoints. The last two are kept, and to go back to (on-collapse) two older ones.
        sample_every: steps between two grids of samples; 0 is never.
        score_every: steps between two scores of 2,560 samples against 10,000 of the images; the best is kept; 0 is never.
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

    from gander import distributed
    from gander.data.batches import Batches, in_order
    from gander.recipes.experiment import Facts
    from gander.scoring import features_for
    from gander.scoring.card import best_of_training
    from gander.scoring.watch import REFERENCE, SAMPLES, Watch
    from gander.train import checkpoint
    from gander.train.exam import Exam
    from gander.train.fit import Watcher, fit
    from gander.train.recovery import lowest

    started = time.time()
    check_flags(log_every, save_every, score_every, init, tensorboard)
    plan = planned(recipe, knobs, data, split, channels, device, scored=score_every > 0, fraction=fraction)
    folder, where = Path(run or f"runs/{Path(recipe).stem}-{plan.source.name}"), plan.device
    asked_for = {"recipe": Path(recipe).name, "knobs": plan.knobs, "seed": seed, "init": init, "fraction": fraction}
    asked_for["precision"] = precision = _precision(precision, folder, where)
    if (folder / "run.json").exists():
        Run.open(folder).compare(asked_for, growing=plan.trial.growing)

    with distributed.session(where), contextlib.ExitStack() as held:
        chief = distributed.rank() == 0
        distributed.check_batch(plan.trial.batch, plan.trial.learner.accumulate)
        judge = distributed.chief_first(lambda: features_for(where, score_features)) if score_every else None
        options = {"channels": channels, "workers": workers, "allow_broken": allow_broken, "progress": chief}
        prepared = decoded(plan, options)
        if isinstance(prepared, Outcome):
            return prepared
        dataset, held_out, whole = prepared
        facts = Facts(len(dataset), dataset.num_classes, channels)
        torch.manual_seed(seed)
        experiment = plan.function(facts, **plan.knobs)
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
        if held_out:
            described["held_out"] = {"split": plan.judged_by, "count": len(held_out), "fingerprint": held_out.fingerprint}

        def folder_of_the_run() -> tuple[Run, bool]:
            if not chief:
                return Run(folder, described), True
            held.enter_context(Run.hold(folder))  # before the first file: of two first starts one is refused
            the_run, there = Run.start(folder, described, growing=experiment.growing)
            if experiment.growing:
                the_run.grow(experiment.steps)
            return the_run, there

        the_run, resumed = distributed.chief_first(folder_of_the_run)
        batches = Batches(
            dataset.images,
            dataset.labels,
            batch=experiment.batch,
            seed=seed,
            per_step=learner.draws_per_step,
            accumulate=learner.accumulate,
            device=where,
        )
        if chief:
            for note in [*experiment.notes, *notes(dataset, held_out)]:
                say(f"note: {note}")
            verb = "going on with" if resumed else "training"
            part = f" (--fraction {fraction:g})" if fraction < 1 else ""
            what = f"{len(dataset):,} images{part} at {experiment.resolution} px, {where}, {precision}"
            say(f"{verb} {folder}: {recipe}, {what}", flush=True)
        watchers: list[Watcher] = []
        watch = Watch(whole or dataset, judge, the_run) if judge else None
        if watch:
            watchers.append((score_every, watch))
            name, real = watch.best.removeprefix("score/"), min(REFERENCE, len(whole or dataset))
            images = f"{real:,} {'of all' if whole else 'training'} images"
            what = f"{name} and kernel distance of {SAMPLES:,} samples against {images}"
            if chief:
                say(f"scores every {score_every:,} steps: {what}; the checkpoint with the lowest {name} is kept", flush=True)
        if held_out:
            exams = experiment.exam_every or max(1, batches.per_epoch // learner.draws_per_step)
            source = {"data": held_out.name, "split": plan.judged_by, "classes": list(held_out.classes)}
            exam = Exam(lambda: in_order(held_out.images, held_out.labels, where), len(held_out), the_run, source)
            watchers.append((exams, exam))
            if chief:
                say(f"examined every {exams:,} steps on {len(held_out):,} held-out images ({plan.judged_by})", flush=True)
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
            watchers=watchers,
            best=watch.best if watch else best_of_training(the_run.folder / "scores.json") if chief else "",
            tensorboard=tensorboard,
        )
        if chief and outcome.signal:
            say(f"stopped and saved at step {outcome.step:,} of {experiment.steps:,}; say the same command again to go on")
        elif chief:
            took = tqdm.format_interval(time.time() - started)
            results = [f"samples in {the_run.samples}"] if learner.columns else []
            results += [f"exam in {the_run.folder / 'exam.json'}"] if held_out else []
            say(f"{folder} is finished: {outcome.step:,} steps, {took} this time; {', '.join(results)}")
        if chief and watch and (best := lowest(the_run, watch.best)) > 0:
            name = watch.best.removeprefix("score/")
            say(f"the lowest {name} was at step {best:,}: gander sample {folder} --step {best}")
    return outcome


def check_flags(log_every: int, save_every: int, score_every: int, init: str | None, tensorboard: bool) -> None:
    """UserError for what is wrong with these flags of `train`, whatever the recipe."""
    for name, value in {"log-every": log_every, "save-every": save_every}.items():
        if value < 1:
            raise UserError(f"--{name} {value} is not a number of steps; take 1 or more")
    if score_every < 0:
        raise UserError(f"--score-every {score_every} is not a number of steps; take 0 for never, or 500")
    if init and not Path(init).exists():
        raise UserError(f"--init {init}: there is no such run folder or .safetensors file")
    if tensorboard and not find_spec("tensorboard"):
        raise missing_extra("tensorboard", "tensorboard", "--tensorboard")


class Plan(NamedTuple):
    """What a run will be, found before any image is decoded."""

    function: "Recipe"
    knobs: dict[str, Any]
    trial: "Experiment"  # on the meta device: shapes without numbers
    device: "torch.device"
    source: "Source"
    held_out: "Source | None"  # for a learner that is examined
    whole: "Source | None"  # what samples are scored against, where a fraction of it is trained on

    @property
    def judged_by(self) -> str:
        from gander.data.held_out import worded

        return worded(self.held_out) if self.held_out else ""


def planned(
    recipe: str,
    knobs: Mapping[str, Any],
    data: str,
    split: str | None,
    channels: int,
    device: str | None,
    *,
    scored: bool,
    fraction: float = 1.0,
) -> Plan:
    """All that can be wrong with knobs, data and device. UserError where it is."""
    import torch

    from gander import distributed, recipes
    from gander.data import open_source
    from gander.data.held_out import beside, check_labels
    from gander.data.sources import share
    from gander.recipes.experiment import Facts
    from gander.scoring import FEWEST

    function = recipes.load(recipe)
    resolved = recipes.resolve(function, knobs)
    where = distributed.device(device)
    source = open_source(data, split=split)
    if scored and len(source) < FEWEST:
        raise UserError(f"{len(source)} images are too few to score samples against, which takes {FEWEST}; leave --score-every out")

    def tried() -> "Experiment":
        with torch.device("meta"):
            return function(Facts(len(source), source.num_classes, channels), **resolved)

    trial, held_out = tried(), None
    if scored and not hasattr(trial.learner, "sampler"):
        raise UserError(f"{recipe} makes no samples that could be scored; leave --score-every out")
    if hasattr(trial.learner, "examine"):
        source, held_out = beside(source)
        if trial.labelled:
            check_labels(source, held_out)
    whole, source = source, share(source, fraction)
    if held_out or fraction < 1:
        trial = tried()  # of fewer images
    check_batch(trial, len(source), fraction)
    return Plan(function, resolved, trial, where, source, held_out, whole if scored and fraction < 1 else None)


def check_batch(trial: "Experiment", images: int, fraction: float = 1.0) -> None:
    """UserError where they, a fraction of all, are too few for a batch."""
    if trial.batch > images:
        part, more = (f" (--fraction {fraction:g})", ", or a larger fraction") if fraction < 1 else ("", "")
        raise UserError(f"{images:,} images{part} are fewer than a batch of {trial.batch}; take --batch {images} or less{more}")


def _precision(asked: str | None, folder: Path, device: "torch.device") -> str:
    """As asked, else that of the run that is there, else the best of the device."""
    from gander.train import precision

    kept = Run.open(folder).described.get("precision") if (folder / "run.json").exists() else None
    return precision.resolve(asked or (str(kept) if kept else None), device)


class Decoded(NamedTuple):
    """What to train on, what is held out of it, and what samples are scored against where that is not what is trained on."""

    dataset: "Dataset"
    held_out: "Dataset | None" = None
    whole: "Dataset | None" = None


def decoded(plan: Plan, options: dict[str, Any]) -> Decoded | Outcome:
    """Every image decoded. An Outcome where a signal stopped it."""
    from gander import distributed
    from gander.data import prepare
    from gander.data.held_out import check_images, prepare_held_out

    side, held_out = plan.trial.side or plan.trial.resolution, plan.held_out
    with heard() as asked:
        options = {**options, "stopped": lambda: bool(asked[0])}

        def every() -> Decoded:
            dataset = prepare(plan.source, side, **options)
            judges = prepare_held_out(held_out, side, **options) if held_out else None
            return Decoded(dataset, judges, prepare(plan.whole, side, **options) if plan.whole else None)

        try:
            found = distributed.chief_first(every)
        except KeyboardInterrupt:
            asked[0] = asked[0] or signal.SIGINT
        if number := distributed.agree(asked[0]):
            say("stopped before the first step; nothing was lost")
            return Outcome(0, number)
    for part in found:
        if part and plan.trial.labelled:
            check_images(part)
    return found


def notes(dataset: "Dataset", held_out: "Dataset | None") -> list[str]:
    """What is worth saying of these images, once they are prepared."""
    from gander.data.held_out import in_both

    said = []
    if dataset.enlarged:
        said.append(
            f"{dataset.enlarged:,} of the {len(dataset):,} images are smaller than {dataset.resolution} px and were enlarged"
        )
    if held_out and (count := in_both(dataset, held_out)):
        said.append(f"{count:,} of the {len(held_out):,} held-out images are also trained on, so that they judge too kindly")
    return said
