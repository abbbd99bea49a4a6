"""What `look/explorer.json` holds, believed only as far as it is what belongs there: names, numbers, base64 of the right length."""

import base64
import binascii
from pathlib import Path
from typing import Any

from gander.errors import UserError
from gander.files import read_json
from gander.report.gather import number, plain_file, words

MOST_BYTES = 4 << 20
MOST = {"images": 32, "networks": 8, "layers": 64, "heads": 64}  # a page draws them all
KINDS = ("rows", "signed", "channels", "positions")


def read(folder: Path) -> dict[str, Any] | None:
    """The maps of a run, or None where it has none. UserError for a file that is damaged."""
    file = folder / "look" / "explorer.json"
    if not plain_file(file):
        return None
    told = read_json(file, MOST_BYTES)
    try:
        images = [_image(image) for image in _few(told, "images")]
        notes = [words(note) for note in told["notes"][:5]]
        return {"step": int(told["step"]), "side": _sizes([told["side"]])[0], "images": images, "notes": notes}
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, binascii.Error) as error:
        what = f"{type(error).__name__}: {words(error, 80)}"
        raise UserError(f"{file} is damaged ({what}); delete it to have it made again") from None


def _image(told: Any) -> dict[str, Any]:
    kind = {"png": "png", "jpeg": "jpeg"}[told["type"]]
    base64.b64decode(told["image"], validate=True)
    networks = [
        {"network": words(network["network"], 80), "layers": [_layer(layer) for layer in _few(network, "layers")]}
        for network in _few(told, "networks")
    ]
    return {"name": words(told["name"], 80), "src": f"data:image/{kind};base64,{told['image']}", "networks": networks}


def _layer(told: Any) -> dict[str, Any]:
    kind, (h, w) = told["kind"], _sizes(told["size"])
    if kind not in KINDS:
        raise ValueError(f"no kind of map: {kind}")
    heads, rows, columns = [words(name, 40) for name in _few(told, "heads")], _cells(told["rows"], h), _cells(told["columns"], w)
    facts: dict[str, Any] = {"name": words(told["name"], 120), "layer": words(told["layer"], 80), "kind": kind, "size": [h, w]}
    facts |= {
        "heads": heads,
        "rows": rows,
        "columns": columns,
        "gamma": number(told["gamma"]),
        "entropy": _numbers(told["entropy"]),
    }
    if kind == "channels":
        return facts | {"shares": _numbers(told["shares"])}
    k, l = _sizes(told["keys"])
    maps, peaks, count = told["maps"], _numbers(told["peaks"]), len(heads) * len(rows) * len(columns)
    if len(base64.b64decode(maps, validate=True)) != count * k * l or len(peaks) != count:
        raise ValueError(f"{len(peaks)} peaks for {count} maps")
    facts |= {"keys": [k, l], "peaks": peaks, "maps": maps}
    return facts | ({"distance": _numbers(told["distance"])} if kind in ("rows", "signed") else {})


def _few(told: Any, key: str) -> list[Any]:
    if not isinstance(told[key], list) or len(told[key]) > MOST[key]:
        raise ValueError(f"no list of at most {MOST[key]} {key}")
    return told[key]


def _numbers(values: Any) -> list[float]:
    if not values or any(number(value) is None for value in values):
        raise ValueError("no list of numbers")
    return [float(value) for value in values]


def _cells(values: Any, side: int) -> list[int]:
    if not values or any(type(value) is not int or not 0 <= value < side for value in values):
        raise ValueError("no cells of the feature map")
    return list(values)


def _sizes(values: Any) -> list[int]:
    if any(type(value) is not int or not 0 < value <= 1 << 14 for value in values):
        raise ValueError("no sizes")
    return list(values)
