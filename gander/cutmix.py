"""CutMix: images that are partly real and partly fake, and what a discriminator is paid for saying where.

    game = CutMix()
    numbers = game.draw(draws("cutmix"), batch)             # on the CPU, for the global batch; cut as the batch is
    regions = game.cut(numbers, images.shape[2:])
    mixed = composite(real, fake, regions)
    terms = game.discriminator(*(discriminator.verdicts(x, labels) for x in (real, fake, mixed)), regions)

The U-Net GAN (Schönfeld et al. 2020, https://arxiv.org/abs/2002.12655) has a verdict for every pixel; boxes of what is fake are
found as DETR finds objects (Carion et al. 2020, https://arxiv.org/abs/2005.12872): as a set, matched to each image's true boxes.
Boxes are (centre x, centre y, width, height) in shares of the image.

As in both: logits, not probabilities, are held consistent, and neither side of that is detached; sides of a rectangle √(1 - λ) of
the image's, λ uniform, its centre any pixel, cut off at the border, exchanged with its surroundings in half of the images; the
costs and weights of the matching. Otherwise: losses of boxes are summed over an image's boxes and averaged over *images*, so that
micro-batches and processes of equal size average to the whole; all are of float32 or wider.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from gander.errors import UserError

Images = Float[Tensor, "b c h w"]
Pixels = Float[Tensor, "b 1 h w"]
Loss = Float[Tensor, ""]
Terms = dict[str, tuple[Tensor, float]]
NONE = 0.1  # weight of a query that should say "none", as in DETR: most should
CLASS, L1, GIOU = 1.0, 5.0, 2.0  # DETR's weights, in the matching's costs and in the loss


class Verdicts(NamedTuple):
    """What a discriminator says: logits of real (image, pixels), boxes of what is fake and logits of there being something in them.

    None for a head that is off.
    """

    image: Float[Tensor, " b"] | None
    pixels: Pixels | None
    boxes: Float[Tensor, "b q 4"] | None
    scores: Float[Tensor, "b q"] | None


class Regions(NamedTuple):
    """Where a batch of composites is real, and the boxes of what is fake: those that are `there`, the others are zeros.

    Where a rectangle is real and what lies round it is fake, boxes cannot say so: there are none.
    """

    real: Bool[Tensor, "b 1 h w"]
    boxes: Float[Tensor, "b m 4"]
    there: Bool[Tensor, "b m"]


def composite(real: Images, fake: Images, regions: Regions) -> Images:
    """x̃ = M ⊙ x + (1 - M) ⊙ G(z), M = `regions.real`: mixes two batches of images, or what was said of their pixels."""
    return torch.where(regions.real, real, fake)


def _rectangles(numbers: Float[Tensor, "b m 3"], count: Tensor, size: Sequence[int]) -> Int[Tensor, "b m 4"]:
    """Top, bottom, left, right of each: λ, row and column of the centre from three uniform numbers; `count` share the area."""
    share = ((1 - numbers[..., 0]) / count[:, None]).sqrt()
    edges = []
    for side, uniform in zip(size, numbers[..., 1:].unbind(-1), strict=True):
        length = (share * side).round().long().clamp(min=1)
        first = (uniform * side).long().clamp(max=side - 1) - length // 2
        edges += [first.clamp(min=0), (first + length).clamp(max=side)]
    return torch.stack(edges, -1)


def _boxes(edges: Int[Tensor, "b m 4"], size: Sequence[int]) -> Float[Tensor, "b m 4"]:
    (top, bottom, left, right), (h, w) = edges.float().unbind(-1), size
    return torch.stack([(left + right) / (2 * w), (top + bottom) / (2 * h), (right - left) / w, (bottom - top) / h], -1)


def _corners(boxes: Tensor) -> tuple[Tensor, Tensor]:
    centre, size = boxes.split(2, -1)
    return centre - size / 2, centre + size / 2


def generalised_iou(a: Float[Tensor, "*#n 4"], b: Float[Tensor, "*#n 4"]) -> Float[Tensor, "*n"]:
    """|A ∩ B| / |A ∪ B| - (|C| - |A ∪ B|) / |C|, C the smallest box that holds both: 1 for equal boxes, towards -1 far apart.

    Rezatofighi et al. 2019, https://arxiv.org/abs/1902.09630. Unlike |A ∩ B| / |A ∪ B| it has a slope where boxes do not meet.
    """
    (low_a, high_a), (low_b, high_b) = _corners(a), _corners(b)
    both = (torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)).clamp(min=0).prod(-1)
    hull = (torch.maximum(high_a, high_b) - torch.minimum(low_a, low_b)).prod(-1)
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - both
    least = torch.finfo(union.dtype).tiny  # boxes without area
    return both / union.clamp(min=least) - (hull - union) / hull.clamp(min=least)


@torch.no_grad()
def match(
    boxes: Float[Tensor, "b q 4"], scores: Float[Tensor, "b q"], true: Float[Tensor, "b m 4"], there: Bool[Tensor, "b m"]
) -> Int[Tensor, "3 k"]:
    """Which query answers for which true box: (image, query, true box) of the k pairs, at the least cost for each image,

        cost = -sigmoid(score) + 5 |box - true|₁ - 2 GIoU(box, true),

    by the Hungarian method (scipy). A query has one box at most; of more boxes than queries some have none. The host waits for the
    costs.
    """
    from scipy.optimize import linear_sum_assignment

    a, b = boxes[:, :, None], true[:, None]
    cost = L1 * (a - b).abs().sum(-1) - GIOU * generalised_iou(a, b) - CLASS * scores.sigmoid()[..., None]
    if cost.is_meta:  # of whoever asks what a step costs
        return torch.empty(3, len(cost), dtype=torch.int64, device=cost.device)
    cost = torch.nan_to_num(cost).cpu()  # of networks that are lost already: the loss will say so
    found = []
    for image, (of_image, is_there) in enumerate(zip(cost, there.cpu(), strict=True)):
        columns = is_there.nonzero().flatten()
        rows, chosen = (torch.from_numpy(index) for index in linear_sum_assignment(of_image[:, columns].numpy()))
        found.append(torch.stack([torch.full_like(rows, image), rows, columns[chosen]]))
    return torch.cat(found, 1).to(boxes.device)


def set_loss(
    boxes: Float[Tensor, "b q 4"],
    scores: Float[Tensor, "b q"],
    true: Float[Tensor, "b m 4"],
    there: Bool[Tensor, "b m"],
    judged: Bool[Tensor, " b"] | None = None,
) -> Loss:
    """DETR's loss of a set of boxes, after `match`; the mean over images of

        Σ_q w_q BCE(score_q, matched_q) / Σ_q w_q + Σ_matched (5 |box - true|₁ + 2 (1 - GIoU(box, true))),

    w = 1 for queries that are matched and 0.1 for the others. Without a true box an image has the first term alone. Images that
    are not `judged` cost nothing; the mean is over all.
    """
    image, query, target = match(boxes, scores, true, there)
    matched = torch.zeros_like(scores).index_put((image, query), scores.new_ones(()))
    weights = NONE + (1 - NONE) * matched
    said = F.binary_cross_entropy_with_logits(scores, matched, reduction="none")
    a, b = boxes[image, query], true[image, target]
    far = L1 * (a - b).abs().sum(-1) + GIOU * (1 - generalised_iou(a, b))
    cost = (CLASS * (weights * said).sum(1) / weights.sum(1)).index_add(0, image, far)
    return (cost if judged is None else torch.where(judged, cost, 0)).mean()


def pixel_loss(pixels: Pixels, real: Bool[Tensor, "b 1 h w"]) -> Loss:
    """Cross-entropy of every pixel's logit with its being real; the mean over pixels and images."""
    return F.binary_cross_entropy_with_logits(pixels, real.to(pixels.dtype))


def consistency(mixed: Pixels, real: Pixels, fake: Pixels, regions: Regions) -> Loss:
    """mean |D(mix(x, G(z))) - mix(D(x), D(G(z)))|²: what is said of a pixel should not change with what is put beside it."""
    return (mixed - composite(real, fake, regions)).square().mean()


@dataclass(frozen=True)
class CutMix:
    """The terms of a discriminator's pixels and boxes, by their weights; 0 is off.

    Args:
        image: what composites are paid as whole images, which are fake. (The weight of the image's own game is the game's.)
        pixels: cross-entropy of each pixel, of real images, fakes and composites; the generator's, of its fakes being called real.
        consistency: of composites' pixels with those of their two images.
        boxes: `set_loss`: none in a real image, the whole of a fake one, those of a composite that has any; the generator's, of
            nothing being found in its fakes. Keep it at or below 0.1 at first.
        rectangles: of one composite at most; their number is uniform from 1 on.
        often: the share of updates that have composites; from 0 it rises linearly over the first `warm_up` steps.

    Raises:
        UserError: for a weight that is negative or not finite, less than one rectangle, a share that is none.
    """

    image: float = 0.5
    pixels: float = 0.5
    consistency: float = 1.0
    boxes: float = 0.1
    rectangles: int = 1
    often: float = 0.5
    warm_up: int = 0

    def __post_init__(self) -> None:
        for name in ("image", "pixels", "consistency", "boxes"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} {getattr(self, name)} is no weight of CutMix's; 0 is off, 0.5 a usual one")
        if self.rectangles < 1:
            raise UserError(f"{self.rectangles} rectangles: a composite has at least 1; 3 at most is usual")
        if not 0 <= self.often <= 1 or self.warm_up < 0:
            raise UserError(f"composites in {self.often} of the updates after {self.warm_up} steps; 0.5, and 0 or more, would do")

    @property
    def width(self) -> int:
        """How many numbers a composite needs."""
        return 2 + 3 * self.rectangles

    def chance(self, step: int) -> float:
        """Of an update having composites."""
        return self.often * min(1.0, step / self.warm_up) if self.warm_up else self.often

    def draw(self, generator: torch.Generator, n: int) -> Float[Tensor, "n k"]:
        """The numbers of n composites, uniform in [0, 1), float32 on the CPU, k = `width`."""
        return torch.rand(n, self.width, generator=generator)

    def cut(self, numbers: Float[Tensor, "b k"], size: Sequence[int]) -> Regions:
        """Where composites of `size` (h, w) are real, and the boxes of what is fake, on the numbers' device. No host sync.

        With probability ½ rectangles are fake, each with its box; else they are real, and there is no box.
        """
        h, w = size
        (coin, many), parts = numbers[:, :2].unbind(1), numbers[:, 2:].unflatten(1, (-1, 3))
        count = (many * self.rectangles).long().clamp(max=self.rectangles - 1) + 1
        there = torch.arange(self.rectangles, device=numbers.device) < count[:, None]
        edges = _rectangles(parts, count, size) * there[..., None]
        top, bottom, left, right = edges[..., None, None].unbind(2)
        row, column = torch.arange(h, device=numbers.device)[:, None], torch.arange(w, device=numbers.device)
        inside = ((row >= top) & (row < bottom) & (column >= left) & (column < right)).any(1)
        turned = (coin < 0.5)[:, None]
        boxes = _boxes(edges, size) * ~turned[..., None]
        return Regions((inside == turned[..., None])[:, None], boxes, there & ~turned)

    def discriminator(self, real: Verdicts, fake: Verdicts, mixed: Verdicts | None = None, regions: Regions | None = None) -> Terms:
        """(value, weight) of each term that is on and whose head is; those of composites where there are any."""
        terms: Terms = {}
        if self.pixels and real.pixels is not None and fake.pixels is not None:
            terms["pixels"] = F.softplus(-real.pixels).mean() + F.softplus(fake.pixels).mean(), self.pixels
        if self.boxes and real.scores is not None and fake.scores is not None and fake.boxes is not None:
            whole = fake.boxes.new_tensor([0.5, 0.5, 1.0, 1.0]).expand(len(fake.boxes), 1, 4)
            of_fake = set_loss(fake.boxes, fake.scores, whole, whole[..., 0] > 0)
            terms["boxes"] = F.softplus(real.scores).mean() + of_fake, self.boxes
        if mixed is None or regions is None:
            return terms
        if self.image and mixed.image is not None:
            terms["cutmix_image"] = F.softplus(mixed.image).mean(), self.image
        if mixed.pixels is not None and real.pixels is not None and fake.pixels is not None:
            if self.pixels:
                terms["cutmix_pixels"] = pixel_loss(mixed.pixels, regions.real), self.pixels
            if self.consistency:
                terms["cutmix_consistency"] = consistency(mixed.pixels, real.pixels, fake.pixels, regions), self.consistency
        if self.boxes and mixed.boxes is not None and mixed.scores is not None:
            judged = regions.there.any(1)
            terms["cutmix_boxes"] = set_loss(mixed.boxes, mixed.scores, regions.boxes, regions.there, judged), self.boxes
        return terms

    def generator(self, fake: Verdicts) -> Terms:
        """(value, weight) of the generator's terms: each of its pixels called real, and nothing in it called fake."""
        terms: Terms = {}
        if self.pixels and fake.pixels is not None:
            terms["pixels_generator"] = F.softplus(-fake.pixels).mean(), self.pixels
        if self.boxes and fake.scores is not None:
            terms["boxes_generator"] = F.softplus(fake.scores).mean(), self.boxes
        return terms
