"""Images -> vectors: order, batches, names, and what the smoke alarm smells."""

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import peer_inception as peer
import pytest
import torch
from scipy import ndimage

from gander.errors import UserError
from gander.metrics import frechet_distance, inception
from gander.metrics.features import FEATURES, Features, extract, features

PICTURES = peer.pictures(20, 16)


def batches(images, size, order=None):
    order = torch.arange(len(images)) if order is None else order
    return [(order[i : i + size], images[order[i : i + size]]) for i in range(0, len(images), size)]


def pixels(name="mine", digest="0" * 64, resize="none"):
    """Features that are the pixels themselves, with two logits."""
    return Features(name, digest, 3, resize, lambda x: (x.float().mean((2, 3)), x.float().mean((2, 3))[:, :2]))


def test_rows_are_those_of_the_indices():
    order = torch.from_numpy(np.random.default_rng(0).permutation(20))
    straight, logits = extract(pixels(), batches(PICTURES, 20), 20, logits=True)
    mixed, others = extract(pixels(), iter(batches(PICTURES, 7, order)), 20, logits=True)
    assert straight.dtype == logits.dtype == np.float32
    np.testing.assert_array_equal(straight, mixed)
    np.testing.assert_array_equal(logits, others)
    np.testing.assert_allclose(straight, PICTURES.double().mean((2, 3)).numpy(), rtol=1e-6)


def test_logits_only_where_they_are_asked_for_and_known():
    assert extract(pixels(), batches(PICTURES, 20), 20)[1] is None
    assert extract(features("random-conv"), batches(PICTURES, 20), 20, logits=True)[1] is None


@pytest.mark.parametrize(
    "wrong",
    [
        batches(PICTURES, 7)[:-1],  # some lack
        [*batches(PICTURES, 7), (torch.tensor([3]), PICTURES[:1])],  # one comes twice
        [(torch.zeros(2, dtype=torch.long), PICTURES[:2])],  # twice in a batch
    ],
)
def test_each_index_comes_once(wrong):
    with pytest.raises(ValueError, match=r"index of its own|did not come"):
        extract(pixels(), wrong, 20)


def test_numbers_that_are_not_finite():
    broken = Features("mine", "abcdef0123", 3, "none", lambda x: (x.float().mean((2, 3)) / 0, None))
    with pytest.raises(UserError, match=r"mine makes numbers that are not finite; its weights \(abcdef01…\) are damaged"):
        extract(broken, batches(PICTURES, 20), 20)


def test_grey_images_are_colour_images():
    grey = PICTURES[:, :1]
    alarm = features("random-conv")
    torch.testing.assert_close(alarm(grey)[0], alarm(grey.expand(-1, 3, -1, -1))[0], rtol=0, atol=0)
    with pytest.raises(UserError, match="images of 4 channels; random-conv takes 3, or 1"):
        alarm(torch.zeros(1, 4, 8, 8, dtype=torch.uint8))


def test_names():
    with pytest.raises(UserError, match="no features called 'inceptoin'; did you mean 'inception'"):
        features("inceptoin")
    with pytest.raises(UserError, match=r"random-conv has no weights to load, so that x\.pth is of no use to it"):
        features("random-conv", weights="x.pth")
    with pytest.raises(UserError, match="no resize 'clean'"):
        features("random-conv", resize="clean")
    with pytest.raises(UserError, match="no resize called 'tf'"):
        features("inception", weights="x.pth", resize="tf")


def test_the_word_fid_stands_only_with_the_reference():
    assert pixels("inception", inception.REFERENCE, "tf1").title == "FID"
    assert pixels("inception", inception.REFERENCE, "clean").title == "Fréchet[inception]"
    assert pixels("inception", "0" * 64, "tf1").title == "Fréchet[inception]"
    assert pixels("random-conv", inception.REFERENCE, "tf1").title == "Fréchet[random-conv]"
    assert not any("FID" in pixels(name).title for name in FEATURES)


def test_inception_through_the_loader(tmp_path):
    with torch.device("meta"):
        shapes = peer.shapes(inception.Inception())
    torch.save(peer.random_weights(shapes), tmp_path / "mine.pth")
    network = features("inception", tmp_path / "mine.pth")
    assert (network.dimensions, network.resize, network.title, len(network.hash)) == (2048, "tf1", "Fréchet[inception]", 64)
    vectors, logits = extract(network, batches(PICTURES[:3], 2), 3, logits=True)
    assert (vectors.shape, logits.shape) == ((3, 2048), (3, 1008))
    clean, _ = extract(features("inception", tmp_path / "mine.pth", resize="clean"), batches(PICTURES[:1], 1), 1)
    assert not np.allclose(clean[0], vectors[0], rtol=1e-2)


# --- the smoke alarm


def test_it_is_the_same_everywhere():
    """Its weights come from hashed integers: should this fail, give it another VERSION."""
    alarm = features("random-conv")
    assert alarm.hash == "174fea90010eac99eb9478d9cf1a25d4be573cf18c35b7095454c668a3d0c34d"
    assert (alarm.dimensions, alarm.resize, alarm.title) == (512, "none", "Fréchet[random-conv]")
    vectors, _ = extract(alarm, batches(PICTURES, 20), 20)
    assert vectors.shape == (20, 512)


@pytest.mark.parametrize("size", [1, 3, 20])
def test_the_batch_changes_nothing(size):
    alarm = features("random-conv")
    whole, _ = extract(alarm, batches(PICTURES, 20), 20)
    np.testing.assert_allclose(extract(alarm, batches(PICTURES, size), 20)[0], whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (5, 9), (64, 48)])
def test_any_size(shape):
    vectors, _ = features("random-conv")(torch.full((2, 3, *shape), 200, dtype=torch.uint8))
    assert vectors.isfinite().all()


def test_no_setting_leaks():
    """Neither into the features nor out of them."""
    alarm, wanted = features("random-conv"), features("random-conv")(PICTURES)[0]
    before = torch.backends.cuda.matmul.fp32_precision
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(alarm(PICTURES)[0], wanted)
    assert torch.backends.cuda.matmul.fp32_precision == before
    assert not wanted.requires_grad
    assert not torch.is_autocast_enabled("cpu")


def test_floats_are_refused():
    with pytest.raises(Exception, match=r"uint8|UInt8"):  # by beartype here, by a TypeError elsewhere
        features("random-conv")(torch.zeros(1, 3, 8, 8))


def test_the_alarm_grows_with_what_is_wrong(tmp_path, monkeypatch):
    """On real images: more noise, more blur, fewer classes, each time a larger distance than before."""
    folder = os.environ.get("GANDER_DATA")
    if not folder:
        pytest.skip("GANDER_DATA names no folder of real image sets")
    from gander.data import open_source, prepare

    monkeypatch.setenv("GANDER_CACHE", str(tmp_path))
    data = prepare(open_source(Path(folder) / "cifar10-32px-jpeg.zip", split="test"), 32)
    alarm, rng = features("random-conv"), np.random.default_rng(0)

    def vectors(images):
        return extract(alarm, batches(torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2), 100), len(images))[0]

    order = rng.permutation(len(data))
    images, labels = data.images[order], np.asarray(data.labels)[order]
    real, images, labels = vectors(images[:1000]), images[1000:], labels[1000:]
    rest = images[:800]
    noisy = [np.clip(rest + rng.normal(0, sigma, rest.shape), 0, 255).astype(np.uint8) for sigma in (20, 40, 80)]
    blurred = [ndimage.gaussian_filter(rest, (0, sigma, sigma, 0)) for sigma in (0.6, 1, 2)]
    fewer = [images[labels < k][:800] for k in (5, 2, 1)]
    floor = frechet_distance(vectors(rest), real)
    for worse in (noisy, blurred, fewer):
        distances = [floor, *(frechet_distance(vectors(one), real) for one in worse)]
        assert all(a * 1.2 < b for a, b in pairwise(distances)), distances
