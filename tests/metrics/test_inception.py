"""The Inception-v3 of the FID against the reference, and its weight file against the world."""

import hashlib
import http.server
import json
import os
import threading
from pathlib import Path

import numpy as np
import peer_inception as peer
import pytest
import torch
from PIL import Image

from gander.errors import UserError
from gander.metrics import inception
from gander.metrics.inception import Inception, resize_clean, resize_tf1

FROZEN = json.loads(peer.FROZEN.read_text())


@pytest.fixture(scope="module")
def weights():
    with torch.device("meta"):
        shapes = peer.shapes(Inception())
    return peer.random_weights(shapes)


@pytest.fixture(scope="module")
def network(weights):
    with torch.device("meta"):
        network = Inception()
    counts = {name: torch.tensor(0) for name in network.state_dict() if name.endswith("num_batches_tracked")}
    network.load_state_dict(weights | counts, assign=True)
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save(weights, path)
    return path


def named_by_hash(path, folder):
    """The same file under a name that carries the start of its hash, as the reference's does."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    link = folder / f"pt_inception-{digest[:8]}.pth"
    os.link(path, link)
    return link, digest


# --- the architecture


def test_parameters_and_names_are_those_of_the_reference():
    with torch.device("meta"):
        network = Inception()
    assert sum(p.numel() for p in network.parameters()) == FROZEN["parameters"] == 23_850_960
    names = json.dumps(dict(sorted(peer.shapes(network).items())))
    assert hashlib.sha256(names.encode()).hexdigest() == FROZEN["shapes"]


def test_every_layer_makes_the_numbers_of_the_reference(network):
    """torch-fidelity's own, for the same random weights and images of 32 px."""
    names = [name for name in FROZEN["layers"] if name not in ("features", "logits")]
    assert names == [name for name in network.trunk if not name.startswith("pool")]
    for name, made in peer.layers(network, peer.pictures(), names).items():
        figures = torch.tensor(peer.figures(made), dtype=torch.float64)
        torch.testing.assert_close(
            figures, torch.tensor(FROZEN["layers"][name], dtype=torch.float64), rtol=1e-5, atol=1e-5, msg=name
        )


def test_every_layer_equals_the_peer(network):
    folder = Path(os.environ.get("GANDER_PEERS", "nowhere"))
    if not (folder / "torch-fidelity").is_dir():
        pytest.skip("GANDER_PEERS names no folder with a checkout of torch-fidelity")
    theirs = peer.reference(folder)
    for images in (peer.pictures(), peer.pictures(2, 320)):
        names = [name for name in network.trunk if not name.startswith("pool")]
        wanted = peer.layers(theirs, images, names)
        for name, made in peer.layers(network, images, names).items():
            scale = wanted[name].abs().max()
            assert (made - wanted[name]).abs().max() <= 1e-5 * scale, name


def test_shapes_whatever_comes_in(network):
    for shape in ((1, 3, 8, 8), (2, 3, 40, 31)):
        pooled, logits = network(torch.zeros(shape, dtype=torch.uint8))
        assert (pooled.shape, logits.shape) == ((shape[0], 2048), (shape[0], 1008))


def test_the_batch_changes_nothing(network):
    images = peer.pictures(4)
    pooled, logits = network(images)
    for i in range(4):
        one, answers = network(images[i : i + 1])
        torch.testing.assert_close(one[0], pooled[i], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(answers[0], logits[i], rtol=1e-5, atol=1e-4)


# --- resizing


@pytest.mark.parametrize("size", [(4, 7), (32, 32), (299, 299), (400, 350)])
def test_tf1_is_the_formula(size):
    """Output i comes from place i·n/299, between its two neighbours; the last pixel is its own right neighbour."""
    x = np.random.default_rng(0).integers(0, 256, size).astype(np.float64)

    def rows(x):
        n = len(x)
        place = np.arange(299) * n / 299
        low = np.floor(place + 1e-9).astype(int)
        high = np.minimum(low + 1, n - 1)
        share = (place - low)[:, None]
        return x[low] * (1 - share) + x[high] * share

    made = resize_tf1(torch.from_numpy(x).float()[None, None])[0, 0].numpy()
    np.testing.assert_allclose(made, rows(rows(x.T).T), atol=0.02)  # places are float32, as in the graph


def test_tf1_at_its_own_size_is_the_image():
    x = peer.pictures(1, 299).float()
    torch.testing.assert_close(resize_tf1(x), x, rtol=0, atol=0.005)


@pytest.mark.parametrize("size", [(20, 33), (32, 32), (299, 299), (640, 480)])
def test_clean_is_pillow(size):
    """The filter of clean-fid: Pillow's bicubic on each channel in floats, clipped."""
    x = np.random.default_rng(0).integers(0, 256, size).astype(np.float32)
    pillow = np.asarray(Image.fromarray(x).resize((299, 299), Image.Resampling.BICUBIC)).clip(0, 255)
    made = resize_clean(torch.from_numpy(x)[None, None])[0, 0].numpy()
    np.testing.assert_allclose(made, pillow, atol=0.01)  # of 255


def test_an_unknown_resize():
    with pytest.raises(UserError, match="no resize called 'cleam'; did you mean 'clean'"):
        Inception("cleam")


# --- the weight file


def test_a_file_of_ones_own(file, network):
    loaded, digest = inception.load(file)
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert not any(p.requires_grad for p in loaded.parameters())
    assert not loaded.training
    torch.testing.assert_close(loaded(peer.pictures())[0], network(peer.pictures())[0], rtol=0, atol=0)


def test_the_name_must_fit_the_hash(file, tmp_path):
    good, digest = named_by_hash(file, tmp_path)
    assert inception.load(good)[1] == digest
    wrong = tmp_path / inception.FILE
    os.link(file, wrong)
    with pytest.raises(UserError, match=r"its name says sha256 6726825d…, it has .*; fetch it again from https") as caught:
        inception.load(wrong)
    assert "\n" not in str(caught.value)


def test_the_reference_may_be_of_the_old_format(weights, tmp_path, monkeypatch):
    """As the true file is: only the hash lets it in."""
    old = tmp_path / "old.pth"
    torch.save(weights, old, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match="holds no Inception weights"):
        inception.load(old)
    monkeypatch.setattr(inception, "REFERENCE", hashlib.sha256(old.read_bytes()).hexdigest())
    assert inception.load(old)[1] == inception.REFERENCE


class Bomb:
    def __reduce__(self):
        return (os.system, ("exit 1",))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "another network: its Conv2d_1a_3x3.conv.weight is lacking"),
        ({"fc.weight": torch.zeros(3)}, "another network"),
        ({"fc.weight": [1.0]}, "more in it than tensors"),
        ({"fc.weight": torch.zeros(3, dtype=torch.long)}, "more in it than tensors"),
        ({"fc.weight": Bomb()}, "more in it than plain tensors"),
        ([torch.zeros(3)], "holds no Inception weights"),
        (None, "holds no Inception weights"),
    ],
)
def test_other_content_is_one_line(content, says, tmp_path):
    path = tmp_path / "some.pth"
    torch.save(content, path)
    with pytest.raises(UserError, match=says) as caught:
        inception.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"words", b"PK\x03\x04", b"\x80\x02}."])
def test_other_bytes_are_one_line(data, tmp_path):
    path = tmp_path / "some.pth"
    path.write_bytes(data)
    with pytest.raises(UserError, match="holds no Inception weights") as caught:
        inception.load(path)
    assert "\n" not in str(caught.value)


def test_one_tensor_too_many_or_of_another_shape(weights, tmp_path, monkeypatch):
    with torch.device("meta"):
        network = Inception()
    with pytest.raises(UserError, match=r"its more is \(1,\), where the FID's Inception-v3 has none"):
        inception._check(Path("x"), network, weights | {"more": torch.zeros(1)})
    with pytest.raises(UserError, match=r"its fc.bias is \(1000,\), where the FID's Inception-v3 has \(1008,\)"):
        inception._check(Path("x"), network, weights | {"fc.bias": torch.zeros(1000)})


def test_no_such_file_and_a_folder_and_one_too_large(tmp_path, monkeypatch):
    for path in (tmp_path / "nothing.pth", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            inception.load(path)
    monkeypatch.setattr(inception, "MAX_BYTES", 10)
    (tmp_path / "large.pth").write_bytes(b"x" * 11)
    with pytest.raises(UserError, match="is larger than"):
        inception.load(tmp_path / "large.pth")


# --- the cache and the download


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Serves `server.data` under the reference's address, on this machine; `monkeypatch` makes that file the reference."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked += 1
            self.send_response(200 if self.server.data is not None else 404)
            self.end_headers()
            self.wfile.write(self.server.data or b"")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.asked, server.data = 0, None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("GANDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(inception, "URL", f"http://127.0.0.1:{server.server_port}/{inception.FILE}")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def as_reference(server, monkeypatch, file):
    """`file` is the reference now, and what the server has."""
    server.data = file.read_bytes()
    digest = hashlib.sha256(server.data).hexdigest()
    monkeypatch.setattr(inception, "REFERENCE", digest)
    monkeypatch.setattr(inception, "SIZE", len(server.data))
    monkeypatch.setattr(inception, "FILE", f"pt_inception-{digest[:8]}.pth")
    return digest


def test_it_is_fetched_once(server, as_reference, tmp_path):
    assert inception.load()[1] == as_reference
    assert inception.load()[1] == as_reference
    assert server.asked == 1
    assert [path.name for path in (tmp_path / "cache" / "weights").iterdir()] == [inception.FILE]


def test_a_damaged_one_in_the_cache(server, as_reference, tmp_path):
    lies = tmp_path / "cache" / "weights" / inception.FILE
    lies.parent.mkdir(parents=True)
    lies.write_bytes(server.data[:1000])
    with pytest.raises(UserError, match=r"is damaged or another file.*; delete it, and it is fetched again"):
        inception.load()


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data + b"x", lambda data: b"x" + data[1:], lambda data: None]
)
def test_what_is_not_the_reference_is_not_kept(server, as_reference, tmp_path, change):
    server.data = change(server.data)
    with pytest.raises(
        UserError, match=r"could not be fetched \(.*\); fetch .* by hand and put it at .*, or name it: --weights FILE"
    ):
        inception.load()
    assert not list((tmp_path / "cache").rglob("*.pth"))


def test_no_network(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="could not be fetched") as caught:
        inception.load()
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "cache" / "weights" / inception.FILE) in str(caught.value)
