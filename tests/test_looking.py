"""From a run to pictures of where it looks: every network, samples and real images, and one line for what cannot be."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_hostile_runs import spoil

from gander import looking, recipes, verbs
from gander.data import open_source, prepare
from gander.errors import UserError
from gander.grids import save_png
from gander.models.xresnet import xresnet18
from gander.recipes.experiment import Facts
from gander.run import Run
from gander.sampling import draw_images, load_generator
from gander.train import checkpoint

KNOBS = {"resolution": 16, "width": 2, "latent": 4, "batch": 4, "steps": 2, "attention_at": (8,)}


def born(folder, name="sagan", classes=(), where="photos", **knobs):
    """A run with one checkpoint, of untrained networks."""
    recipe, facts = recipes.load(name), Facts(8, len(classes), 3)
    known = recipes.knobs(recipe)
    resolved = recipes.resolve(recipe, {key: value for key, value in (KNOBS | knobs).items() if key in known or key in knobs})
    data = {"where": str(where), "split": None}
    if Path(where).is_dir():
        data["fingerprint"] = prepare(open_source(where), 16, progress=False).fingerprint
    described = {"recipe": name, "knobs": resolved, "facts": vars(facts), "seed": 0, "classes": list(classes), "data": data}
    run, _ = Run.start(folder, described)
    torch.manual_seed(0)
    experiment = recipe(facts, **resolved)
    checkpoint.save(run.checkpoints, 2, experiment.networks, {"step": 2, "learner": experiment.learner.state_dict()})
    return run


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Two classes of three images."""
    monkeypatch.setenv("GANDER_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    for i, kind in enumerate(("cats", "dogs")):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for j in range(3):
            pixels = generator.integers(0, 100, (16, 16, 3), np.uint8) + np.uint8(150 * i)
            Image.fromarray(pixels).save(tmp_path / "photos" / kind / f"{j}.png")
    return tmp_path / "photos"


@pytest.fixture
def run(tmp_path, photos):
    return born(tmp_path / "run", where=photos)


def test_each_network_is_looked_at_on_all_it_can_see(run):
    sights, left_out = looking.look_at(run, images=3, points=2)
    assert not left_out
    made, real = "samples of seed 0", "real images"
    assert [(s.network, s.shown) for s in sights] == [("discriminator", made), ("discriminator", real), ("generator_ema", made)]
    for sight in sights:
        assert sight.seen.positions.shape == (3, 2, 2)
        assert sight.seen.layers[0].maps.shape == (3, 1, 2, 8, 8)
    table = looking.table(sights)
    assert len(table) == 4
    assert table[0].split() == ["network", "on", "layer", "side", "γ", "entropy", "distance"]
    assert all("SelfAttention  8×8" in line and line.endswith(" px") for line in table[1:])
    paths = looking.draw(run, sights, looking.folder_for(run, None))
    names = ["discriminator-samples-seed0-step2.png", "discriminator-real-seed0-step2.png", "generator_ema-samples-seed0-step2.png"]
    assert paths == [run.folder / "look" / name for name in names]
    for path in paths:
        with Image.open(path) as image:
            assert min(image.size) > 3 * 160


def test_a_discriminator_that_judges_pixels_also_says_what_it_thinks_of_composites(tmp_path, photos):
    small = {"width": 16, "discriminator_width": 16, "queries": 3, "depth": 1, "scales": 2, "latent": 16}
    run = born(tmp_path / "pixels", "pixel_discriminator", ("cats", "dogs"), photos, **small)
    sights, _ = looking.look_at(run, images=3, points=2)
    mixed = sights[2]
    assert [s.shown for s in sights[:3]] == ["samples of seed 0", "real images", "composites of real images and samples"]
    real = sights[1].seen.images
    assert mixed.regions.real.shape == (3, 1, 16, 16)
    assert mixed.regions.real.any()
    assert not mixed.regions.real.all()
    where = mixed.regions.real.expand(-1, 3, -1, -1)
    assert torch.equal(mixed.seen.images[where], real[where])
    assert not (mixed.seen.images == real)[~where].all()
    assert all(s.said.pixels.shape == (3, 1, 16, 16) and s.said.boxes.shape == (3, 3, 4) for s in sights[:3])
    assert all(s.said is None for s in sights[3:])
    assert "verdicts-composites-seed0-step2.png" in {path.name for path in looking.draw(run, sights, tmp_path / "look")}


def test_without_these_heads_there_are_no_verdicts_to_draw(tmp_path, photos):
    small = {"width": 16, "discriminator_width": 16, "boxes": 0.0, "pixels": 0.0, "depth": 1, "scales": 2, "latent": 16}
    run = born(tmp_path / "image", "pixel_discriminator", ("cats", "dogs"), photos, **small)
    sights, _ = looking.look_at(run, images=2, points=2)
    assert {s.shown for s in sights} == {"samples of seed 0", "real images"}
    assert all(s.said is None for s in sights)


def test_the_samples_are_those_of_gander_sample_in_both_networks(run):
    sights, _ = looking.look_at(run, images=3, seed=5)
    generator, _ = load_generator(run)
    for sight in sights:
        if sight.shown == "samples of seed 5":
            torch.testing.assert_close(sight.seen.images, draw_images(generator, 5, 3))


def test_the_live_generator_is_another_one(run, photos):
    sights, _ = looking.look_at(run, network="live", images=1)
    assert [p.network for p in sights] == ["generator", "discriminator", "discriminator"]


def test_real_images_are_the_runs_own_and_the_seed_chooses_them(run, photos):
    def real(**how):
        (sight,) = (p for p in looking.look_at(run, **how)[0] if p.shown == "real images")
        return sight.seen.images

    everyone = real(images=99)
    assert len(everyone) == 6
    assert torch.equal(real(images=2), everyone[:2])
    assert not torch.equal(real(images=6, seed=1), everyone)
    assert torch.equal(real(images=6, seed=1).sum((1, 2, 3)).sort().values, everyone.sum((1, 2, 3)).sort().values)


def test_a_class_is_shown_alone(tmp_path, photos):
    run = born(tmp_path / "two", "sagan_official", ["cats", "dogs"], photos)
    sights, left_out = looking.look_at(run, label="dogs", images=9)
    assert not left_out
    (real,) = (p for p in sights if p.shown == "real images")
    assert len(real.seen.images) == 3
    assert real.seen.images.mean() > 0  # dogs are the bright ones


def test_a_run_whose_images_are_gone_is_looked_at_without_them(run, photos):
    photos.rename(photos.with_name("moved"))
    sights, left_out = looking.look_at(run, images=1)
    assert {p.shown for p in sights} == {"samples of seed 0"}
    assert left_out.startswith("no look at real images: ")
    sights, left_out = looking.look_at(run, images=1, data=str(photos.with_name("moved")))
    assert not left_out
    assert "real images" in {p.shown for p in sights}


def test_other_images_than_the_runs_are_opened_only_where_they_are_named(run, photos):
    (photos / "cats" / "0.png").unlink()
    assert "holds others than those trained on" in looking.look_at(run, images=1)[1]
    assert not looking.look_at(run, images=1, data=str(photos))[1]
    run.described["data"]["where"] = "owner/name"
    assert "owner/name is not on this machine" in looking.look_at(run, images=1)[1]


def test_other_classes_than_the_runs_are_not_shown_to_a_network_that_is_told_the_label(tmp_path, photos):
    run = born(tmp_path / "two", "sagan_official", ["apes", "bees"], photos)
    assert "has other classes than the run: cats, dogs" in looking.look_at(run, images=1)[1]
    with pytest.raises(UserError, match="has other classes than the run"):
        looking.look_at(run, images=1, data=str(photos))


def test_a_class_without_images_is_said(tmp_path, photos):
    moved = photos.with_name("split")
    for kind, name in (("cats", "train/cats"), ("dogs", "val/dogs")):
        (moved / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / kind).rename(moved / name)
    run = born(tmp_path / "two", "sagan_official", ["cats", "dogs"], moved)
    assert looking.look_at(run, images=1, label="dogs")[1].endswith("has no image of class 1")
    assert not looking.look_at(run, images=1, label="cats")[1]


def test_a_broken_generator_is_said(run):
    networks = recipes.rebuild(run).networks
    with torch.no_grad():
        for p in networks["generator_ema"].parameters():
            p.fill_(float("nan"))
    checkpoint.save(run.checkpoints, 3, networks, {"step": 3})
    with pytest.raises(UserError, match="makes samples that hold NaN or infinity at step 3; take an earlier --step"):
        looking.look_at(run, images=1)


def test_layers_one_after_another_and_gates(tmp_path, photos):
    run = born(tmp_path / "gates", "locate", where=photos, attention="simple+feature+gate")
    sights, _ = looking.look_at(run, images=1)
    assert [layer.kind for layer in sights[0].seen.layers] == ["signed", "channels", "positions"]
    assert len(looking.table(sights)) == 1 + 3 * 3


def test_nothing_of_the_run_changes_but_its_look(run):
    before = {file: file.read_bytes() for file in run.folder.rglob("*") if file.is_file()}
    verbs.look(str(run.folder), images=1)
    after = {file: file.read_bytes() for file in run.folder.rglob("*") if file.is_file()}
    assert {file: data for file, data in after.items() if file.parent.name != "look"} == before
    assert len(after) == len(before) + 3


def test_a_classifier_is_looked_at_on_real_images(run, monkeypatch):
    network = xresnet18(2, width=8, attention="simple")
    checkpoint.save(run.checkpoints, 5, {"classifier": network}, {"step": 5})
    experiment = SimpleNamespace(networks={"classifier": network}, resolution=16, side=24)
    monkeypatch.setattr(recipes, "rebuild", lambda *_: experiment)
    run.described["classes"] = ["cats", "dogs"]
    ((name, words, step, _, seen, *_),), _ = looking.look_at(run, images=2)
    assert (name, words, step, seen.layers[0].kind) == ("classifier", "real images", 5, "signed")
    assert seen.images.shape == (2, 3, 16, 16)  # the middle of the squares of 24 that it learns from
    run.described["data"]["where"] = "gone"
    with pytest.raises(UserError, match=r"there are no images to look at .*gone.* --data FOLDER"):
        looking.look_at(run)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"images": 0}, "--images 0 is not a number of images; take 1 or more"),
        ({"points": -1}, "--points -1 is not a number of points"),
        ({"positions": ((3, 16),)}, r"position \(3, 16\) lies outside the image: y is from 0 to 15"),
        ({"step": 3}, "no checkpoint of step 3; there are: 2"),
        ({"label": "cats"}, "this run has no labels"),
        ({"data": "nowhere"}, "nowhere"),
    ],
    ids=str,
)
def test_what_cannot_be_had_gets_one_line_before_any_network_is_loaded(run, how, message, monkeypatch):
    monkeypatch.setattr(looking, "load_generator", None)
    with pytest.raises(UserError, match=message):
        looking.look_at(run, **how)
    assert not (run.folder / "look").exists()


def test_a_place_that_is_no_folder_is_refused(run, tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "look.png", tmp_path / "file"):
        for film in (True, False):
            with pytest.raises(UserError, match="is no folder"):
                verbs.look(str(run.folder), out=str(out), film=film)


def test_a_run_without_attention_says_so(tmp_path, photos):
    run = born(tmp_path / "plain", "dcgan", attention="none", attention_at=None)
    with pytest.raises(UserError, match=r"has no attention layers to look at: .*discriminator.*generator_ema.*--attention self"):
        looking.look_at(run)


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_a_look_that_is_a_link_is_not_followed(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (run.folder / "look").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="look is a link"):
        Run.open(run.folder)


def test_data_that_run_json_describes_oddly_is_no_crash(run):
    for odd in (5, None, [], {"where": 5}, {"where": None, "split": 7}):
        spoil(run.folder, data=odd)
        assert looking.look_at(Run.open(run.folder), images=1)[1].startswith("no look at real images: ")


def test_the_verb_tells_the_table_and_the_files(run, say, tmp_path):
    code, out, err = say(
        "look", run.folder, "--images", 2, "--positions", 3, 4, 15, 0, "--out", tmp_path / "out", "--device", "cpu"
    )
    assert (code, err) == (0, "")
    assert "generator_ema-samples-seed0-step2.png" in out
    assert len(list((tmp_path / "out").glob("*.png"))) == 3
    assert not (run.folder / "look").exists()


def grids_of(run, steps, side=24):
    for step in steps:
        save_png(run.samples / f"{step:08d}.png", np.full((side, side, 3), step % 250, np.uint8))


def frames_of(path):
    with Image.open(path) as film:
        found = []
        for i in range(film.n_frames):
            film.seek(i)
            found.append((np.asarray(film.convert("RGB"))[0, 0, 0], film.info["duration"]))
    return found


def test_a_film_has_the_grids_in_order_and_stays_at_the_last(run):
    grids_of(run, [0, 100, 200, 50])
    save_png(run.samples / "seed0-step9.png", np.zeros((8, 8, 3), np.uint8))
    path, frames = looking.film(run)
    assert (path, frames) == (run.folder / "look" / "film.gif", 4)
    found = frames_of(path)
    assert [colour for colour, _ in found] == pytest.approx([0, 50, 100, 200], abs=3)
    assert [duration for _, duration in found] == [500, 500, 500, 2500]


def test_a_long_film_is_cut_evenly(run, monkeypatch):
    monkeypatch.setattr(looking, "FRAMES", 5)
    grids_of(run, range(0, 210, 10))
    path, frames = looking.film(run)
    assert frames == 5
    assert [colour for colour, _ in frames_of(path)] == pytest.approx([0, 50, 100, 150, 200], abs=3)


def test_a_film_of_large_grids_is_reduced_and_of_small_ones_enlarged(run, tmp_path):
    for side, width in ((1500, looking.FRAME), (24, 264)):
        grids_of(run, [0, 1], side)
        path, _ = looking.film(run, tmp_path / str(side))
        with Image.open(path) as film:
            assert film.width == width


def test_films_that_cannot_be_made_get_one_line(run, monkeypatch, say):
    with pytest.raises(UserError, match="has no grids of samples to make a film of"):
        looking.film(run)
    grids_of(run, [0, 1])
    monkeypatch.setattr(looking, "MAX_PIXELS", 100)
    with pytest.raises(UserError, match=r"00000000\.png is no grid of samples .24×24 pixels"):
        looking.film(run)
    (run.samples / "00000000.png").write_bytes(b"no image")
    code, _, err = say("look", run.folder, "--film")
    assert code == 2
    assert "00000000.png is no grid of samples" in err
    assert err.count("\n") == 1
