"""What other packages say of fixed features, printed for `test_frozen.py`.

    pip install torchmetrics && GANDER_PEERS=FOLDER python tests/metrics/frozen.py

FOLDER holds `git clone https://github.com/toshas/torch-fidelity`. Of it, only the files with the formulas are loaded: the
rest wants torchvision. Neither package is needed by the tests.
"""

import importlib
import os
import sys
import types
from pathlib import Path

import numpy as np
import torch

METRICS = ("fid", "isc", "kid", "prc")


def uniform(seed: int, *shape: int) -> np.ndarray:
    """Numbers in [0, 1) from the generator's own words: equal in every version of numpy."""
    words = np.random.Philox(key=seed).random_raw(int(np.prod(shape)))
    return ((words >> np.uint64(11)) * 2.0**-53).reshape(shape)


def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples (300, 24) and reference (360, 24), shaped as a network's after relu, and logits (300, 10)."""
    mix = uniform(1, 24, 24) - 0.4
    samples = (0.9 * (uniform(2, 300, 24) - 0.45) @ mix).clip(0)
    reference = ((uniform(3, 360, 24) - 0.4) @ mix).clip(0)
    return samples, reference, 6 * uniform(4, 300, 10)


def fidelity(folder: Path) -> dict[str, types.ModuleType]:
    """torch-fidelity's modules of formulas, without its package's imports."""
    package = types.ModuleType("torch_fidelity")
    package.__path__ = [str(folder / "torch_fidelity")]
    sys.modules["torch_fidelity"] = package
    utils = types.ModuleType("torch_fidelity.utils")
    utils.__getattr__ = lambda name: None  # type: ignore[method-assign]
    sys.modules["torch_fidelity.utils"] = utils
    return {name: importlib.import_module(f"torch_fidelity.metric_{name}") for name in METRICS}


def main() -> None:
    import torchmetrics
    from torchmetrics.image.fid import _compute_fid
    from torchmetrics.image.inception import InceptionScore
    from torchmetrics.image.kid import poly_mmd

    samples, reference, logits = arrays()
    x, y, z = map(torch.from_numpy, (samples, reference, logits))

    print("torchmetrics", torchmetrics.__version__)
    print("frechet", float(_compute_fid(x.mean(0), x.T.cov(), y.mean(0), y.T.cov())))
    score = InceptionScore(feature=torch.nn.Identity(), splits=1)
    score.features = [z]
    print("inception_score", float(score.compute()[0]))
    print("kernel, first 300", float(poly_mmd(x, y[:300])))

    peer = fidelity(Path(os.environ["GANDER_PEERS"], "torch-fidelity"))
    print("torch-fidelity")
    statistics = [peer["fid"].fid_features_to_statistics(features) for features in (x, y)]
    print("frechet", peer["fid"].fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"])
    for splits in (1, 10):
        print("inception_score", splits, peer["isc"].isc_features_to_metric(z, splits=splits, shuffle=False))
    whole = {"kid_subsets": 1, "kid_subset_size": 300, "verbose": False, "rng_seed": 0}
    print("kernel, first 300", peer["kid"].kid_features_to_metric(x, y[:300], **whole))
    print("precision_recall", peer["prc"].prc_features_to_metric(x, y, verbose=False))


if __name__ == "__main__":
    main()
