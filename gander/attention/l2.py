import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import parametrize

from gander.attention.heads import Heads, Queries, maps
from gander.attention.kernels import attend, own_precision


class L2Attention(Heads):
    """y = x + γ · output(o),   o_h = softmax(-|z_i - z_j|² / √d) z M_hᵀ,   z = W_h x,   M_h = V_h W_hᵀ / √d,   for each head h.

    Kim et al. 2021, "The Lipschitz Constant of Self-Attention", https://arxiv.org/abs/2006.04710: query and key are one, and a
    score is a distance. Products of queries and keys have no Lipschitz constant: attention by them changes the faster, the larger
    x. This has one, as its values are tied also: they are x W_h W_hᵀ / √d before V_h. For n positions (their theorem 3.2)

        Lip₂(x -> output(o)) <= √(n / d) · (4 φ⁻¹(n - 1) + 1) · √(Σ_h |W_h|² |V_h|²) · |output|,   φ(t) = t exp(t + 1),

    in spectral norms, none above 1 under `spectral_norm` from outside. γ is a scalar, 0 at birth.

    `tie_values=False` is the layer of ViTGAN's discriminator (Lee et al. 2021, https://arxiv.org/abs/2107.04589), with V_h x in the
    place of z M_hᵀ. Where W_h narrows, values may lie far apart along what it does not see, and then there is no constant.

    Shapes: (b, c, h, w) -> (b, c, h, w), any h and w; d = c / heads, rounded down. Parameters: 3 c² + 1 where heads divide c.

    Cost for n = h·w: O(n c² + n² c) time; O(n c) memory, and maps of n² only where they are small or under `create_graph`: |z_i|²
    is alike for all keys of a query, so that softmax(2 z_i·z_j - |z_j|²) is the same, which is `attend` with one channel more.
    Second derivatives work. Distances are of float32 in half precision too, where they would cancel.

    Args:
        channels: c.
        heads: of 64 channels by default, at least 1.
        tie_values: Kim's form.

    Raises:
        UserError: for no heads, or more than channels.
    """

    def __init__(self, channels: int, *, heads: int | None = None, tie_values: bool = True) -> None:
        super().__init__(channels, heads, tied=True)
        self.tie_values = tie_values

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        with parametrize.cached():  # W is read twice, and a spectral norm iterates at each reading
            z, *values = self.split(x, self.query, *([] if self.tie_values else [self.value]))
            o = by_distance(z, values[0] if values else z, self.scale)
            if self.tie_values:
                inner = (self.heads, self.width, -1)
                w, v = self.query.weight.view(inner), self.value.weight.view(inner)
                o = o @ (w @ v.mT * self.scale)
        return self.back(x, o)

    def weights(self, x: Float[Tensor, "b c h w"], queries: Queries = None) -> Float[Tensor, "b heads q h w"]:
        """What the `queries` (flat row-major positions; all by default) attend to in each head: maps of sum 1."""
        (z,) = self.split(x, self.query)
        with own_precision(x.device.type):
            return maps(*as_products(z), self.scale, x.shape[2:], queries)


def by_distance(z: Float[Tensor, "b heads n d"], v: Float[Tensor, "b heads n e"], scale: float) -> Float[Tensor, "b heads n e"]:
    """softmax(-scale · |z_i - z_j|²) v, d = e; distances are of float32 at least."""
    with own_precision(z.device.type):
        q, k = as_products(z)
        values = F.pad(v.to(q.dtype), (0, 1))  # of equal widths fused kernels take 3/4 of the time
        return attend(q, k, values, scale)[..., :-1].to(v.dtype)


def as_products(z: Float[Tensor, "b heads n d"]) -> tuple[Tensor, Tensor]:
    """q and k with q_i · k_j = 2 z_i · z_j - |z_j|²: -|z_i - z_j|², but for what is alike for all keys of i."""
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    return F.pad(z, (0, 1), value=1.0), torch.cat([2 * z, -z.square().sum(-1, keepdim=True)], -1)
