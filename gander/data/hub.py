"""Images in tables: data sets of the Hub, and folders of parquet files. Needs the package `datasets` (the extra `hub`)."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gander import files
from gander.data.images import Broken
from gander.data.layout import Entry, choose_split
from gander.data.sources import Source, plain_name
from gander.errors import UserError, missing_extra

_IMAGE, _LABEL = ("image", "img"), ("label", "labels", "class", "fine_label")  # the first choices, where there are several


class Rows:
    """The images of one split of a table, as the bytes of their files."""

    def __init__(self, table: Any, column: str):
        self.table, self.column, self.fingerprint = table, column, str(table._fingerprint)
        self._lock = threading.Lock()  # one is read by several threads

    def read(self, path: str) -> bytes:
        with self._lock:
            value = self.table[int(path)][self.column]
        if value and value.get("bytes"):
            data = value["bytes"]
        elif value and value.get("path") and os.path.isfile(value["path"]):
            with open(value["path"], "rb") as file:
                data = file.read(files.MAX_ENTRY_BYTES + 1)
        else:
            raise Broken("has no image in this row")
        if len(data) > files.MAX_ENTRY_BYTES:
            raise Broken(f"is larger than {files.MAX_ENTRY_BYTES / 1e6:,.0f} MB")
        return data


def from_parquet(folder: Path) -> Callable[[Any], Any]:
    """How a folder of parquet files is loaded; splits follow from the names of files or folders, as `datasets` has it."""
    cache = str(files.cache_folder() / "parquet")
    return lambda datasets: datasets.load_dataset("parquet", data_dir=str(folder), cache_dir=cache)


def from_hub(name: str) -> Callable[[Any], Any]:
    """How `owner/name` is loaded: fetched once into the cache of `datasets`; from there alone where there is no network."""

    def load(datasets: Any) -> Any:
        if _reachable(name):
            return datasets.load_dataset(name)
        with _offline(datasets):
            try:
                return datasets.load_dataset(name)
            except Exception:
                raise UserError("the Hub cannot be reached from here, and it was not fetched before") from None

    return load


def open_rows(where: str, split: str | None, load: Callable[[Any], Any]) -> Source:
    """The source for a table with a column of images and maybe one of labels.

    Columns: `image` or `img`, else the first of images; `label`, `labels`, `class` or `fine_label`, else the first of class
    labels. Classes keep the order of the table's own numbers; where labels are plain numbers or words they are sorted.
    """
    try:
        import datasets
    except ImportError:
        near = "" if Path(where).is_dir() else f"there is no folder or file {where!r}; "
        error = missing_extra("datasets", "hub", "reading parquet files" if not near else f"fetching {where} from the Hub")
        raise UserError(f"{near}{error}") from None
    try:
        with _quiet(datasets):
            tables = load(datasets)
    except (KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:  # dozens of kinds: no network, no such name, a private set, a damaged file
        near = "cannot be read" if Path(where).is_dir() else "is no folder or file here, and could not be fetched from the Hub"
        raise UserError(f"{where} {near} ({_line(error)})") from None
    chosen = choose_split(where, list(tables), split)
    table = tables[chosen]
    column = _first(table.features, _IMAGE, lambda feature: isinstance(feature, datasets.Image))
    if column is None:
        raise UserError(f"{where} has no column of images; its columns are {', '.join(table.features)}")
    table = table.cast_column(column, datasets.Image(decode=False))
    labels, classes = _labels(datasets, tables, str(chosen))
    entries = tuple(Entry(f"{row:09d}", label, str(row), 0, (label,)) for row, label in enumerate(labels or [0] * len(table)))
    if not entries:
        raise UserError(f"the split {chosen} of {where} has no rows")
    name = plain_name(Path(where).resolve().name if Path(where).is_dir() else where)
    return Source(name, where, "rows", chosen, tuple(tables), classes, entries, rows=Rows(table, column))


def _labels(datasets: Any, tables: Any, split: str) -> tuple[list[int], tuple[str, ...]]:
    """A number for each row, and the names of the classes; nothing where a row has no label, as test splits often do."""
    features = tables[split].features
    column = _first(features, _LABEL, lambda feature: isinstance(feature, datasets.ClassLabel))
    if column is not None:
        values = tables[split][column][:]
        return ([], ()) if any(value is None or value < 0 for value in values) else (list(values), tuple(features[column].names))
    kinds = {name: str(getattr(feature, "dtype", "")).rstrip("0123456789") for name, feature in features.items()}
    plain = next((name for name in _LABEL if kinds.get(name) in ("int", "uint", "string")), None)
    if plain is None or any(value is None for value in tables[split][plain][:]):
        return [], ()
    known = {value for table in tables.values() if plain in table.features for value in table[plain][:]} - {None}
    number = {value: i for i, value in enumerate(sorted(known))}
    return [number[value] for value in tables[split][plain][:]], tuple(map(str, number))


def _first(features: Any, names: tuple[str, ...], fits: Callable[[Any], bool]) -> str | None:
    fitting = [name for name, feature in features.items() if fits(feature)]
    return next((name for name in names if name in fitting), fitting[0] if fitting else None)


def _reachable(name: str) -> bool:
    """Whether the Hub answers, be it with a refusal: asked once, where `datasets` would try for half a minute."""
    import huggingface_hub

    try:
        huggingface_hub.HfApi().dataset_info(name, timeout=10)
    except Exception as error:
        return getattr(error, "response", None) is not None
    return True


@contextlib.contextmanager
def _offline(datasets: Any) -> Iterator[None]:
    from huggingface_hub import constants

    places: tuple[Any, ...] = (constants, datasets.config)
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = True
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


@contextlib.contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """No progress bars of its own where nobody watches."""
    were = datasets.is_progress_bar_enabled()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if were:
            datasets.enable_progress_bars()


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
