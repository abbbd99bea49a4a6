"""From a run folder to images: load the generator, draw, write."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gander import grids, recipes
from gander.errors import UserError, unknown
from gander.run import Run
from gander.train import checkpoint
from gander.train.ema import ready
from gander.train.samples import STANDING, images_of, latents_of, sample, standing_inputs


def load_generator(
    run: Run,
    *,
    step: int | None = None,
    network: str = "ema",
    standing: int = STANDING,
    device: torch.device | str = "cpu",
    recipe: str | None = None,
) -> tuple[Any, int]:
    """The generator of a run's checkpoint, ready to sample from, and the checkpoint's step.

    `standing` estimates batch norm's statistics again over so many batches of 64 latents of seed 0.
    """
    found, complaints = checkpoint.find(run.checkpoints, step)
    with torch.device("meta"):  # knobs may ask for any size: shapes without numbers first, until they are those of the files
        trial = recipes.rebuild(run, recipe).networks
    name = "generator_ema" if network == "ema" else "generator"
    if name not in trial:
        raise UserError(f"{run.folder} has no {name} to sample from; it has {', '.join(trial)}")
    for file, shapes in trial.items():
        checkpoint.check_network(found / f"{file}.safetensors", shapes)
    generator = recipes.rebuild(run, recipe).networks[name].to(device)
    checkpoint.load_network(found / f"{name}.safetensors", generator)
    for complaint in complaints:
        print(f"{complaint}; the one before it is taken")
    return ready(generator, standing_inputs(generator, standing, device)), int(found.name)


def numbered(label: str | None, classes: Sequence[str], num_classes: int) -> int | None:
    """The number of a class given by name or number. UserError for one that is not there, or where there are no classes."""
    if label is None:
        return None
    if not num_classes:
        raise UserError(f"label {label!r} was asked for, but this run has no labels; leave it out, or train sagan_official")
    if label in classes:
        return list(classes).index(label)
    if label.isdecimal() and int(label) < num_classes:
        return int(label)
    raise unknown("class", label, [*classes] or [f"0 to {num_classes - 1}"])


def draw_images(
    generator: Any,
    seed: int,
    count: int,
    *,
    label: int | None = None,
    truncation: float | None = None,
    interpolate: int = 0,
    start: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """`count` images in [-1, 1], from the `start`-th on.

    With `interpolate` k: k images from each to the next and round again, all of the first one's label. UserError for
    numbers that make no sense.
    """
    if count < 1:
        raise UserError(f"{count} images were asked for; ask for 1 or more")
    if interpolate < 0:
        raise UserError(f"{interpolate} images between two were asked for; ask for 1 or more, or for 0: none")
    if truncation is not None and not 0 < truncation < float("inf"):
        raise UserError(f"truncation {truncation} is not over 0; 0.7 is a usual one")
    if not interpolate:
        return sample(generator, seed, range(start, start + count), label=label, truncation=truncation, device=device)
    ends, labels = latents_of(generator, seed, range(count), label=label, truncation=truncation)
    path = [great_circle(a, b, t / interpolate) for a, b in pairwise([*ends, ends[0]]) for t in range(interpolate)]
    latents = torch.stack(path)
    return images_of(generator, latents, labels[0].expand(len(latents)), device=device)


def great_circle(a: Tensor, b: Tensor, t: float) -> Tensor:
    """sin((1-t)·φ)/sin φ · a + sin(t·φ)/sin φ · b, φ the angle between them: a straight line would pass lengths never drawn."""
    angle = torch.arccos((a @ b / (a.norm() * b.norm())).clamp(-1, 1))
    if angle < 1e-4:
        return a + t * (b - a)
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


def kind_of(path: Path) -> str:
    """What is written there: a sheet (.png), a film (.gif) or a folder of files. UserError for another ending."""
    kinds = {".png": "sheet", ".gif": "film", "": "folder"}
    if path.suffix.lower() not in kinds:
        raise UserError(f"{path} is neither .png, .gif nor a folder; name one of these with --out")
    return kinds[path.suffix.lower()]


def write(path: Path, images: Tensor, columns: int | None = None, first: int = 0) -> None:
    """One sheet, one moving image, or single files named by their index, `first` and on: as `kind_of` says."""
    pixels, kind = grids.to_bytes(images), kind_of(path)
    if kind == "sheet":
        grids.save_png(path, grids.enlarge(grids.grid(pixels, columns)))
    elif kind == "film":
        grids.save_gif(path, [grids.enlarge(image, 256) for image in pixels])
    else:
        for i, image in enumerate(pixels, start=first):
            grids.save_png(path / f"{i:06d}.png", np.asarray(image))
