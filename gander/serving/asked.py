"""What a request asks for: the words after the `?`, read into values within limits."""

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from gander.errors import UserError, shown, unknown

Reader = Callable[[str, str], Any]  # (name, text) -> value; UserError for one that will not do
MOST_SEED = (1 << 53) - 1  # what a browser's numbers can say
MOST_INDEX = 1_000_000_000


def whole(least: int, most: int) -> Reader:
    def read(name: str, text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,16}", text) or not least <= int(text) <= most:
            raise UserError(f"{name} {_cut(text)} is not a whole number from {least:,} to {most:,}")
        return int(text)

    return read


def real(least: float, most: float) -> Reader:
    def read(name: str, text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{0,20})?(e-[0-9]{1,2})?", text) or not least <= float(text) <= most:
            raise UserError(f"{name} {_cut(text)} is not a number from {least:g} to {most:g}")
        return float(text)

    return read


def word(name: str, text: str) -> str:
    return text


def four(name: str, text: str) -> tuple[int, ...]:
    """Four indices of samples: 0,1,2,3."""
    parts = text.split(",")
    if len(parts) != 4:
        raise UserError(f"{name} {_cut(text)} are not four numbers of samples, like 0,1,2,3")
    return tuple(whole(0, MOST_INDEX)(name, part) for part in parts)


SEED, INDEX, TRUNCATION, SHARE = whole(0, MOST_SEED), whole(0, MOST_INDEX), real(0.01, 10.0), real(0.0, 1.0)


def read(query: str, readers: Mapping[str, Reader]) -> dict[str, Any]:
    """The values that are given, by name. UserError for one that is unknown, said twice or out of its limits."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=32) if query else []
    except ValueError:
        raise UserError(f"{_cut(query)} is no list of name=value with & between") from None
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name not in readers:
            raise unknown("parameter", shown(name[:40]), readers)
        if name in values:
            raise UserError(f"{name} is given twice; give it once")
        values[name] = readers[name](name, text)
    return values


def _cut(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")
