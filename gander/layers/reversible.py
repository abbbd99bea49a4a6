"""Reversible residual blocks: a stack whose memory in training does not grow with its depth.

    y₁ = x₁ + F(x₂, *context),   y₂ = x₂ + G(y₁, *context);        x₂ = y₂ - G(y₁, *context),   x₁ = y₁ - F(x₂, *context)

x₁ and x₂ are the halves of x along one axis. Only the last output is kept for backward, which goes back block by block: the input
is computed from the output, the gradients by computing F and G once more. Gomez et al. 2017, https://arxiv.org/abs/1707.04585;
with attention for F and an MLP for G: Reformer, Kitaev et al. 2020, https://arxiv.org/abs/2001.04451.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gander.errors import UserError
from gander.layers.spectral_norm import SpectralNorm


class ReversibleSequence(nn.Module):
    """Reversible blocks, one after the other: x, *context -> y, of the shape and type of x.

    Memory: that of one block, whatever the depth, and the gradients of the weights. Time: one forward more than a plain stack,
    4/3 of it. Gradients go to x, to the weights and to each context, a tensor that all blocks are fed (a modulation, say).
    They are autograd's but for rounding: what is reconstructed is off by a rounding a block. Between blocks the two streams
    are float32 at least; F and G see them in the type of x.

    A block must do the second time what it did the first. Random numbers (dropout) are replayed, autocast is switched as it
    was, spectral norms of `gander.layers` have the u and v of the forward and do not iterate. Batch norm would count each
    batch twice, and any other buffer that a forward writes is another in backward: both are refused. A tensor that F has
    from anywhere but x₂, the context and its own parameters gets no gradient, unseen.

    There is no second derivative, which R1, R2 and gradient penalties want of a discriminator. Where gradients are off, and
    where `reversible` is False, it is a plain stack.

    Args:
        blocks: pairs (F, G), each a module (half of x, *context) -> half of x.
        dim: the axis that is cut in halves: 1 for images (b, c, h, w), -1 for tokens (b, n, c).
        reversible: False keeps for backward what autograd keeps. The weights are the same; switch it at any time.

    Raises:
        UserError: for a block with batch norm, an odd axis, a block that writes into its input or a buffer, and in backward
            for a second derivative.
        TypeError: for a context that is neither a tensor nor None.
    """

    def __init__(self, blocks: Iterable[tuple[nn.Module, nn.Module]], *, dim: int = 1, reversible: bool = True) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleList(pair) for pair in blocks)
        self.dim, self.reversible = dim, reversible
        for name, layer in self.blocks.named_modules():
            if getattr(layer, "running_mean", None) is not None:
                raise UserError(
                    f"{name} of a reversible stack is a {type(layer).__name__}: its running averages would count each batch twice; "
                    "take a norm without them, such as GroupNorm"
                )

    def forward(self, x: Float[Tensor, " *shape"], *context: Any) -> Float[Tensor, " *shape"]:
        if (width := x.shape[self.dim]) % 2:
            raise UserError(f"a reversible stack cuts axis {self.dim} in halves, and it came with an odd {width}; take {width + 1}")
        if strange := [value for value in context if not (value is None or isinstance(value, Tensor))]:
            raise TypeError(f"the context of a reversible stack is tensors, each an argument of its own, not a {type(strange[0])}")
        parameters = list(self.parameters())
        if self.reversible and torch.is_grad_enabled() and any(_wants(value) for value in (x, *context, *parameters)):
            return _Reversible.apply(self, len(context), x, *context, *parameters)
        first, second = self.streams(x)
        for module in self.steps():
            first, second = second, first + module(second.to(x.dtype), *context)
        return torch.cat([first, second], self.dim).to(x.dtype)

    def steps(self) -> list[nn.Module]:
        """F and G of the first block, F and G of the second, ...: each makes (a, b) to (b, a + F(b))."""
        return [module for pair in self.blocks for module in pair]  # type: ignore[attr-defined]

    def streams(self, x: Tensor) -> tuple[Tensor, ...]:
        return x.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, reversible={self.reversible}"


class _Reversible(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stack: ReversibleSequence, count: int, x: Tensor, *rest: Tensor | None) -> Tensor:
        ctx.stack, ctx.count, ctx.dtype, ctx.parameters = stack, count, x.dtype, rest[count:]
        ctx.autocast, ctx.surroundings = _autocast(x.device), []
        buffers = _buffers(stack)
        first, second = stack.streams(x)
        for module in stack.steps():
            given, surroundings = second.to(x.dtype), _Surroundings(module, x.device)
            version = given._version
            with ctx.autocast():
                step = module(given, *rest[:count])
            if given._version != version:
                raise UserError(f"a {type(module).__name__} in a reversible stack writes into its input; take inplace=False there")
            ctx.surroundings.append(surroundings.left())
            first, second = second, first + step
        if written := [name for name, state in _buffers(stack).items() if buffers.get(name) != state]:
            raise UserError(
                f"{written[0]} of a reversible stack changes in its forward, so that backward would compute with another; "
                "set reversible=False, or for a spectral norm take that of gander.layers"
            )
        streams = torch.cat([first, second], stack.dim)
        ctx.save_for_backward(streams, *rest)  # the weights too: autograd then tells when they were written before backward
        return streams.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise UserError(
                "a reversible stack has no second derivative, which R1, R2 and gradient penalties ask for; set reversible=False, "
                "or penalise the difference D(x) - D(x + σ ε) in their place"
            )
        stack, (streams, *rest) = ctx.stack, ctx.saved_tensors
        if any(now is not then for now, then in zip(stack.parameters(), ctx.parameters, strict=True)):
            raise RuntimeError(
                "a reversible stack has other weights in backward than in its forward: was it called by functional_call?"
            )
        of_rest = ctx.needs_input_grad[3:]
        context = [value.detach().requires_grad_() if of else value for value, of in zip(rest[: ctx.count], of_rest, strict=False)]
        sources = dict(enumerate([*context, *ctx.parameters]))  # what gradients are wanted of, by its place among the arguments
        sources = {i: source for i, source in sources.items() if of_rest[i]}
        # made before all else: between the large tensors that come and go they would keep the heap from shrinking
        total, reached = {i: torch.zeros_like(source) for i, source in sources.items()}, set()

        first, second = stack.streams(streams)
        to_first, to_second = stack.streams(gradient)
        for module, surroundings in zip(reversed(stack.steps()), reversed(ctx.surroundings), strict=True):
            given = first.detach().to(ctx.dtype).requires_grad_()
            with torch.enable_grad(), ctx.autocast(), surroundings.again():
                step = module(given, *context)
            own = {id(parameter) for parameter in module.parameters()}
            here = [i for i, source in sources.items() if i < ctx.count or id(source) in own]
            if step.requires_grad:
                inputs = [given, *(sources[i] for i in here)]
                to_given, *found = torch.autograd.grad(step, inputs, to_second.to(step.dtype), allow_unused=True)
                for i, part in zip(here, found, strict=True):
                    if part is not None:
                        total[i] += part
                        reached.add(i)
                if to_given is not None:
                    to_first = to_first + to_given
            first, second = second - step.detach(), first
            to_first, to_second = to_second, to_first
        to_x = torch.cat([to_first, to_second], stack.dim).to(ctx.dtype)
        return None, None, to_x, *(total[i] if i in reached else None for i in range(len(rest)))


class _Surroundings:
    """What a module's result hung on beside its arguments: random numbers, u and v of spectral norms."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.device, self.random = device, _random_states(device)
        self.norms = [part for part in module.modules() if isinstance(part, SpectralNorm)]
        self.vectors: list[tuple[Tensor, Tensor]] = []

    def left(self) -> "_Surroundings":
        """To be called after the module."""
        if all(map(torch.equal, self.random, _random_states(self.device))):
            self.random = []  # it drew nothing
        # copies: in a foreign loop DistributedDataParallel writes into buffers
        self.vectors = [(norm.u.clone(), norm.v.clone()) for norm in self.norms]
        return self

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """As it was; afterwards as it is now."""
        random = _random_states(self.device) if self.random else []
        now = [(norm.u, norm.v, norm.by_step) for norm in self.norms]
        try:
            _set_random_states(self.random, self.device)
            for norm, (u, v) in zip(self.norms, self.vectors, strict=True):
                norm.u, norm.v, norm.by_step = u, v, True
            yield
        finally:
            _set_random_states(random, self.device)
            for norm, (u, v, by_step) in zip(self.norms, now, strict=True):
                norm.u, norm.v, norm.by_step = u, v, by_step


def _wants(value: Tensor | None) -> bool:
    return value is not None and value.requires_grad


def _buffers(stack: nn.Module) -> dict[str, tuple[int, int]]:
    """Which tensor each buffer is and how often it was written, but for our spectral norms, whose u and v are looked after."""
    found = ((name, part) for name, part in stack.named_modules() if not isinstance(part, SpectralNorm))
    return {f"{name}.{key}": (id(b), b._version) for name, part in found for key, b in part.named_buffers(recurse=False)}


def _autocast(device: torch.device) -> Callable[[], contextlib.AbstractContextManager]:
    """Autocast as it is now, without its cache: in that, what was cast where gradients are off may stay, and has no graph."""
    kind = device.type
    if not torch.amp.is_autocast_available(kind):
        return contextlib.nullcontext
    dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
    return lambda: torch.autocast(kind, dtype, enabled, cache_enabled=False)


def _random_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type in ("cuda", "mps"):
        states.append(torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.mps.get_rng_state())
    return states


def _set_random_states(states: list[Tensor], device: torch.device) -> None:
    if states:
        torch.set_rng_state(states[0])
    if len(states) > 1:
        if device.type == "cuda":
            torch.cuda.set_rng_state(states[1], device)
        else:
            torch.mps.set_rng_state(states[1])
