"""The features of a classifier that somebody trained here: what its last layer sees, with a name and a hash of their own."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn
from torch.nn import functional as F

from gander import files
from gander.data.sources import plain_name
from gander.errors import UserError
from gander.metrics.features import Features
from gander.predicting import Classifier, load_classifier
from gander.run import Run

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as images were made grey for training


class Seen(nn.Module):
    """images uint8 (b, 3, h, w) of any size -> (features (b, d), logits (b, k)), in float32.

    They are brought to the classifier's resolution, bilinear and antialiased; a classifier of grey images gets their luma.
    """

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.classifier: Any = classifier.network
        self.side, self.grey = classifier.resolution, classifier.channels == 1

    def forward(self, images: Num[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b k"]]:
        x = images.to(torch.promote_types(images.dtype, torch.float32)) / 127.5 - 1
        if self.grey:
            x = (x * x.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
        if x.shape[2:] != (self.side, self.side):
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=True)
        vectors = self.classifier.features(x.contiguous(memory_format=torch.channels_last))
        return vectors, self.classifier.linear(vectors)


def features_of(folder: str | Path, device: torch.device | str = "cpu") -> Features:
    """The features of a run's classifier, of its last checkpoint. UserError where the run has none.

    Their name says by which recipe and on which images it was trained; the hash is that of its weights.
    """
    run, device = Run.open(folder), torch.device(device)
    recipe, data = str(run.described["recipe"]), run.described.get("data")
    if recipe.endswith(".py"):
        raise UserError(f"{folder} is of a recipe of your own, whose code is not run for features; name a run of imagewoof's kind")
    classifier = load_classifier(run, device=device)
    with torch.no_grad():
        side = classifier.resolution
        dimensions = classifier.network.features(torch.zeros(1, classifier.channels, side, side, device=device)).shape[1]
    name = f"classifier:{recipe}-{plain_name(str(data.get('name'))) if isinstance(data, dict) else 'data'}"
    network, digest = Seen(classifier), files.sha256(classifier.weights)
    return Features(name, digest, dimensions, f"bilinear-antialiased-{side}", network, device)
