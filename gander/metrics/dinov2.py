"""DINOv2's vision transformer as features: Fréchet distances between its vectors follow people's judgement of images better than
those of Inception (Stein et al. 2023, arXiv:2306.04675).

The network is that of Oquab et al. 2023 (arXiv:2304.07193) without registers, S, B or L with patches of 14 pixels; the weights
tell which. The names are those of `model.safetensors` of facebook/dinov2-small, -base and -large on the Hub, which is
loaded as it is. The giant, whose feed-forward layers are others, is left out.

The vector of an image is its class token after the last norm, of a square of 224 pixels, as `dgm-eval` by Stein et al. takes it
(by default of L: 1,024 numbers). What differs: there an image is resized by Pillow in 8 bits, rounded after each of two passes,
unless `--clean_resize` is asked for; here in floats, as that does: 0.3 grey levels lie between the two, on average. Positions are
interpolated as DINOv2's own code does it, with the 0.1 that it adds to the number of patches; the package `transformers` leaves
that out today, and makes other vectors.
"""

import os
import re
import shutil
from pathlib import Path

import torch
from jaxtyping import Float, Num
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from gander import files
from gander.errors import UserError, missing_extra
from gander.metrics.inception import resize_clean

REPOSITORY, FILE = "facebook/dinov2-large", "model.safetensors"
URL = f"https://huggingface.co/{REPOSITORY}/resolve/main/{FILE}"
MAX_BYTES = 2 << 30  # of a weight file: L has 1.2 GB
PATCH, GRID, HEAD = 14, 37, 64  # pixels of a patch; patches a side in training; channels of a head of attention
OFFSET = 0.1  # patches that are added before the scale of interpolation is taken: a rounding guard once, part of the measure now
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SIDE = 224
RESIZE = "bicubic-antialiased-224"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels in [0, 1]


class Embeddings(nn.Module):
    """images (b, 3, h, w) -> tokens (b, 1 + h·w/14², d): the class token, then the patches row by row, with their positions."""

    def __init__(self, width: int):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + GRID * GRID, width))
        self.patch_embeddings = nn.ModuleDict({"projection": nn.Conv2d(3, width, PATCH, PATCH)})

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        patches = self.patch_embeddings["projection"](x)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), patches.flatten(2).mT], 1)
        return tokens + self.positions(*patches.shape[2:])

    def positions(self, rows: int, columns: int) -> Float[Tensor, "1 n d"]:
        """Of the class token, then of `rows` × `columns` patches: bicubic between the 37 × 37 of training, not antialiased.

        Row i lies at (i + ½)·37/(rows + 0.1) - ½ among those of training, columns likewise.
        """
        if (rows, columns) == (GRID, GRID):
            return self.position_embeddings
        first, rest = self.position_embeddings.split([1, GRID * GRID], 1)
        scale = ((rows + OFFSET) / GRID, (columns + OFFSET) / GRID)
        grid = F.interpolate(rest.mT.unflatten(2, (GRID, GRID)), scale_factor=scale, mode="bicubic")
        return torch.cat([first, grid.flatten(2).mT], 1)


class Scale(nn.Module):
    """x · λ, a number a channel (LayerScale, Touvron et al. 2021)."""

    def __init__(self, width: int):
        super().__init__()
        self.lambda1 = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return x * self.lambda1


class Attention(nn.Module):
    """Every token looks at all of them, in heads of 64 channels."""

    def __init__(self, width: int):
        super().__init__()
        self.attention = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.output = nn.ModuleDict({"dense": nn.Linear(width, width)})

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        q, k, v = (layer(x).unflatten(2, (-1, HEAD)).transpose(1, 2) for layer in self.attention.values())
        return self.output["dense"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + λ₁·attention(norm(x)), then x + λ₂·mlp(norm(x)), the latter four times as wide within, with the exact GELU."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width)
        self.layer_scale1 = Scale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.layer_scale2 = Scale(width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        x = x + self.layer_scale1(self.attention(self.norm1(x)))
        return x + self.layer_scale2(self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x)))))


class DINOv2(nn.Module):
    """images uint8 (b, 3, h, w) -> (b, width), and None for logits. L has width 1024 and depth 24: 304,367,616 parameters."""

    def __init__(self, width: int, depth: int):
        super().__init__()
        self.dimensions = width
        self.embeddings = Embeddings(width)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Block(width) for _ in range(depth))})
        self.layernorm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: Num[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b d"], None]:
        return self.tokens(prepared(images))[:, 0], None

    def tokens(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Of prepared images whose sides are multiples of 14: the class token, then those of the patches."""
        x = self.embeddings(x)
        for block in self.encoder["layer"].children():
            x = block(x)
        return self.layernorm(x)


def prepared(images: Num[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 224 224"]:
    """Bicubic and antialiased to 224 × 224, whatever the shape was, then by ImageNet's mean and deviation."""
    x = resize_clean(images.to(torch.promote_types(images.dtype, torch.float32)), SIDE) / 255
    mean, deviation = (torch.tensor(values, device=x.device).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return (x - mean) / deviation


def load(weights: str | Path | None = None) -> tuple[DINOv2, str]:
    """The network with its weights, and the sha256 of their file: `weights`, else the cached one, else the one that is fetched.

    UserError where there is none, or where it holds something else. Where several processes meet, call it by
    `distributed.chief_first`.
    """
    file = Path(weights) if weights is not None else _cached()
    try:
        tensors, digest = _tensors(file), files.sha256(file)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error}); the file to name is {FILE}, from {URL}") from None
    network = _fitting(file, tensors)
    network.load_state_dict(tensors, assign=True)
    return network.requires_grad_(False), digest


def _tensors(file: Path) -> dict[str, Tensor]:
    """What is in the file, as far as this network knows it by type. OSError where it cannot be read. Nothing in it can run code."""
    if file.exists() and not file.is_file():
        raise OSError("it is no file")
    if (size := file.stat().st_size) > MAX_BYTES:
        raise UserError(f"{file} has {size / 1e9:.1f} GB, more than any DINOv2 up to L; take {URL}")
    try:
        tensors = load_file(file)
    except (SafetensorError, ValueError, TypeError, LookupError, AttributeError) as error:  # the last two: of types not known
        line = (str(error).splitlines() or [type(error).__name__])[0][:200]
        again = "delete it, and it is fetched again" if file == _place() else f"take {URL}"
        raise UserError(f"{file} holds no DINOv2 weights: it is no whole safetensors file ({line}); {again}") from None
    tensors.pop("embeddings.mask_token", None)  # for training alone
    if odd := [name for name, value in tensors.items() if value.dtype not in FLOATS]:
        raise UserError(f"{file} holds weights of another network: its {odd[0]} is of {tensors[odd[0]].dtype}; take {URL}")
    return {name: value.float().contiguous() for name, value in tensors.items()}


def _fitting(file: Path, tensors: dict[str, Tensor]) -> DINOv2:
    """The network, without numbers, of the width and depth that these tensors have. UserError where they are of another."""
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if any(".mlp.weights_in." in name for name in found):
        raise UserError(f"{file} is the giant of DINOv2, whose feed-forward layers gander has not; take {URL}")
    token = found.get("embeddings.cls_token", ())
    width = token[2] if len(token) == 3 else 1024
    if width < HEAD or width % HEAD:
        raise UserError(f"{file} holds weights of another network: {width} wide, where a DINOv2 has heads of {HEAD}; take {URL}")
    depth = sum(re.fullmatch(r"encoder\.layer\.\d+\.norm1\.weight", name) is not None for name in found)
    with torch.device("meta"):
        network = DINOv2(width, max(depth, 1))
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    for name in [*wanted, *found]:
        if wanted.get(name) != found.get(name):
            which = f"its {name} is {found.get(name, 'lacking')}, where a DINOv2 has {wanted.get(name, 'none')}"
            raise UserError(f"{file} holds weights of another network: {which}; take {URL}")
    return network


def _place() -> Path:
    return files.cache_folder() / "weights" / "dinov2-large.safetensors"


def _cached() -> Path:
    """Where the weights of L lie in the cache, fetched if they do not."""
    file = _place()
    if file.exists():
        return file
    byhand = f"fetch {URL} by hand and put it at {file}, or name it: --weights FILE"
    try:
        fetch(file)
    except ImportError:
        raise UserError(f"{missing_extra('huggingface_hub', 'hub', 'fetching the DINOv2 weights')}; or {byhand}") from None
    except (UserError, MemoryError):
        raise
    except Exception as error:  # dozens of kinds: no network, asked not to use it, the Hub's own
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        raise UserError(f"the DINOv2 weights are not here and could not be fetched ({reason}); {byhand}") from None
    return file


def fetch(to: Path) -> None:
    """Download the weights of L from the Hub, whole or not at all. ValueError where they have not the hash that it names."""
    import huggingface_hub

    there = huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(REPOSITORY, FILE), timeout=10)
    if (there.size or 0) > MAX_BYTES:
        raise ValueError(f"it has {there.size:,} bytes there, more than any DINOv2 up to L")
    files.need_space(to.parent, there.size or 0, "the file of the DINOv2 weights")
    folder = to.with_suffix("")  # where the Hub's client finds again what came before a break
    came = Path(huggingface_hub.hf_hub_download(REPOSITORY, FILE, revision=there.commit_hash, local_dir=folder))
    if re.fullmatch("[0-9a-f]{64}", there.etag or "") and files.sha256(came) != there.etag:
        shutil.rmtree(folder)
        raise ValueError("what came is not that file")
    with came.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(came, to)
    shutil.rmtree(folder, ignore_errors=True)
