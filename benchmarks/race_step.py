"""A whole training step, one update of each network, against two peers at 32 px: same function, same batch, same optimiser.

    GANDER_PEERS=FOLDER python benchmarks/race_step.py [--batch 8 16] [--rounds 9] [--device cuda]

FOLDER has the peers' repositories as `mimicry` and `BigGAN-PyTorch`; nothing of them is kept here. Each runs its own networks
in its own loop, in fp32, as published: mimicry's SAGAN-32, and the network of BigGAN-PyTorch's CIFAR-10 script. gander builds
the same networks from its parts, folded where they fold (mimicry's bilinear upsampling does not), and trains them with `Gan`.
Before any timing it takes over the peer's weights, and images, logits, gradients and running statistics must be the same.

Targets, as ratios of medians: against mimicry 1.15 in fp32 and 2.0 with bf16, against BigGAN 1.4 and 2.3; spectral norm at
most 2 % of the fp32 step, timed inside it. On a CPU: CPU seconds of one thread, the sides in turn within each round. On CUDA
its own clock.
"""

import argparse
import importlib
import os
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from machine import keep
from torch import Tensor, nn
from torch.nn import functional as F

from gander import draws
from gander.attention import SelfAttention
from gander.layers import BatchNorm, ConditionalBatchNorm, spectral_norm
from gander.layers.spectral_norm import SpectralNorm, _Divide
from gander.losses import LOSSES
from gander.models.sagan import DownBlock, UpBlock
from gander.optimizers import adam
from gander.train import gan as gan_module
from gander.train.gan import Gan

CLASSES, LATENT, LR = 10, 128, 2e-4
PEERS = {
    "mimicry": "https://github.com/kwotsin/mimicry",
    "BigGAN-PyTorch": "https://github.com/ajbrock/BigGAN-PyTorch",
}
TARGETS = {"mimicry": {"fp32": 1.15, "bf16": 2.0}, "BigGAN-PyTorch": {"fp32": 1.4, "bf16": 2.3}}
SHARE = 0.02
BETAS = {"mimicry": (0.0, 0.9), "BigGAN-PyTorch": (0.0, 0.999)}


# gander's side: both networks are residual blocks between the same ends


class Generator(nn.Module):
    latent_dim, num_classes, resolution = LATENT, CLASSES, 32

    def __init__(self, blocks: list[nn.Module], width: int):
        super().__init__()
        self.linear = nn.Linear(LATENT, 16 * width)
        self.blocks = nn.ModuleList(blocks)
        self.norm = BatchNorm(width)
        self.to_image = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, latent: Tensor, labels: Tensor) -> Tensor:
        x = self.linear(latent).unflatten(1, (-1, 4, 4))
        for block in self.blocks:
            x = block(x) if isinstance(block, SelfAttention) else block(x, labels)
        return self.to_image(self.norm(x).relu()).tanh()


class Discriminator(nn.Module):
    def __init__(self, blocks: list[nn.Module], width: int):
        super().__init__()
        self.layers = nn.Sequential(*blocks, nn.ReLU())
        self.linear = nn.Linear(width, 1)
        self.embedding = nn.Embedding(CLASSES, width)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        h = self.layers(images).sum((2, 3))
        return self.linear(h).flatten() + torch.linalg.vecdot(self.embedding(labels), h)


class BilinearUpBlock(UpBlock):
    """mimicry's. The 1×1 convolution commutes with any interpolation whose weights sum to 1."""

    def forward(self, x: Tensor, *labels: Tensor) -> Tensor:
        y = bilinear(self.norm1(x, *labels).relu())
        y = F.conv2d(y, self.conv1.weight, self.conv1.bias, padding=1)
        return self.conv2(self.norm2(y, *labels).relu()) + bilinear(self.shortcut(x))


def bilinear(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def ours(peer: str) -> tuple[Generator, Discriminator]:
    up: list[nn.Module]
    if peer == "mimicry":
        up = [BilinearUpBlock(256, 256, CLASSES, "global") for _ in range(3)]
        up.insert(2, SelfAttention(256))
        # its ReLUs work in place: the shortcut of a block sees what its ReLU left
        down = [
            *(DownBlock(3, 128, first=True, folded=True), nn.ReLU(), DownBlock(128, 128, first=True, folded=True)),
            *(SelfAttention(128), nn.ReLU(), DownBlock(128, 128, first=True, down=False)),
            *(nn.ReLU(), DownBlock(128, 128, first=True, down=False)),
        ]
        networks = Generator(up, 256), Discriminator(down, 128)
    else:
        up = [UpBlock(256, 256, CLASSES, "global", folded=True) for _ in range(3)]
        down = [DownBlock(3, 256, first=True, folded=True), DownBlock(256, 256, folded=True)]
        networks = Generator(up, 256), Discriminator([*down, *(DownBlock(256, 256, down=False) for _ in range(2))], 256)
    for layer in networks[0].modules():
        if isinstance(layer, ConditionalBatchNorm):
            layer.momentum = 0.1  # of both peers
    return spectral_norm(networks[0]), spectral_norm(networks[1])


# The peers' side


def packages(folder: Path) -> None:
    """Make the peers importable: what they import and a step does not use is replaced by a stub."""
    absent = ["torchvision", "torchvision.transforms", "torchvision.datasets", "torchvision.datasets.utils", "h5py"]
    sys.modules.update({name: MagicMock() for name in [*absent, "datasets", "animal_hash"]})
    for name in ("torch_mimicry", "torch_mimicry.training"):  # without their __init__, which import loggers and metrics
        package = types.ModuleType(name)
        package.__path__ = [str(folder / "mimicry" / name.replace(".", "/"))]
        sys.modules[name] = package
    sys.path.insert(0, str(folder / "BigGAN-PyTorch"))


Step = Callable[[Tensor, Tensor], Any]


def mimicry(batch: int, device: torch.device) -> tuple[nn.Module, nn.Module, Step]:
    module = importlib.import_module("torch_mimicry.nets.sagan.sagan_32")
    log = importlib.import_module("torch_mimicry.training.metric_log")
    g, d = module.SAGANGenerator32(CLASSES).to(device), module.SAGANDiscriminator32(CLASSES).to(device)
    optimizers = [torch.optim.Adam(network.parameters(), LR, betas=BETAS["mimicry"]) for network in (g, d)]

    def step(images: Tensor, labels: Tensor) -> Any:
        data = log.MetricLog()
        d.train_step(real_batch=(images, labels), netG=g, optD=optimizers[1], log_data=data, device=device)
        return g.train_step(real_batch=(images, labels), netD=d, optG=optimizers[0], log_data=data, device=device)

    return g, d, step


def biggan(batch: int, device: torch.device) -> tuple[nn.Module, nn.Module, Step]:
    """With the arguments of `scripts/launch_cifar_ema.sh`, defaults for the rest; one discriminator update a step."""
    module, functions, utils = (importlib.import_module(name) for name in ("BigGAN", "train_fns", "utils"))
    config = {"resolution": 32, "n_classes": CLASSES, "G_attn": "0", "D_attn": "0", "G_init": "N02", "D_init": "N02"}
    config |= {"G_shared": False, "G_lr": LR, "D_lr": LR, "SN_eps": 1e-8, "batch_size": batch, "split_D": False}
    config |= {"num_D_steps": 1, "num_D_accumulations": 1, "num_G_accumulations": 1, "toggle_grads": True, "ema": True}
    config |= {"D_ortho": 0.0, "G_ortho": 0.0}
    state = {"itr": 0}
    with redirect_stdout(sys.stderr):
        g, d = module.Generator(**config).to(device), module.Discriminator(**config).to(device)
        average = module.Generator(**{**config, "skip_init": True, "no_optim": True}).to(device)
        ema = utils.ema(g, average, 0.9999, 1000)
    z, y = utils.prepare_z_y(batch, LATENT, CLASSES, device=str(device))
    train = functions.GAN_training_function(g, d, module.G_D(g, d), z, y, ema, state, config)

    def step(images: Tensor, labels: Tensor) -> Any:
        state["itr"] += 1
        g.train()
        d.train()
        return train(images, labels)

    return g, d, step


MAKERS = {"mimicry": mimicry, "BigGAN-PyTorch": biggan}


def pairs(peer: str, g: nn.Module, d: nn.Module) -> list[tuple[str, nn.Module]]:
    """(name of a layer of ours, the peer's layer), generators' names under `g.`, discriminators' under `d.`."""
    if peer == "mimicry":
        attention = {"query": "theta", "key": "phi", "value": "g", "output": "o", "": ""}
        up = {"norm1": "b1", "conv1": "c1", "norm2": "b2", "conv2": "c2", "shortcut": "c_sc"}
        names = {"g.linear": "l1", "g.norm": "b5", "g.to_image": "c5", "d.linear": "l5", "d.embedding": "l_y"}
        for block, theirs in ((0, 2), (1, 3), (3, 4)):
            names |= {f"g.blocks.{block}.{a}": f"block{theirs}.{b}" for a, b in up.items()}
        for block, theirs in ((0, 1), (2, 2), (5, 3), (7, 4)):
            kept = [name for name in ("conv1", "conv2", "shortcut") if theirs < 3 or name != "shortcut"]
            names |= {f"d.layers.{block}.{a}": f"block{theirs}.{up[a]}" for a in kept}
        for place in ("g.blocks.2", "d.layers.3"):
            names |= {f"{place}.{a}".strip("."): f"attn_block.{b}".strip(".") for a, b in attention.items()}
    else:
        up = {"norm1": "bn1", "conv1": "conv1", "norm2": "bn2", "conv2": "conv2", "shortcut": "conv_sc"}
        names = {"g.linear": "linear", "g.norm": "output_layer.0", "g.to_image": "output_layer.2"}
        names |= {"d.linear": "linear", "d.embedding": "embed"}
        names |= {f"g.blocks.{i}.{a}": f"blocks.{i}.0.{b}" for i in range(3) for a, b in up.items()}
        for i in range(4):
            kept = [name for name in ("conv1", "conv2", "shortcut") if i < 2 or name != "shortcut"]
            names |= {f"d.layers.{i}.{a}": f"blocks.{i}.0.{up[a]}" for a in kept}
    networks = {"g": g, "d": d}
    return [(name, networks[name[0]].get_submodule(theirs)) for name, theirs in names.items()]


def contents(layer: nn.Module, gradients: bool = False) -> dict[str, Tensor]:
    """The parameters of a peer's layer, or their gradients, under the names of ours."""
    own: Any = layer

    def of(parameter: Any) -> Tensor:
        return parameter.grad if gradients else parameter.data

    if hasattr(own, "embed"):  # mimicry's conditional batch norm: one table of both
        gain, bias = of(own.embed.weight).chunk(2, 1)
        return {"gain": gain, "bias": bias}
    if isinstance(getattr(own, "gain", None), nn.Embedding):  # BigGAN's: gains are written as 1 + g
        return {"gain": of(own.gain.weight) + (0 if gradients else 1), "bias": of(own.bias.weight)}
    if hasattr(own, "gain"):
        return {"weight": of(own.gain), "bias": of(own.bias)}
    if hasattr(own, "gamma"):
        return {"gamma": of(own.gamma)}
    weight = own.weight_orig if hasattr(own, "weight_orig") else own.weight
    found = {"parametrizations.weight.original" if is_normed(own) else "weight": of(weight)}
    return found | ({"bias": of(own.bias)} if getattr(own, "bias", None) is not None else {})


def is_normed(layer: Any) -> bool:
    return hasattr(layer, "weight_u") or hasattr(layer, "u0")


def statistics_of(layer: Any) -> dict[str, Tensor]:
    """Running averages of a peer's batch norm, under our names."""
    inner = getattr(layer, "bn", layer)
    mean, var = (getattr(inner, name, None) for name in ("running_mean", "running_var"))
    if mean is None:
        mean, var = getattr(layer, "stored_mean", None), getattr(layer, "stored_var", None)
    return {} if mean is None else {"running_mean": mean, "running_var": var}


@torch.no_grad()
def vectors(layer: Any) -> dict[str, Tensor]:
    """u and v that a peer's forward in eval mode divides by: BigGAN makes an iteration there also, and keeps no v."""
    if hasattr(layer, "weight_u"):
        return {"u": layer.weight_u, "v": layer.weight_v}
    matrix = layer.weight.flatten(1)
    v = F.normalize(layer.u0 @ matrix)
    return {"u": F.normalize(v @ matrix.T)[0], "v": v[0]}


def close(what: str, a: Tensor, b: Tensor) -> None:
    scale = max(1e-4, b.abs().max().item())  # the gradient of a bias before a batch norm is nothing but rounding
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * scale, msg=lambda m: f"{what}: {m}")


def take_over(peer: str, learner: Gan, g: nn.Module, d: nn.Module, *, weights: bool = True) -> None:
    """Their weights, singular vectors and statistics become ours; or the vectors alone."""
    networks = nn.ModuleDict({"g": learner.generator, "d": learner.discriminator})
    state, taken = networks.state_dict(keep_vars=True), set()
    for name, layer in pairs(peer, g, d):
        found = contents(layer) | statistics_of(layer) if weights else {}
        if is_normed(layer):
            found |= {f"parametrizations.weight.0.{key}": value for key, value in vectors(layer).items()}
        for key, value in found.items():
            assert state[f"{name}.{key}"].shape == value.shape, (name, key)
            state[f"{name}.{key}"].data.copy_(value)
            taken.add(f"{name}.{key}")
    assert not weights or taken == set(state), set(state) ^ taken


def check(peer: str, learner: Gan, g: nn.Module, d: nn.Module, labels: Tensor) -> None:
    """The two are one function: images, logits, gradients and running statistics, in eval and in training mode.

    In float64, where rounding cannot turn a ReLU's sign.
    """
    networks = (g, d, learner.generator, learner.discriminator)
    for network in networks:
        network.double()
    with torch.no_grad():  # away from birth, where gains are 1 and attention is the identity
        for network in (g, d):
            for parameter in network.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter) if parameter.ndim else torch.full_like(parameter, 0.5))
    z = torch.randn(len(labels), LATENT, dtype=torch.float64, device=labels.device)
    for training in (True, False, True):
        for network in networks:
            network.train(training)
            network.zero_grad()
        take_over(peer, learner, g, d)
        # in training mode their forwards move u: once in G, and in D at each call. Ours follow; the graph holds what it was made of
        expected = g(z, labels)
        if training and peer == "mimicry":
            take_over(peer, learner, g, d, weights=False)
        made = learner.generator(z, labels)
        close(f"{peer}: images", made, expected)
        logits = d(expected, labels)
        if training and peer == "mimicry":
            take_over(peer, learner, g, d, weights=False)
        mine = learner.discriminator(made, labels)
        close(f"{peer}: logits", mine, logits.flatten())
        F.softplus(logits).mean().backward()
        F.softplus(mine).mean().backward()
        ours = nn.ModuleDict({"g": learner.generator, "d": learner.discriminator})
        for name, layer in pairs(peer, g, d):
            for key, gradient in contents(layer, gradients=True).items():
                close(f"{peer}: gradient of {name}.{key}", ours.get_parameter(f"{name}.{key}").grad, gradient)
            for key, value in statistics_of(layer).items():
                close(f"{peer}: {name}.{key}", ours.get_buffer(f"{name}.{key}"), value)
    for network in networks:
        network.float().zero_grad()


# The race


Moment = float | torch.cuda.Event


def now(device: torch.device) -> Moment:
    if device.type != "cuda":
        return time.process_time()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(start: Moment, end: Moment) -> float:
    if isinstance(start, torch.cuda.Event):
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3
    return end - start


class Watch:
    """How long calls of some functions take within a step."""

    def __init__(self, device: torch.device):
        self.device, self.spans = device, []

    def over(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            start = now(self.device)
            result = function(*args, **options)
            self.spans.append((start, now(self.device)))
            return result

        return timed

    def total(self) -> float:
        spent = sum(between(*span) for span in self.spans)
        self.spans.clear()
        return spent

    def patches(self) -> ExitStack:
        """All that is done for spectral norm: refreshes, W / σ, and its gradient."""
        stack = ExitStack()
        for owner, name in ((SpectralNorm, "forward"), (_Divide, "backward"), (gan_module, "refresh")):
            stack.enter_context(patch.object(owner, name, self.over(getattr(owner, name))))
        return stack


def learner_of(peer: str, device: torch.device, precision: str) -> Gan:
    generator, discriminator = ours(peer)
    g_adam, d_adam = (adam(network.parameters(), LR, BETAS[peer]) for network in (generator, discriminator))
    gan = Gan(generator, discriminator, generator_optimizer=g_adam, discriminator_optimizer=d_adam, loss=LOSSES["hinge"])
    return gan.to(device, precision)


def race(peer: str, batch: int, rounds: int, device: torch.device) -> dict[str, list[float]]:
    torch.manual_seed(0)
    g, d, theirs = MAKERS[peer](batch, device)
    images = torch.rand(batch, 3, 32, 32, device=device) * 2 - 1
    labels = torch.arange(batch, device=device) % CLASSES
    learners = {precision: learner_of(peer, device, precision) for precision in ("fp32", "bf16")}
    check(peer, learners["fp32"], g, d, labels)
    nhwc = images.to(memory_format=torch.channels_last)  # as gander's data hands them out
    times: dict[str, list[float]] = {name: [] for name in ("peer", *learners, "spectral norm")}
    watch = Watch(device)
    for i in range(rounds + 1):
        start = now(device)
        theirs(images, labels)
        spent = {"peer": between(start, now(device))}
        for name, learner in learners.items():
            with watch.patches():
                start = now(device)
                learner.step(i, [[(nhwc, labels)]], draws.at_step(0, i))
                spent[name] = between(start, now(device))
            normed = watch.total()
            spent |= {"spectral norm": normed} if name == "fp32" else {}
        for name, value in spent.items():
            times[name] += [value] if i else []  # the first round finds kernels and memory
        print(f"{peer}, batch {batch}, round {i} of {rounds}", file=sys.stderr)
    return times


def compared(peer: str, batch: int, times: dict[str, list[float]]) -> list[dict[str, Any]]:
    found = []
    for precision, target in TARGETS[peer].items():
        each = [a / b for a, b in zip(times["peer"], times[precision], strict=True)]
        ratio = statistics.median(times["peer"]) / statistics.median(times[precision])
        found.append({"peer": peer, "batch": batch, "in": precision, "ratio": ratio, "each": each, "target": target})
    each = [a / b for a, b in zip(times["spectral norm"], times["fp32"], strict=True)]
    share = statistics.median(times["spectral norm"]) / statistics.median(times["fp32"])
    return [*found, {"peer": peer, "batch": batch, "in": "spectral norm", "share": share, "each": each, "target": SHARE}]


def rows(peer: str, batch: int, times: dict[str, list[float]], found: list[dict[str, Any]]) -> Iterator[str]:
    for one in found:
        least, most = min(one["each"]), max(one["each"])
        if "share" in one:
            said = (
                f"{100 * one['share']:.1f} % of the fp32 step | {100 * least:.1f} to {100 * most:.1f} | at most {100 * SHARE:.0f}"
            )
            reached = one["share"] <= SHARE
        else:
            said = f"{one['ratio']:.2f}× | {least:.2f} to {most:.2f} | at least {one['target']}"
            reached = one["ratio"] >= one["target"]
        medians = (statistics.median(times[name]) for name in ("peer", one["in"]))
        seconds = " | ".join(f"{median:.3f}" for median in medians)
        yield f"| {peer} | {batch} | {one['in']} | {seconds} | {said} | {'reached' if reached else 'not reached'} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    wanted = parser.parse_args()
    folder = Path(os.environ.get("GANDER_PEERS", "nowhere"))
    missing = [url for name, url in PEERS.items() if not (folder / name).is_dir()]
    if missing:
        sys.exit(f"set GANDER_PEERS to a folder with the peers in it; in that folder: git clone {' ; git clone '.join(missing)}")
    packages(folder)
    device = torch.device(wanted.device)
    torch.set_num_threads(1)
    results, lines, seconds = [], [], {}
    for peer in PEERS:
        for batch in wanted.batch:
            times = seconds[f"{peer}, batch {batch}"] = race(peer, batch, wanted.rounds, device)
            results += (found := compared(peer, batch, times))
            lines += rows(peer, batch, times, found)
    clock = "seconds of the GPU" if device.type == "cuda" else "CPU seconds of one thread"
    head = [
        f"One discriminator and one generator update at 32 px, hinge, Adam, {CLASSES} classes. {clock}; medians and ratios of "
        f"medians of n = {wanted.rounds} rounds in one run, the sides in turn. The peer runs in fp32, as published. Both are one "
        "function: images, logits, gradients and running statistics were compared in float64 (1e-9) before.",
        "",
        "| peer | batch | gander in | peer, s | gander, s | gander is | least to most of a round | target | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    name = "race_step-cuda" if device.type == "cuda" else "race_step"
    keep(name, {"rounds": wanted.rounds, "results": results, "seconds": seconds}, "\n".join([*head, *lines]))


if __name__ == "__main__":
    main()
