"""Every game: two steps on a CPU, with every loss and with everything switched on. Other learners have tests of their own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gander import draws, recipes
from gander.errors import UserError
from gander.recipes import RECIPES
from gander.recipes.experiment import Facts

GAMES = [name for name in RECIPES if "generator_lr" in recipes.knobs(recipes.load(name))]


ATTENTION_ALONE = ("all_attention", "all_attention_pyramid", "pixel_discriminator")


def batches(experiment, facts, size):
    images = torch.randn(size, facts.channels, experiment.resolution, experiment.resolution).clamp(-1, 1)
    return [[(images, torch.arange(size) % max(1, facts.num_classes))]] * experiment.learner.draws_per_step


@pytest.mark.parametrize("name", GAMES)
@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("loss", ["hinge", "logistic", "least_squares", "wasserstein", "relativistic"])
def test_two_steps(name, classes, loss):
    facts = Facts(100, classes, 3)
    experiment = recipes.load(name)(
        facts,
        resolution=16,
        width=8 if name in ATTENTION_ALONE else 4,
        batch=4,
        steps=2,
        loss=loss,
        augment="color,translation,cutout",
        flip=True,
    )
    before = [p.detach().clone() for p in experiment.networks["generator"].parameters()]
    for step in range(2):
        log = experiment.learner.step(step, batches(experiment, facts, 4), draws.at_step(0, step))
        assert all(value.isfinite() for value in log.values())
    moved = [not torch.equal(a, b) for a, b in zip(before, experiment.networks["generator"].parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2
    images = experiment.learner.samples(0, 5)
    assert images.shape == (5, 3, 16, 16)
    assert images.abs().max() <= 1


@pytest.mark.parametrize("name", GAMES)
def test_what_the_sources_do(name):
    knobs = {key: knob.default for key, knob in recipes.knobs(recipes.load(name)).items()}
    if name == "dcgan":
        assert (knobs["generator_lr"], knobs["betas"], knobs["loss"], knobs["latent"]) == (2e-4, (0.5, 0.999), "logistic", 100)
    elif name.startswith("locate"):
        assert knobs["discriminator_lr"] == 4 * knobs["generator_lr"]
        assert (knobs["optimizer"], knobs["batch"], knobs["n_dis"]) == ("nadam", 16, 1)
        assert (knobs["attention"], knobs["width"], knobs["latent"], knobs["spectral_norm"]) == ("feature+gate", 48, 128, "both")
        if name == "locate":
            assert (knobs["loss"], knobs["generator_lr"], knobs["cr"]) == ("hinge", 2e-4, 1.0)
        else:
            assert (knobs["generator_lr"], knobs["betas"]) == (5e-4, (0.5, 0.9))
            assert (knobs["loss"], knobs["cr"], knobs["batch_cr"]) == ("saturating_hinge", 0, 100)
    elif name == "pixel_discriminator":
        assert (knobs["loss"], knobs["betas"], knobs["generator_lr"]) == ("logistic", (0.0, 0.999), 1e-4)
        assert (knobs["pixels"], knobs["pixel_consistency"], knobs["composites"], knobs["boxes"]) == (1.0, 1.0, 0.5, 0.1)
    elif name in ATTENTION_ALONE:
        assert (knobs["loss"], knobs["betas"], knobs["bcr"]) == ("logistic", (0.0, 0.99), 10.0)
        assert (knobs["discriminator_attention"], knobs["augment"]) == ("l2", "color,translation,cutout")
        assert knobs["discriminator_lr"] == 4 * knobs["generator_lr"] == 4e-4
    else:
        assert knobs["discriminator_lr"] == 4 * knobs["generator_lr"] == 4e-4
        assert (knobs["betas"], knobs["loss"], knobs["n_dis"], knobs["spectral_norm"]) == ((0.0, 0.9), "hinge", 1, "both")


def test_unknown_knobs_are_refused():
    with pytest.raises(UserError, match="did you mean 'generator_lr'"):
        recipes.resolve(recipes.load("sagan"), {"generator_rl": 1.0})


def test_labels_that_are_not_used_are_named():
    for name in ("sagan", "dcgan", "locate", "locate_faithful"):
        notes = recipes.load(name)(Facts(10, 5, 3), resolution=16, width=4).notes
        assert any("labels (5 classes) are not used" in note for note in notes)
    assert not any("labels" in note for note in recipes.load("sagan_official")(Facts(10, 5, 3), resolution=16, width=4).notes)


@settings(max_examples=25, deadline=None)
@given(
    resolution=st.sampled_from([16, 32, 64]),
    width=st.integers(1, 9),
    attention=st.sampled_from(["none", "self", "full", "article", "residual", "feature", "gate", "self+feature"]),
    name=st.sampled_from(sorted(set(GAMES) - set(ATTENTION_ALONE))),
    classes=st.integers(0, 3),
)
def test_any_width_and_resolution_make_networks_that_fit(resolution, width, attention, name, classes):
    width += width % 2 if name == "locate" else 0  # refuses odd ones
    with torch.device("meta"):
        experiment = recipes.load(name)(Facts(10, classes, 1), resolution=resolution, width=width, attention=attention)
        labels = torch.zeros(2, dtype=torch.int64)
        images = experiment.networks["generator"](torch.empty(2, experiment.networks["generator"].latent_dim), labels)
        assert images.shape == (2, 1, resolution, resolution)
        assert experiment.networks["discriminator"](images, labels).shape == (2,)


@settings(max_examples=15, deadline=None)
@given(
    resolution=st.sampled_from([16, 32, 64]),
    width=st.integers(8, 70),
    name=st.sampled_from(ATTENTION_ALONE),
    classes=st.integers(0, 3),
)
def test_any_width_of_tokens_makes_networks_that_fit(resolution, width, name, classes):
    with torch.device("meta"):
        networks = recipes.load(name)(Facts(10, classes, 1), resolution=resolution, width=width).networks
        labels = torch.zeros(4, dtype=torch.int64)
        images = networks["generator"](torch.empty(4, networks["generator"].latent_dim), labels)
        assert images.shape == (4, 1, resolution, resolution)
        assert networks["discriminator"](images, labels).shape == (4,)


def test_the_generators_loss_of_locate_faithful_dies_where_the_discriminator_is_fooled():
    from gander.recipes.locate_faithful import GAMES

    fake = torch.tensor([-1.0, 0.5, 1.5, 3.0], requires_grad=True)
    loss = GAMES["saturating_hinge"].generator(None, fake)
    loss.backward()
    assert loss.item() == pytest.approx((2 + 0.5) / 4)
    assert fake.grad.tolist() == [-0.25, -0.25, 0, 0]


def test_show_prints_the_parameter_counts_of_locate(capsys):
    from gander import verbs

    verbs.show("locate_faithful", resolution=128, batch=1)
    out = capsys.readouterr().out
    assert "generator        56,398,266 parameters" in out
    assert "discriminator    46,846,560 parameters" in out


@pytest.mark.parametrize("name", ["dcgan", "locate", "locate_faithful", "sagan", "sagan_official", "autoencoder"])
def test_a_place_for_no_attention_is_said_and_changes_nothing(name):
    """So that none can be an arm of a comparison."""
    recipe = recipes.load(name)
    with torch.device("meta"):
        plain, placed = (recipe(Facts(50_000, 0, 3), resolution=32, attention="none", **at) for at in ({}, {"attention_at": (8,)}))
    said = set(placed.notes) - set(plain.notes)
    assert said == {"attention at 8 changes nothing, as attention is none; --attention self is one"}
    for key, network in plain.networks.items():
        assert [p.shape for p in network.parameters()] == [p.shape for p in placed.networks[key].parameters()]
