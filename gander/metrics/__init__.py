"""Scores: features of images -> numbers. Pure functions, float64; samples first, the reference second.

What a number may be called depends on the network that made the features: see `gander.metrics.features`.
"""

from gander.metrics.frechet import frechet, frechet_at_infinity, frechet_by_class, frechet_distance, frechet_error
from gander.metrics.inception_score import inception_score
from gander.metrics.kernel import kernel_distance, kernel_distance_in_blocks, kernel_distance_with_error
from gander.metrics.memorisation import memorisation
from gander.metrics.moments import Moments
from gander.metrics.path_length import path_length
from gander.metrics.precision_recall import precision_recall

__all__ = [
    "Moments",
    "frechet",
    "frechet_at_infinity",
    "frechet_by_class",
    "frechet_distance",
    "frechet_error",
    "inception_score",
    "kernel_distance",
    "kernel_distance_in_blocks",
    "kernel_distance_with_error",
    "memorisation",
    "path_length",
    "precision_recall",
]
