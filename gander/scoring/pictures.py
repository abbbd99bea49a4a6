"""Samples beside the training images that they are nearest to, and the same for real images: memorisation judged by eye."""

import numpy as np
from jaxtyping import Int64, UInt8

from gander import grids
from gander.metrics.memorisation import Memorisation

PAIRS = 12

Images = UInt8[np.ndarray, "_ h w c"]


def nearest(samples: Images, training: Images, rows: Int64[np.ndarray, " _"], held_out: Images, found: Memorisation) -> np.ndarray:
    """Four rows: the samples nearest to a training image, these images; the held-out images nearest to one, and these.

    `rows` are the places in `training` of the images that `found` counts.
    """
    suspects, real = found.order[:PAIRS], found.held_out.argsort(kind="stable")[:PAIRS]
    their, its = rows[found.nearest[suspects]], rows[found.held_out_nearest[real]]
    shown = [samples[suspects], training[their], held_out[real], training[its]]
    return grids.enlarge(grids.grid(np.concatenate(shown), PAIRS), 768)
