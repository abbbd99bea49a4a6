"""What `gander` can do, as functions: the command line is a few lines over these.

from gander import verbs
verbs.train("sagan", data="photos/", resolution=64)
verbs.sample("runs/sagan-photos", count=16)
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from gander.errors import UserError
from gander.run import Run
from gander.training import train

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
    for line in estimate(experiment, channels):
        say(f"  {line}")
    for note in experiment.notes:
        say(f"  note: {note}")


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
    standing: int = 8,
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
        standing: estimate batch norm's statistics anew over this many batches of 64; 0 takes the running ones of training.
        device: as for train.
        recipe: the file of your own recipe, where the run was made by one.
    """
    from tqdm import tqdm

    from gander import distributed
    from gander.sampling import draw_images, kind_of, load_generator, numbered, write
    from gander.train.samples import columns_of

    the_run = Run.open(run)
    where = distributed.device(device)
    kind = kind_of(Path(out)) if out else "sheet"
    generator, at = load_generator(the_run, step=step, network=network, standing=standing, device=where, recipe=recipe)
    chosen = numbered(label, the_run.described.get("classes", []), generator.num_classes)
    options: dict[str, Any] = {"label": chosen, "truncation": truncation, "interpolate": interpolate, "device": where}
    path = Path(out) if out else the_run.samples / f"seed{seed}-step{at}{'-film' if interpolate else ''}.png"
    parts = [(0, count)]
    if kind == "folder" and not interpolate:  # any number of them, in little memory
        parts = [(start, min(256, count - start)) for start in range(0, count, 256)] or parts
    written = 0
    for start, some in tqdm(parts, unit="×256 images", disable=len(parts) == 1 or not sys.stderr.isatty()):
        images = draw_images(generator, seed, some, start=start, **options)
        columns = interpolate or (columns_of(generator) if chosen is None else None)
        write(path, images, columns, first=start)
        written += len(images)
    say(f"{written:,} images of step {at:,} in {path}")
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
    files.write_atomic(target, Path(source).read_text(encoding="utf-8"))
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
