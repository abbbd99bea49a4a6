from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gander.attention.heads import Heads, Queries, asked, maps
from gander.attention.kernels import BLOCK, own_precision
from gander.errors import UserError

ALONE = -5e4  # the score of a position with itself: any other key that it meets leaves nothing of it
SMALL = ("cpu", "meta")  # devices where blocks are small: caches, and what is said of them where there are only shapes
NEVER = -1e9  # that of a key which only fills up the last chunk


class LSHAttention(Heads):
    """y = x + γ · output(o),   o_i = Σ_j softmax_j(q_i · k_j / √d) v_j over those j that i meets,   k = q / |q|.

    Kitaev et al. 2020, "Reformer", https://arxiv.org/abs/2001.04451. Each round draws R of (d, buckets / 2) Gaussian numbers; the
    bucket of a position is the argmax over [qR; -qR], so that vectors of like direction share one. Positions are sorted by bucket,
    then by place, and cut into chunks of `bucket`; each position meets its own chunk and the one before (before the first stands
    the last), but itself only where it meets nobody else. What it meets in any round is one set, a pair met in several rounds
    counts once, and one softmax runs over it. Of two chunks all is met, and it is full attention of shared queries and keys.

    The hash: in training mode drawn from torch's random numbers at each forward, as dropout is, so that `torch.utils.checkpoint`
    and `ReversibleSequence` replay it; in eval mode always the same. Nothing of it is kept. No gradient flows through it.

    Shapes: (b, c, h, w) -> (b, c, h, w), any h and w: chunks are of one length, at most `bucket`, and what is missing of the last
    is padded and masked. Parameters: 3 c² + 1 where heads divide c.

    Cost for n = h·w, buckets of s, r rounds: O(n c² + r n s c) time and r n² c / (2 s) for hashing. Memory: O(n c) however many
    rounds, r n numbers and a block of scores for each head: rounds and blocks come in turn, and backward makes their scores anew.
    Second derivatives work and take O(r n s) memory for each head. Under torch.compile the hash breaks the graph.

    What differs: Reformer's first chunk of a round looks back at the last of the round before. Its pairs met m times count 1/m in
    each round (log m is subtracted); here they count in the first: the same sum. Not causal. Spectral norm is applied from outside.

    Args:
        channels: c.
        heads: of 64 channels by default, at least 1.
        bucket: s, the most positions of a chunk. The number of buckets is that of chunks, made even.
        rounds: r. More of them miss less; 4 to 8 in training, 8 and more after it: set `layer.rounds` at any time.

    Raises:
        UserError: for an empty bucket, no rounds, no heads, or more heads than channels.
    """

    def __init__(self, channels: int, *, heads: int | None = None, bucket: int = 64, rounds: int = 4) -> None:
        if bucket < 1 or rounds < 1:
            raise UserError(f"LSH attention got bucket={bucket}, rounds={rounds}; take 1 or more of each, such as 64 and 4")
        super().__init__(channels, heads, tied=True)
        self.bucket, self.rounds = bucket, rounds

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        q, v = self.split(x, self.query, self.value)
        return self.back(x, by_hash(q, v, self.scale, self.bucket, self.rounds, fixed=not self.training))

    def weights(self, x: Float[Tensor, "b c h w"], queries: Queries = None) -> Float[Tensor, "b heads q h w"]:
        """What the `queries` (flat row-major positions; all by default) attend to in each head: 0 where they do not meet, of sum 1.

        Under the hash of eval mode, in any mode: in training each forward has its own.
        """
        (q,) = self.split(x, self.query)
        q = q.to(torch.promote_types(q.dtype, torch.float32))
        seen = met(q, self.bucket, self.rounds, queries)
        return maps(q, F.normalize(q, dim=-1), self.scale, x.shape[2:], queries, seen)

    @torch.no_grad()
    def buckets(self, x: Float[Tensor, "b c h w"]) -> Int[Tensor, "b heads rounds h w"]:
        """The bucket of each position in each round, under the hash of eval mode."""
        (q,) = self.split(x, self.query)
        return buckets(q, self.bucket, self.rounds).unflatten(-1, x.shape[2:])

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bucket={self.bucket}, rounds={self.rounds}"


def by_hash(
    q: Float[Tensor, "b heads n d"], v: Float[Tensor, "b heads n d"], scale: float, bucket: int, rounds: int, *, fixed: bool
) -> Float[Tensor, "b heads n d"]:
    """softmax(scale · q kᵀ) v with k = q / |q|, over the pairs that meet: what `LSHAttention` is made of.

    `fixed`: by the hash of eval mode; else it is drawn from torch's random numbers.
    """
    with own_precision(q.device.type):
        wide = torch.promote_types(q.dtype, torch.float32)
        q = q.to(wide)
        meetings = meet(q, bucket, rounds, fixed=fixed)
        flat = [meetings.fill(t) for t in (q * scale, F.normalize(q, dim=-1), v.to(wide))]
        o = _Rounds.apply(*flat, meetings).view(*q.shape[:2], meetings.order.shape[-1], v.shape[-1])
    return o[:, :, : q.shape[2]].to(v.dtype)


@torch.no_grad()
def _hashed(q: Float[Tensor, "b heads n d"], bucket: int, rounds: int, *, fixed: bool) -> Int[Tensor, "rounds bh n"]:
    count = -(-q.shape[2] // bucket)
    half = -(-count // 2)
    rounds = rounds if count > 2 else 1  # of two chunks the first round leaves nothing
    source = torch.Generator("cpu").manual_seed(0) if fixed else None
    rows, some = q.flatten(0, 2), max(1, (4 if q.device.type in SMALL else 128) * BLOCK // half)
    # made before all else: pieces left between the large tensors that come and go would keep the heap from using their room again
    found = torch.empty(rounds, len(rows), dtype=torch.long, device=q.device)
    for buckets in found:
        directions = torch.randn(q.shape[-1], half, generator=source, device="cpu").to(q)
        for part, to in zip(rows.split(some), buckets.split(some), strict=True):
            along = part @ directions
            best = along.abs().argmax(-1, keepdim=True)
            to.copy_((best + half * (along.gather(-1, best) < 0))[:, 0])
    return found.unflatten(1, (-1, q.shape[2]))


@torch.no_grad()
def buckets(q: Float[Tensor, "b heads n d"], bucket: int, rounds: int) -> Int[Tensor, "b heads rounds n"]:
    """The bucket of each position in each round, under the hash of eval mode."""
    found = _hashed(q.to(torch.promote_types(q.dtype, torch.float32)), bucket, rounds, fixed=True)
    return found.unflatten(1, q.shape[:2]).permute(1, 2, 0, 3)


def met(q: Float[Tensor, "b heads n d"], bucket: int, rounds: int, queries: Queries) -> Bool[Tensor, "b heads q n"]:
    """Which keys count for each of the `queries`, under the hash of eval mode: those that it meets, itself only where alone."""
    meetings = meet(q, bucket, rounds, fixed=True)
    places = torch.arange(q.shape[2], device=q.device)
    rows = asked(places[:, None], queries)
    seen = torch.zeros(q.shape[0] * q.shape[1], len(rows), len(places), dtype=torch.bool, device=q.device)
    for chunk in meetings.chunk:
        mine, theirs = chunk[:, rows], chunk[:, None, : len(places)]
        seen |= (mine == theirs) | (mine == (theirs + 1) % meetings.chunks)
    alone = seen.sum(-1, keepdim=True) == 1
    return (seen & ((rows != places) | alone)).unflatten(0, q.shape[:2])


@torch.no_grad()
def meet(q: Float[Tensor, "b heads n d"], bucket: int, rounds: int, *, fixed: bool) -> "Meetings":
    """Who meets whom, by a hash of their queries. `fixed` as for `by_hash`."""
    buckets, n = _hashed(q, bucket, rounds, fixed=fixed), q.shape[2]
    count = -(-n // bucket)
    length = -(-n // count)
    whole = torch.arange(count * length, device=buckets.device)
    order = torch.cat([buckets.sort(stable=True).indices, whole[n:].expand(*buckets.shape[:2], -1)], -1)
    place = torch.empty_like(order).scatter_(-1, order, whole.expand_as(order))
    return Meetings(order, place, n, length)


class Meetings(NamedTuple):
    """Who meets whom. Positions of all images and heads are rows of one array, n and the filling for each."""

    order: Int[Tensor, "rounds bh whole"]  # positions sorted by bucket
    place: Int[Tensor, "rounds bh whole"]  # where each position then stands
    n: int
    length: int  # of a chunk

    @property
    def chunks(self) -> int:
        return self.order.shape[-1] // self.length

    @property
    def chunk(self) -> Int[Tensor, "rounds bh whole"]:
        return self.place // self.length

    def fill(self, t: Float[Tensor, "b heads n d"]) -> Float[Tensor, "rows d"]:
        return F.pad(t, (0, 0, 0, self.order.shape[-1] - self.n)).flatten(0, 2)

    def blocks(self) -> Iterator["Block"]:
        """Round after round, some chunks at a time."""
        whole, chunks, images = self.order.shape[-1], self.chunks, self.order.shape[1]
        first_row = torch.arange(images, device=self.order.device)[:, None] * whole
        ids = self.chunk.flatten(1).float()  # floats: products of them tell who met, in a third of the time of comparisons
        outside = NEVER * (torch.arange(whole, device=ids.device) >= self.n).repeat(images) if whole > self.n else None
        scores = BLOCK if ids.device.type in SMALL else 128 * BLOCK
        for r, order in enumerate(self.order):
            own = (order + first_row).unflatten(1, (chunks, -1))
            met = torch.cat([own.roll(1, 1), own], -1) if chunks > 1 else own
            own, met = own.flatten(0, 1), met.flatten(0, 1)
            for i, j in zip(*(t.split(max(1, scores // (self.length * met.shape[1]))) for t in (own, met)), strict=True):
                apart = None
                for t in ids[:r]:
                    mine, theirs = picked(t, i)[:, :, None], picked(t, j)[:, None]
                    both = (mine - theirs).mul_(mine - (theirs + 1) % chunks).abs_()  # 0 where they met in that round
                    apart = both if apart is None else torch.minimum(apart, both, out=apart)
                filling = None if outside is None else picked(outside, j)[:, None]
                yield Block(i, j, filling, None if apart is None else apart.clamp_(max=1))


class Block(NamedTuple):
    i: Int[Tensor, "chunks s"]  # queries
    j: Int[Tensor, "chunks met"]  # the keys that they meet
    filling: Float[Tensor, "chunks 1 met"] | None  # to be added to scores
    first: Float[Tensor, "chunks s met"] | None  # to be multiplied with their exp: 0 where a pair has met before, else 1


def picked(t: Tensor, of: Int[Tensor, "chunks s"]) -> Tensor:
    """t[of], which takes ten times as long on a CPU."""
    return t.index_select(0, of.flatten()).unflatten(0, of.shape)


def _scores(q: Tensor, k: Tensor, block: Block) -> Tensor:
    s = torch.bmm(picked(q, block.i), picked(k, block.j).mT)
    if block.filling is not None:
        s = s + block.filling
    s.diagonal(s.shape[2] - s.shape[1], 1, 2).fill_(ALONE)
    return s


def _forward(q: Tensor, k: Tensor, v: Tensor, meetings: Meetings) -> tuple[Tensor, Tensor]:
    """(o, log-sum-exp of the scores): over rounds, with a running maximum."""
    top, total, o = q.new_full((len(q), 1), -torch.inf), q.new_zeros(len(q), 1), torch.zeros_like(v)
    for block in meetings.blocks():
        s = _scores(q, k, block)
        was = picked(top, block.i)
        highest = torch.maximum(s.detach().amax(-1, keepdim=True), was)
        p = s.sub_(highest).exp_()
        p = p if block.first is None else p * block.first
        shrink = (was - highest).exp_()
        sums = picked(total, block.i) * shrink + p.sum(-1, keepdim=True)
        added = picked(o, block.i) * shrink + torch.bmm(p, picked(v, block.j))
        for t, new in (top, highest), (total, sums), (o, added):
            t.index_copy_(0, block.i.flatten(), new.flatten(0, 1))
    return o / total, top + total.log()


class _Rounds(torch.autograd.Function):
    """Saves q, k, v, o and the log-sum-exp; second derivatives are those of `_forward`, of which autograd then keeps the scores."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, meetings: Meetings) -> Tensor:
        o, lse = _forward(q, k, v, meetings)
        ctx.save_for_backward(q, k, v, o, lse)
        ctx.meetings = meetings
        return o

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, o, lse = ctx.saved_tensors
        with own_precision(grad.device.type):
            if torch.is_grad_enabled():
                q, k, v = apart = [t.view_as(t) for t in (q, k, v)]  # v may be made of q; what is asked for is each by itself
                again, _ = _forward(q, k, v, ctx.meetings)
                found = iter(torch.autograd.grad(again, [t for t in apart if t.requires_grad], grad, create_graph=True))
                return *(next(found) if t.requires_grad else None for t in apart), None
            return *_gradients(grad, q, k, v, o, lse, ctx.meetings), None


def _gradients(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, meetings: Meetings) -> list[Tensor]:
    """With P the map: dS = P (g vᵀ - g·o), where g·o is one number a query."""
    shift = (grad * o).sum(-1, keepdim=True)
    dq, dk, dv = (torch.zeros_like(t) for t in (q, k, v))
    for block in meetings.blocks():
        i, j = block.i, block.j
        p = _scores(q, k, block).sub_(picked(lse, i)).exp_()
        p = p if block.first is None else p.mul_(block.first)
        g = picked(grad, i)
        ds = torch.bmm(g, picked(v, j).mT).sub_(picked(shift, i)).mul_(p)
        for to, at, step in (dq, i, ds @ picked(k, j)), (dk, j, ds.mT @ picked(q, i)), (dv, j, p.mT @ g):
            to.index_add_(0, at.flatten(), step.flatten(0, 1))
    return [dq, dk, dv]
