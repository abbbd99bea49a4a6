"""Small games for the tests of training: every kind of network, loss and knob, at 16 pixels."""

import numpy as np
import torch

from gander import recipes
from gander.data.batches import Batches
from gander.recipes.experiment import Facts

SMALL = {"resolution": 16, "width": 4, "batch": 12, "steps": 10}
# 48 is cut into groups of four by 1, 2 and 3 processes and 2 micro-batches
NO_CONVOLUTION = {"width": 8, "latent": 16, "discriminator_width": 8, "discriminator_depth": 1, "batch": 48, "warm_up": 4}
# name -> (recipe, classes, knobs)
GAMES = {
    "article": ("sagan", 0, {"attention": "article", "flip": True}),
    "article simultaneous": ("sagan", 0, {"simultaneous": True, "n_dis": 2, "r2": 0.1}),
    "official conditional": ("sagan_official", 3, {"accumulate": 2, "augment": "color,translation,cutout"}),
    "official relativistic": ("sagan_official", 0, {"loss": "relativistic", "r1": 1.0, "r2": 1.0, "spectral_norm": "none"}),
    "wgan-gp": ("sagan", 0, {"loss": "wasserstein", "wgan_gp": 10.0, "n_dis": 2, "spectral_norm": "none", "accumulate": 2}),
    "dcgan": ("dcgan", 0, {"attention": "self+residual"}),
    "skinny": (
        "all_attention",
        3,
        {**NO_CONVOLUTION, "depth": 1, "tokens": 4, "mapping_depth": 1, "pixels": "product", "stage_depth": 1}
        | {"adaptive": True, "lecam": 0.3, "approximate_r1": 1.0},
    ),
    "pyramid": (
        "all_attention_pyramid",
        0,
        {**NO_CONVOLUTION, "depth": (1,), "reversible": True, "discriminator_attention": "product", "spectral_norm": False}
        | {"loss": "relativistic", "r1": 1.0, "r2": 1.0, "bcr": 0.0, "augment": "none"},
    ),
    "pixels": (
        "pixel_discriminator",
        3,
        {**NO_CONVOLUTION, "depth": 1, "queries": 4, "scales": 2, "composite_warm_up": 4, "composites": 1.0},
    ),
    "consistent": ("dcgan", 0, {"attention": "self", "spectral_norm": "both", "bcr": 10.0, "zcr": 5.0, "augment": "translation"}),
}


def images(n=48, classes=3, side=16):
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (n, side, side, 3), np.uint8), generator.integers(0, max(1, classes), n)


def make(game, seed=0, dtype=torch.float32, precision="fp32", **more):
    """(learner, batches) of a game, both functions of the seed alone."""
    name, classes, knobs = GAMES[game]
    torch.manual_seed(seed)
    knobs = {**SMALL, **knobs, **more}
    experiment = recipes.load(name)(Facts(48, classes, 3), **knobs)
    learner = experiment.learner.to(torch.device("cpu"), precision)
    for network in learner.networks.values():
        network.to(dtype)
    batches = Batches(
        *images(classes=classes),
        batch=knobs["batch"],
        seed=seed,
        per_step=learner.draws_per_step,
        accumulate=learner.accumulate,
    )
    if dtype is torch.float32:
        return learner, batches
    return learner, lambda step: [[(x.to(dtype), y) for x, y in batch] for batch in batches(step)]


def weights(learner):
    """Every parameter and buffer of every network, by name; copies."""
    return {f"{n}.{k}": v.detach().clone() for n, network in learner.networks.items() for k, v in network.state_dict().items()}
