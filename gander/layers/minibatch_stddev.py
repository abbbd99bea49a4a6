"""How much the images of a batch differ, told to a discriminator: one that sees images alone cannot say that all are alike."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


def minibatch_stddev(x: Float[Tensor, "b *features"], group: int = 4) -> Float[Tensor, " b"]:
    """The mean over all features of their standard deviation over a group: one number, for each of its images.

        s = mean_f sqrt(mean_i (x_if - mean_j x_jf)² + 1e-8),   i and j over the images of the group

    Karras et al. 2018, https://arxiv.org/abs/1710.10196. A group is `group` images that follow each other, the last what is left
    (one image: 1e-4). StyleGAN2 takes images that lie apart; these lie within one process's share of a batch, so that a number is
    the same for any count of processes whose shares the group divides. In float32 at least; time and memory O(numbers in x).
    """
    wide = x.flatten(1).to(torch.promote_types(x.dtype, torch.float32))
    count, left = divmod(len(wide), group)
    parts = [wide[: count * group].view(count, group, wide.shape[1])] + ([wide[-left:][None]] if left else [])
    found = []
    for part in parts:
        variance = (part - part.mean(1, keepdim=True)).square().mean(1)
        found.append((variance + 1e-8).sqrt().mean(1).repeat_interleave(part.shape[1]))
    return torch.cat(found).to(x.dtype)


class MinibatchStddev(nn.Module):
    """(b, d) -> (b, d + 1): each image's features, and the `minibatch_stddev` of its group."""

    batch_statistics = True  # real and fake images pass apart: a group of both would tell nothing

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b d1"]:
        return torch.cat([x, minibatch_stddev(x)[:, None]], 1)
