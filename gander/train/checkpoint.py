"""Checkpoints that are whole or absent, and cannot run code.

A checkpoint is a folder `checkpoints/<step>/`: one `<network>.safetensors` a network, `state.pt` (optimisers and the like:
plain tensors and numbers, read with `weights_only=True`) and `manifest.json` with the hash of each file. It is written as a
temporary folder, flushed to the disk and renamed, so that a kill at any moment leaves the one before it.
"""

import contextlib
import os
import pickle
import re
import shutil
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gander.errors import UserError
from gander.files import read_json, sha256, sync_folder, write_json
from gander.train.belief import check_archive


class GivenUp(UserError):
    """A save that took too long."""


def save(folder: Path, step: int, networks: Mapping[str, nn.Module], state: Mapping[str, Any], seconds: float = 30.0) -> Path:
    """Write `folder/<step>` and return it. Nothing of an earlier checkpoint is touched.

    UserError where the disk is full; GivenUp, a kind of it, where the disk takes longer than so many seconds.
    """
    given_up = threading.Event()
    done: list[Path | BaseException] = []

    def write() -> None:
        try:
            done.append(_save(folder, step, networks, state, given_up))
        except BaseException as error:
            done.append(error)

    # a thread, since a disk that hangs does not come back to be asked the time
    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        writer.join(seconds)
    finally:
        given_up.set()  # also by a second Ctrl-C: what is half written then stays without its name
    if not done:
        raise GivenUp(
            f"the save of step {step} into {folder} took longer than {seconds:g} s and was given up; the checkpoints before are "
            "whole: look after that disk, or give it more by GANDER_SAVE_SECONDS=300"
        )
    if isinstance(done[0], BaseException):
        raise done[0]
    return done[0]


def _save(folder: Path, step: int, networks: Mapping[str, nn.Module], state: Mapping[str, Any], given_up: threading.Event) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    tidy(folder)
    final = folder / f"{step:08d}"
    temporary, aside = folder / f".{final.name}.tmp", folder / f".{final.name}.old.tmp"
    temporary.mkdir()
    try:
        for name, network in networks.items():
            _write_network(temporary / f"{name}.safetensors", network, {"gander": f"{name} of step {step}"})
        _write_state(temporary / "state.pt", _plain(state))
        hashes = {file.name: sha256(file) for file in sorted(temporary.iterdir())}
        write_json(temporary / "manifest.json", {"step": step, "sha256": hashes})
        for file in temporary.iterdir():
            with file.open("rb+") as handle:
                os.fsync(handle.fileno())
        sync_folder(temporary)
        if given_up.is_set():
            raise InterruptedError(f"the save of step {step} was given up")
        if final.exists():  # the same step again, after a resume: equal to the last bit, or damaged
            os.replace(final, aside)
        try:
            os.replace(temporary, final)
        except BaseException:
            if aside.exists():
                os.replace(aside, final)
            raise
        sync_folder(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(aside, ignore_errors=True)
    return final


def tidy(folder: Path) -> None:
    """Remove what a kill left in the middle of a save, once what it had put aside is back. For the one writer alone."""
    for aside in folder.glob(".*.old.tmp"):
        if not (final := folder / aside.name[1:].removesuffix(".old.tmp")).exists():
            os.replace(aside, final)
    for left in folder.glob(".*.tmp"):
        shutil.rmtree(left, ignore_errors=True)


def _write_network(file: Path, network: nn.Module, metadata: dict[str, str]) -> None:
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, value in _tensors(network).items():
        value = value.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        tensors[name] = value.clone() if place in storages else value  # views of one storage are refused by the format
        storages.add(place)
    try:
        save_file(tensors, file, metadata=metadata)
    except SafetensorError as error:
        raise _unwritten(file, error) from None


def _write_state(file: Path, state: Any) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:  # how torch says that the disk is full
        raise _unwritten(file, error) from None


def _unwritten(file: Path, error: Exception) -> UserError:
    line = str(error).splitlines()[0]
    return UserError(
        f"{file.name} could not be written to {file.parent.parent} ({line}); make room there: the checkpoints before are whole"
    )


def saved(folder: Path) -> list[int]:
    """The steps of the checkpoints that are there, whole or not, in order. Files, links and other names are none."""
    folders = [f for f in folder.iterdir() if f.is_dir() and not f.is_symlink()] if folder.is_dir() else []
    return sorted(int(f.name) for f in folders if re.fullmatch("[0-9]+", f.name) and f.name == f"{int(f.name):08d}")


def find(folder: Path, step: int | None = None) -> tuple[Path, list[str]]:
    """The whole checkpoint of `step`, or the newest whole one; with a line for each damaged one that was passed over.

    UserError where there is none.
    """
    steps = saved(folder)
    if step is not None:
        others = ", ".join(str(s) for s in steps if s != step) or "none"
        if step not in steps:
            raise UserError(f"no checkpoint of step {step}; there are: {others}")
        if wrong := damage(folder / f"{step:08d}"):
            raise UserError(f"checkpoint {folder / f'{step:08d}'} is damaged ({wrong}); there are others: {others}")
        return folder / f"{step:08d}", []
    complaints: list[str] = []
    for candidate in reversed(steps):
        path = folder / f"{candidate:08d}"
        if (wrong := damage(path)) is None:
            return path, complaints
        complaints.append(f"checkpoint {path} is damaged ({wrong})")
    if complaints:
        raise UserError(f"{complaints[0]} and no other is whole; restore one from a copy, or train again with --run NEW")
    raise UserError(f"no checkpoint in {folder} yet; train longer, or save more often with --save-every")


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, by its hashes; None if nothing is."""
    try:
        hashes = read_json(path / "manifest.json")["sha256"]
        if not isinstance(hashes, dict) or "state.pt" not in hashes:
            return "manifest.json: it names no state.pt"
        for name, digest in hashes.items():
            if Path(name).name != name:
                return f"its manifest names {name!r}, which is no file of it"
            if not (path / name).is_file():
                return f"{name} is missing"
            if sha256(path / name) != digest:
                return f"{name} is not what was written"
    except (UserError, OSError, KeyError, TypeError, AttributeError) as error:
        return f"manifest.json: {error}"
    return None


def put_aside(folder: Path, after: int, what: str) -> None:
    """Rename the checkpoints after step `after` to `<step>.<what>`: they would count as the last two otherwise."""
    for step in reversed(saved(folder)):  # so that a kill in between leaves none that seems the newest
        if step > after:
            aside = folder / f"{step:08d}.{what}"
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(folder / f"{step:08d}", aside)


def check_network(file: Path, network: nn.Module) -> None:
    """UserError where the file or a name or shape in it does not fit `network`, which may be on the meta device."""
    with _reading(file), safe_open(file, "pt") as opened:
        shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118 - it is no dict
    mine = _tensors(network)
    if lacking := sorted(mine.keys() - shapes.keys()):
        raise UserError(f"{file} lacks {lacking[0]!r} and {len(lacking) - 1} more: it is of another network or other knobs")
    if extra := sorted(shapes.keys() - mine.keys()):
        raise UserError(f"{file} has {extra[0]!r} and {len(extra) - 1} more than needed; are the knobs the same?")
    for name, tensor in mine.items():
        if tuple(tensor.shape) != shapes[name]:
            raise UserError(f"{file}: {name!r} is {shapes[name]}, here {tuple(tensor.shape)}; are the knobs the same?")


def load_network(file: Path, network: nn.Module) -> None:
    """Copy the weights in `file` into `network`. UserError where the file or a name or shape in it does not fit."""
    check_network(file, network)
    with _reading(file):
        tensors = load_file(file)
    with torch.no_grad():
        for name, tensor in _tensors(network).items():
            tensor.copy_(tensors[name])


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file} is not a readable safetensors file ({error})") from None


def load_state(path: Path) -> dict[str, Any]:
    """What was saved beside the networks. Nothing in it can run code; UserError where it is no state of ours."""
    file = path / "state.pt"
    try:
        check_archive(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # hostile bytes make an unpickler raise all kinds of errors
        line = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, pickle.UnpicklingError):  # torch's own words are the advice to do without weights_only
            line = "weights only: there is more in it than plain tensors and numbers"
        raise UserError(f"{file} is not a state that gander wrote ({line}); delete {path} to take the one before it") from None
    kinds = {"step": int, "went_back": int, "learner": dict}
    if not isinstance(state, dict) or any(not isinstance(state[key], kinds[key]) for key in state.keys() & kinds.keys()):
        raise UserError(f"{file} holds no state of a learner; delete {path} to take the one before it")
    return state


def start_from(init: str, networks: Mapping[str, nn.Module]) -> None:
    """Put the weights of a run (every network it shares with this one), or of one file (the generator's), into `networks`.

    UserError where they are not there or do not fit.
    """
    path = Path(init)
    if path.is_dir():
        folder, _ = find(path / "checkpoints")
        files = {file.stem: file for file in folder.glob("*.safetensors")}
        if not (shared := files.keys() & networks.keys()):
            raise UserError(f"--init {init}: its networks ({', '.join(sorted(files))}) are none of {', '.join(networks)}")
        for name in shared:
            load_network(files[name], networks[name])
    elif path.is_file():
        if not (generators := networks.keys() & {"generator", "generator_ema"}):
            raise UserError(f"--init {init}: a file is a generator's, and there is none among {', '.join(networks)}; name a run")
        for name in generators:
            load_network(path, networks[name])
    else:
        raise UserError(f"--init {init}: there is no such run folder or .safetensors file")


def prune(folder: Path, keep_every: int, keep: Iterable[int] = ()) -> None:
    """Delete all but the last two checkpoints, those of every `keep_every` steps (0: none), and those in `keep`."""
    steps = saved(folder)
    wanted = {*steps[-2:], *keep}
    for step in steps:
        if step not in wanted and not (keep_every and step % keep_every == 0):
            shutil.rmtree(folder / f"{step:08d}")


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, shared ones once."""
    named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    persistent = network.state_dict(keep_vars=True).keys()
    return {name: tensor for name, tensor in named.items() if name in persistent}


def _plain(value: Any) -> Any:
    """Tensors on the CPU, in plain dicts, lists and numbers: all that `weights_only=True` will read.

    Equal words are made one object, since pickle writes them once then: equal states give equal files, and equal hashes.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        if strange := [key for key in value if type(key) not in (str, int)]:
            raise TypeError(f"a {type(strange[0]).__name__} cannot go into a checkpoint as a key; make it a word or a plain number")
        return {sys.intern(key) if type(key) is str else key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    if type(value) is str:
        return sys.intern(value)
    if value is None or type(value) in (bool, int, float):
        return value
    raise TypeError(f"a {type(value).__name__} cannot go into a checkpoint; make it a tensor or a plain number")
