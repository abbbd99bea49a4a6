"""What a run's networks answer. Nothing is kept between two questions: an answer is a function of what is asked."""

import base64
import contextlib
import inspect
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gander import look, recipes
from gander.data.crops import centre_crop
from gander.data.images import Broken, decode, size
from gander.errors import UserError, shown
from gander.grids import to_bytes
from gander.run import Run
from gander.sampling import draw_images, great_circle, load_generator, numbered
from gander.train import checkpoint
from gander.train.ema import ready
from gander.train.samples import STANDING, images_of, latents_of

SHOWN, SHOWN_PIXELS = 64, 1 << 20  # images of one answer, and their pixels together
ZIPPED, ZIPPED_PIXELS = 512, 1 << 24  # of one archive
MAPS = 1 << 21  # numbers of one network's maps in one answer: 2 MiB
GUESSES = 5
IMAGE_PIXELS = 1 << 25  # of an image that is sent: decoding it takes no longer than other answers

Position = tuple[int, int] | None  # (y, x) in pixels; None: all positions of the layers for which these are few


class _Looked(NamedTuple):
    """A network that can be looked into."""

    network: Any
    takes: int  # of (image, labels)
    grid: tuple[int, int] | None  # the finest feature map of which the maps of all positions are sent at once


class Networks:
    """The networks of a run's checkpoint, ready to answer: by default the last one. Arguments are those of `load_generator`."""

    def __init__(
        self,
        run: Run,
        *,
        step: int | None = None,
        network: str = "ema",
        standing: int = STANDING,
        device: torch.device | str = "cpu",
        recipe: str | None = None,
    ):
        self.run, self.network, self.device = run, network, device
        self.classes: list[str] = run.described.get("classes", [])
        with torch.device("meta"):
            trial = recipes.rebuild(run, recipe)
        place, complaints = checkpoint.find(run.checkpoints, step)
        for complaint in complaints:
            print(f"{complaint}; the one before it is taken")
        self.step, self.resolution = int(place.name), trial.resolution
        self.side = trial.side or trial.resolution  # of the squares that images are cut from
        self.generator: Any = None
        if any(name.startswith("generator") for name in trial.networks):
            options: dict[str, Any] = {"network": network, "standing": standing, "device": device, "recipe": recipe}
            self.generator, _ = load_generator(run, step=self.step, **options)
        others = {name: found for name, found in trial.networks.items() if not name.startswith("generator")}
        for name, shapes in others.items():
            checkpoint.check_network(place / f"{name}.safetensors", shapes)
        made = recipes.rebuild(run, recipe).networks
        for name in others:
            checkpoint.load_network(place / f"{name}.safetensors", made[name])
            others[name] = ready(made[name].to(device))
        self.channels = run.described["facts"].get("channels", 3)
        self.num_classes = max((getattr(found, "num_classes", 0) for found in (self.generator, *others.values())), default=0)
        self.reader = others.get("classifier", others.get("autoencoder"))  # what it makes of an image is shown
        self.looked = self._looked(others)

    def _looked(self, others: dict[str, nn.Module]) -> dict[str, _Looked]:
        """The networks with attention layers, and what of their maps goes into one answer."""
        image = torch.zeros(1, self.channels, self.resolution, self.resolution, device=self.device)
        labels = torch.zeros(1, dtype=torch.long, device=self.device)
        found = {}
        if self.generator is not None and look.layers(self.generator):
            latents = torch.zeros(1, self.generator.latent_dim, device=self.device)
            found["generator"] = _Looked(self.generator, 2, _grid(look.maps(self.generator, (latents, labels), [(0, 0)]).layers))
        for name, network in others.items():
            if look.layers(network):
                takes = len(inspect.signature(network.forward).parameters)
                seen = look.maps(network, (image, labels)[:takes], [(0, 0)])
                found[name] = _Looked(network, takes, _grid(seen.layers))
        return found

    @property
    def shown(self) -> int:
        """Images of one answer at most."""
        return max(1, min(SHOWN, SHOWN_PIXELS // self.resolution**2))

    @property
    def zipped(self) -> int:
        """Images of one archive at most."""
        return max(1, min(ZIPPED, ZIPPED_PIXELS // self.resolution**2))

    def facts(self) -> dict[str, Any]:
        """What the page must know of the run."""
        described, data, notes = self.run.described, self.run.described.get("data"), []
        if self.generator is None:
            notes.append("This run has no generator, so there is nothing to sample.")
        if not self.looked:
            notes.append("This run has no attention layers to look into; train one with --attention self.")
        return {
            "run": self.run.folder.resolve().name,
            "recipe": described["recipe"],
            "data": str(data.get("name", "")) if isinstance(data, dict) else "",
            "step": self.step,
            "resolution": self.resolution,
            "channels": self.channels,
            "classes": self._names(self.num_classes),
            "generator": self.generator is not None,
            "looked": list(self.looked),
            "reads": self.reader is not None or any(name != "generator" for name in self.looked),
            "shown": self.shown,
            "zipped": self.zipped,
            "notes": notes,
        }

    def samples(self, seed: int, start: int, count: int, label: str | None, truncation: float | None) -> np.ndarray:
        """uint8 (count, h, w, c): those of `gander sample`. UserError for more than `shown`."""
        if count > self.shown:
            raise UserError(f"count {count} is over {self.shown}, the most of one answer; ask again with start {self.shown}")
        generator, chosen = self._generator(), self._numbered(label)
        options: dict[str, Any] = {"label": chosen, "truncation": truncation, "start": start, "device": self.device}
        return to_bytes(draw_images(generator, seed, count, **options))

    def label_of(self, index: int, label: str | None) -> int | None:
        """The class of a sample, by number."""
        chosen = self._numbered(label)
        return chosen if chosen is not None else index % self.num_classes if self.num_classes else None

    def between(
        self, seed: int, corners: Sequence[int], x: float, y: float, label: str | None, truncation: float | None
    ) -> np.ndarray:
        """uint8 (h, w, c): the image at (x, y) of a square with four samples in its corners: top left, top right, bottom left ...

        great_circle(top, bottom, y) of latents, top and bottom great_circle(left, right, x); all of the first corner's class.
        """
        generator, chosen = self._generator(), self.label_of(corners[0], label)
        (a, b, c, d), labels = latents_of(generator, seed, corners, label=chosen, truncation=truncation)
        latent = great_circle(great_circle(a, b, x), great_circle(c, d, x), y)
        return to_bytes(images_of(generator, latent[None], labels[:1], device=self.device))[0]

    def look_at_sample(
        self, seed: int, index: int, label: str | None, truncation: float | None, position: Position = None
    ) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """The sample (h, w, c), and where the networks look while it is made and judged: `_answer` of each layer."""
        made = latents_of(self._generator(), seed, [index], label=self._numbered(label), truncation=truncation)
        latents, labels = (t.to(self.device) for t in made)
        image = images_of(self.generator, latents, labels, device=self.device).to(self.device)
        return to_bytes(image)[0], self._look(image, labels, latents, position)

    def look_at_image(
        self, data: bytes, label: str | None = None, position: Position = None
    ) -> tuple[np.ndarray, list[dict[str, Any]], dict[str, Any]]:
        """The same of an image file's bytes, without the generator; and what a classifier or an auto-encoder makes of it.

        UserError for what is no image.
        """
        if self.reader is None and not any(name != "generator" for name in self.looked):
            raise UserError("this run has no network that an image could be shown to")
        with contextlib.suppress(Broken):  # which decoding says better
            width, height = size(data)
            if width * height > IMAGE_PIXELS:
                raise UserError(f"the file has {width:,}×{height:,} pixels, over {IMAGE_PIXELS:,}; send a smaller image")
        try:
            pixels = decode(data, self.side, self.channels)
        except Broken as error:
            raise UserError(f"the file {shown(str(error))}; send a PNG, JPEG or WebP") from None
        square = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float().div_(127.5).sub_(1)
        image = centre_crop(square, self.resolution).to(self.device)
        labels = torch.tensor([self._numbered(label) or 0], device=self.device)
        return to_bytes(image)[0], self._look(image, labels, None, position), self._read(image)

    @torch.no_grad()
    def _read(self, image: Tensor) -> dict[str, Any]:
        """`guesses`, the most probable classes with their shares, of a classifier; `made`, the image again, of an auto-encoder."""
        if self.reader is None:
            return {}
        made = self.reader(image).float().cpu()
        if made.dim() == 4:
            return {"made": to_bytes(made)[0]}
        shares, classes = made.softmax(1)[0].nan_to_num().topk(min(GUESSES, made.shape[1]))
        names = self._names(made.shape[1])
        return {"guesses": [[names[i], round(share, 4)] for share, i in zip(shares.tolist(), classes.tolist(), strict=True)]}

    def _look(self, image: Tensor, labels: Tensor, latents: Tensor | None, position: Position) -> list[dict[str, Any]]:
        answers = []
        for name, (network, takes, grid) in self.looked.items():
            inputs = (latents, labels) if name == "generator" else (image, labels)[:takes]
            if inputs[0] is None:
                continue
            asked = [position] if position else _middles(grid or (1, 1), image.shape[-2:])
            seen = look.maps(network, inputs, asked)
            answers.append({"network": name, "layers": [_answer(layer, position) for layer in seen.layers]})
        return answers

    def _generator(self) -> Any:
        if self.generator is None:
            raise UserError("this run has no generator, so there is nothing to sample")
        return self.generator

    def _names(self, count: int) -> list[str]:
        return self.classes if len(self.classes) == count else [str(i) for i in range(count)]

    def _numbered(self, label: str | None) -> int | None:
        return numbered(label, self.classes, self.num_classes)


def _grid(layers: Sequence[look.LayerMaps]) -> tuple[int, int] | None:
    """The finest feature map whose positions can all be asked of all layers at once. `layers` were asked for one position each."""
    rows = [layer for layer in layers if layer.kind in ("rows", "signed")]
    one = sum(layer.maps.numel() for layer in rows)
    return max((layer.size for layer in rows if math.prod(layer.size) * one <= MAPS), key=math.prod, default=None)


def _middles(grid: tuple[int, int], size: Sequence[int]) -> list[tuple[int, int]]:
    """The middle pixels of the cells of a grid, row by row."""
    y, x = ([(2 * i + 1) * side // (2 * cells) for i in range(cells)] for cells, side in zip(grid, size, strict=True))
    return [(a, b) for a in y for b in x]


def _answer(layer: look.LayerMaps, position: Position) -> dict[str, Any]:
    """A layer's maps of image 0 as JSON has them.

    `maps` are bytes, base64: a byte a key, for each position, for each head: round(255·share / peak), of signed ones
    128 + round(127·weight / peak); `peaks` are the largest |number| of each map. The positions are the asked one, else all of the
    layer's feature map row by row; none where they are too many: they are asked for one by one. A gate over positions has one map,
    its channels' mean; one over channels has none but `shares`. What is no number, in a run that went astray, is 0.
    """
    gamma = layer.gamma if layer.gamma is not None and math.isfinite(layer.gamma) else None
    facts = {"name": layer.name, "layer": layer.layer, "kind": layer.kind, "size": list(layer.size), "gamma": gamma}
    maps = layer.maps[0].nan_to_num().cpu()
    if layer.kind == "channels":
        return facts | {"shares": _rounded(maps.flatten())}
    if layer.kind == "positions":
        return facts | _packed(maps.mean(0)[None, None], signed=False)
    # of each cell of this feature map one of the positions that lie in it
    places = np.unique(layer.queries[0].cpu().numpy(), return_index=True)[1]
    if position is None and len(places) < math.prod(layer.size):
        return facts | {"heads": len(maps), "keys": list(maps.shape[-2:]), "positions": 0}
    return facts | _packed(maps[:, torch.from_numpy(places)], signed=layer.kind == "signed")


def _packed(maps: Tensor, *, signed: bool) -> dict[str, Any]:
    """(heads, q, h_k, w_k) as `_answer` says."""
    peaks = maps.abs().amax((-2, -1))
    level = maps / peaks.clamp_min(torch.finfo(maps.dtype).tiny)[..., None, None]
    level = 128 + 127 * level if signed else 255 * level
    data = level.round().byte().numpy().tobytes()
    heads, positions, *keys = maps.shape
    sizes = {"heads": heads, "positions": positions, "keys": keys}
    return sizes | {"peaks": _rounded(peaks.flatten()), "maps": base64.b64encode(data).decode()}


def _rounded(numbers: Tensor) -> list[float]:
    return [float(f"{number:.5g}") for number in numbers.tolist()]
