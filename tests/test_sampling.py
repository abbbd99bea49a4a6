"""From a run to images: the circle between two latents, labels, what is written where."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gander import grids, recipes, sampling
from gander.errors import UserError
from gander.recipes.experiment import Facts
from gander.run import Run
from gander.train import checkpoint
from gander.train.samples import latents_of, sample


class Toy(torch.nn.Module):
    """The first twelve numbers of a latent as a 2×2 image; the label shifts them."""

    latent_dim, num_classes, resolution = 20, 3, 2

    def forward(self, latents, labels=None):
        return (latents[:, :12].view(-1, 3, 2, 2) + 10 * labels.view(-1, 1, 1, 1)).tanh()


# The great circle --------------------------------------------------------------------------------------------------------

vectors = st.integers(0, 10**6).map(
    lambda seed: torch.randn(2, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
)


@settings(max_examples=50, deadline=None)
@given(vectors)
def test_a_circle_begins_and_ends_at_its_ends(ends):
    a, b = ends
    torch.testing.assert_close(sampling.great_circle(a, b, 0.0), a)
    torch.testing.assert_close(sampling.great_circle(a, b, 1.0), b)


@settings(max_examples=50, deadline=None)
@given(ends=vectors, t=st.floats(0, 1))
def test_between_equal_lengths_the_length_stays_and_the_angle_grows_evenly(ends, t):
    a, b = (end / end.norm() * 5 for end in ends)
    point = sampling.great_circle(a, b, t)
    assert point.norm().item() == pytest.approx(5)
    angle = math.acos(float(a @ b) / 25)
    assert math.acos(max(-1.0, min(1.0, float(a @ point) / 25))) == pytest.approx(t * angle, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(ends=vectors, t=st.floats(0, 1))
def test_a_circle_is_the_same_from_both_ends(ends, t):
    a, b = ends
    torch.testing.assert_close(sampling.great_circle(a, b, t), sampling.great_circle(b, a, 1 - t))


def test_between_a_latent_and_itself_nothing_moves():
    a = torch.randn(16)
    for t in (0.0, 0.3, 1.0):
        torch.testing.assert_close(sampling.great_circle(a, a, t), a)
    torch.testing.assert_close(sampling.great_circle(a, a * (1 + 1e-6), 0.5), a)


def test_between_opposites_there_is_no_circle_and_still_a_number():
    a = torch.zeros(4)
    a[0] = 2.0
    for t in (0.0, 0.25, 0.5, 1.0):
        assert sampling.great_circle(a, -a, t).isfinite().all()


# Drawing -----------------------------------------------------------------------------------------------------------------


def test_images_are_the_samples_of_the_seed():
    images = sampling.draw_images(Toy(), 4, 7)
    assert torch.equal(images, sample(Toy(), 4, range(7)))
    torch.testing.assert_close(sampling.draw_images(Toy(), 4, 100)[:7], images)
    assert not torch.equal(sampling.draw_images(Toy(), 5, 7), images)


def test_labels_go_round_or_are_the_one_that_was_asked():
    latents, labels = latents_of(Toy(), 0, range(7))
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    asked, all_two = latents_of(Toy(), 0, range(7), label=2)
    assert all_two.tolist() == [2] * 7
    assert torch.equal(asked, latents)  # the label is no part of the draw
    assert torch.equal(sampling.draw_images(Toy(), 0, 3, label=0), Toy()(latents[:3], torch.zeros(3)))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_a_film_begins_at_every_sample_and_goes_round(k):
    film = sampling.draw_images(Toy(), 0, 4, label=1, interpolate=k)
    assert len(film) == 4 * k
    torch.testing.assert_close(film[::k], sampling.draw_images(Toy(), 0, 4, label=1))


def test_a_film_keeps_the_label_of_its_first_image():
    film = sampling.draw_images(Toy(), 0, 3, interpolate=2)
    torch.testing.assert_close(film[0], sampling.draw_images(Toy(), 0, 1)[0])
    torch.testing.assert_close(film[::2], sampling.draw_images(Toy(), 0, 3, label=0))


def test_a_film_of_more_than_a_batch_is_whole():
    film = sampling.draw_images(Toy(), 0, 5, label=0, interpolate=30)
    assert len(film) == 150
    steps = (film.roll(-1, 0) - film).flatten(1).norm(dim=1)
    assert steps.max() < 1  # no jump, not at the end of a batch and not where it goes round


def test_truncation_reaches_films_too():
    latents, _ = latents_of(Toy(), 0, range(3), truncation=0.1)
    film = sampling.draw_images(Toy(), 0, 3, label=0, truncation=0.1, interpolate=2)
    torch.testing.assert_close(film[0], Toy()(latents[:1], torch.zeros(1))[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 0}, "0 images were asked for"),
        ({"count": -1}, "-1 images"),
        ({"truncation": 0.0}, "truncation 0.0"),
        ({"truncation": -1.0}, "truncation -1.0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        sampling.draw_images(Toy(), 0, **{"count": 2, **options})


@pytest.mark.parametrize("options", [{"interpolate": -3}, {"truncation": math.nan}], ids=str)
def test_what_cannot_be_drawn_either_is_refused(options):
    with pytest.raises(UserError):
        sampling.draw_images(Toy(), 0, 2, **options)


# Labels by name ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "classes", "number"),
    [("dogs", ["cats", "dogs"], 1), ("1", ["cats", "dogs"], 1), ("0", ["1", "0"], 1), ("2", [], 2), (None, ["cats"], None)],
)
def test_a_class_has_a_name_and_a_number_and_the_name_goes_first(label, classes, number):
    assert sampling.numbered(label, classes, len(classes) or 3) == number


@pytest.mark.parametrize(
    ("label", "classes", "count", "words"),
    [
        ("dog", ["cats", "dogs"], 2, "no class called 'dog'; did you mean 'dogs'"),
        ("2", ["cats", "dogs"], 2, "no class called '2'; there are: cats, dogs"),
        ("-1", ["cats", "dogs"], 2, "no class called '-1'"),
        ("7", [], 3, "there are: 0 to 2"),
        ("cats", [], 0, "has no labels; leave it out"),
    ],
)
def test_a_class_that_is_not_there_is_refused(label, classes, count, words):
    with pytest.raises(UserError, match=words):
        sampling.numbered(label, classes, count)


# Writing -----------------------------------------------------------------------------------------------------------------


def shown(file):
    with Image.open(file) as image:
        return np.asarray(image)


def test_a_png_is_one_sheet_a_folder_is_single_files_a_gif_moves(tmp_path):
    images = torch.rand(6, 3, 4, 4) * 2 - 1
    pixels = grids.to_bytes(images)
    sampling.write(tmp_path / "a" / "sheet.png", images, columns=2)
    assert np.array_equal(shown(tmp_path / "a" / "sheet.png"), grids.enlarge(grids.grid(pixels, 2)))
    sampling.write(tmp_path / "b" / "singles", images)
    assert sorted(f.name for f in (tmp_path / "b" / "singles").iterdir()) == [f"{i:06d}.png" for i in range(6)]
    for i in range(6):
        assert np.array_equal(shown(tmp_path / "b" / "singles" / f"{i:06d}.png"), pixels[i])
    sampling.write(tmp_path / "film.gif", images)
    with Image.open(tmp_path / "film.gif") as film:
        assert (film.n_frames, film.size) == (6, (256, 256))


def test_what_is_neither_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"neither .png, .gif nor a folder"):
        sampling.write(tmp_path / "a.jpg", torch.zeros(1, 3, 4, 4))
    assert list(tmp_path.iterdir()) == []


# From a run --------------------------------------------------------------------------------------------------------------

KNOBS = {"resolution": 16, "width": 2, "steps": 2, "batch": 4}


@pytest.fixture
def run(tmp_path):
    """A run with checkpoints 1 and 2, each of three networks of its own."""
    facts = Facts(10, 3, 3)
    resolved = recipes.resolve(recipes.load("sagan_official"), KNOBS)
    described = {"recipe": "sagan_official", "knobs": resolved, "facts": vars(facts), "classes": ["a", "b", "c"], "seed": 0}
    made = Run.start(tmp_path / "run", described)[0]
    for step in (1, 2):
        torch.manual_seed(step)
        networks = recipes.load("sagan_official")(facts, **resolved).networks
        with torch.no_grad():
            networks["generator_ema"].linear.bias += 1
        checkpoint.save(made.checkpoints, step, networks, {})
    return made


def bias(run, step, name):
    from safetensors.torch import load_file

    return load_file(run.checkpoints / f"{step:08d}" / f"{name}.safetensors")["linear.bias"]


@pytest.mark.parametrize(
    ("options", "step", "name"),
    [({}, 2, "generator_ema"), ({"step": 1}, 1, "generator_ema"), ({"network": "live"}, 2, "generator")],
)
def test_the_generator_of_a_run_is_the_one_that_was_asked(options, step, name, run):
    generator, at = sampling.load_generator(run, **options)
    assert at == step
    assert torch.equal(generator.linear.bias, bias(run, step, name))
    assert not generator.training
    assert not any(p.requires_grad for p in generator.parameters())


def test_loading_and_sampling_write_nothing_into_the_run(run):
    before = {file: file.read_bytes() for file in run.folder.rglob("*") if file.is_file()}
    generator, _ = sampling.load_generator(run, standing=2)
    sampling.draw_images(generator, 0, 3)
    assert {file: file.read_bytes() for file in run.folder.rglob("*") if file.is_file()} == before


def test_two_loadings_sample_the_same_images(run):
    first, second = (sampling.draw_images(sampling.load_generator(run, standing=1)[0], 3, 5) for _ in range(2))
    assert torch.equal(first, second)


def test_standing_statistics_change_the_images_and_nothing_else(run):
    plain, standing = (sampling.load_generator(run, standing=n)[0] for n in (0, 2))
    changed = {name for name, tensor in plain.state_dict().items() if not torch.equal(tensor, standing.state_dict()[name])}
    assert changed
    assert all(name.endswith(("running_mean", "running_var")) for name in changed)


def test_a_damaged_checkpoint_is_said_and_the_one_before_is_sampled(run, capsys):
    (run.checkpoints / "00000002" / "generator.safetensors").unlink()
    assert sampling.load_generator(run)[1] == 1
    out = capsys.readouterr()
    assert "00000002 is damaged (generator.safetensors is missing); the one before it is taken" in out.out + out.err


def test_a_run_without_such_a_network_is_refused(run, monkeypatch):
    monkeypatch.setattr(recipes, "rebuild", lambda *args: SimpleNamespace(networks={"classifier": Toy()}))
    with pytest.raises(UserError, match="has no generator_ema to sample from; it has classifier"):
        sampling.load_generator(run)


def test_a_film_strip_has_a_row_for_each_sample(run):
    from gander import verbs

    path = verbs.sample(str(run.folder), count=3, interpolate=4, device="cpu")
    generator, _ = sampling.load_generator(run)
    film = grids.to_bytes(sampling.draw_images(generator, 0, 3, interpolate=4))
    assert np.array_equal(shown(path), grids.enlarge(grids.grid(film, 4)))
