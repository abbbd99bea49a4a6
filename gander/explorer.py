"""What a report shows that takes a run's networks: where they look from everywhere, the way between samples, samples of each class.

Made once for a checkpoint and kept in the run's `look/`, since a report reads files only.
"""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from gander import recipes
from gander.errors import UserError
from gander.files import read_json, write_atomic
from gander.grids import grid, save_png, to_bytes
from gander.look import LayerMaps
from gander.looking import Sight, look_at
from gander.run import Run
from gander.sampling import draw_images, load_generator
from gander.train import checkpoint
from gander.train.samples import sample

IMAGES = 4  # of each kind: samples and real ones
LARGEST = 3_500_000  # bytes of explorer.json
PNG_UP_TO = 128  # px of a side; larger images are sent as JPEG of at most twice that
ROWS, BETWEEN = 6, 9  # of the picture of the way between samples
CLASSES, EACH = 20, 8  # of the class grid
# What is kept while it fits: queries a side, keys a side, heads (1 is their mean alone), images of each kind.
LEVELS = ((16, 32, 4, IMAGES), (16, 16, 4, IMAGES), (16, 16, 1, IMAGES), (8, 16, 1, IMAGES), (8, 16, 1, 2), (8, 8, 1, 1))


def prepare(
    run: Run,
    *,
    data: str | None = None,
    step: int | None = None,
    device: torch.device | str = "cpu",
    recipe: str | None = None,
) -> tuple[list[Path], list[str]]:
    """Make what the checkpoint (by default the newest) still lacks: (the files, sentences on what cannot be made).

    Where `data` names real images the maps are made anew, for these.
    """
    made: list[Path] = []
    try:
        place, _ = checkpoint.find(run.checkpoints, step)
        with torch.device("meta"):
            networks = recipes.rebuild(run, recipe).networks
    except UserError as error:
        return [], [f"nothing that takes the networks is shown: {error}"]
    at, notes = int(place.name), []
    options: dict[str, Any] = {"step": at, "device": device, "recipe": recipe}
    file = run.folder / "look" / "explorer.json"
    if data or not file.is_file() or _step_of(file) != at:
        try:
            made.append(explore(run, data=data, **options))
        except (UserError, OSError) as error:
            notes.append(str(error))
    name = "generator_ema"
    if name in networks and not (run.folder / "look" / f"interpolation-step{at}.png").is_file():
        try:
            made += pictures(run, **options)
        except (UserError, OSError) as error:
            notes.append(str(error))
    return made, notes


def explore(
    run: Run,
    *,
    data: str | None = None,
    step: int | None = None,
    network: str = "ema",
    seed: int = 0,
    device: torch.device | str = "cpu",
    recipe: str | None = None,
) -> Path:
    """Write `look/explorer.json`: for some samples and real images, where each attention layer looks from a grid of positions.

    Maps are computed for the asked rows only, at most 16 × 16 of a layer; they are kept at 32 × 32 or less, as bytes with a scale
    of their own: round(255·share / peak), of signed ones 128 + round(127·weight / peak). Where the whole would be larger than
    LARGEST, fewer keys, heads, positions and images are kept.

    Raises:
        UserError: for a run without attention layers, and what `look_at` refuses.
    """
    with torch.device("meta"):
        trial = recipes.rebuild(run, recipe)
    side, classes = trial.resolution, run.described.get("classes", [])
    if not getattr(trial.networks.get("generator"), "num_classes", 0):
        classes = []
    cells = LEVELS[0][0]
    places = [(2 * i + 1) * side // (2 * cells) for i in range(cells)]
    asked: dict[str, Any] = {"data": data, "step": step, "network": network, "seed": seed, "device": device, "recipe": recipe}
    sights, left_out = look_at(run, images=IMAGES, positions=[(y, x) for y in places for x in places], **asked)
    facts = {"step": sights[0].step, "seed": seed, "side": side, "notes": [left_out] if left_out else []}
    for level in LEVELS:
        try:
            text = json.dumps(facts | {"images": _images(sights, classes, *level)}, separators=(",", ":"), allow_nan=False)
        except ValueError:
            raise UserError(f"a network of {run.folder} gives what is no finite number; take an earlier --step") from None
        if len(text) <= LARGEST:
            break
    else:
        raise UserError(f"{run.folder} has too many attention layers for a page to explore; look at some by `gander look`")
    path = run.folder / "look" / "explorer.json"
    write_atomic(path, text)
    return path


def pictures(
    run: Run,
    *,
    step: int | None = None,
    network: str = "ema",
    seed: int = 0,
    device: torch.device | str = "cpu",
    recipe: str | None = None,
) -> list[Path]:
    """Write the way between samples, `look/interpolation-step<n>.png`: a row leads from each to the next; and of a conditional

    generator `look/classes-step<n>.png`: a row of samples for each of the first CLASSES classes.
    """
    generator, at = load_generator(run, step=step, network=network, device=device, recipe=recipe)
    folder, made = run.folder / "look", []
    if generator.num_classes:
        made.append(folder / f"classes-step{at}.png")
        labels = range(min(CLASSES, generator.num_classes))
        rows = torch.cat([sample(generator, seed, range(EACH), label=label, device=device) for label in labels])
        save_png(made[-1], grid(to_bytes(rows), EACH))
    made.append(folder / f"interpolation-step{at}.png")
    between = draw_images(generator, seed, ROWS, interpolate=BETWEEN, device=device)
    save_png(made[-1], grid(to_bytes(between), BETWEEN))
    return made


def _step_of(file: Path) -> Any:
    try:
        found = read_json(file, 2 * LARGEST)
    except UserError:
        return None
    return found.get("step") if isinstance(found, dict) else None


def _images(sights: Sequence[Sight], classes: Sequence[str], cells: int, keys: int, heads: int, count: int) -> list[dict[str, Any]]:
    """Each image with the maps of all networks that saw it, the generator that made it first. Samples go round the `classes`."""
    found = []
    for words in dict.fromkeys(sight.shown for sight in sights):
        seen = sorted(
            (sight for sight in sights if sight.shown == words), key=lambda sight: not sight.network.startswith("generator")
        )
        kind = words.partition(" ")[0]  # samples, real, composites
        sample, named = kind == "samples", {"samples": "sample", "real": "real image"}.get(kind, "composite")
        for i, image in enumerate(to_bytes(seen[0].seen.images)[:count]):
            name = f"{named} {i}"
            name += f", {classes[i % len(classes)]}" if sample and classes else ""
            networks = [
                {"network": s.network, "layers": [_packed(layer, i, cells, keys, heads) for layer in s.seen.layers]} for s in seen
            ]
            found.append({"name": name, **_encoded(image), "networks": networks})
    return found


def _encoded(image: np.ndarray) -> dict[str, str]:
    """`image`, base64, and `type`."""
    picture, out = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image), io.BytesIO()
    small = max(picture.size) <= PNG_UP_TO
    picture.thumbnail((2 * PNG_UP_TO, 2 * PNG_UP_TO), Image.Resampling.LANCZOS)
    picture.save(out, "PNG" if small else "JPEG", **({} if small else {"quality": 88}))
    return {"type": "png" if small else "jpeg", "image": base64.b64encode(out.getvalue()).decode()}


def _packed(layer: LayerMaps, i: int, cells: int, keys: int, heads: int) -> dict[str, Any]:
    """What a page needs of a layer's maps of image i.

    `rows` and `columns` are the cells of the layer's own feature map that were asked, every row with every column; `heads` names
    the maps of each: all of them together, then one by one where these are few. `peaks`, `entropy` and `distance` have a number
    for each map. A gate over positions has one map, its channels' mean; one over channels has none but `shares`.
    """
    facts: dict[str, Any] = {
        "name": layer.name,
        "layer": layer.layer,
        "kind": layer.kind,
        "size": list(layer.size),
        "gamma": layer.gamma,
    }
    facts |= {"rows": [0], "columns": [0], "heads": [""]}
    if layer.kind == "channels":
        return facts | {"shares": _rounded(layer.maps[i], 5), "entropy": _rounded(layer.entropy[i], 3)}
    if layer.kind == "positions":
        return facts | _bytes(layer.maps[i].mean(0)[None, None], keys, False) | {"entropy": _rounded(layer.entropy[i].mean(), 3)}
    flat, first = np.unique(layer.queries[i].cpu().numpy(), return_index=True)
    rows, columns = np.unique(flat // layer.size[1]), np.unique(flat % layer.size[1])
    every_row, every_column = (slice(len(a) > cells, None, 1 + (len(a) > cells)) for a in (rows, columns))
    chosen = torch.from_numpy(first.reshape(len(rows), len(columns))[every_row, every_column].flatten())
    maps, entropy = layer.maps[i].cpu()[:, chosen], layer.entropy[i].cpu()[:, chosen]
    assert layer.distance is not None
    distance = layer.distance[i].cpu()[:, chosen]
    names, several = [""], len(maps)
    if several > 1:
        single = several if several <= heads else 0
        maps, entropy, distance = (torch.cat([t.mean(0, keepdim=True), t[:single]]) for t in (maps, entropy, distance))
        names = [f"mean of {several} heads", *(f"head {head + 1}" for head in range(single))]
    asked = {"rows": rows[every_row].tolist(), "columns": columns[every_column].tolist(), "heads": names}
    readings = {"entropy": _rounded(entropy, 3), "distance": _rounded(distance, 3)}
    return facts | asked | readings | _bytes(maps, keys, layer.kind == "signed")


def _bytes(maps: Tensor, keys: int, signed: bool) -> dict[str, Any]:
    """(heads, q, h_k, w_k) as `maps`, base64, their `peaks` and size; cells are added up where a side has more than `keys`."""
    h, w = maps.shape[-2:]
    size = (min(h, keys), min(w, keys))
    if size != (h, w):
        maps = F.adaptive_avg_pool2d(maps, size) * (h * w / (size[0] * size[1]))
    peaks = maps.abs().amax((-2, -1))
    level = maps / peaks.clamp_min(torch.finfo(maps.dtype).tiny)[..., None, None]
    level = 128 + 127 * level if signed else 255 * level
    data = level.round().byte().cpu().numpy().tobytes()
    return {"keys": list(size), "peaks": _rounded(peaks, 5), "maps": base64.b64encode(data).decode()}


def _rounded(numbers: Tensor, digits: int) -> list[float]:
    return [float(f"{number:.{digits}g}") for number in numbers.flatten().tolist()]
