"""What the server answers: the images of `gander sample`, the maps of the layers' own `weights`, and a line for what it cannot."""

import base64
import io
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from sites import CLASSES, make_run, served

from gander import look, verbs
from gander.sampling import draw_images, great_circle, load_generator
from gander.serving import Networks, networks
from gander.train.samples import images_of, latents_of


def json_of(said):
    assert said.code == 200, said.body
    assert said.headers["Content-Type"] == "application/json"
    return json.loads(said.body)


def line_of(said, code=400):
    assert said.code == code, said.body
    (line,) = json.loads(said.body).values()
    assert len(line.splitlines()) == 1
    return line


def pixels(png):
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def from_base64(text):
    return pixels(base64.b64decode(text))


def close(a, b):
    """Equal but for what rounding makes of 1e-5."""
    assert abs(a.astype(int) - b.astype(int)).max() <= 1


# Samples -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["seed=3", "seed=3&label=dogs", "seed=3&truncation=0.7", "seed=9007199254740991&label=0"])
def test_samples_are_the_files_of_gander_sample(words, site, tmp_path):
    asked = dict(pair.split("=") for pair in words.split("&"))
    options = {"label": asked.get("label"), "truncation": float(asked["truncation"]) if "truncation" in asked else None}
    verbs.sample(
        str(site.run.folder), out=str(tmp_path / "out"), count=5, seed=int(asked["seed"]), standing=1, device="cpu", **options
    )
    files = [(tmp_path / "out" / f"{i:06d}.png").read_bytes() for i in range(5)]
    said = json_of(site.ask(f"/api/samples?{words}&count=5"))
    assert [base64.b64decode(image["png"]) for image in said["images"]] == files
    assert (said["step"], said["seed"]) == (2, int(asked["seed"]))
    labels = {None: [0, 1, 2, 0, 1], "dogs": [1] * 5, "0": [0] * 5}[options["label"]]
    assert [(image["index"], image["label"]) for image in said["images"]] == list(enumerate(labels))
    for i in (0, 4):
        close(pixels(site.ask(f"/api/sample.png?{words}&index={i}").body), pixels(files[i]))
    close(from_base64(json_of(site.ask(f"/api/samples?{words}&start=3&count=1"))["images"][0]["png"]), pixels(files[3]))


def test_other_seeds_and_indices_are_other_images(site):
    found = {site.ask(f"/api/sample.png?{words}").body for words in ("", "index=3", "seed=1", "label=dogs", "truncation=0.3")}
    assert len(found) == 5
    assert site.ask("/api/sample.png").body == site.ask("/api/sample.png?seed=0&index=0").body


def test_an_archive_holds_the_same_images_and_says_what_they_are(site, tmp_path):
    said = site.ask("/api/samples.zip?seed=2&start=60&count=10&truncation=0.5")
    assert said.headers["Content-Type"] == "application/zip"
    assert said.headers["Content-Disposition"] == 'attachment; filename="a-run-step2-seed2.zip"'
    with zipfile.ZipFile(io.BytesIO(said.body)) as archive:
        assert archive.namelist() == [*(f"{i:06d}.png" for i in range(60, 70)), "samples.json"]
        for i in (60, 69):
            close(pixels(archive.read(f"{i:06d}.png")), pixels(site.ask(f"/api/sample.png?seed=2&index={i}&truncation=0.5").body))
        facts = json.loads(archive.read("samples.json"))
    assert (facts["step"], facts["seed"], facts["start"], facts["count"], facts["truncation"]) == (2, 2, 60, 10, 0.5)


def test_an_archive_of_several_batches_is_whole(site, monkeypatch):
    monkeypatch.setattr(networks, "SHOWN", 4)
    with zipfile.ZipFile(io.BytesIO(site.ask("/api/samples.zip?count=10").body)) as archive:
        for i in range(10):
            close(pixels(archive.read(f"{i:06d}.png")), pixels(site.ask(f"/api/sample.png?index={i}").body))


def test_between_four_samples_lies_the_great_circle(site):
    corners = (5, 0, 2, 9)
    for i, (x, y) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        said = site.ask(f"/api/between.png?seed=4&corners=5,0,2,9&x={x}&y={y}&label=dogs").body
        close(pixels(said), pixels(site.ask(f"/api/sample.png?seed=4&index={corners[i]}&label=dogs").body))
    ends, labels = latents_of(site.networks.generator, 4, corners, label=1)
    latent = great_circle(great_circle(ends[0], ends[1], 0.25), great_circle(ends[2], ends[3], 0.25), 0.625)
    middle = images_of(site.networks.generator, latent[None], labels[:1])[0].add(1).mul(127.5).permute(1, 2, 0).numpy()
    said = pixels(site.ask("/api/between.png?seed=4&corners=5,0,2,9&x=0.25&y=0.625&label=dogs").body)
    assert abs(said - middle.clip(0, 255)).max() <= 0.51
    of_the_first = site.ask("/api/between.png?corners=4,0,2,9").body  # sample 4 is of class 1
    assert of_the_first == site.ask("/api/between.png?corners=4,0,2,9&label=dogs").body
    assert of_the_first != site.ask("/api/between.png?corners=4,0,2,9&label=cats").body


# Where it looks ----------------------------------------------------------------------------------------------------------


def inputs_of(network, call):
    """What each attention layer of a network is given, in order: caught without gander.look."""
    caught = []
    hooks = [m.register_forward_pre_hook(lambda m, given: caught.append((m, given[0]))) for m in look.layers(network).values()]
    with torch.no_grad():
        call()
    for hook in hooks:
        hook.remove()
    return caught


def maps_of(layer):
    """(heads, q, h_k, w_k) in floats, of what came."""
    data = np.frombuffer(base64.b64decode(layer["maps"]), np.uint8).reshape(layer["heads"], layer["positions"], *layer["keys"])
    peaks = np.array(layer["peaks"]).reshape(layer["heads"], layer["positions"], 1, 1)
    return (data.astype(float) - 128) / 127 * peaks if layer["kind"] == "signed" else data / 255 * peaks


def agrees(layer, module, x, queries=None):
    expected = module.weights(x, queries)[0].detach().numpy()
    found = maps_of(layer)
    assert found.shape == expected.shape
    steps = 127 if layer["kind"] == "signed" else 255
    assert (abs(found - expected) <= abs(expected).max((-2, -1), keepdims=True) * (0.5 / steps + 1e-4) + 1e-12).all()


def test_maps_are_the_weights_of_every_position(site):
    said = json_of(site.ask("/api/look?seed=1&index=4&truncation=0.9"))
    close(from_base64(said["image"]), pixels(site.ask("/api/sample.png?seed=1&index=4&truncation=0.9").body))
    assert (said["index"], said["label"]) == (4, 1)
    generator, discriminator = (site.networks.looked[name].network for name in ("generator", "discriminator"))
    latents, labels = latents_of(generator, 1, [4], truncation=0.9)
    image = images_of(generator, latents, labels)
    calls = {"generator": lambda: generator(latents, labels), "discriminator": lambda: discriminator(image, labels)}
    assert [network["network"] for network in said["networks"]] == list(calls)
    for network in said["networks"]:
        caught = inputs_of(site.networks.looked[network["network"]].network, calls[network["network"]])
        assert len(caught) == len(network["layers"]) == 1
        for layer, (module, x) in zip(network["layers"], caught, strict=True):
            assert (layer["kind"], layer["size"], layer["gamma"]) == ("rows", [8, 8], 0.5)
            assert layer["positions"] == 64
            agrees(layer, module, x)
            assert np.ptp(maps_of(layer), 1).max() > 1e-3  # they are not all the same map


def test_a_pixel_is_asked_at_its_cell(site):
    whole = json_of(site.ask("/api/look?index=2"))["networks"]
    asked = json_of(site.ask("/api/look?index=2&y=5&x=14"))["networks"]
    for one, all_of_it in zip(asked, whole, strict=True):
        assert one["layers"][0]["positions"] == 1
        row = maps_of(all_of_it["layers"][0])[:, 2 * 8 + 7]
        assert abs(maps_of(one["layers"][0])[:, 0] - row).max() <= row.max() / 255


@pytest.mark.parametrize("attention", ["simple", "feature", "gate", "self+feature"])
def test_layers_of_every_kind_and_of_several_sizes(attention, tmp_path):
    run = make_run(tmp_path / "run", attention=attention, attention_at=(8, 16), classes=[])
    with served(Networks(run, standing=0)) as site:
        said = json_of(site.ask("/api/look"))["networks"][0]["layers"]
        generator = site.networks.generator
        caught = inputs_of(generator, lambda: generator(*latents_of(generator, 0, [0])))
        assert [layer["size"] for layer in said] == [list(x.shape[-2:]) for _, x in caught]
        assert {tuple(layer["size"]) for layer in said} == {(8, 8), (16, 16)}
        for layer, (module, x) in zip(said, caught, strict=True):
            weights = module.weights(x)[0].detach()
            if layer["kind"] == "channels":
                np.testing.assert_allclose(layer["shares"], weights.flatten(), rtol=1e-4)
            elif layer["kind"] == "positions":
                assert abs(maps_of(layer)[0, 0] - weights.mean(0).numpy()).max() <= weights.mean(0).max() / 255
            else:
                agrees(layer, module, x)


def test_maps_that_are_too_many_are_asked_for_row_by_row(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", attention="full", attention_at=(8, 16), classes=[])
    monkeypatch.setattr(networks, "MAPS", 64 * (64 + 256))  # those of the small one, and the same positions of the large one
    with served(Networks(run, standing=0)) as site:
        small, large = json_of(site.ask("/api/look"))["networks"][0]["layers"]
        assert (small["positions"], large["positions"], "maps" in large) == (64, 0, False)
        generator = site.networks.generator
        (module, x), (vast, z) = inputs_of(generator, lambda: generator(*latents_of(generator, 0, [0])))
        agrees(small, module, x)
        small, large = json_of(site.ask("/api/look?y=3&x=9"))["networks"][0]["layers"]
        agrees(small, module, x, torch.tensor([1 * 8 + 4]))
        agrees(large, vast, z, torch.tensor([3 * 16 + 9]))


def test_an_image_of_ones_own_is_shown_to_the_discriminator(site):
    picture = np.random.default_rng(0).integers(0, 256, (20, 16, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    said = json_of(site.ask("/api/look?label=dogs", "POST", out.getvalue()))
    shown = from_base64(said["image"])
    assert np.array_equal(shown, picture[2:18])
    (network,) = said["networks"]
    assert network["network"] == "discriminator"
    image = torch.from_numpy(shown.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    discriminator = site.networks.looked["discriminator"].network
    ((module, x),) = inputs_of(discriminator, lambda: discriminator(image, torch.tensor([1])))
    agrees(network["layers"][0], module, x)


# Runs that lack something ------------------------------------------------------------------------------------------------


def test_a_run_without_attention_says_so_and_samples(tmp_path):
    with served(Networks(make_run(tmp_path / "run", "dcgan", classes=[]), standing=0)) as site:
        facts = json_of(site.ask("/api/run"))
        assert "no attention layers" in facts["notes"][0]
        assert (facts["generator"], facts["looked"], facts["reads"], facts["classes"]) == (True, [], False, [])
        assert len(json_of(site.ask("/api/samples?count=2"))["images"]) == 2
        assert json_of(site.ask("/api/look"))["networks"] == []
        assert "no network that an image could be shown to" in line_of(site.ask("/api/look", "POST", b"x"))
        assert "has no labels; leave it out" in line_of(site.ask("/api/samples?label=cats"))


def test_a_run_without_a_generator_says_so_and_reads_images(tmp_path):
    run = make_run(tmp_path / "run", "autoencoder", classes=[], attention="self", attention_at=(8,))
    with served(Networks(run)) as site:
        facts = json_of(site.ask("/api/run"))
        assert facts["notes"] == ["This run has no generator, so there is nothing to sample."]
        for path in ("samples", "sample.png", "samples.zip", "between.png", "look"):
            assert line_of(site.ask(f"/api/{path}")) == "this run has no generator, so there is nothing to sample"
        out = io.BytesIO()
        Image.fromarray(np.full((16, 16, 3), 200, np.uint8)).save(out, "PNG")
        said = json_of(site.ask("/api/look", "POST", out.getvalue()))
        autoencoder = site.networks.reader
        with torch.no_grad():
            made = autoencoder(torch.full((1, 3, 16, 16), 200 / 127.5 - 1))[0].permute(1, 2, 0).add(1).mul(127.5).numpy()
        assert abs(from_base64(said["made"]) - made.clip(0, 255)).max() <= 0.51
        assert [layer["size"] for layer in said["networks"][0]["layers"]] == [[8, 8], [8, 8]]


def test_a_classifier_names_the_most_probable_classes(tmp_path):
    class Brightness(torch.nn.Module):
        def forward(self, images):
            return torch.stack([images.mean((1, 2, 3)) * k for k in (-1, 0, 1)], 1)

    one = Networks(make_run(tmp_path / "run", "autoencoder", classes=CLASSES))
    one.reader = Brightness()
    with served(one) as site:
        for grey, first in ((255, CLASSES[2]), (0, CLASSES[0])):
            out = io.BytesIO()
            Image.fromarray(np.full((16, 16, 3), grey, np.uint8)).save(out, "PNG")
            guesses = json_of(site.ask("/api/look", "POST", out.getvalue()))["guesses"]
            shares = np.exp([1, 0, -1]) / np.exp([1, 0, -1]).sum()
            assert guesses[0][0] == first
            np.testing.assert_allclose([share for _, share in guesses], shares, atol=1e-4)


def test_a_run_that_went_astray_is_shown_as_it_is(tmp_path):
    one = Networks(make_run(tmp_path / "run", attention="self", attention_at=(8,)), standing=0)
    with torch.no_grad():
        for network in (one.generator, one.looked["discriminator"].network):
            for parameter in network.parameters():
                parameter.fill_(torch.nan)
    with served(one) as site:
        assert len(json_of(site.ask("/api/samples?count=2"))["images"]) == 2
        for network in json_of(site.ask("/api/look"))["networks"]:
            assert network["layers"][0]["gamma"] is None
            assert not maps_of(network["layers"][0]).any()


def test_the_facts_of_a_run(site):
    facts = json_of(site.ask("/api/run"))
    assert (facts["run"], facts["recipe"], facts["step"], facts["resolution"]) == ("a run", "sagan_official", 2, 16)
    assert facts["classes"] == CLASSES
    assert facts["looked"] == ["generator", "discriminator"]
    assert (facts["shown"], facts["zipped"], facts["notes"]) == (64, 512, [])


def test_limits_follow_the_size_of_images(site, monkeypatch):
    for resolution, shown, zipped in ((32, 64, 512), (128, 64, 512), (256, 16, 256), (1024, 1, 16), (8192, 1, 1)):
        monkeypatch.setattr(site.networks, "resolution", resolution)
        assert (site.networks.shown, site.networks.zipped) == (shown, zipped)


def test_answering_writes_nothing_into_the_run(site):
    before = {file: file.stat().st_mtime_ns for file in site.run.folder.rglob("*")}
    for path in ("/api/samples?count=3", "/api/look", "/api/samples.zip?count=2", "/api/between.png", "/"):
        assert site.ask(path).code == 200
    assert {file: file.stat().st_mtime_ns for file in site.run.folder.rglob("*")} == before


def test_the_generator_is_the_one_that_is_asked_for(run):
    live = Networks(run, network="live", standing=0)
    expected, _ = load_generator(run, network="live", standing=0)
    image = draw_images(expected, 0, 1)[0].add(1).mul(127.5).permute(1, 2, 0).numpy()
    assert abs(live.samples(0, 0, 1, None, None)[0] - image.clip(0, 255)).max() <= 0.51


# Mistakes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("samples?sed=1", "no parameter called 'sed'; did you mean 'seed'?"),
        ("samples?seed=-1", "seed '-1' is not a whole number from 0 to 9,007,199,254,740,991"),
        ("samples?seed=9007199254740992", "seed '9007199254740992' is not"),
        ("samples?seed=1.5", "seed '1.5' is not"),
        ("samples?seed=", "seed '' is not"),
        ("samples?seed=%D9%A1", "is not a whole number"),  # an Arabic 1
        ("samples?seed=1_0", "seed '1_0' is not"),
        ("samples?seed=1&seed=2", "seed is given twice"),
        ("samples?seed", "'seed' is no list of name=value"),
        ("samples?label=%ff", "is no list of name=value"),
        ("samples?count=65", "count 65 is over 64, the most of one answer; ask again with start 64"),
        ("samples?count=1000000", "count 1000000 is over 64"),
        ("samples?count=99999999999", "is not a whole number from 1 to 1,000,000"),
        ("samples?count=0", "count '0' is not"),
        ("samples?start=1000000001", "start '1000000001' is not"),
        ("samples.zip?count=513", "count 513 is over 512, the most of one archive; gander sample --out FOLDER takes any"),
        ("samples?label=dog", "no class called 'dog'; did you mean 'dogs'?"),
        ("samples?label=3", "no class called '3'"),
        ("samples?label=%00%1b[2J", r"no class called '\x00\x1b[2J'"),
        ("samples?truncation=0", "truncation '0' is not a number from 0.01 to 10"),
        ("samples?truncation=-1", "truncation '-1' is not"),
        ("samples?truncation=nan", "truncation 'nan' is not"),
        ("samples?truncation=inf", "truncation 'inf' is not"),
        ("samples?truncation=1e999", "truncation '1e999' is not"),
        ("sample.png?index=x", "index 'x' is not"),
        ("sample.png?index=" + "9" * 400, "9...' is not"),
        ("between.png?x=1.01", "x '1.01' is not a number from 0 to 1"),
        ("between.png?corners=1,2,3", "corners '1,2,3' are not four numbers of samples, like 0,1,2,3"),
        ("between.png?corners=1,2,3,-4", "corners '-4' is not"),
        ("look?y=3", "a position is y and x; give both, or neither"),
        ("look?y=16&x=0", "y '16' is not a whole number from 0 to 15"),
        ("look?path=/etc/passwd", "no parameter called 'path'"),
        ("run?file=run.json", "no parameter called 'file'"),
        ("samples?" + "&".join(f"a{i}=1" for i in range(40)), "is no list of name=value"),
    ],
)
def test_a_bad_request_gets_400_and_a_line(path, words, site):
    assert words in line_of(site.ask(f"/api/{path}"))


def test_an_image_of_too_many_pixels_gets_400_and_a_line(site, monkeypatch):
    monkeypatch.setattr(networks, "IMAGE_PIXELS", 300)
    for width, words in ((16, None), (20, "the file has 20×16 pixels, over 300; send a smaller image")):
        out = io.BytesIO()
        Image.new("RGB", (width, 16)).save(out, "PNG")
        said = site.ask("/api/look", "POST", out.getvalue())
        assert said.code == 200 if words is None else line_of(said) == words


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(50), b"%PDF-1.7", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image_gets_400_and_a_line(data, site):
    assert line_of(site.ask("/api/look", "POST", data)).startswith("the file ")
