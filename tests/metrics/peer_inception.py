"""The reference architecture beside ours, for the same random weights.

`GANDER_PEERS` names a folder that holds a checkout of torch-fidelity (github.com/toshas/torch-fidelity), whose network is the
graph of the FID's authors. The figures in `inception_layers.json` are its own; they were made, with torch 2.13 on a CPU, by

    GANDER_PEERS=FOLDER python tests/metrics/peer_inception.py
"""

import hashlib
import importlib
import json
import os
import sys
import types
from pathlib import Path

import torch

from gander.draws import key_seed, noise

FROZEN = Path(__file__).with_name("inception_layers.json")


def random_weights(shapes):
    """Weights for these names and shapes, the same bits on every machine, that keep the activations near 1 through 94 layers."""
    weights = {}
    for name, shape in shapes.items():
        uniform = noise(torch.tensor([key_seed("inception", name)]), shape)[0]
        kind = name.split(".")[-1]
        if len(shape) == 4:
            weights[name] = (uniform * 2 - 1) * (6 / (shape[1] * shape[2] * shape[3])) ** 0.5
        elif len(shape) == 2:
            weights[name] = (uniform * 2 - 1) * (3 / shape[1]) ** 0.5
        elif kind == "weight" or kind == "running_var":
            weights[name] = uniform + 0.5
        else:
            weights[name] = uniform - 0.5
    return weights


def pictures(n=2, side=32):
    """uint8 (n, 3, side, side): smooth waves under a little noise."""
    keys = torch.arange(n) + key_seed("pictures")
    places = torch.linspace(0, 6, side)
    waves = torch.sin(places[:, None] * torch.arange(1, n + 1).view(n, 1, 1, 1) + places) * torch.tensor([90, 60, 30]).view(3, 1, 1)
    return (waves + 128 + 40 * (noise(keys, (3, side, side)) - 0.5)).round().clamp(0, 255).byte()


def layers(network, images, names):
    """What each of the layers called `names` makes of the images, then features and logits."""
    found = {}
    hooks = [
        getattr(network, name).register_forward_hook(lambda _, __, y, name=name: found.update({name: y.clone()})) for name in names
    ]
    with torch.no_grad():
        out = network(images)
    for hook in hooks:
        hook.remove()
    return found | {"features": out[0], "logits": out[1]}


def figures(x):
    """Mean, root mean square, and two sums with random signs and sizes, of all numbers of a tensor."""
    flat = x.double().contiguous().flatten()
    mixed = (noise(torch.tensor([1, 2]), (len(flat),)).double() - 0.5) @ flat / len(flat) ** 0.5
    return [flat.mean().item(), flat.square().mean().sqrt().item(), *mixed.tolist()]


def shapes(network):
    """Name and shape of all that the weight file must hold."""
    return {name: list(v.shape) for name, v in network.state_dict().items() if not name.endswith("num_batches_tracked")}


def reference(folder):
    """torch-fidelity's network with our random weights. Its own package is not imported: that wants torchvision."""
    root = Path(folder) / "torch-fidelity" / "torch_fidelity"
    package = types.ModuleType("torch_fidelity")
    package.__path__ = [str(root)]
    sys.modules.setdefault("torch_fidelity", package)
    module = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    load_state_dict, torch_load = torch.nn.Module.load_state_dict, torch.load
    try:  # it loads its weights as it is made
        torch.load = lambda *_, **__: None
        torch.nn.Module.load_state_dict = lambda *_, **__: None
        network = module.FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], feature_extractor_weights_path="-")
    finally:
        torch.nn.Module.load_state_dict, torch.load = load_state_dict, torch_load
    network.load_state_dict(random_weights(shapes(network)), strict=False)
    return network.eval()


if __name__ == "__main__":
    from gander.metrics.inception import Inception

    names = [name for name in Inception().trunk if not name.startswith("pool")]
    network = reference(os.environ["GANDER_PEERS"])
    made = {
        "parameters": sum(p.numel() for p in network.parameters()),
        "shapes": hashlib.sha256(json.dumps(dict(sorted(shapes(network).items()))).encode()).hexdigest(),
        "layers": {name: figures(y) for name, y in layers(network, pictures(), names).items()},
    }
    FROZEN.write_text(json.dumps(made, indent=1).replace(",\n   ", ", ").replace("[\n   ", "[").replace("\n  ]", "]") + "\n")
