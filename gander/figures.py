"""Pictures of where attention looks: the query points on the image, and for each of them the map over the image.

from gander import figures, look
figures.attention(look.maps(model, images), "where it looks").save("look.png")

And of what a discriminator says of pixels and boxes: `figures.verdicts(images, discriminator.verdicts(images))`.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gander.cutmix import Regions, Verdicts
from gander.grids import to_bytes
from gander.look import LayerMaps, Maps

PANEL = 160  # px of a panel, at least
LARGEST = 256  # and at most
GAP, MARGIN = 8, 16
TITLE, TEXT, SMALL = 20, 15, 13  # px of the letters
STRENGTH = 0.65  # of the colours over the grey image
FEW = 8  # rows of panels of one layer

# Colours that all eyes tell apart (Okabe and Ito 2008); the dots bear numbers besides.
DOTS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#ffffff")
# viridis (van der Walt and Smith 2015) for shares, RdBu (Brewer 2003) turned round for maps of either sign: both for all eyes.
VIRIDIS = "440154 482475 414487 355f8d 2a788e 21918c 22a884 44bf70 7ad151 bddf26 fde725"
RDBU = "053061 2166ac 4393c3 92c5de d1e5f0 f7f7f7 fddbc7 f4a582 d6604d b2182b 67001f"


def attention(seen: Maps, title: str = "") -> Image.Image:
    """For each layer a block: for each image a row with the image, its numbered query points, and for each of them its map.

    A map of shares is drawn from 0 to its own largest one, which is written under it as a multiple of even attention; a signed
    map from minus to plus its largest. A layer of several heads has a row for each of them, one that hashes a panel more: the
    buckets of its first round. Gates have no query points: one over channels is a row of bars, one over positions is its mean map
    and those of the channels that are the least even.
    """
    images = to_bytes(seen.images)
    parts = [_line(title, TITLE, "#000000")] if title else []
    for layer in seen.layers:
        parts += [_line(heading(layer), TEXT, "#000000"), _legend(layer.kind)]
        parts += [_beside(row) for row in _rows(layer, images, seen.positions.numpy())]
        parts.append(Image.new("RGB", (1, GAP), "white"))
    return _framed(parts)


def heading(layer: LayerMaps) -> str:
    """What is to be known of a layer, on one line of plain letters."""
    words = [layer.name or "the model", f"{layer.size[0]} x {layer.size[1]}", layer.layer]
    words += [f"gamma {layer.gamma:.3g}"] if layer.gamma is not None else []
    words += [f"entropy {layer.entropy.mean():.2f}"]
    words += [f"mean distance {layer.distance.mean():.1f} px"] if layer.distance is not None else []
    return "  ·  ".join(words)


def overlay(
    image: UInt8[np.ndarray, "h w c"], heat: Float[np.ndarray, "k l"], *, signed: bool = False, top: float | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """The image in grey at the size of a panel, and over it the map in colours: shares from 0 to the largest, or -largest to it.

    `top` is the end of the colours in the place of the map's own largest.
    """
    side = _panel_size(image.shape[:2])
    top = top or np.abs(heat).max() or 1.0
    level = (heat / top + 1) / 2 if signed else heat / top
    level = _cells(level, side)
    return _tinted(image, _colours(RDBU if signed else VIRIDIS, level))


def hashed(image: UInt8[np.ndarray, "h w c"], buckets: Int[np.ndarray, "k l"]) -> UInt8[np.ndarray, "H W 3"]:
    """The image in grey at the size of a panel, and over it the bucket of each cell, in the colours of DOTS again and again."""
    side = _panel_size(image.shape[:2])
    dots = np.array([list(bytes.fromhex(dot[1:])) for dot in DOTS], np.float64)
    return _tinted(image, dots[_cells(buckets % len(DOTS), side)])


def verdicts(images: Float[Tensor, "b c h w"], said: Verdicts, regions: Regions | None = None, title: str = "") -> Image.Image:
    """For each image a row: itself, with the true boxes of what is fake where `regions` are known; what is said of its pixels, red
    where fake, blue where real, pale where nothing is sure; and the boxes found, those with a score above ½ or else the best.
    """
    panels, rows = to_bytes(images), []
    pixels = None if said.pixels is None else said.pixels.detach().float().cpu()
    for i, image in enumerate(panels):
        true = regions.boxes[i][regions.there[i]].cpu().numpy() if regions else np.zeros((0, 4))
        words = ("its fake boxes" if len(true) else "fake round what is real") if regions else ""
        row = [_boxed(image, true, ["" for _ in true], words)]
        if pixels is not None:
            heat = (-pixels[i, 0] / 2).tanh().numpy()  # P(fake) - P(real)
            right = ((heat < 0) == regions.real[i, 0].cpu().numpy()).mean() if regions else None
            words = f"{(heat < 0).mean():.0%} called real" if right is None else f"{right:.0%} of pixels are right"
            row.append(_captioned(Image.fromarray(overlay(image, heat, signed=True, top=1.0)), words))
        if said.boxes is not None and said.scores is not None:
            scores = said.scores[i].detach().float().sigmoid().cpu()
            chosen = [k for k in scores.argsort(descending=True).tolist() if scores[k] > 0.5] or [int(scores.argmax())]
            found = said.boxes[i].detach().float().cpu()[chosen].numpy()
            row.append(_boxed(image, found, [f"{scores[k]:.2f}" for k in chosen], f"{len(chosen)} of {len(scores)} boxes"))
        rows.append(_beside(row))
    return _framed([_line(title, TITLE, "#000000"), *rows] if title else rows)


def _boxed(image: np.ndarray, boxes: np.ndarray, words: Sequence[str], caption: str) -> Image.Image:
    """The image with boxes (centre x, centre y, width, height), in shares of it, drawn on it."""
    panel = _panel(image, "RGB")
    draw = ImageDraw.Draw(panel)
    for number, ((x, y, w, h), word) in enumerate(zip(boxes * ([*panel.size] * 2), words, strict=True)):
        left, top, right, bottom = x - w / 2, y - h / 2, max(x - w / 2, x + w / 2 - 1), max(y - h / 2, y + h / 2 - 1)
        for inset, colour in ((0, "#000000"), (1, DOTS[number % len(DOTS)]), (2, DOTS[number % len(DOTS)]), (3, "#000000")):
            if right - left > 2 * inset and bottom - top > 2 * inset:
                draw.rectangle((left + inset, top + inset, right - inset, bottom - inset), outline=colour)
        if word:
            draw.text((left + 6, top + 5), word, fill="#ffffff", stroke_fill="#000000", stroke_width=2, font=_font(SMALL))
    return _captioned(panel, caption)


def _cells(level: np.ndarray, side: tuple[int, int]) -> np.ndarray:
    """Each cell of the map as a rectangle of the panel (h, w): what the layer has, no more."""
    (h, w), (k, l) = side, level.shape
    return level[np.arange(h) * k // h][:, np.arange(w) * l // w]


def _colours(stops: str, level: np.ndarray) -> np.ndarray:
    anchors = np.array([list(bytes.fromhex(stop)) for stop in stops.split()], np.float64)
    at = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(level, at, channel) for channel in anchors.T], -1)


def _panel_size(size: tuple[int, int]) -> tuple[int, int]:
    """Of an image (h, w): a whole multiple that is at least PANEL, or what LARGEST leaves of it."""
    longer = max(size)
    factor = LARGEST / longer if longer > LARGEST else math.ceil(PANEL / longer)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _panel(image: np.ndarray, mode: str) -> Image.Image:
    """The image (h, w, c) at the size of a panel, in colour (RGB) or grey (L)."""
    picture = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
    return _resized(picture.convert(mode), _panel_size(image.shape[:2]))


def _tinted(image: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3) of a panel over the image in grey."""
    grey = np.asarray(_panel(image, "L"), np.float64)
    return np.round((1 - STRENGTH) * grey[..., None] + STRENGTH * colours).astype(np.uint8)


def _resized(image: Image.Image, side: tuple[int, int]) -> Image.Image:
    way = Image.Resampling.NEAREST if side[0] >= image.height else Image.Resampling.LANCZOS
    return image.resize((side[1], side[0]), way)


def _rows(layer: LayerMaps, images: np.ndarray, points: np.ndarray) -> list[list[Image.Image]]:
    """The panels of a layer, row by row."""
    maps = layer.maps.cpu().numpy()
    if layer.kind == "channels":
        return [
            [_plain(image, None, ""), _bars(gate.ravel(), _panel_size(image.shape[:2]))]
            for image, gate in zip(images, maps, strict=True)
        ]
    if layer.kind == "positions":
        return _gate_rows(layer, images, maps, points.shape[1])
    heads, rows = maps.shape[1], []
    for i, (image, at, of_image) in enumerate(list(zip(images, points, maps, strict=True))[: max(1, FEW // heads)]):
        for head in range(heads):
            row = [_plain(image, at, f"head {head + 1} of {heads}" if heads > 1 else "")]
            for number, (heat, place) in enumerate(zip(of_image[head], at, strict=True)):
                signed = layer.kind == "signed"
                row.append(_heat(image, heat, signed, f"{number + 1}", (number, place)))
            if layer.buckets is not None:
                first = layer.buckets[i, head, 0].cpu().numpy()
                row.append(_captioned(Image.fromarray(hashed(image, first)), f"{len(np.unique(first))} buckets of round 1"))
            rows.append(row)
    return rows


def _gate_rows(layer: LayerMaps, images: np.ndarray, maps: np.ndarray, count: int) -> list[list[Image.Image]]:
    least = layer.entropy.mean(0).cpu().numpy().argsort(kind="stable")[: max(1, count - 1)]
    rows = []
    for image, of_image in zip(images, maps, strict=True):
        row = [_plain(image, None, ""), _heat(image, of_image.mean(0), False, "mean")]
        row += [_heat(image, of_image[channel], False, f"channel {channel}") for channel in least if maps.shape[1] > 1]
        rows.append(row)
    return rows


def _plain(image: np.ndarray, points: np.ndarray | None, caption: str) -> Image.Image:
    panel = _panel(image, "RGB")
    for number, place in enumerate(points if points is not None else ()):
        _mark(panel, number, place, image.shape[:2])
    return _captioned(panel, caption)


def _heat(image: np.ndarray, heat: np.ndarray, signed: bool, name: str, point: tuple[int, np.ndarray] | None = None) -> Image.Image:
    panel = Image.fromarray(overlay(image, heat, signed=signed))
    if point:
        _mark(panel, *point, image.shape[:2], hollow=True)
    most = f"±{np.abs(heat).max():.2g}" if signed else f"{heat.max() * heat.size:.3g} times even"
    return _captioned(panel, f"{name}: {most}")


def _mark(panel: Image.Image, number: int, place: np.ndarray, size: Sequence[int], *, hollow: bool = False) -> None:
    """A dot in the middle of the pixel: with its number, or as a ring that leaves what is there to be seen."""
    dot = _dot(number, hollow)
    x = round((place[1] + 0.5) * panel.width / size[1] - dot.width / 2)
    y = round((place[0] + 0.5) * panel.height / size[0] - dot.height / 2)
    panel.paste(dot, (x, y), dot)


@cache
def _dot(number: int, hollow: bool, radius: int = 9) -> Image.Image:
    fine = 8  # times as large, then reduced: smooth edges
    side = 2 * radius * fine
    dot = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(dot)
    rings = [("#000000", 0), (DOTS[number % len(DOTS)], 1), ("#000000", 4), ("#00000000", 5)]
    if not hollow:
        rings = [("#000000", 0), ("#ffffff", 1), (DOTS[number % len(DOTS)], 2)]
    for colour, inset in rings:
        inset *= fine
        draw.ellipse((inset, inset, side - 1 - inset, side - 1 - inset), fill=colour)
    if not hollow:
        draw.text((side / 2, side / 2), str(number + 1), fill="#000000", font=_font(13 * fine), anchor="mm")
    return dot.reduce(fine)


def _bars(gate: np.ndarray, side: tuple[int, int]) -> Image.Image:
    """The share of each channel as a bar, with a line where all would be even."""
    height, width = side[0], max(3 * side[1], PANEL)
    even, c = 1 / len(gate), len(gate)
    columns = min(c, width)
    parts = [part.mean() / even for part in np.array_split(gate, columns)]
    top = max(2.0, max(parts))
    panel = Image.new("RGB", (width, height), "#f4f4f4")
    draw = ImageDraw.Draw(panel)
    gap = 2 if columns < width / 4 else 0
    for i, part in enumerate(parts):
        left, right = i * width // columns, (i + 1) * width // columns - 1 - gap
        draw.rectangle((left, height - round(part / top * height), right, height), fill="#0072b2")
    line = height - round(height / top)
    draw.line((0, line, width, line), fill="#d55e00", width=2)
    return _captioned(panel, f"share of each of {c} channels, from 0 to {top:.3g} times even (the line): {max(parts):.3g} at most")


def _captioned(panel: Image.Image, caption: str) -> Image.Image:
    whole = Image.new("RGB", (panel.width, panel.height + SMALL + 10), "white")
    whole.paste(panel)
    ImageDraw.Draw(whole).text((1, panel.height + 1), caption, fill="#444444", font=_font(SMALL))
    return whole


def _legend(kind: str) -> Image.Image:
    """What the colours of a block mean."""
    if kind == "channels":
        return _line("a gate over channels: one answer for the whole image", SMALL, "#444444")
    stops, low, high = (RDBU, "-most", "+most") if kind == "signed" else (VIRIDIS, "0", "most of this map")
    ramp = Image.fromarray(_colours(stops, np.linspace(0, 1, 160)[None].repeat(10, 0)).round().astype(np.uint8))
    words = {
        "rows": "each map: where its numbered point looks; under it, its largest share against even attention",
        "signed": "each map: what its numbered point takes, with sign; under it, its largest weight",
        "positions": "a gate over positions, one a channel: no query points; the channels shown are the least even",
    }[kind]
    left, right = (_line(word, SMALL, "#444444") for word in (low, high))
    return _beside([left, ramp, right, _line(f"   {words}", SMALL, "#444444")], middle=True)


def _line(text: str, size: int, colour: str) -> Image.Image:
    box = _font(size).getbbox(text)
    image = Image.new("RGB", (math.ceil(box[2]) + 1, size + 7), "white")
    ImageDraw.Draw(image).text((0, 2), text, fill=colour, font=_font(size))
    return image


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # Pillow's own: the same picture on every machine


def _beside(parts: Sequence[Image.Image], middle: bool = False) -> Image.Image:
    height = max(part.height for part in parts)
    row = Image.new("RGB", (sum(part.width + GAP for part in parts) - GAP, height), "white")
    left = 0
    for part in parts:
        row.paste(part, (left, (height - part.height) // 2 if middle else 0))
        left += part.width + GAP
    return row


def _framed(parts: Sequence[Image.Image]) -> Image.Image:
    """One below the other, with a margin."""
    size = max(part.width for part in parts) + 2 * MARGIN, sum(part.height + GAP // 2 for part in parts) + 2 * MARGIN
    sheet, top = Image.new("RGB", size, "white"), MARGIN
    for part in parts:
        sheet.paste(part, (MARGIN, top))
        top += part.height + GAP // 2
    return sheet


def frame(image: Image.Image, caption: str, share: float) -> Image.Image:
    """A frame of a film: the image, enlarged where it is small, its caption, and a bar for the share of the way behind it."""
    times = max(1, math.ceil(LARGEST / max(image.size)))
    whole = Image.new("RGB", (image.width * times, image.height * times + TEXT + 14), "white")
    whole.paste(image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST))
    draw, low = ImageDraw.Draw(whole), image.height * times
    draw.rectangle((0, low + 3, max(1, round(share * whole.width)) - 1, low + 6), fill="#0072b2")
    draw.text((1, low + 8), caption, fill="#000000", font=_font(TEXT))
    return whole
