"""The one place where softmax attention is computed.

`attend` is one function with three ways to the same numbers; `choose` says which is taken and why.

    plain    two products with the map between them, kept for backward: quickest while the maps of a batch stay in cache
    fused    torch's scaled_dot_product_attention, on zero-padded operands where its kernels ask for equal widths
    chunked  query blocks of about 1 MB of scores; backward makes each block anew: O(n + m) memory, any widths, no padding

All three have second derivatives (gradient penalties ask for them). The fused kernels have none of their own and the
chunked form would need a third pass, so both of them differentiate the plain formula when, and only when, a gradient is
itself to be differentiated (`create_graph=True`): then, at any size, maps of n × m do live.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Way = Literal["plain", "fused", "chunked"]

# Scores in one block; two arrays of them are in use at a time, so about the cache of one core. Against twice of it: with
# c = 64 8 % quicker at 16², 2 % slower at 64²; with c = 256 0-4 % slower (Zen 4, one thread); half the memory.
BLOCK = 1 << 18
# Scores of a whole batch up to which the plain product was the quickest on a CPU: 2 MB in fp32. With wide values the
# softmax is a smaller share of the work, and making the map again saves less: twice that from WIDE on.
PLAIN, WIDE = 1 << 19, 128
HALF = (torch.bfloat16, torch.float16)


def attend(
    q: Float[Tensor, "b heads n d"], k: Float[Tensor, "b heads m d"], v: Float[Tensor, "b heads m e"], scale: float
) -> Float[Tensor, "b heads n e"]:
    """softmax(scale · q kᵀ) v, the softmax over the m keys of each query.

    Any strides; d and e may differ. Half precision, also that of autocast, is summed and normalised in float32. Time
    O(n m (d + e)), memory O(n m) where `choose` says plain (small maps only) and O(n + m) else; under `create_graph`
    O(n m) always. Under torch.compile and torch.export first gradients only, and fused stands in for chunked, whose loop
    would be unrolled.
    """
    device = q.device.type
    if q.dtype != torch.float64 and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)  # as autocast does for a product
    with own_precision(device):
        way = choose(q.shape, k.shape, v.shape, device, q.dtype)
        if torch.compiler.is_compiling():
            return _plain(q, k, v, scale) if way == "plain" else _fused(q, k, v, scale)
        return WAYS[way](q, k, v, scale)


def choose(q_shape: Sequence[int], k_shape: Sequence[int], v_shape: Sequence[int], device_type: str, dtype: torch.dtype) -> Way:
    """The way that `attend` takes for operands of these shapes, (b, heads, n, d), (b, heads, m, d) and (b, heads, m, e)."""
    (*batch, n, d), m, e = q_shape, k_shape[-2], v_shape[-1]
    if device_type == "cuda" and dtype != torch.float64:
        return "fused"  # maps are bound by memory bandwidth there; float64 has no fused kernel
    if prod(batch) * n * m <= PLAIN * (2 if e >= WIDE else 1):
        return "plain"
    if device_type == "cpu" and d == e:  # on meta it would be torch's "math" form, which makes the map
        return "fused"  # nothing to pad. With unequal widths, as c/8 and c, padding costs what the kernel saves or more
    return "chunked"


def own_precision(device_type: str) -> AbstractContextManager[Any]:
    """No autocast inside: float32 means float32, also in a backward that is called under autocast."""
    available = torch.amp.is_autocast_available(device_type)
    return torch.autocast(device_type, enabled=False) if available else nullcontext()


def _plain(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return _map(q, k, scale).to(v.dtype) @ v


def _map(q: Tensor, k: Tensor, scale: float) -> Tensor:
    """softmax(scale · q kᵀ), in float32 at least."""
    if q.dtype in HALF:
        q, k = q.float(), k.float()
    return (_scaled(q, scale) @ k.mT).softmax(-1)


def _scaled(q: Tensor, scale: float) -> Tensor:
    return q if scale == 1 else q * scale


def _fused(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """scaled_dot_product_attention, so fed that no backend falls back to the map-making "math" form without a word.

    On a CPU that happens when the widths of q and v differ or the last dimension is not contiguous; on CUDA when a width
    is no multiple of 8 (float32: 4), and the half-precision flash kernel wants equal widths.
    """
    d, e = q.shape[-1], v.shape[-1]
    d_to, e_to = (d + -d % 8, e + -e % 8) if q.device.type == "cuda" else (d, e)
    if q.device.type != "cuda" or (q.dtype in HALF and max(d, e) <= 256):
        d_to = e_to = max(d_to, e_to)
    q, k, v = _widen(q, d_to), _widen(k, d_to), _widen(v, e_to)
    return F.scaled_dot_product_attention(q, k, v, scale=scale)[..., :e]


def _widen(t: Tensor, width: int) -> Tensor:
    return F.pad(t.contiguous(), (0, width - t.shape[-1]))


class _SecondOrder(torch.autograd.Function):
    """Hands `out`, made from q, k and v by a way that can be differentiated once, on unchanged.

    A first gradient passes through to that way's own backward. A gradient that shall itself be differentiated is instead
    written out here in differentiable operations on q, k and v.
    """

    @staticmethod
    def forward(ctx: Any, out: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.scale = scale
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if not torch.is_grad_enabled():
            return grad, None, None, None, None
        q, k, v = ctx.saved_tensors
        with own_precision(q.device.type):
            return None, *_plain_gradients(grad, q, k, v, ctx.scale, ctx.needs_input_grad[1:4]), None


def _plain_gradients(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    p = _map(q, k, scale)
    wide = grad.to(p.dtype)
    dq = dk = dv = None
    if needed[0] or needed[1]:
        dp = wide @ v.to(p.dtype).mT
        ds = p * (dp - (p * dp).sum(-1, keepdim=True)) * scale
        dq = (ds @ k.to(p.dtype)).to(q.dtype) if needed[0] else None
        dk = (ds.mT @ q.to(p.dtype)).to(k.dtype) if needed[1] else None
    if needed[2]:
        dv = (p.mT @ wide).to(v.dtype)
    return dq, dk, dv


class _Chunked(torch.autograd.Function):
    """Blocks of queries, or of whole images where their maps are small. Saves q, k and v. Second order as in _SecondOrder.

    The log-sum-exp is not saved: one fused softmax a block costs less than the two passes of exp(s - lse), and finding it
    would add a pass to forward (measured: 1.2x forward, 1.04x backward).
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.scale = scale
        return _chunked_forward(q, k, v, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        gradients = _plain_gradients if torch.is_grad_enabled() else _chunked_gradients
        with own_precision(grad.device.type):
            return *gradients(grad, q, k, v, ctx.scale, ctx.needs_input_grad[:3]), None


def _chunked_forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    (b, heads, n, _), m, e, dtype = q.shape, k.shape[2], v.shape[3], v.dtype
    q, k, v = (t.flatten(0, 1).to(_wide(dtype)) for t in (_scaled(q, scale), k, v))
    out = v.new_empty(b * heads, n, e)
    for image, rows, (scores, p) in _blocks(q, m):
        torch.bmm(q[image, rows], k[image].mT, out=scores)
        torch.softmax(scores, -1, out=p)
        torch.bmm(p, v[image], out=out[image, rows])
    return out.unflatten(0, (b, heads)).to(dtype)


def _chunked_gradients(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float, needed: Sequence[bool]) -> list[Tensor | None]:
    (b, heads, _, _), m, dtype = q.shape, k.shape[2], q.dtype
    q, k, v, grad = (t.flatten(0, 1).to(_wide(dtype)) for t in (_scaled(q, scale), k, v, grad))
    # dq and dk as (channels, positions): with as few channels as theirs, BLAS takes 1/2 to 1/10 of the time that way round
    dq, dk, dv = q.new_empty(q.mT.shape), k.new_empty(k.mT.shape), torch.empty_like(v)
    for image, rows, (scores, p) in _blocks(q, m):
        torch.bmm(q[image, rows], k[image].mT, out=scores)
        torch.softmax(scores, -1, out=p)
        beta = min(rows.start, 1)  # the first block of an image writes, the others add
        if needed[2]:
            dv[image].baddbmm_(p.mT, grad[image, rows], beta=beta)
        if needed[0] or needed[1]:
            ds = torch.bmm(grad[image, rows], v[image].mT, out=scores)
            torch.ops.aten._softmax_backward_data.out(ds, p, -1, ds.dtype, grad_input=ds)
            dq[image, :, rows] = torch.bmm(k[image].mT, ds.mT)
            dk[image].baddbmm_(q[image, rows].mT, ds, beta=beta)
    grads = _scaled(dq.mT, scale), dk.mT, dv
    return [g.unflatten(0, (b, heads)).to(dtype) if want else None for g, want in zip(grads, needed, strict=True)]


def _blocks(q: Tensor, m: int) -> Iterator[tuple[slice, slice, list[Tensor]]]:
    """Slices of images and of their queries, and two arrays for the scores between these and all m keys."""
    images, n, _ = q.shape
    block = max(BLOCK, images * n * m // 32) if q.is_meta else BLOCK  # shapes cost nothing but the time of a call
    rows = min(n, max(1, block // m))
    some = max(1, block // (n * m)) if rows == n else 1
    space = q.new_empty(2, min(some, images) * rows * m)
    for i in range(0, images, some):
        for r in range(0, n, rows):
            shape = min(some, images - i), min(rows, n - r), m
            yield slice(i, i + some), slice(r, r + rows), [a[: prod(shape)].view(shape) for a in space]


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in HALF else dtype


WAYS: dict[Way, Callable[[Tensor, Tensor, Tensor, float], Tensor]] = {
    "plain": _plain,
    "fused": lambda q, k, v, scale: _SecondOrder.apply(_fused(q, k, v, scale), q, k, v, scale),
    "chunked": _Chunked.apply,
}
