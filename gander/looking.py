"""From a run folder to pictures of where its networks look, and to the film of its training."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from gander import draws, figures, look, recipes
from gander.cutmix import CutMix, Regions, Verdicts, composite
from gander.data import Dataset, open_source, prepare
from gander.data.crops import centre_crop
from gander.data.sources import cut, share
from gander.errors import UserError, shown
from gander.grids import save_gif, save_png
from gander.run import Run
from gander.sampling import load_generator, numbered
from gander.train import checkpoint
from gander.train.ema import ready
from gander.train.samples import images_of, latents_of

FRAMES, FRAME = 60, 640  # of a film at most, and pixels of a frame's longer side
MAX_PIXELS = 1 << 26  # of a grid
SECONDS, LAST = 12.0, 2.0  # of a film, and of its last frame besides


class Sight(NamedTuple):
    """A network's look at some images."""

    network: str
    shown: str  # the images in words
    step: int
    seed: int
    seen: look.Maps
    said: Verdicts | None = None  # of pixels and boxes, where the network says something of them
    regions: Regions | None = None  # where its images are real, if they are composites


def look_at(
    run: Run,
    *,
    data: str | None = None,
    images: int = 4,
    positions: Sequence[tuple[int, int]] | None = None,
    points: int = 4,
    step: int | None = None,
    network: str = "ema",
    seed: int = 0,
    label: str | None = None,
    device: torch.device | str = "cpu",
    recipe: str | None = None,
) -> tuple[list[Sight], str]:
    """Each network of a run that has attention layers, looked at with each kind of images; and what was left out, if anything.

    A generator is looked at while it makes samples of `seed`, another network while it sees these samples, and real images. One
    that judges pixels (`gander.cutmix`) also says what it thinks of them, and of composites of both.
    UserError for a run without attention layers, and for what cannot be had of what was asked.
    """
    for name, value in {"images": images, "points": points}.items():
        if value < 1:
            raise UserError(f"--{name} {value} is not a number of {name}; take 1 or more")
    with torch.device("meta"):  # shapes without numbers: what there is to look at, before anything is loaded
        trial = recipes.rebuild(run, recipe)
    names = _with_attention(run, trial.networks, network)
    if positions is not None:
        look.pixels(positions, (trial.resolution, trial.resolution), images)
    classes = run.described.get("classes", [])
    num_classes = max(getattr(found, "num_classes", 0) for found in trial.networks.values())
    chosen = numbered(label, classes, num_classes)
    place, complaints = checkpoint.find(run.checkpoints, step)
    for complaint in complaints:
        print(f"{complaint}; the one before it is taken")
    at, dataset, left_out = int(place.name), None, ""
    if any(not name.startswith("generator") for name in names):
        dataset, left_out = _real(run, data, trial.side or trial.resolution, classes if num_classes else None, chosen)

    shows: list[tuple[str, tuple[Tensor, Tensor], Regions | None]] = []
    if any(name.startswith("generator") for name in trial.networks):
        generator, _ = load_generator(run, step=at, network=network, device=device, recipe=recipe)
        latents, labels = (t.to(device) for t in latents_of(generator, seed, range(images), label=chosen))
        made = images_of(generator, latents, labels, device=device)
        if not made.isfinite().all():
            raise UserError(f"{run.folder} makes samples that hold NaN or infinity at step {at}; take an earlier --step")
        shows += [(f"samples of seed {seed}", (made.to(device), labels), None)]
    if dataset is not None:
        real, of_real = _some(dataset, images, seed, chosen)
        real, of_real = centre_crop(real, trial.resolution).to(device), of_real.to(device)
        shows += [("real images", (real, of_real), None)]
        if shows[0][0] != "real images" and any(hasattr(trial.networks[name], "verdicts") for name in names):
            game = CutMix(rectangles=2)
            regions = game.cut(game.draw(draws.generator("composites", seed), len(real)).to(device), real.shape[2:])
            fake = images_of(generator, latents[: len(real)], of_real, device=device).to(device)  # one label a composite
            shows += [("composites of real images and samples", (composite(real, fake, regions), of_real), regions)]
    if not shows:
        raise UserError(f"there are no images to look at ({left_out}); name some with --data FOLDER")
    others = recipes.rebuild(run, recipe).networks

    sights: list[Sight] = []
    for name in names:
        if name.startswith("generator"):
            seen = look.maps(generator, (latents, labels), positions, count=points)
            sights.append(Sight(name, f"samples of seed {seed}", at, seed, seen))
            continue
        checkpoint.load_network(place / f"{name}.safetensors", others[name])
        found: Any = ready(others[name].to(device))
        takes = len(inspect.signature(found.forward).parameters)  # images, or images and labels
        for words, inputs, where in shows:
            with torch.no_grad():
                said = found.verdicts(*inputs[:takes]) if hasattr(found, "verdicts") else None
            if said and said.pixels is None and said.boxes is None:
                said = None
            if where and not said:
                continue
            seen = look.maps(found, inputs[:takes], positions, count=points)
            sights.append(Sight(name, words, at, seed, seen, said, where))
    return sights, left_out


def draw(run: Run, sights: Sequence[Sight], folder: Path) -> list[Path]:
    """A picture of each, written to the folder; a second one of what is said of pixels and boxes."""
    paths = []
    for sight in sights:
        title = f"{sight.network} on {sight.shown}, step {sight.step:,} of {run.folder.resolve().name}"
        name = f"{sight.shown.partition(' ')[0]}-seed{sight.seed}-step{sight.step}.png"
        pictures = {sight.network: figures.attention(sight.seen, title)}
        if sight.said:
            pictures["verdicts"] = figures.verdicts(sight.seen.images, sight.said, sight.regions, title)
        for kind, picture in pictures.items():
            paths.append(folder / f"{kind}-{name}")
            save_png(paths[-1], np.asarray(picture))
    return paths


def folder_for(run: Run, out: Path | None) -> Path:
    """Where pictures go: `out`, else the run's own place for them. UserError where that is no folder."""
    if out and (out.suffix or out.is_file()):
        raise UserError(f"--out {out} is no folder; name one for the pictures")
    return out or run.folder / "look"


def _with_attention(run: Run, networks: Mapping[str, nn.Module], network: str) -> list[str]:
    """Those that can be looked at; of the two generators the one that is asked for."""
    passed_over = {"ema": "generator", "live": "generator_ema"}[network]
    names = [name for name, found in networks.items() if name != passed_over and look.layers(found)]
    if not names:
        has = ", ".join(name for name in networks if name != passed_over)
        raise UserError(
            f"{run.folder} has no attention layers to look at: there are none in {has}; train one with --attention self"
        )
    return names


def _real(run: Run, data: str | None, side: int, classes: list[str] | None, label: int | None) -> tuple[Dataset | None, str]:
    """The real images at `data`, by default the run's own, and why there are none. UserError where they were asked for.

    `classes` are those that they must have, for networks that are told the label. Of a run folder from a stranger nothing is
    opened but what it was trained on, by its fingerprint, and nothing is fetched.
    """
    trained = run.described.get("data")
    trained = trained if isinstance(trained, dict) else {}
    where = data or str(trained.get("where") or "")
    try:
        if not where:
            raise UserError(f"{run.folder}/run.json does not say where they are; name them: --data FOLDER")
        if not (data or where.startswith("probe:") or Path(where).exists()):
            raise UserError(f"{shown(where)} is not on this machine; name them: --data FOLDER")
        source = open_source(where, split=trained.get("split") if where == trained.get("where") else None)
        fraction = 1.0 if data else run.fraction
        if classes is not None and list(source.classes) != classes:
            raise UserError(f"{shown(where)} has other classes than the run: {', '.join(source.classes[:3]) or 'none'} ...")
        options = {"channels": run.described["facts"].get("channels", 3), "allow_broken": True}
        dataset = prepare(share(source, fraction), side, **options)
        if not data and dataset.fingerprint != trained.get("fingerprint") and source.kind != "probe":
            dataset = prepare(share(cut(source, "training"), fraction), side, **options)  # what is left where a tenth was held out
        if not data and dataset.fingerprint != trained.get("fingerprint"):
            raise UserError(f"{shown(where)} holds others than those trained on; --data {shown(where)} says that they are meant")
        if label is not None and not (dataset.labels == label).any():
            raise UserError(f"{shown(where)} has no image of class {label}")
        return dataset, ""
    except UserError as error:
        if data:
            raise
        return None, f"no look at real images: {error}"


def _some(dataset: Dataset, count: int, seed: int, label: int | None) -> tuple[Tensor, Tensor]:
    """`count` images that `seed` chooses, in [-1, 1], and their labels; all of one class where a label is asked for."""
    rows = np.arange(len(dataset)) if label is None else np.flatnonzero(dataset.labels == label)
    order = torch.randperm(len(rows), generator=draws.generator("look", seed))[:count].numpy()
    pixels, labels = np.array(dataset.images[rows[order]]), np.array(dataset.labels[rows[order]])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(127.5).sub_(1), torch.from_numpy(labels)


def table(sights: Sequence[Sight]) -> list[str]:
    """A line for each layer of each sight, under a line of names."""
    rows = [("network", "on", "layer", "side", "γ", "entropy", "distance")]
    for sight in sights:
        for layer in sight.seen.layers:
            gamma = "" if layer.gamma is None else f"{layer.gamma:.3g}"
            distance = "" if layer.distance is None else f"{layer.distance.mean():.1f} px"
            size = "×".join(map(str, layer.size))
            name = f"{layer.name} {layer.layer}"
            rows.append((sight.network, sight.shown, name, size, gamma, f"{layer.entropy.mean():.3f}", distance))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def film(run: Run, out: Path | None = None) -> tuple[Path, int]:
    """The grids of fixed latents over training as a moving image, the step under each: (file, frames).

    Of more than FRAMES grids so many, evenly chosen, the first and last among them. UserError where there are none yet.
    """
    path = folder_for(run, out) / "film.gif"
    found = sorted(run.samples.glob("[0-9]" * 8 + ".png")) if run.samples.is_dir() else []
    if not found:
        raise UserError(f"{run.samples} has no grids of samples to make a film of; train longer, or with --sample-every 250")
    chosen = [found[i] for i in sorted({round(i) for i in np.linspace(0, len(found) - 1, min(FRAMES, len(found)))})]
    last = int(chosen[-1].stem)
    frames = [figures.frame(_grid(file), f"step {int(file.stem):,}", int(file.stem) / max(1, last)) for file in chosen]
    each = min(0.5, SECONDS / len(frames))
    save_gif(path, [np.asarray(frame) for frame in frames], [each] * (len(frames) - 1) + [each + LAST])
    return path, len(frames)


def _grid(file: Path) -> Image.Image:
    """At most FRAME pixels long and wide."""
    try:
        with Image.open(file) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}×{image.height} pixels")
            grid = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} is no grid of samples ({error}); delete it") from None
    grid.thumbnail((FRAME, FRAME), Image.Resampling.LANCZOS)
    return grid
