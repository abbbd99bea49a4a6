"""The Inception-v3 of the FID: the network of 2015 that all published figures are made with, and its weights.

It is the graph of `inception-2015-12-05.tgz` (Szegedy et al. 2015, arXiv:1512.00567), as TensorFlow ran it for Heusel et al.
2017 (arXiv:1706.08500), not the Inception-v3 that torchvision has: 1008 classes, average pooling that leaves the border out
of its mean, max pooling in the very last block, its own way of resizing. The names are those of the weight file that
pytorch-fid publishes and torch-fidelity uses too, a conversion of that graph.
"""

import contextlib
import hashlib
import http.client
import io
import re
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from gander import files
from gander.errors import UserError, unknown

FILE = "pt_inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE}"
REFERENCE = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"  # its sha256
SIZE = 95_628_359  # its bytes
MAX_BYTES = 256 << 20  # of any weight file: a hundred megabytes are what such a network takes
SIDE = 299
RESIZES = {
    "tf1": "bilinear as TensorFlow 1 does it: corner pixels aligned at the top left only, not antialiased (the reference)",
    "clean": "bicubic and antialiased, as Pillow does it, without rounding (Parmar et al. 2021, arXiv:2104.11222)",
}

Shape = tuple[int, int, int]  # of a convolution: channels out, height and width of the kernel
Step = Shape | tuple[Shape, Shape]  # two lie side by side
Branches = dict[str, list[Step]]


def _block_a(pooled: int) -> Branches:
    return {
        "branch1x1": [(64, 1, 1)],
        "branch5x5": [(48, 1, 1), (64, 5, 5)],
        "branch3x3dbl": [(64, 1, 1), (96, 3, 3), (96, 3, 3)],
        "branch_pool": [(pooled, 1, 1)],
    }


def _block_c(width: int) -> Branches:
    return {
        "branch1x1": [(192, 1, 1)],
        "branch7x7": [(width, 1, 1), (width, 1, 7), (192, 7, 1)],
        "branch7x7dbl": [(width, 1, 1), (width, 7, 1), (width, 1, 7), (width, 7, 1), (192, 1, 7)],
        "branch_pool": [(192, 1, 1)],
    }


# 17×17 from 35×35, and 8×8 from 17×17
_BLOCK_B: Branches = {"branch3x3": [(384, 3, 3)], "branch3x3dbl": [(64, 1, 1), (96, 3, 3), (96, 3, 3)]}
_BLOCK_D: Branches = {
    "branch3x3": [(192, 1, 1), (320, 3, 3)],
    "branch7x7x3": [(192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3)],
}
_BLOCK_E: Branches = {
    "branch1x1": [(320, 1, 1)],
    "branch3x3": [(384, 1, 1), ((384, 1, 3), (384, 3, 1))],
    "branch3x3dbl": [(448, 1, 1), (384, 3, 3), ((384, 1, 3), (384, 3, 1))],
    "branch_pool": [(192, 1, 1)],
}


class Convolution(nn.Module):
    """Convolution without bias, batch norm with kept statistics, ReLU. Its own size unless it strides or is told `padded=False`."""

    def __init__(self, before: int, shape: Shape, stride: int = 1, padded: bool = True):
        super().__init__()
        after, height, width = shape
        padding = (height // 2, width // 2) if padded and stride == 1 else (0, 0)
        self.conv = nn.Conv2d(before, after, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d k l"]:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Mixed(nn.Module):
    """Branches of convolutions over one input, side by side in the channels.

    `branch_pool` sees the input pooled: "average" (the border is no part of the mean) or "max". With "halve" the last
    convolutions and a max pooling of the input itself halve the image.
    """

    def __init__(self, before: int, branches: Branches, pool: str = "average"):
        super().__init__()
        self.pool = pool
        self.branches: list[list[tuple[str, ...]]] = []  # the names of the layers: branch, step, those that lie side by side
        for branch, steps in branches.items():
            channels, names = before, []
            for i, step in enumerate(steps):
                shapes = step if isinstance(step[0], tuple) else (step,)
                here = branch if len(steps) == 1 else f"{branch}_{i + 1}"
                names.append(tuple(f"{here}{letter}" for letter in "ab") if len(shapes) == 2 else (here,))
                stride = 2 if pool == "halve" and i == len(steps) - 1 else 1
                for name, shape in zip(names[-1], shapes, strict=True):
                    self.add_module(name, Convolution(channels, shape, stride))
                channels = sum(shape[0] for shape in shapes)
            self.branches.append(names)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d k l"]:
        results = []
        for steps in self.branches:
            y = self._pooled(x) if steps[0] == ("branch_pool",) else x
            for names in steps:
                y = torch.cat([getattr(self, name)(y) for name in names], 1)
            results.append(y)
        if self.pool == "halve":
            results.append(F.max_pool2d(x, 3, 2))
        return torch.cat(results, 1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == "max":
            return F.max_pool2d(x, 3, 1, 1)
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class Inception(nn.Module):
    """images uint8 (b, 3, h, w) -> the last average pooling (b, 2048), logits (b, 1008).

    The logits are without the bias, as the Inception Score's authors took them (Salimans et al. 2016: the matrix product of
    the graph), and 8 of the 1008 classes are empty. 23,850,960 parameters, 5.7 thousand million multiply-adds an image.
    """

    dimensions = 2048

    def __init__(self, resize: str = "tf1"):
        super().__init__()
        if resize not in RESIZES:
            raise unknown("resize", resize, RESIZES)
        self.resize = resize
        layers = {
            "Conv2d_1a_3x3": Convolution(3, (32, 3, 3), stride=2),
            "Conv2d_2a_3x3": Convolution(32, (32, 3, 3), padded=False),
            "Conv2d_2b_3x3": Convolution(32, (64, 3, 3)),
            "pool_1": nn.MaxPool2d(3, 2),
            "Conv2d_3b_1x1": Convolution(64, (80, 1, 1)),
            "Conv2d_4a_3x3": Convolution(80, (192, 3, 3), padded=False),
            "pool_2": nn.MaxPool2d(3, 2),
            "Mixed_5b": Mixed(192, _block_a(32)),
            "Mixed_5c": Mixed(256, _block_a(64)),
            "Mixed_5d": Mixed(288, _block_a(64)),
            "Mixed_6a": Mixed(288, _BLOCK_B, "halve"),
            "Mixed_6b": Mixed(768, _block_c(128)),
            "Mixed_6c": Mixed(768, _block_c(160)),
            "Mixed_6d": Mixed(768, _block_c(160)),
            "Mixed_6e": Mixed(768, _block_c(192)),
            "Mixed_7a": Mixed(768, _BLOCK_D, "halve"),
            "Mixed_7b": Mixed(1280, _BLOCK_E),
            "Mixed_7c": Mixed(2048, _BLOCK_E, "max"),  # a slip of 2015 that is part of the measure now
        }
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.trunk = tuple(layers)
        self.fc = nn.Linear(2048, 1008)
        self.eval()

    def forward(self, images: Num[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b 2048"], Float[Tensor, "b 1008"]]:
        x = images.to(self.fc.weight.dtype)
        x = (resize_tf1(x) if self.resize == "tf1" else resize_clean(x)).sub_(128).div_(128)
        x = x.contiguous(memory_format=torch.channels_last)
        for name in self.trunk:
            x = getattr(self, name)(x)
        pooled = x.mean((2, 3))
        return pooled, pooled @ self.fc.weight.T


def resize_tf1(x: Float[Tensor, "b c h w"], side: int = SIDE) -> Float[Tensor, "b c s s"]:
    """TensorFlow 1's `resize_bilinear` without aligned corners: pixel i comes from the place i·h/side, whatever lies between."""
    for dim in (3, 2):
        n = x.shape[dim]
        # in float32 also where x is not, as the graph has it
        place = torch.arange(side, dtype=torch.float32) * torch.tensor(n / side, dtype=torch.float32)
        low = place.long()
        share = (place - low).to(x).view([-1 if d == dim else 1 for d in range(4)])
        a = x.index_select(dim, low.to(x.device))
        b = x.index_select(dim, (low + 1).clamp_max(n - 1).to(x.device))
        x = a + (b - a) * share
    return x


def resize_clean(x: Float[Tensor, "b c h w"], side: int = SIDE) -> Float[Tensor, "b c s s"]:
    """Pillow's bicubic filter, antialiased, channel by channel in floats; clipped to [0, 255], not rounded."""
    return F.interpolate(x, (side, side), mode="bicubic", align_corners=False, antialias=True).clamp(0, 255)


def load(weights: str | Path | None = None, resize: str = "tf1") -> tuple[Inception, str]:
    """The network with its weights, and the sha256 of their file: `weights`, else the cached one, else the one that is fetched.

    UserError where there is none, where its hash does not fit its name, or where it holds something else. What has not the
    hash of the reference is loaded all the same (it may be a conversion of your own), but is no FID then. Where several
    processes meet, call it by `distributed.chief_first`.
    """
    with torch.device("meta"):
        network = Inception(resize)
    file = Path(weights) if weights is not None else _cached()
    data = _read(file)
    digest = hashlib.sha256(data).hexdigest()
    stated = re.search(r"-([0-9a-f]{8,64})\.pth?$", file.name)
    if stated and not digest.startswith(stated[1]):
        again = "delete it, and it is fetched again" if weights is None else f"fetch it again from {URL}"
        raise UserError(f"{file} is damaged or another file: its name says sha256 {stated[1]}…, it has {digest[:8]}…; {again}")
    tensors = _tensors(file, data, trusted=digest == REFERENCE)
    _check(file, network, tensors)
    # what is counted there is of no use here, and not in every file
    counts = {name: torch.zeros((), dtype=torch.long) for name in network.state_dict() if name.endswith("num_batches_tracked")}
    network.load_state_dict({**tensors, **counts}, assign=True)
    return network.requires_grad_(False), digest


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as handle:
            data = handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); the file to name is {FILE}, from {URL}") from None
    if len(data) > MAX_BYTES:
        raise UserError(f"{file} is larger than {MAX_BYTES / 1e6:,.0f} MB, as no Inception weights are; take those from {URL}")
    return data


def _tensors(file: Path, data: bytes, trusted: bool) -> dict[str, Tensor]:
    """What is in the file, as far as this network knows it by type. Nothing in it can run code."""
    try:
        if not trusted:  # the reference is of an older format; others could unpack to more than the memory
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
                    raise ValueError("it is packed")
        loaded: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        floats = {name: value for name, value in loaded.items() if not name.endswith("num_batches_tracked")}
        if not all(isinstance(v, Tensor) and v.layout == torch.strided and v.is_floating_point() for v in floats.values()):
            raise ValueError("there is more in it than tensors of floats")
        return {name: value.float().contiguous() for name, value in floats.items()}
    except Exception as error:  # hostile bytes make an unpickler raise all kinds of errors
        line = (str(error).splitlines() or [type(error).__name__])[0][:200]
        if "nweights" in line or "eights only" in line:  # torch's own words are the advice to do without weights_only
            line = "there is more in it than plain tensors"
        raise UserError(f"{file} holds no Inception weights ({line}); take those from {URL}") from None


def _check(file: Path, network: nn.Module, tensors: dict[str, Tensor]) -> None:
    wanted = {name: tuple(v.shape) for name, v in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    for name in [*wanted, *found]:
        if wanted.get(name) != found.get(name):
            which = f"its {name} is {found.get(name, 'lacking')}, where the FID's Inception-v3 has {wanted.get(name, 'none')}"
            raise UserError(f"{file} holds weights of another network: {which}; take those from {URL}")


def _place() -> Path:
    return files.cache_folder() / "weights" / FILE


def at_hand() -> bool:
    """Whether the reference weights lie in the cache."""
    return _place().is_file()


def _cached() -> Path:
    """Where the reference weights lie in the cache, fetched if they do not."""
    file = _place()
    if not file.exists():
        try:
            fetch(file)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or str(error) or type(error).__name__
            byhand = f"fetch {URL} by hand and put it at {file}, or name it: --weights FILE"
            raise UserError(f"the Inception weights are not here and could not be fetched ({reason}); {byhand}") from None
    return file


def fetch(to: Path) -> None:
    """Download the reference weights: no more bytes than they have, whole or not at all. ValueError where they are not they."""
    files.need_space(to.parent, SIZE, "the file of the Inception weights")
    request = urllib.request.Request(URL, headers={"User-Agent": "gander"})
    bar = tqdm(total=SIZE, unit="B", unit_scale=True, desc="Inception weights", disable=not sys.stderr.isatty(), leave=False)
    data = bytearray()
    with contextlib.closing(bar), urllib.request.urlopen(request, timeout=30) as answer:
        while len(data) <= SIZE and (block := answer.read(1 << 20)):
            data += block
            bar.update(len(block))
    if len(data) != SIZE or hashlib.sha256(data).hexdigest() != REFERENCE:
        raise ValueError(f"what came, {len(data):,} bytes, is not that file")
    files.write_atomic(to, bytes(data))
