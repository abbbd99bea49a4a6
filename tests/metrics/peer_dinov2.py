"""The reference architectures beside ours, for the same random weights: a small network, 128 wide, of 3 blocks and 2 heads.

`meta` is DINOv2's own code: `GANDER_PEERS` names a folder that holds a checkout of it (github.com/facebookresearch/dinov2).
`transformers` is the package of that name, into which our weight file is loaded by its own loader. The figures in
`dinov2_layers.json` are theirs; they were made, with torch 2.13 and transformers 5.23 on a CPU, by

    GANDER_PEERS=FOLDER python tests/metrics/peer_dinov2.py
"""

import json
import os
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from peer_inception import figures, pictures
from safetensors.torch import save_file
from torch.nn import functional as F

from gander.draws import key_seed, noise

FROZEN = Path(__file__).with_name("dinov2_layers.json")
WIDTH, DEPTH = 128, 3
SIZES = {"224x224": (224, 224), "140x322": (140, 322), "518x518": (518, 518)}
LAYERS = ["embeddings", *(f"block {i}" for i in range(DEPTH)), "layernorm"]


def random_weights(width=WIDTH, depth=DEPTH):
    """By the names of the file on the Hub, the same bits on every machine. Embeddings are small, so that the norms' ε counts."""
    linear, norm = {"weight": (width, width), "bias": (width,)}, {"weight": (width,), "bias": (width,)}
    layer = {f"attention.attention.{name}": linear for name in ("query", "key", "value")}
    layer |= {"attention.output.dense": linear, "norm1": norm, "norm2": norm}
    layer |= {"mlp.fc1": {"weight": (4 * width, width), "bias": (4 * width,)}}
    layer |= {"mlp.fc2": {"weight": (width, 4 * width), "bias": (width,)}}
    layer |= {f"layer_scale{i}": {"lambda1": (width,)} for i in (1, 2)}
    shapes = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.mask_token": (1, width),
        "embeddings.position_embeddings": (1, 1370, width),
        "embeddings.patch_embeddings.projection.weight": (width, 3, 14, 14),
        "embeddings.patch_embeddings.projection.bias": (width,),
        **{f"layernorm.{name}": shape for name, shape in norm.items()},
    }
    for i in range(depth):
        shapes |= {f"encoder.layer.{i}.{name}.{kind}": s for name, kinds in layer.items() for kind, s in kinds.items()}
    weights = {}
    for name, shape in shapes.items():
        uniform = noise(torch.tensor([key_seed("dinov2", name)]), shape)[0]
        if name.endswith("weight") and len(shape) > 1:
            weights[name] = (uniform * 2 - 1) * (9 / uniform[0].numel()) ** 0.5
        elif name.endswith(("weight", "lambda1")):
            weights[name] = uniform + 0.5
        else:
            weights[name] = uniform * 2 - 1
        if name.startswith("embeddings"):
            weights[name] *= 0.01
    return weights


def inputs(size):
    """(2, 3, *size), about normal."""
    return F.interpolate(pictures(2, max(size)).float(), size).sub(120).div(60)


def layers(modules, network, x):
    """What each of `modules` makes of the images: the first stands for what comes into the first block."""
    found = {}
    hooks = [modules[1].register_forward_pre_hook(lambda _, given: found.update({LAYERS[0]: given[0].clone()}))]
    for name, module in zip(LAYERS[1:], modules[1:], strict=True):
        hooks.append(module.register_forward_hook(lambda _, __, y, name=name: found.update({name: y.clone()})))
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()
    return found


def ours(network, x):
    return layers([network.embeddings, *network.encoder["layer"], network.layernorm], network.tokens, x)


def meta(folder):
    """x -> layers of DINOv2's own code, and the parameters of its S, B and L without the mask's token."""
    sys.path.insert(0, str(Path(folder) / "dinov2"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that xFormers is not there
        from dinov2.models import vision_transformer as theirs
    options = {"img_size": 518, "patch_size": 14, "init_values": 1.0, "block_chunks": 0}  # as its hub's backbones
    network = theirs.DinoVisionTransformer(embed_dim=WIDTH, depth=DEPTH, num_heads=2, **options).eval()
    network.load_state_dict(renamed(random_weights()))
    with torch.device("meta"):
        whole = [getattr(theirs, f"vit_{size}")(**options) for size in ("small", "base", "large")]
    counts = [sum(p.numel() for name, p in one.named_parameters() if name != "mask_token") for one in whole]
    return lambda x: layers([network, *network.blocks, network.norm], network, x), counts


def renamed(weights):
    """By the names of DINOv2's own code."""
    names = {
        "embeddings.patch_embeddings.projection": "patch_embed.proj",
        "embeddings.position_embeddings": "pos_embed",
        "embeddings.": "",
        "encoder.layer": "blocks",
        "attention.output.dense": "attn.proj",
        "layer_scale1.lambda1": "ls1.gamma",
        "layer_scale2.lambda1": "ls2.gamma",
        "layernorm": "norm",
    }
    theirs = {}
    for name, value in weights.items():
        if ".query." in name:
            parts = [weights[name.replace("query", part)] for part in ("query", "key", "value")]
            name, value = name.replace("attention.attention.query", "attn.qkv"), torch.cat(parts)
        elif ".attention.attention." in name:
            continue
        for ours, other in names.items():
            name = name.replace(ours, other)
        theirs[name] = value
    return theirs


def transformers():
    """x -> layers of the package transformers, loaded from a file as ours is."""
    from transformers import Dinov2Config, Dinov2Model

    with tempfile.TemporaryDirectory() as folder:
        config = Dinov2Config(hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=2, image_size=518, patch_size=14)
        config.save_pretrained(folder)
        save_file(random_weights(), Path(folder) / "model.safetensors", {"format": "pt"})
        network = Dinov2Model.from_pretrained(folder).eval()
    return lambda x: layers([network.embeddings, *network.encoder.layer, network.layernorm], network, x)


if __name__ == "__main__":
    own, counts = meta(os.environ["GANDER_PEERS"])
    made = {"parameters": counts}
    for peer, network in (("meta", own), ("transformers", transformers())):
        made[peer] = {name: {layer: figures(y) for layer, y in network(inputs(size)).items()} for name, size in SIZES.items()}
    text = json.dumps(made, indent=1)
    FROZEN.write_text(text.replace(",\n    ", ", ").replace("[\n    ", "[").replace("\n   ]", "]") + "\n")
