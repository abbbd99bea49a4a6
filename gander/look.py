"""Where the attention layers of a model look, from any position of its images.

from gander.look import maps
seen = maps(model, images, [(12, 20)])      # any model that holds gander's layers, or others of their contract
seen.layers[0].maps                         # (b, heads, 1, h_k, w_k): where the position y = 12, x = 20 looks
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gander.errors import UserError

KINDS = ("rows", "signed", "channels", "positions")
CELLS = 16  # automatic positions are chosen among at most so many by so many cells
PLACE, APART = 2.0, 1 / 6  # what the whole side counts, in spreads of colour; and how far apart they are, as a share of it


class LayerMaps(NamedTuple):
    """Where one layer looks.

    Of `rows` and `signed` maps, `entropy` and `distance` are those of the shares |map| / Σ |map|, for each head and position:
    entropy −Σ p log p / log m over the m keys, 0 where all goes to one of them and 1 where each gets the same; distance the mean
    way from the position to where it looks, Σ p · |key − query| between the middles of cells, in pixels of the image. Gates have
    no distance; their entropy is that over the channels (`channels`, one an image) or over positions (`positions`, one a channel).
    """

    name: str  # in the model
    layer: str  # its class
    kind: str  # its map_kind: rows, signed, channels or positions
    size: tuple[int, int]  # of its feature map
    queries: Int[Tensor, "b q"]  # the positions, as flat row-major ones of the feature map
    maps: Tensor  # rows and signed: (b, heads, q, h_k, w_k); channels: (b, c, 1, 1); positions: (b, c, h, w)
    gamma: float | None
    entropy: Tensor  # (b, heads, q); channels: (b,); positions: (b, c)
    distance: Tensor | None  # (b, heads, q)
    buckets: Int[Tensor, "b heads rounds h w"] | None = None  # of a layer that hashes, as LSHAttention: only there can it look


class Maps(NamedTuple):
    """What `maps` found: for each call of each layer, in the order of the forward pass."""

    images: Float[Tensor, "b c h w"]
    positions: Int[Tensor, "b q 2"]  # (y, x), in pixels
    layers: list[LayerMaps]


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """The attention layers in a model that can say where they look: those with `weights(x, queries)` and a `map_kind`.

    One on tokens (b, n, d) has besides `grid(x)` -> (h, w): the image that they are, row by row.
    """
    found = model.named_modules()
    return {name: m for name, m in found if callable(getattr(m, "weights", None)) and getattr(m, "map_kind", None) in KINDS}


@torch.no_grad()
def maps(
    model: nn.Module,
    inputs: Tensor | Sequence[Tensor | None],
    positions: Any = None,
    *,
    count: int = 4,
) -> Maps:
    """One forward pass, model(*inputs), and for each attention layer that it goes through the maps of the asked positions only.

    A layer with n positions never builds its n × n map: q rows take O(q n) memory. The image is the larger of what goes in and
    what comes out, so for a generator, maps(generator, (latents, labels)), the one that it makes. The model is in eval mode
    meanwhile; nothing of its state is changed.

    Args:
        inputs: what the model is called with: images, or several inputs.
        positions: (y, x) pairs in pixels of the image, for all images alike, or one list of as many pairs for each image. A layer
            is asked for the cell of its feature map that the pixel lies in. By default the `automatic` ones of each image.
        count: of automatic positions.

    Raises:
        UserError: for a model without such layers, or that has no image; for a position outside the image.
    """
    found = layers(model)
    if not found:
        raise UserError(
            f"this {type(model).__name__} has no attention layer to look at, which is one with `weights(x, queries)` -> maps and a "
            f"`map_kind` ({', '.join(KINDS)}), as those of gander.attention"
        )
    inputs = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    caught: list[tuple[str, Tensor]] = []
    with _evaluated(model):
        hooks = [layer.register_forward_pre_hook(partial(_catch, caught, name), with_kwargs=True) for name, layer in found.items()]
        try:
            made = model(*inputs)
        finally:
            for hook in hooks:
                hook.remove()
        images = _image(inputs, made)
        places = automatic(images, count) if positions is None else pixels(positions, images.shape[-2:], len(images))
        seen = [_looked(name, found[name], x, places, images.shape[-2:]) for name, x in caught]
    if not seen:
        raise UserError(f"the forward pass went through none of the model's attention layers ({', '.join(found)})")
    return Maps(images, places, seen)


def pixels(positions: Any, size: Sequence[int], b: int) -> Int[Tensor, "b q 2"]:
    """One list of (y, x) for each of b images of a size (h, w). UserError for what are no such pairs, or lie outside."""
    h, w = size
    try:
        places = torch.as_tensor(positions, dtype=torch.float64)
        places = places[None] if places.dim() == 2 else places
    except (TypeError, ValueError):
        places = torch.empty(0)
    if places.dim() != 3 or places.shape[2] != 2 or len(places) not in (1, b) or not places.numel():
        raise UserError(f"positions are (y, x) pairs in pixels, as [(0, 0), ({h - 1}, {w - 1})], or a list of them for each of {b}")
    for y, x in places.reshape(-1, 2).tolist():
        if not (0 <= y < h and 0 <= x < w):
            raise UserError(f"position ({y:g}, {x:g}) lies outside the image: y is from 0 to {h - 1} and x from 0 to {w - 1}")
    return places.long().expand(b, -1, -1).cpu()


def automatic(images: Float[Tensor, "b c h w"], count: int = 4) -> Int[Tensor, "b count 2"]:
    """`count` positions of each image that differ in colour and in place: the same ones for the same image.

    Of at most 16×16 cells without the outer eighth, first the one whose mean colour differs most from the image's, then again
    and again the one that differs most from all that are chosen: in colour, in units of its spread over the cells, plus PLACE times
    the way between them as a share of the side, where there still are any APART from these.
    """
    if count < 1:
        raise UserError(f"{count} positions were asked for; ask for 1 or more")
    h, w = images.shape[-2:]
    rows, columns = min(h, CELLS), min(w, CELLS)
    cells = F.adaptive_avg_pool2d(images.detach().float().cpu(), (rows, columns))
    y, x = _middles(rows, h), _middles(columns, w)
    inner = [slice(side // 8, side - side // 8) for side in (rows, columns)]
    y, x = y[inner[0]], x[inner[1]]
    colour = (cells - cells.mean((2, 3), keepdim=True))[:, :, inner[0], inner[1]].flatten(2).mT
    colour = colour / colour.square().sum(2, keepdim=True).mean(1, keepdim=True).sqrt().clamp_min(1e-6)
    place = torch.cartesian_prod(y / h, x / w).view(-1, 2)
    far, chosen = colour.norm(dim=2), list[Tensor]()
    for number in range(count):
        best = far.argmax(1)
        chosen.append(best)
        unlike = (colour - colour[torch.arange(len(colour)), best][:, None]).norm(dim=2)
        away = (place - place[best][:, None]).norm(dim=2)
        unlike = (unlike + PLACE * away).masked_fill(away < APART, -1)
        far = unlike if number == 0 else torch.minimum(far, unlike)
    at = torch.stack(chosen, 1)
    return torch.stack([y[at // len(x)], x[at % len(x)]], 2).long()


def shares_entropy(shares: Tensor, dims: int) -> Tensor:
    """−Σ p log p / log m over the last `dims` axes, which hold m shares: 0 where one has all, 1 where all have the same."""
    flat = shares.flatten(-dims) if dims > 1 else shares
    return torch.special.entr(flat).sum(-1) / math.log(max(2, flat.shape[-1]))


def shares_distance(
    shares: Float[Tensor, "b heads q h_k w_k"], queries: Int[Tensor, "b q"], size: Sequence[int], image: Sequence[int]
) -> Float[Tensor, "b heads q"]:
    """Σ p · |key − query|: the mean way, in pixels of the image, from the middle of the query's cell to those of the keys'.

    Either grid of cells is taken to cover the image.
    """
    (h, w), (height, width) = size, image
    y, x = _middles(h, height, queries.device), _middles(w, width, queries.device)
    keys_y = _middles(shares.shape[-2], height, queries.device)[:, None]
    keys_x = _middles(shares.shape[-1], width, queries.device)
    away = torch.hypot(keys_y - y[queries // w][..., None, None], keys_x - x[queries % w][..., None, None])  # b q h_k w_k
    return (shares * away[:, None].to(shares.dtype)).sum((-2, -1))


def _middles(cells: int, side: int, device: torch.device | str = "cpu") -> Float[Tensor, "cells"]:
    """Of `cells` that a side of so many pixels is cut into, in pixels from its edge."""
    return (torch.arange(cells, device=device) + 0.5) * (side / cells)


def _catch(caught: list[tuple[str, Tensor]], name: str, layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Keep a copy of what a layer's map is made of, for what comes later may write into it: `seen`, where it is handed that too."""
    x = given[0] if given else next(iter(named.values()))
    seen = named.get("seen", given[1] if len(given) > 1 else None)
    caught.append((name, (seen if isinstance(seen, Tensor) and seen.shape == x.shape else x).detach().clone()))


@contextlib.contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _image(inputs: Sequence[Tensor | None], made: Any) -> Tensor:
    """The largest of what went in and what came out; of equals the one that went in."""
    outputs = list(made) if isinstance(made, tuple | list) else [made]
    images = [t for t in (*inputs, *outputs) if isinstance(t, Tensor) and t.dim() == 4]
    if not images:
        raise UserError("neither what goes into the model nor what comes out is an image (b, c, h, w): there are no positions")
    return max(images, key=lambda t: t.shape[-2] * t.shape[-1])


def _looked(name: str, layer: Any, x: Tensor, places: Int[Tensor, "b q 2"], image: Sequence[int]) -> LayerMaps:
    h, w = x.shape[-2:] if x.dim() == 4 else layer.grid(x)
    queries = places[..., 0] * h // image[0] * w + places[..., 1] * w // image[1]
    if layer.map_kind in ("channels", "positions"):
        found = layer.weights(x)
    elif (queries == queries[:1]).all():
        found = layer.weights(x, queries[0])
    else:
        found = torch.cat([layer.weights(one[None], asked) for one, asked in zip(x, queries, strict=True)])
    found, queries = found.detach().to(torch.promote_types(found.dtype, torch.float32)), queries.to(found.device)
    distance = None
    if layer.map_kind == "channels":
        entropy = shares_entropy(found.flatten(1), 1)
    elif layer.map_kind == "positions":
        entropy = shares_entropy(found, 2)
    else:
        shares = found.abs()
        shares = shares / shares.sum((-2, -1), keepdim=True).clamp_min(torch.finfo(shares.dtype).tiny)
        entropy, distance = shares_entropy(shares, 2), shares_distance(shares, queries, (h, w), image)
    gamma = getattr(layer, "gamma", None)
    gamma = float(gamma) if isinstance(gamma, Tensor) and gamma.numel() == 1 else None
    buckets = layer.buckets(x) if callable(getattr(layer, "buckets", None)) else None
    return LayerMaps(name, type(layer).__name__, layer.map_kind, (h, w), queries, found, gamma, entropy, distance, buckets)
