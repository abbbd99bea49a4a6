"""What `gander` can do, as functions: the command line is a few lines over these.

    from gander import verbs
    verbs.train("sagan", data="photos/", resolution=64)
    verbs.sample("runs/sagan-photos", count=16)
"""

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from gander.errors import UserError
from gander.run import Outcome, Run, circumstances

say: Callable[..., None] = print


def ls() -> None:
    """The recipes, and a sentence on each."""
    from gander.recipes import RECIPES

    for name, sentence in RECIPES.items():
        say(f"{name:16} {sentence}")
    say("\ngander show RECIPE: its knobs, sizes and costs.  gander train RECIPE --data FOLDER: go.")


def show(recipe: str, *, num_images: int = 50_000, num_classes: int = 0, channels: Literal[1, 3] = 3, **knobs: Any) -> None:
    """A recipe's knobs with their reasons, its networks' sizes, and what a step costs on this machine.

    Args:
        num_images: of the data you would give it.
        num_classes: of that data; 0 is without labels.
        channels: 3 for colour, 1 for grey.
    """
    import torch

    from gander import recipes
    from gander.estimate import estimate, worded
    from gander.recipes.experiment import Facts

    function = recipes.load(recipe)
    resolved = recipes.resolve(function, knobs)
    with torch.device("meta"):  # shapes without numbers: the largest network costs nothing to look at
        experiment = function(Facts(num_images, num_classes, channels), **resolved)
    say((sys.modules[function.__module__].__doc__ or "").strip() + "\n")
    for name, knob in recipes.knobs(function).items():
        say(f"  --{name.replace('_', '-'):20} {worded(resolved[name]):14} {knob.help}")
    say("")
    for name, network in experiment.networks.items():
        say(f"  {name:16} {sum(p.numel() for p in network.parameters() if p.requires_grad or name.endswith('ema')):,} parameters")
    for line in estimate(experiment, channels, num_classes):
        say(f"  {line}")
    for note in experiment.notes:
        say(f"  note: {note}")


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
    sample_every: int = 500,
    score_every: int = 0,
    keep_every: int = 0,
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
        save_every: steps between two checkpoints. The last two are kept.
        sample_every: steps between two grids of samples; 0 is never.
        score_every: steps between two gradings of the samples, for probes; 0 is never.
        keep_every: keep the checkpoints of these steps for good; 0 is none.
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
    from gander.sampling import grader
    from gander.train import precision as precisions
    from gander.train.checkpoint import start_from
    from gander.train.fit import fit

    started = time.time()
    function = recipes.load(recipe)
    resolved = recipes.resolve(function, knobs)
    for name, value in {"log-every": log_every, "save-every": save_every}.items():
        if value < 1:
            raise UserError(f"--{name} {value} is not a number of steps; take 1 or more")
    where = distributed.device(device)
    source = open_source(data, split=split)
    facts = Facts(len(source), source.num_classes, channels)
    with torch.device("meta"):  # all that can be wrong with the knobs, before any image is decoded
        trial = function(facts, **resolved)
    if trial.batch > len(source):
        raise UserError(f"{len(source):,} images are fewer than a batch of {trial.batch}; take --batch {len(source)} or less")
    folder = Path(run or f"runs/{Path(recipe).stem}-{source.name}")
    if precision is None and (folder / "run.json").exists():
        precision = Run.open(folder).described.get("precision")
    precision = precisions.resolve(precision, where)
    watchers = [grader(data, score_every, seed)] if score_every else []

    with distributed.session(where):
        chief = distributed.rank() == 0
        distributed.check_batch(trial.batch, trial.learner.accumulate)
        if not chief:
            distributed.barrier()
        options = {"channels": channels, "workers": workers, "allow_broken": allow_broken, "progress": chief}
        dataset = prepare(source, trial.resolution, **options)
        facts = Facts(len(dataset), dataset.num_classes, channels)
        described = {
            "recipe": Path(recipe).name,
            "knobs": resolved,
            "facts": vars(facts),
            "classes": list(dataset.classes),
            "seed": seed,
            "precision": precision,
            "init": str(init) if init else None,
            "data": {
                "name": dataset.name,
                "split": dataset.split,
                "fingerprint": dataset.fingerprint,
                "filter": dataset.filter,
                "where": data,
            },
            "device": str(where),
            **circumstances(),
        }
        if chief:
            the_run, resumed = Run.start(folder, described, growing=trial.growing)
            distributed.barrier()
        else:
            the_run, resumed = Run.open(folder), True
        torch.manual_seed(seed)
        experiment = function(facts, **resolved)
        learner = experiment.learner.to(where, precision)
        if init and not resumed:
            start_from(init, learner.networks)
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
            for note in experiment.notes:
                say(f"note: {note}")
            verb = "going on with" if resumed else "training"
            say(f"{verb} {folder}: {recipe}, {len(dataset):,} images at {experiment.resolution} px, {where}, {precision}", flush=True)
        with the_run.lock() if chief else contextlib.nullcontext():
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
                watchers=watchers,
                tensorboard=tensorboard,
            )
        if chief:
            if outcome.signal:
                say(f"stopped and saved at step {outcome.step:,} of {experiment.steps:,}; say the same command again to go on")
            else:
                say(f"{folder} is finished: {outcome.step:,} steps, {tqdm.format_interval(time.time() - started)} this time; samples in {the_run.samples}")
    return outcome


def sample(
    run: str,
    *,
    out: str | None = None,
    count: int = 64,
    seed: int = 0,
    label: str | None = None,
    truncation: float | None = None,
    interpolate: int = 0,
    step: int | None = None,
    network: Literal["ema", "live"] = "ema",
    standing: int = 0,
    device: str | None = None,
    recipe: str | None = None,
) -> Path:
    """Images from a trained run: a grid, single files, a film strip or a GIF.

    Args:
        run: folder of the run.
        out: a .png for one sheet, a .gif for a moving one, else a folder for single files; by default a sheet in the run's samples.
        count: how many images; with --interpolate how many to go through.
        seed: sample i of a seed is the same image in any number and batch.
        label: a class, by name or number; by default they go round.
        truncation: cut the latents to [-t, t]: the smaller, the more typical and alike.
        interpolate: steps between each image and the next, on the great circle between their latents; 0 is none.
        step: of which checkpoint; by default the last.
        network: the averaged generator (ema), or the one that was trained (live).
        standing: estimate batch norm's statistics again over this many batches of 64; 0 takes those of training.
        device: as for train.
        recipe: the file of your own recipe, where the run was made by one.
    """
    from gander import distributed
    from gander.sampling import draw_images, load_generator, numbered, write

    the_run = Run.open(run)
    where = distributed.device(device)
    generator, at = load_generator(the_run, step=step, network=network, standing=standing, device=where, recipe=recipe)
    chosen = numbered(label, the_run.described.get("classes", []), generator.num_classes)
    images = draw_images(generator, seed, count, label=chosen, truncation=truncation, interpolate=interpolate, device=where)
    path = Path(out) if out else the_run.samples / f"seed{seed}-step{at}{'-film' if interpolate else ''}.png"
    write(path, images, columns=interpolate + 1 if interpolate else None)
    say(f"{len(images)} images of step {at:,} in {path}")
    return path


def cp(recipe: str, file: str) -> None:
    """Copy a recipe to a file of your own: change it, then `gander train ./FILE`."""
    from gander import files, recipes

    target = Path(file)
    if target.suffix != ".py":
        raise UserError(f"{file} does not end in .py; name the copy like mine.py")
    if target.exists():
        raise UserError(f"{file} is there already; name another, or move it away")
    source = sys.modules[recipes.load(recipe).__module__].__file__
    assert source is not None
    files.write_atomic(target, Path(source).read_text())
    say(f"{recipe} is now yours in {target}: gander train ./{target} --data FOLDER")


def check(data: str, *, split: str | None = None) -> None:
    """What is in a folder, zip or data set: sizes, modes, classes, splits, broken and duplicate images.

    Args:
        data: as for train.
        split: which of its splits; by default train, where there are any.
    """
    from gander.data import check as look
    from gander.data import open_source

    say(str(look(open_source(data, split=split))))


def doctor() -> None:
    """What works on this machine, and what runs instead of what does not."""
    from gander.doctor import findings

    for line in findings():
        say(line)


VERBS: dict[str, Callable[..., Any]] = {
    "ls": ls,
    "show": show,
    "train": train,
    "sample": sample,
    "check": check,
    "cp": cp,
    "doctor": doctor,
}
