"""DINOv2's transformer against its authors' code, and its weight file against the world."""

import hashlib
import http.server
import json
import os
import re
import struct
import sys
import threading
from pathlib import Path

import numpy as np
import peer_dinov2 as peer
import pytest
import torch
from peer_inception import figures, pictures
from PIL import Image
from safetensors.torch import save, save_file

from gander.errors import UserError
from gander.metrics import dinov2
from gander.metrics.dinov2 import DINOv2, prepared
from gander.metrics.features import extract, features
from gander.scoring import hint

FROZEN = json.loads(peer.FROZEN.read_text())


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(peer.random_weights(), path, {"format": "pt"})
    return path


@pytest.fixture(scope="module")
def network(file):
    return dinov2.load(file)[0]


def without_offset(monkeypatch, name):
    """The package transformers interpolates positions without it."""
    if name == "transformers":
        monkeypatch.setattr(dinov2, "OFFSET", 0)


# --- the architecture


def test_parameters_of_small_base_and_large():
    with torch.device("meta"):
        networks = [DINOv2(*size) for size in ((384, 12), (768, 12), (1024, 24))]
    counts = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert counts == FROZEN["parameters"] == [22_056_192, 86_579_712, 304_367_616]


@pytest.mark.parametrize("size", peer.SIZES)
@pytest.mark.parametrize("name", ["meta", "transformers"])
def test_every_layer_makes_the_numbers_of_the_reference(network, name, size, monkeypatch):
    without_offset(monkeypatch, name)
    made = {layer: figures(y) for layer, y in peer.ours(network, peer.inputs(peer.SIZES[size])).items()}
    wanted = FROZEN[name][size]
    assert list(wanted) == peer.LAYERS
    for layer, figure in wanted.items():
        np.testing.assert_allclose(made[layer], figure, rtol=1e-5, atol=1e-5 * figure[1], err_msg=layer)


@pytest.mark.parametrize("name", ["meta", "transformers"])
def test_every_layer_equals_the_peer(network, name, monkeypatch):
    folder = Path(os.environ.get("GANDER_PEERS", "nowhere"))
    if name == "meta" and not (folder / "dinov2").is_dir():
        pytest.skip("GANDER_PEERS names no folder with a checkout of dinov2")
    if name == "transformers":
        pytest.importorskip("transformers")
    theirs = peer.meta(folder)[0] if name == "meta" else peer.transformers()
    without_offset(monkeypatch, name)
    for size in peer.SIZES.values():
        wanted = theirs(peer.inputs(size))
        for layer, made in peer.ours(network, peer.inputs(size)).items():
            assert (made - wanted[layer]).abs().max() <= 1e-5 * wanted[layer].abs().max(), layer


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (5, 50), (37, 36), (1, 1)])
def test_positions_are_the_formula(network, rows, columns):
    """Cubic convolution (Keys 1981, a = -3/4) of the four neighbours on each axis, the border repeated."""
    table = network.embeddings.position_embeddings[0, 1:].double().numpy().reshape(37, 37, -1)

    def weight(x):
        x, a = abs(x), -0.75
        return ((a + 2) * x - (a + 3)) * x * x + 1 if x <= 1 else (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0

    def matrix(n):
        share = np.zeros((n, 37))
        for i in range(n):
            place = (i + 0.5) * 37 / (n + 0.1) - 0.5
            for j in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
                share[i, min(max(j, 0), 36)] += weight(place - j)
        return share

    wanted = np.einsum("ia,jb,abd->ijd", matrix(rows), matrix(columns), table).reshape(rows * columns, -1)
    made = network.embeddings.positions(rows, columns)[0]
    torch.testing.assert_close(made[0], network.embeddings.position_embeddings[0, 0], rtol=0, atol=0)
    np.testing.assert_allclose(made[1:].numpy(), wanted, atol=2e-7)  # of 0.01


# --- from images to vectors


@pytest.mark.parametrize("shape", [(32, 32), (224, 224), (90, 300), (500, 400)])
def test_images_are_prepared_as_by_pillow(shape):
    """dgm-eval's `--clean_resize`: Pillow's bicubic on each channel in floats, clipped; then ImageNet's mean and deviation."""
    x = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    channels = [Image.fromarray(x[:, :, c].astype(np.float32)).resize((224, 224), Image.Resampling.BICUBIC) for c in range(3)]
    wanted = (np.stack(channels, 2).clip(0, 255) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    made = prepared(torch.from_numpy(x).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(made, wanted, atol=2e-4)


def test_the_vector_is_the_class_token(network):
    images = pictures(2)
    vectors, logits = network(images)
    torch.testing.assert_close(vectors, network.tokens(prepared(images))[:, 0], rtol=0, atol=0)
    assert logits is None


def test_features(file):
    made = features("dinov2", file)
    assert (made.name, made.dimensions, made.resize, made.title) == ("dinov2", 128, "bicubic-antialiased-224", "Fréchet[dinov2]")
    assert made.hash == hashlib.sha256(file.read_bytes()).hexdigest()
    assert not made.reference
    grey = pictures(3)[:, :1]
    torch.testing.assert_close(made(grey)[0], made(grey.expand(-1, 3, -1, -1))[0], rtol=0, atol=0)
    assert not made(grey)[0].requires_grad
    with pytest.raises(UserError, match="dinov2 resizes in one way, bicubic-antialiased-224, so that there is no resize 'tf1'"):
        features("dinov2", file, resize="tf1")


@pytest.mark.parametrize("size", [1, 3])
def test_the_batch_changes_nothing(file, size):
    images, made = pictures(7, 48), features("dinov2", file)
    whole = made(images)[0].numpy()
    order = torch.tensor([4, 2, 6, 0, 1, 5, 3])
    parts = [(rows, images[rows]) for rows in order.split(size)]
    np.testing.assert_allclose(extract(made, parts, 7)[0], whole, rtol=1e-5, atol=1e-5)


def test_score_from_end_to_end(say, file, tmp_path, monkeypatch):
    monkeypatch.setenv("GANDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for folder, noise in (("real", 0), ("near", 5), ("far", 90)):
        Path(folder).mkdir()
        for i in range(24):
            image = 128 + 100 * np.sin(rng.uniform(0, 7) + np.arange(16)[:, None, None] * rng.uniform(0, 1)) * rng.uniform(-1, 1, 3)
            image = image + noise * rng.normal(size=(16, 16, 3))
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(f"{folder}/{i}.png")
    code, out, err = say(f"score near far --data real --samples 24 --features dinov2 --device cpu --weights {file}")
    assert code == 0, err
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert f"features   dinov2 {digest[:16]}, resize bicubic-antialiased-224" in out
    assert "by Fréchet[dinov2], lower is better: near < far" in out
    assert re.search(r"dinov2: .*; --features inception --weights FILE: the reference Inception weights", out)
    assert not re.search(r"FID|\bIS\b", out)


def test_the_hint_names_the_features_whose_weights_it_means(file):
    assert "--features inception --weights FILE" in hint(features("dinov2", file))
    assert "--features" not in hint(features("random-conv"))


# --- the weight file


def changed(change):
    weights = peer.random_weights(depth=1)
    change(weights)
    return save({name: value.contiguous() for name, value in weights.items()})


def header(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


NORM = "encoder.layer.0.norm1.weight"
WRONG = {
    "nothing": (b"", "holds no DINOv2 weights"),
    "words": (b"these are words, not weights", "holds no DINOv2 weights"),
    "a pickle": (b"PK\x03\x04" + bytes(100), "holds no DINOv2 weights"),
    "no JSON": (header("{nothing"), "holds no DINOv2 weights"),
    "an odd type": (header('{"a":{"dtype":"F3","shape":[1],"data_offsets":[0,4]}}') + bytes(4), "holds no DINOv2 weights"),
    "a type torch lacks": (
        header('{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}') + bytes(1),
        "another network: its a is of|holds no DINOv2 weights",
    ),
    "no tensors": (save({}), r"its embeddings.cls_token is lacking, where a DINOv2 has \(1, 1, 1024\)"),
    "another network": (save({"fc.weight": torch.zeros(3)}), "another network: its embeddings.cls_token is lacking"),
    "whole numbers": (changed(lambda w: w.update({NORM: torch.ones(128).long()})), f"its {NORM} is of torch.int64"),
    "a scalar": (changed(lambda w: w.update({"embeddings.cls_token": torch.tensor(1.0)})), r"its embeddings.cls_token is \(\)"),
    "width": (
        changed(lambda w: w.update({"embeddings.cls_token": torch.ones(1, 1, 100)})),
        "100 wide, where a DINOv2 has heads of 64",
    ),
    "no width": (changed(lambda w: w.update({"embeddings.cls_token": torch.ones(1, 1, 0)})), "0 wide"),
    "no layers": (
        changed(lambda w: [w.pop(name) for name in list(w) if "layer." in name]),
        "its encoder.layer.0.norm1.weight is lacking",
    ),
    "a far layer": (
        changed(lambda w: w.update({"encoder.layer.999999999.norm1.weight": torch.ones(128)})),
        r"its encoder.layer.1.norm1.weight is lacking",
    ),
    "a shape": (changed(lambda w: w.update({NORM: torch.ones(127)})), rf"its {NORM} is \(127,\), where a DINOv2 has \(128,\)"),
    "one lacks": (changed(lambda w: w.pop("layernorm.bias")), "its layernorm.bias is lacking"),
    "other positions": (
        changed(lambda w: w.update({"embeddings.position_embeddings": torch.ones(1, 257, 128)})),
        r"its embeddings.position_embeddings is \(1, 257, 128\), where a DINOv2 has \(1, 1370, 128\)",
    ),
    "registers": (
        changed(lambda w: w.update({"embeddings.register_tokens": torch.ones(1, 4, 128)})),
        r"its embeddings.register_tokens is \(1, 4, 128\), where a DINOv2 has none",
    ),
    "the giant": (
        changed(lambda w: w.update({"encoder.layer.0.mlp.weights_in.weight": torch.ones(8, 128)})),
        "is the giant of DINOv2, whose feed-forward layers gander has not",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_dinov2_is_one_line(name, tmp_path):
    data, says = WRONG[name]
    path = tmp_path / "some.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError, match=says) as caught:
        dinov2.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert f"take {dinov2.URL}" in str(caught.value)


def test_cut_off_anywhere(file, tmp_path):
    data, path = file.read_bytes(), tmp_path / "some.safetensors"
    for size in (3, 8, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(UserError, match="it is no whole safetensors file"):
            dinov2.load(path)


def test_no_such_file_and_a_folder_and_one_too_large(file, tmp_path, monkeypatch):
    for path in (tmp_path / "nothing.safetensors", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            dinov2.load(path)
    monkeypatch.setattr(dinov2, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match="more than any DINOv2"):
        dinov2.load(file)


def test_half_precision_is_made_whole(tmp_path):
    weights = {name: value.half() for name, value in peer.random_weights(depth=1).items()}
    save_file(weights, tmp_path / "half.safetensors")
    network, _ = dinov2.load(tmp_path / "half.safetensors")
    assert {p.dtype for p in network.parameters()} == {torch.float32}


# --- the cache and the Hub


@pytest.fixture
def hub(monkeypatch, tmp_path, file):
    """The Hub, on this machine: `hub.data` is the file there, `hub.etag` what it says of it."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            known = self.path.startswith(f"/{dinov2.REPOSITORY}/resolve/") and self.path.endswith(f"/{dinov2.FILE}")
            data = self.server.data if known else b""
            self.send_response(200 if data else 404)
            self.send_header("ETag", f'"{self.server.etag}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            return data

        def do_GET(self):
            if data := self.do_HEAD():  # the client asks for other things too
                self.server.asked += 1
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.asked, server.data = 0, file.read_bytes()
    server.etag = hashlib.sha256(server.data).hexdigest()
    threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("GANDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", here + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "ENDPOINT", here)
    if not huggingface_hub.hf_hub_url("a/b", "c").startswith(here):
        pytest.skip("this huggingface_hub asks elsewhere")
    yield server
    server.shutdown()
    server.server_close()


def test_it_is_fetched_once(hub, tmp_path):
    assert dinov2.load()[1] == hub.etag
    assert features("dinov2").hash == hub.etag
    assert hub.asked == 1
    assert [path.name for path in (tmp_path / "cache" / "weights").iterdir()] == ["dinov2-large.safetensors"]


@pytest.mark.parametrize("etag", ["0" * 64, hashlib.sha256(b"another").hexdigest()])
def test_what_has_another_hash_is_not_kept(hub, tmp_path, etag):
    hub.etag = etag
    with pytest.raises(UserError, match=r"could not be fetched \(what came is not that file\); fetch .* by hand and put it at .*"):
        dinov2.load()
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_one_too_large_is_not_fetched(hub, monkeypatch):
    monkeypatch.setattr(dinov2, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match=r"could not be fetched \(it has .* bytes there"):
        dinov2.load()
    assert hub.asked == 0


def test_a_damaged_one_in_the_cache(hub, tmp_path):
    lies = tmp_path / "cache" / "weights" / "dinov2-large.safetensors"
    lies.parent.mkdir(parents=True)
    lies.write_bytes(hub.data[:1000])
    with pytest.raises(UserError, match="delete it, and it is fetched again"):
        dinov2.load()


@pytest.mark.parametrize("missing", ["network", "file", "package"])
def test_where_it_cannot_be_fetched(hub, tmp_path, monkeypatch, missing):
    if missing == "network":
        hub.shutdown()
        hub.server_close()
    elif missing == "file":
        hub.data = b""
    else:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=f"fetch {dinov2.URL} by hand and put it at .*, or name it: --weights FILE") as caught:
        dinov2.load()
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "cache" / "weights" / "dinov2-large.safetensors") in str(caught.value)
    assert ("pip install 'gander-torch[hub]'" in str(caught.value)) == (missing == "package")
