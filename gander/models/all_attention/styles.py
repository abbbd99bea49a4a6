"""latent -> w -> images: what the generators share. w modulates every norm, and can be averaged, truncated and mixed.

w is tokens (b, k, style); a style is their sum over √k, as large as one of them. The mapping is 8 fully connected layers (Karras et
al. 2018, https://arxiv.org/abs/1812.04948: k = 1), or a stack of self-attention over k pieces of the latent, or nothing.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from gander.errors import UserError, unknown
from gander.models.all_attention.tokens import Block

MAPPINGS = ("attention", "connected", "none")
SLOPE = 0.2


class Mapping(nn.Module):
    """latent (b, latent_dim), labels (b,) -> w (b, k, style).

    Labels are embedded and added to the latent, which is then divided by its root mean square.

    | kind      | w                                                                                                          |
    |-----------|------------------------------------------------------------------------------------------------------------|
    | attention | k pieces of the latent, each by its own linear layer, whose bias is learned; `depth` blocks                |
    | connected | `depth` times linear, leaky ReLU of slope 0.2, Kaiming-normal: one token                                   |
    | none      | the latent itself: one token                                                                               |

    What differs from Karras et al.: no lower learning rate of its own, which is for the optimiser to give.

    Raises:
        UserError: for an unknown kind, tokens that do not divide the latent, and no mapping to another width.
        ValueError: where labels are needed and missing.
    """

    def __init__(
        self, latent_dim: int, style: int, *, num_classes: int = 0, kind: str = "attention", depth: int = 8, tokens: int = 16
    ):
        super().__init__()
        if kind not in MAPPINGS:
            raise unknown("mapping", kind, MAPPINGS)
        if kind == "attention" and (tokens < 1 or latent_dim % tokens):
            raise UserError(
                f"a latent of {latent_dim} numbers cannot be cut into {tokens} tokens; take one that {max(1, tokens)} divides"
            )
        if kind == "none" and latent_dim != style:
            raise UserError(f"without a mapping w is the latent, of {latent_dim} numbers, and style is {style}; make them equal")
        self.kind, self.num_classes = kind, num_classes
        self.embedding = nn.Embedding(num_classes, latent_dim) if num_classes else None
        self.network = nn.Sequential()
        if kind == "attention":
            # one layer for all pieces would leave of their sum no more than latent_dim / k directions
            self.pieces = nn.Parameter(torch.randn(tokens, latent_dim // tokens, style) * (tokens / latent_dim) ** 0.5)
            self.tokens = nn.Parameter(0.3 * torch.randn(tokens, style))
            self.network = nn.Sequential(*(Block(style) for _ in range(depth)))
        elif kind == "connected":
            for i in range(depth):
                layer = nn.Linear(style if i else latent_dim, style)
                nn.init.kaiming_normal_(layer.weight, SLOPE)
                nn.init.zeros_(layer.bias)
                self.network.extend([layer, nn.LeakyReLU(SLOPE)])

    def forward(self, latent: Float[Tensor, "b d"], labels: Int[Tensor, "b"] | None = None) -> Float[Tensor, "b k style"]:
        if self.embedding is not None:
            if labels is None:
                raise ValueError(f"this generator was made for {self.num_classes} classes and needs labels")
            latent = latent + self.embedding(labels)
        z = F.rms_norm(latent, latent.shape[-1:], eps=1e-8)
        if self.kind == "attention":
            pieces = z.unflatten(1, (len(self.tokens), 1, -1))
            return self.network((pieces @ self.pieces).squeeze(2) + self.tokens)
        return self.network(z)[:, None]


class StyleGenerator(nn.Module):
    """generator(latent, labels=None) = synthesis(mapping(latent, labels)): images in [-1, 1].

    `synthesis` takes w (b, k, style), or one for each of the `layers` that it modulates, (b, layers, k, style).
    """

    mapping: Mapping
    layers: int

    def __init__(self, resolution: int, latent_dim: int, num_classes: int) -> None:
        super().__init__()
        self.resolution, self.latent_dim, self.num_classes = resolution, latent_dim, num_classes

    def forward(self, latent: Float[Tensor, "b d"], labels: Int[Tensor, "b"] | None = None) -> Float[Tensor, "b c h w"]:
        return self.synthesis(self.mapping(latent, labels))

    def synthesis(self, w: Float[Tensor, "b *layers k style"]) -> Float[Tensor, "b c h w"]:
        raise NotImplementedError

    def styles(self, w: Float[Tensor, "b *layers k style"]) -> Float[Tensor, "b layers style"]:
        """One for each of the `layers`: the sum of the tokens of w over √k."""
        w = w if w.ndim == 4 else w[:, None].expand(-1, self.layers, -1, -1)
        return w.sum(2) / w.shape[2] ** 0.5


def tokens_of(style: int, n: int, d: int) -> nn.Sequential:
    """A style (b, `style`) -> n tokens (b, n, d), each by its own linear layer.

    Weights are born N(0, 1 / style) and biases N(0, 0.3²): what is the same in all images is the less, and the latent has its say.
    """
    layer = nn.Linear(style, n * d)
    nn.init.normal_(layer.weight, std=style**-0.5)
    nn.init.normal_(layer.bias, std=0.3)
    return nn.Sequential(layer, nn.Unflatten(1, (n, d)))


def truncated(w: Float[Tensor, "b k style"], mean: Float[Tensor, "1 k style"], psi: float) -> Float[Tensor, "b k style"]:
    """mean + ψ (w - mean): nearer to the mean of w over many latents, `generator.mapping(latents).mean(0, keepdim=True)`."""
    return torch.lerp(mean.expand_as(w), w, psi)


def mixed(
    coarse: Float[Tensor, "b k style"], fine: Float[Tensor, "b k style"], layers: int, crossover: int
) -> Float[Tensor, "b layers k style"]:
    """For `generator.synthesis`: the first `crossover` of its `generator.layers` from one w, the others from another.

    Raises:
        UserError: for a crossover that is not from 0 to `layers`.
    """
    if not 0 <= crossover <= layers:
        raise UserError(f"styles are mixed after {crossover} layers, and this generator has {layers}; take 0 to {layers}")
    return torch.stack([coarse] * crossover + [fine] * (layers - crossover), 1)
