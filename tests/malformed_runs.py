"""Malformed run.json, log.jsonl and checkpoints, each a function of a seed, with the words that make gander read it.

Makers are what those of `malformed_data` are.
"""

import copy
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import torch
from malformed_data import TINY, flipped

SAMPLED = ["sample", "run", "--count", "4", "--standing", "1", "--device", "cpu"]


def resumed() -> list[str]:
    return ["train", "dcgan", "--data", "photos", "--run", "run", "--steps", "2", *TINY]


JUNK: list[Any] = [
    *(
        None,
        True,
        -1,
        0,
        10**12,
        2**63,
        10**300,
        1e308,
        float("nan"),
        float("inf"),
        "",
        "4",
        "../../etc/passwd",
        "a\nb\x1b[2J",
        "\ud800",
    ),
    *([], [[]], [4, "4"], {}, {"a": {}}, [None] * 9, "x" * 100_000, ["16"], 0.5),
]


def _places(value: Any, path: tuple = ()) -> list[tuple]:
    """The paths of all that is in a tree of dicts and lists."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in _places(item, (*path, key)))]


def _put(value: Any, place: tuple, junk: Any) -> Any:
    if not place:
        return junk
    value = copy.copy(value)
    value[place[0]] = _put(value[place[0]], place[1:], junk)
    return value


def a_run_json(folder: Path, random: Random, number: int) -> list[str]:
    file = folder / "run" / "run.json"
    data = RUN_JSONS[number % len(RUN_JSONS)](file.read_bytes(), random)
    file.write_bytes(data)
    return SAMPLED if number // len(RUN_JSONS) % 2 == 0 else resumed()


def _one_spoiled(data: bytes, random: Random, under: str = "", junk: list[Any] | None = None) -> bytes:
    described = json.loads(data)
    places = [place for place in _places(described) if not under or place[:1] == (under,)]
    return json.dumps(_put(described, random.choice(places), random.choice(junk or JUNK))).encode()


RUN_JSONS: list[Callable[[bytes, Random], bytes]] = [
    lambda data, random: flipped(data, random, 2),
    _one_spoiled,
    lambda data, random: _one_spoiled(data, random, "knobs"),
    lambda data, random: _one_spoiled(data, random, "facts"),
    lambda data, random: _one_spoiled(data, random, "recipe", ["../x.py", "/etc/x.py", "x.py", "..", "sagan", "os", "a\nb"]),
    lambda data, random: _one_spoiled(data, random, "knobs", [10**6, 10**12, 2**62, 2**63, 10**300, 40_000]),
    lambda data, random: data[: random.randrange(len(data))],
    lambda data, random: json.dumps(random.choice(JUNK)).encode(),
    lambda data, random: random.choice([b"[", b'{"a":']) * random.choice([900, 100_000]),
    lambda data, random: data.replace(b"16", b"1" + b"0" * random.choice([400, 5000]), 1),
    lambda data, random: data.replace(b"dcgan", random.choice([b"\xff\xfe", b"\xed\xa0\x80", b"\0"])),
    lambda data, random: random.choice([b" ", b"1", b"[],", b'"'])[:1] * (100 << 20),
    lambda data, random: data[:1] + b'"new": [' + b"[]," * (30 << 20) + b"0]," + data[1:],
]


def a_log(folder: Path, random: Random, number: int) -> list[str]:
    file = folder / "run" / "log.jsonl"
    way = LOGS[number % len(LOGS)]
    if isinstance(way, bytes):
        file.write_bytes(way + b"\n" + file.read_bytes())
    else:
        way(file, random)
    return resumed()


def _is_a_folder(file: Path, random: Random) -> None:
    file.unlink()
    file.mkdir()


def _is_a_link(file: Path, random: Random) -> None:
    file.unlink()
    file.symlink_to(file.parent.parent / "elsewhere")


LOGS: list[bytes | Callable[[Path, Random], Any]] = [
    *(b"[" * 100_000, b"{" * 9, b"3", b"[]", b"null", b'"a"', b"\xff\xfe", b"\0", b"{}", b'{"step": "1"}', b'{"step": null}'),
    *(b'{"step": 1.5}', b'{"step": NaN}', b'{"step": -1}', b'{"step": 1%s}' % (b"0" * 5000), b'{"step": 1, "x": NaN}'),
    *(b'{"step": {"step": 1}}', b'{"a":' * 2000 + b"1" + b"}" * 2000, b'{"step": 1, "x": "\\ud800"}', b" ", b"x" * (100 << 20)),
    lambda file, random: file.write_bytes(flipped(file.read_bytes(), random, 3)),
    lambda file, random: file.write_bytes(file.read_bytes()[: random.randrange(200)]),
    lambda file, random: file.write_bytes(b"0" * (100 << 20)),
    lambda file, random: file.write_bytes(random.randbytes(2000)),
    _is_a_folder,
    _is_a_link,
]


def a_part_is_a_link(folder: Path, random: Random, number: int) -> list[str]:
    """A part of the run is a link out of it: to a folder that is there, or to nothing."""
    name = ["samples", "checkpoints", "lock", "log.jsonl", "run.json"][number % 5]
    place, target = folder / "run" / name, folder / "elsewhere"
    if place.exists() and number // 5 % 2 == 0:
        os.replace(place, target)
    elif place.exists():
        os.replace(place, folder / "gone")
    place.symlink_to(target)
    return SAMPLED if number // 10 % 2 == 0 else resumed()


# Checkpoints -------------------------------------------------------------------------------------------------------------


def a_checkpoint(folder: Path, random: Random, number: int) -> list[str]:
    """A checkpoint that is not what was written, and says so or not: who writes its manifest can write what he likes."""
    way = CHECKPOINTS[number % len(CHECKPOINTS)]
    way(folder / "run" / "checkpoints" / "00000001", random)
    return resumed() if number // len(CHECKPOINTS) % 2 == 0 else SAMPLED


def a_network(folder: Path, random: Random, number: int) -> list[str]:
    """A .safetensors that is spoiled, under a manifest that says it is right."""
    path = folder / "run" / "checkpoints" / "00000001"
    name = ["generator_ema", "generator", "discriminator"][(number + number // len(NETWORKS)) % 3]
    file = path / f"{name}.safetensors"
    file.write_bytes(NETWORKS[number % len(NETWORKS)](file.read_bytes(), random))
    seal(path)
    return SAMPLED if name == "generator_ema" and random.random() < 0.5 else resumed()


def a_state(folder: Path, random: Random, number: int) -> list[str]:
    """A state.pt that is spoiled, under a manifest that says it is right."""
    path = folder / "run" / "checkpoints" / "00000001"
    STATES[number % len(STATES)](path / "state.pt", random)
    seal(path)
    return resumed()


def seal(path: Path) -> None:
    files = sorted(file for file in path.iterdir() if file.name != "manifest.json")
    hashes = {file.name: sha256(file.read_bytes()).hexdigest() for file in files}
    (path / "manifest.json").write_text(json.dumps({"step": 1, "sha256": hashes}))


def _lengths(data: bytes) -> int:
    return int(struct.unpack_from("<Q", data)[0])


def _header(data: bytes, random: Random, **changed: Any) -> bytes:
    """One tensor of the header with other fields."""
    length = _lengths(data)
    header = json.loads(data[8 : 8 + length])
    name = random.choice(sorted(header.keys() - {"__metadata__"}))
    header[name] = {**header[name], **changed}
    packed = json.dumps(header).encode()
    return struct.pack("<Q", len(packed)) + packed + data[8 + length :]


NETWORKS: list[Callable[[bytes, Random], bytes]] = [
    lambda data, random: flipped(data, random, 3, within=8 + _lengths(data)),
    lambda data, random: struct.pack("<Q", random.choice([0, 1, 2**20, 2**40, 2**63, 2**64 - 1])) + data[8:],
    lambda data, random: data[: random.randrange(len(data))],
    lambda data, random: _header(data, random, dtype=random.choice(["F64", "I8", "BF16", "F8_E4M3", "F4", "C64", "X", 5, None])),
    lambda data, random: _header(data, random, shape=random.choice([[], [2**40], [-1], [0], ["a"], None, [2**62, 4], [1] * 5000])),
    lambda data, random: _header(data, random, data_offsets=random.choice([[0, 2**60], [9, 3], [0], [-1, 4], None, "a"])),
    lambda data, random: struct.pack("<Q", 50_000) + b"[" * 50_000 + data,
    lambda data, random: data[:8] + b" " * _lengths(data) + data[8 + _lengths(data) :],
    lambda data, random: data[: 8 + _lengths(data)] + b"\xff" * (len(data) - 8 - _lengths(data)),
    lambda data, random: data + b"\0" * (1 << 20),
    lambda data, random: b"",
    lambda data, random: struct.pack("<Q", 2) + b"{}",
]


class Code:
    """Pickled, it would make a file where the process stands."""

    def __reduce__(self) -> Any:
        return open, ("ran", "w")


def _spoil_state(file: Path, random: Random, junk: list[Any]) -> None:
    state = torch.load(file, weights_only=True)
    torch.save(_put(state, random.choice(_places(state)), random.choice(junk)), file)


def _repack(file: Path, change: Callable[[str, bytes], bytes], method: int = zipfile.ZIP_STORED) -> None:
    """Each record as `change(its name, its bytes)` gives it."""
    with zipfile.ZipFile(file) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in records.items():
            archive.writestr(name, change(name, data))


def _pickled(file: Path, pickled: bytes) -> None:
    _repack(file, lambda name, data: pickled if name.endswith("data.pkl") else data)


def _call(module: str, name: str, argument: Any) -> bytes:
    """A pickle that calls module.name(argument)."""
    return b"\x80\x02c%s\n%s\n" % (module.encode(), name.encode()) + pickle.dumps((argument,), 2)[2:-1] + b"R."


def _tower(depth: int) -> Any:
    """A list of itself twice, over and over: little to write, endless to walk."""
    value: Any = [0]
    for _ in range(depth):
        value = [value, value]
    return value


TENSORS = [
    *(torch.zeros(3), torch.zeros(0), torch.tensor(float("nan")), torch.tensor(-1.0), torch.zeros(1, dtype=torch.complex64)),
    *(torch.zeros(1, dtype=torch.half).expand(10**6, 10**6), torch.zeros(2, 2).to_sparse(), torch.zeros(4, device="meta")),
    *(torch.zeros(1).expand(10**6, 10**6), torch.tensor(2**62), torch.zeros(3, dtype=torch.int64), torch.tensor(True)),
]
PLAIN = [junk for junk in JUNK if junk != "\ud800"]  # torch.save takes it, pickle's own does not
STATES: list[Callable[[Path, Random], Any]] = [
    lambda file, random: _spoil_state(file, random, PLAIN),
    lambda file, random: _spoil_state(file, random, TENSORS),
    lambda file, random: _spoil_state(file, random, [_tower(60), Code(), {1: 2}, (), b"x", bytearray(9), {3}]),
    lambda file, random: file.write_bytes(flipped(file.read_bytes(), random, 3)),
    lambda file, random: file.write_bytes(file.read_bytes()[: random.randrange(3000)]),
    lambda file, random: _repack(file, lambda name, data: flipped(data, random, 2) if name.endswith("data.pkl") else data),
    lambda file, random: _repack(file, lambda name, data: data + b"\0" * (20 << 20) * name.endswith("/0"), zipfile.ZIP_DEFLATED),
    lambda file, random: _repack(file, lambda name, data: data[: len(data) // 2] if "/data/" in name else data),
    lambda file, random: _pickled(
        file, random.choice([b"", b".", b"\x80\x02.", b"}" * 99, b"(" * 10**6, b"\x80\x02Nr\xff\xff\xff\x7f."])
    ),
    lambda file, random: _pickled(file, _call("builtins", "bytearray", 10 ** random.choice([3, 13]))),
    lambda file, random: _pickled(file, _call("torch", "Tensor", 10 ** random.choice([3, 13]))),
    lambda file, random: _pickled(file, _call("torch", "Size", ["a"])),
    lambda file, random: _pickled(file, _call("os", "mkdir", "ran")),
    lambda file, random: file.write_bytes(pickle.dumps(random.choice([Code(), {"step": 1}, [1]]), random.randrange(5))),
    lambda file, random: torch.save({"step": 1, "learner": {"x": torch.zeros(3)}}, file, _use_new_zipfile_serialization=False),
    lambda file, random: file.write_bytes(random.randbytes(500)),
]


def _manifest(path: Path, random: Random, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(change(manifest)))


def _becomes_a_link(path: Path, random: Random) -> None:
    os.replace(path, path.parent.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent.parent / random.choice(["elsewhere", "nowhere"]))


def _becomes_a_file(path: Path, random: Random) -> None:
    shutil.rmtree(path)
    path.write_bytes(b"a file")


def _beside(path: Path, random: Random) -> None:
    """What is no checkpoint, beside the one that is."""
    name = random.choice(["٥", "2", "99999999999999999999999", "-0000001", "00000002", "００００００００２", "0000000009"])
    if random.random() < 0.5:
        shutil.copytree(path, path.with_name(name))
    else:
        path.with_name(name).write_bytes(b"a file")


CHECKPOINTS: list[Callable[[Path, Random], Any]] = [
    lambda path, random: (path / "state.pt").write_bytes(flipped((path / "state.pt").read_bytes(), random, 1)),
    lambda path, random: random.choice(list(path.iterdir())).unlink(),
    lambda path, random: (path / "manifest.json").write_bytes(flipped((path / "manifest.json").read_bytes(), random, 3)),
    lambda path, random: (path / "manifest.json").write_bytes(
        random.choice([b"[" * 100_000, b"", b"1" * 5000, b" " * (100 << 20)])
    ),
    lambda path, random: _manifest(path, random, lambda m: _put(m, random.choice(_places(m)), random.choice(JUNK))),
    lambda path, random: _manifest(
        path,
        random,
        lambda m: {
            **m,
            "sha256": {random.choice(["../../run.json", "/etc/passwd", "..", "a\nb", "\0", "x" * 999]): "0", **m["sha256"]},
        },
    ),
    lambda path, random: _manifest(path, random, lambda m: {"sha256": {"state.pt": m["sha256"]["state.pt"]}}),
    lambda path, random: (path / "generator.safetensors").unlink() or seal(path),  # type: ignore[func-returns-value]
    _becomes_a_link,
    _becomes_a_file,
    _beside,
]
