"""Augmentations that a gradient passes through, in batches, on the device of the images.

    augment = Augment("color,translation,cutout")
    numbers = augment.draw(draws("augment"), batch)          # on the CPU, for the global batch; cut as the batch is
    logits = discriminator(augment.apply(images, numbers))   # real and fake images both

DiffAugment (Zhao et al. 2020), whose operations color, translation and cutout are, shows the discriminator augmented real *and*
fake images, so that the generator does not learn to make augmented ones. `horizontal_flip` is for real images: a mirror image is
an image. "flip,shift" is the change that consistency regularisation asks the discriminator to overlook.

As in DiffAugment's code: its operations, their ranges, their order (that of the policy), zeros (mid-grey in [-1, 1]) where
nothing is. Otherwise: the numbers come from outside, and translation gathers rows, then columns, instead of both at once
through a padded copy, so that its backward adds nothing in an order of its own.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from gander.errors import unknown

Images = Float[Tensor, "b c h w"]
Uniform = Float[Tensor, " b"]


def _whole(uniform: Uniform, count: int) -> Int[Tensor, " b"]:
    """Whole numbers 0 .. count - 1."""
    return (uniform * count).long().clamp(max=count - 1)


def color(images: Images, numbers: Float[Tensor, "b 3"]) -> Images:
    """Brightness x + u₁ - ½, then saturation m + 2 u₂ (x - m), then contrast n + (u₃ + ½)(x - n).

    m is the mean over channels, n the mean over the image, each of what came before. Grey images have no saturation to
    change. Values may leave [-1, 1], as in the original.
    """
    brightness, saturation, contrast = numbers.to(images.dtype)[..., None, None, None].unbind(1)
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = grey + 2 * saturation * (images - grey)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (contrast + 0.5) * (images - mean)


def _moved(images: Images, uniform: Uniform, dim: int, mirrored: bool) -> Images:
    """Each image moved by whole pixels along `dim`, up to 1/8 of its size each way; zeros behind it, or its mirror image."""
    last = images.shape[dim] - 1
    most = int((last + 1) / 8 + 0.5)
    source = torch.arange(last + 1, device=images.device) - (_whole(uniform, 2 * most + 1) - most)[:, None]
    shape = [len(images), 1, 1, 1]
    shape[dim] = last + 1
    reflected = last - (last - source.abs()).abs() if mirrored else source.clamp(0, last)
    moved = images.gather(dim, reflected.view(shape).expand_as(images))
    return moved if mirrored else moved * ((source >= 0) & (source <= last)).view(shape)


def translation(images: Images, numbers: Float[Tensor, "b 2"]) -> Images:
    """Moved by whole pixels, up to 1/8 of the height and of the width each way; zeros come in from outside."""
    return _moved(_moved(images, numbers[:, 0], 2, False), numbers[:, 1], 3, False)


def shift(images: Images, numbers: Float[Tensor, "b 2"]) -> Images:
    """Moved as by `translation`; what comes in is the image's own reflection, its border pixels not repeated."""
    return _moved(_moved(images, numbers[:, 0], 2, True), numbers[:, 1], 3, True)


def flip(images: Images, numbers: Float[Tensor, "b 1"]) -> Images:
    """Mirrored left to right where u < ½."""
    return horizontal_flip(images, numbers[:, 0] < 0.5)


def cutout(images: Images, numbers: Float[Tensor, "b 2"]) -> Images:
    """Zeros in a rectangle of half the height and half the width, whose centre is any pixel: at the border it is cut off."""
    kept = torch.zeros((), dtype=torch.bool, device=images.device)
    for dim, uniform in ((2, numbers[:, 0]), (3, numbers[:, 1])):
        size = images.shape[dim]
        side = int(size / 2 + 0.5)
        first = _whole(uniform, size + 1 - side % 2)[:, None] - side // 2
        at = torch.arange(size, device=images.device)
        shape = [len(images), 1, 1, 1]
        shape[dim] = size
        kept = kept | ((at < first) | (at >= first + side)).view(shape)
    return images * kept


AUGMENTATIONS: dict[str, tuple[int, Callable[[Tensor, Tensor], Tensor]]] = {
    "color": (3, color),
    "translation": (2, translation),
    "cutout": (2, cutout),
    "shift": (2, shift),
    "flip": (1, flip),
}
"""Name to (how many numbers an image needs, function)."""


class Augment:
    """The operations of a policy such as "color,translation,cutout", one after the other; "" and "none" leave images alone.

    `width` is how many numbers an image needs. Raises `UserError` for a name that is not in `AUGMENTATIONS`.
    """

    def __init__(self, policy: str) -> None:
        names = [name.strip() for name in policy.split(",") if name.strip() not in ("", "none")]
        for name in names:
            if name not in AUGMENTATIONS:
                raise unknown("augmentation", name, AUGMENTATIONS)
        self.policy = ",".join(names)
        self.widths = [AUGMENTATIONS[name][0] for name in names]
        self.operations = [AUGMENTATIONS[name][1] for name in names]
        self.width = sum(self.widths)

    def draw(self, generator: torch.Generator, n: int) -> Float[Tensor, "n k"]:
        """The numbers of n images, uniform in [0, 1), float32 on the CPU, k = `width`."""
        return torch.rand(n, self.width, generator=generator)

    def apply(self, images: Images, numbers: Float[Tensor, "b k"]) -> Images:
        """The augmented images, of the same type; `numbers` are rows of `draw` on the images' device. No host sync."""
        for operation, part in zip(self.operations, numbers.split(self.widths, 1), strict=True):
            images = operation(images, part)
        return images.contiguous(memory_format=torch.channels_last)  # what gander's convolutions take; gather loses it


def horizontal_flip(images: Shaped[Tensor, "b c h w"], coin: Bool[Tensor, " b"]) -> Shaped[Tensor, "b c h w"]:
    """Images of any type, those whose coin is true mirrored left to right."""
    return torch.where(coin[:, None, None, None], images.flip(-1), images)
