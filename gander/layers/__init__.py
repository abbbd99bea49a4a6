"""Layers that are not attention, and what is done to finished networks."""

from gander.layers.activations import RootTanh
from gander.layers.blur_pool import BlurPool2d
from gander.layers.minibatch_stddev import MinibatchStddev, minibatch_stddev
from gander.layers.norms import BatchNorm, ConditionalBatchNorm, has_batch_statistics
from gander.layers.positions import LearnedPositions, SinusoidalPositions, rotary, sinusoidal
from gander.layers.resampling import DownConv2d, UpConv2d
from gander.layers.reversible import ReversibleSequence
from gander.layers.scalar_norm import ScalarNorm
from gander.layers.spectral_norm import by_step, fold, refresh, sigmas, spectral_norm
from gander.layers.standardise import Standardise

__all__ = [
    "BatchNorm",
    "BlurPool2d",
    "ConditionalBatchNorm",
    "DownConv2d",
    "LearnedPositions",
    "MinibatchStddev",
    "ReversibleSequence",
    "RootTanh",
    "ScalarNorm",
    "SinusoidalPositions",
    "Standardise",
    "UpConv2d",
    "by_step",
    "fold",
    "has_batch_statistics",
    "minibatch_stddev",
    "refresh",
    "rotary",
    "sigmas",
    "sinusoidal",
    "spectral_norm",
]
