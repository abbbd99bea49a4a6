"""Generated image sets that grade what a generator makes of them, for people with no data and for honest tests.

`PROBES["twins"]`: two soft coloured discs, left and right, each at its own height, share one hue and one radius: a network
that cannot look across the image cannot get both right. `PROBES["count"]`: the label says how many discs there are.
`draw(seed, index, size)` makes the images; `grade(images, labels)` turns generated ones into shares between 0 and 1.

Every length is a share of the side, so a probe is the same picture at any size from 16 px on. Values are those of images
in [-1, 1]: background -0.9, full colour 0.9, texture noise of standard deviation 0.02. A disc's edge is a linear ramp of
width 1/16 around its radius.

How a disc is found: an image's level is its brightest channel above the background (0 background, 1 full). Pixels with a
level over 0.5 that touch at their sides are one disc; a component under a quarter of the smallest disc's area is a speck
and is passed over. Its radius is that of the ideal soft disc of equal mass, its hue that of its mean colour. It is
**valid** where its peak level is 0.6 or more, its radius within the probe's range ± 20 %, its colour saturated by 0.4 or
more and one (resultant length of the pixels' hues 0.9 or more), and where it differs from the ideal soft disc of its
centre and radius by 0.35 of its mass or less.

`tests/test_probes.py` holds that images drawn at 16, 32 and 64 px get full marks, also after a blur with σ = side/32
and noise of 0.05, and that broken ones lose theirs.
"""

from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gander.draws import key_seed
from gander.errors import UserError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

SMALLEST = 16  # px; below it the smallest disc is no disc
BACKGROUND, FULL, NOISE = -0.9, 0.9, 0.02
EDGE = 1 / 16
MARGIN = 0.05  # between a disc and the border

TWIN_RADIUS = (0.12, 0.20)
COUNT_RADIUS = (0.10, 0.14)
COUNT_GAP = 0.10  # between the edges of two discs
LARGEST_COUNT = 4

MISFIT = 0.35  # a three-quarter disc has 0.34; a triangle 0.37, half a disc and an ellipse of 2:1 more than 0.4
HUE_AGREES = 20.0  # degrees
RADIUS_AGREES = 0.15  # of the mean radius
HUE_BINS = 24
COVERED = 0.25  # a bin is covered by this share of its fair share


class Probe(NamedTuple):
    """An image set made by a program. `name` and `version` are its fingerprint; `num_classes` 0 means without labels.

    `draw(seed, index, size)` gives uint8 images (n, size, size, 3) and int64 labels (n,), zero where there are no classes;
    image i depends on nothing but the seed, index[i] (0 or more) and the size. `grade(images, labels=None)` takes colour
    images (n, 3, h, w) in [-1, 1], as an array or as a float tensor on the CPU without gradient. Both raise `UserError` on
    what they cannot use.
    """

    name: str
    version: int
    num_classes: int
    draw: Callable[[int, Sequence[int] | Ints, int], tuple[NDArray[np.uint8], Ints]]
    grade: Callable[..., dict[str, float]]


# Drawing -----------------------------------------------------------------------------------------------------------------


def _words(purpose: tuple[str | int, ...], index: Ints, count: int) -> NDArray[np.uint64]:
    """Random words (n, count): a row is a function of the purpose and its own index. Philox's counter begins at the index."""
    bits = np.random.Philox(key=key_seed("probe", *purpose))
    state: Any = bits.state
    words = np.empty((len(index), count), np.uint64)
    for row, i in zip(words, index.tolist(), strict=True):
        state["state"]["counter"][:] = (0, 0, 0, i)
        bits.state = state  # fifty times cheaper than a new one
        row[:] = bits.random_raw(count)
    return words


def _uniforms(purpose: tuple[str | int, ...], index: Ints, count: int) -> NDArray[np.float64]:
    """Numbers in [0, 1), (n, count)."""
    return (_words(purpose, index, count) >> np.uint64(11)) * 2.0**-53


def _between(low: float, high: float, uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    return low + (high - low) * uniform


def _paint(
    name: str, seed: int, index: Ints, size: int, x: NDArray[Any], y: NDArray[Any], radius: NDArray[Any], hue: NDArray[Any]
) -> NDArray[np.uint8]:
    """Soft discs (n, k) on the background, with texture; a disc of radius 0 is none. Hues are turns in [0, 1)."""
    pixels = (np.arange(size) + 0.5) / size
    shape = (len(index), size, size, 3)
    level = np.zeros(shape, np.float32)
    for j in range(x.shape[1]):
        away = np.sqrt((pixels[:, None] - y[:, j, None, None]) ** 2 + (pixels - x[:, j, None, None]) ** 2)
        colour = np.clip(np.abs((6 * hue[:, j, None] + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)  # HSV at full strength
        inside = np.where(radius[:, j, None, None] > 0, np.clip(0.5 + (radius[:, j, None, None] - away) / EDGE, 0, 1), 0)
        level += (inside[..., None] * colour[:, None, None]).astype(np.float32)
    numbers = size * size * 3
    texture = _words((name, seed, "texture", size), index, -(-numbers // 8)).astype("<u8").view(np.uint8)[:, :numbers]
    image = BACKGROUND + (FULL - BACKGROUND) * level + _TEXTURE[texture].reshape(shape)
    return np.clip(np.rint((image + 1) * 127.5), 0, 255).astype(np.uint8)


_TEXTURE = np.array([NOISE * NormalDist().inv_cdf((byte + 0.5) / 256) for byte in range(256)], np.float32)


def _draw_twins(seed: int, index: Ints, size: int) -> tuple[NDArray[np.uint8], Ints]:
    uniform = _uniforms(("twins", seed), index, 4)
    radius = _between(*TWIN_RADIUS, uniform[:, 0:1]).repeat(2, 1)
    hue = uniform[:, 1:2].repeat(2, 1)
    x = np.tile([0.25, 0.75], (len(index), 1))
    y = radius + MARGIN + uniform[:, 2:4] * (1 - 2 * (radius + MARGIN))
    return _paint("twins", seed, index, size, x, y, radius, hue), np.zeros(len(index), np.int64)


def _draw_count(seed: int, index: Ints, size: int) -> tuple[NDArray[np.uint8], Ints]:
    """Discs are put down one after the other where they fit; a layout that jams is begun again with new numbers."""
    n, most, tries = len(index), LARGEST_COUNT, 16
    uniform = _uniforms(("count", seed), index, 1 + 2 * most)
    labels = (uniform[:, 0] * most).astype(np.int64)
    radius = np.where(np.arange(most) <= labels[:, None], _between(*COUNT_RADIUS, uniform[:, 1 : 1 + most]), 0)
    hue = uniform[:, 1 + most :]
    places = np.zeros((n, most, 2))
    waiting, attempt = np.arange(n), 0
    while len(waiting):
        drawn = _uniforms(("count", seed, "places", attempt), index[waiting], most * tries * 2)
        r = radius[waiting]
        margin = (r + MARGIN)[:, :, None, None]
        candidates = margin + drawn.reshape(-1, most, tries, 2) * (1 - 2 * margin)
        chosen, jammed = np.zeros((len(waiting), most, 2)), np.zeros(len(waiting), bool)
        for j in range(most):
            apart = np.sqrt(((candidates[:, j, :, None] - chosen[:, None, :j]) ** 2).sum(-1))
            fits = (apart >= (r[:, j, None] + r[:, :j])[:, None] + COUNT_GAP).all(-1)
            chosen[:, j] = candidates[np.arange(len(waiting)), j, fits.argmax(1)]
            jammed |= ~fits.any(1) & (r[:, j] > 0)
        places[waiting[~jammed]] = chosen[~jammed]
        waiting, attempt = waiting[jammed], attempt + 1
    return _paint("count", seed, index, size, places[..., 0], places[..., 1], radius, hue), labels


def _in_chunks(draw: Callable[[int, Ints, int], tuple[NDArray[np.uint8], Ints]]) -> Callable[..., Any]:
    """Draw at most about a million pixels at a time, so that 50,000 images need no memory but their own."""

    def drawn(seed: int, index: Sequence[int] | Ints, size: int) -> tuple[NDArray[np.uint8], Ints]:
        if size < SMALLEST:
            raise UserError(f"a probe's images have {SMALLEST} pixels a side or more; got {size}")
        index = np.asarray(index, np.int64)
        images, labels = np.empty((len(index), size, size, 3), np.uint8), np.empty(len(index), np.int64)
        step = max(1, 2**20 // size**2)
        for at in range(0, len(index), step):
            images[at : at + step], labels[at : at + step] = draw(seed, index[at : at + step], size)
        return images, labels

    return drawn


# Grading -----------------------------------------------------------------------------------------------------------------


class _Discs(NamedTuple):
    """What was found, one row a component that is no speck."""

    image: Ints
    valid: NDArray[np.bool_]
    x: NDArray[np.float64]
    radius: NDArray[np.float64]
    hue: NDArray[np.complex128]  # a unit vector


def _find(images: Floats, radii: tuple[float, float], first: int) -> _Discs:
    side = min(images.shape[2:])
    above = np.nan_to_num((images - BACKGROUND) / (FULL - BACKGROUND), nan=0.0, posinf=0.0, neginf=0.0)
    level = above.max(1).clip(0, 1)
    labels, found = ndimage.label(level > 0.5, structure=_WITHIN_AN_IMAGE)
    reach = 2 * -(-side // 16) + 1  # a disc's soft edge lies outside its component: at most a pixel of 16
    zones = np.where(labels > 0, labels, ndimage.maximum_filter(labels, size=(1, reach, reach)))
    where, down, right = np.nonzero(zones)  # from here on, pixels in a row: only those of components and their edges
    zone, core, level = zones[where, down, right], labels[where, down, right] > 0, level[where, down, right]
    chroma = _TURN @ above.transpose(1, 0, 2, 3)[:, where, down, right]  # hue as angle, saturation as length
    down, right = (down + 0.5) / side, (right + 0.5) / side

    def total(weights: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(zone, weights, found + 1)[1:].astype(np.float64)

    peak = np.zeros(found + 1, np.float32)
    np.maximum.at(peak, zone[core], level[core])
    share = (level / peak[zone]).clip(0, 1)
    pixels = total(share)
    x, y, mass = total(share * right) / pixels, total(share * down) / pixels, pixels / side**2
    radius = np.sqrt((mass / np.pi - EDGE**2 / 12).clip(0))

    away = np.sqrt((right - x[zone - 1]) ** 2 + (down - y[zone - 1]) ** 2)
    ideal = (0.5 + (radius[zone - 1] - away) / EDGE).clip(0, 1)
    misfit = total(np.abs(share - ideal)) / pixels
    colour = total(core * chroma.real) + 1j * total(core * chroma.imag)
    saturation = np.abs(colour).clip(1e-9)
    valid = (
        (peak[1:] >= 0.6)
        & (radius >= 0.8 * radii[0])
        & (radius <= 1.2 * radii[1])
        & (saturation >= 0.4 * total(core * level))
        & (saturation >= 0.9 * total(core * np.abs(chroma)))
        & (misfit <= MISFIT)
    )
    image = np.zeros(found + 1, np.int64)
    image[zone] = where
    disc = total(core) >= 0.25 * np.pi * (radii[0] * side) ** 2
    return _Discs(image[1:][disc] + first, valid[disc], x[disc], radius[disc], (colour / saturation)[disc])


_WITHIN_AN_IMAGE = np.zeros((3, 3, 3), bool)
_WITHIN_AN_IMAGE[1] = ndimage.generate_binary_structure(2, 1)
_TURN = np.exp(2j * np.pi * np.arange(3) / 3)


def _discs(images: Any, radii: tuple[float, float]) -> tuple[int, _Discs]:
    images = np.asarray(images, np.float32)
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise UserError(f"a probe grades colour images (n, 3, h, w) in [-1, 1]; got the shape {tuple(images.shape)}")
    step = max(1, 2**20 // (images.shape[2] * images.shape[3]))
    parts = [_find(images[at : at + step], radii, at) for at in range(0, len(images), step)]
    return len(images), _Discs(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _share(hits: NDArray[Any], of: int) -> float:
    return float(np.count_nonzero(hits) / of) if of else 0.0


def _covered(bins: Ints, count: int) -> float:
    """The share of bins that hold a quarter of their fair share or more, and one at least."""
    return _share(np.bincount(bins, minlength=count) >= max(1.0, COVERED * len(bins) / count), count)


def _grade_twins(images: Any, labels: Any = None) -> dict[str, float]:
    """Shares between 0 and 1 of images (n, 3, h, w) in [-1, 1]. Labels are ignored: the twins have none.

    valid: images with two valid discs, one in each half, and nothing else.
    hue_agrees: valid ones whose hues differ by 20° or less (by chance: 11 %; 0 where none is valid).
    radius_agrees: valid ones whose radii differ by 15 % of their mean or less (by chance: 51 %).
    coherent: images (of all) that are valid with both.
    hues_covered: of 24 equal bins of the hue circle, those in which the left discs of valid images lie, each with a
        quarter of its fair share or more. n drawn images cover 1 - (1 - 1/24)^n of them as long as n < 96 (0.94 at
        64); more than 500 cover all, but for one set in thousands.
    """
    n, discs = _discs(images, TWIN_RADIUS)
    two = np.bincount(discs.image, minlength=n) == 2
    left = np.bincount(discs.image[discs.valid & (discs.x < 0.5)], minlength=n) == 1
    right = np.bincount(discs.image[discs.valid & (discs.x > 0.5)], minlength=n) == 1
    valid = two & left & right
    mine = valid[discs.image]
    order = np.lexsort((discs.x[mine], discs.image[mine]))  # left, right of each valid image
    hue, radius = discs.hue[mine][order].reshape(-1, 2), discs.radius[mine][order].reshape(-1, 2)
    same_hue = np.abs(np.angle(hue[:, 0] * hue[:, 1].conj(), deg=True)) <= HUE_AGREES
    same_radius = np.abs(radius[:, 0] - radius[:, 1]) <= RADIUS_AGREES * radius.mean(1)
    bins = np.floor(np.angle(hue[:, 0]) / (2 * np.pi) * HUE_BINS).astype(np.int64) % HUE_BINS
    return {
        "valid": _share(valid, n),
        "hue_agrees": _share(same_hue, len(hue)),
        "radius_agrees": _share(same_radius, len(hue)),
        "coherent": _share(same_hue & same_radius, n),
        "hues_covered": _covered(bins, HUE_BINS),
    }


def _grade_count(images: Any, labels: Any = None) -> dict[str, float]:
    """Shares between 0 and 1 of images (n, 3, h, w) in [-1, 1]; label y means y + 1 discs.

    valid: images with 1 to 4 discs, all of them valid, and nothing else.
    right_count: images (of all) that are valid with as many discs as their label says; without labels, the valid ones.
    counts_covered: of the counts 1 to 4, those of which valid images have a quarter of the fair share or more.
    """
    n, discs = _discs(images, COUNT_RADIUS)
    count = np.bincount(discs.image, minlength=n)
    good = np.bincount(discs.image[discs.valid], minlength=n)
    valid = (count == good) & (count >= 1) & (count <= LARGEST_COUNT)
    right = valid if labels is None else valid & (count == np.asarray(labels, np.int64) + 1)
    return {
        "valid": _share(valid, n),
        "right_count": _share(right, n),
        "counts_covered": _covered(count[valid] - 1, LARGEST_COUNT),
    }


PROBES: dict[str, Probe] = {
    "twins": Probe("twins", 1, 0, _in_chunks(_draw_twins), _grade_twins),
    "count": Probe("count", 1, LARGEST_COUNT, _in_chunks(_draw_count), _grade_count),
}
