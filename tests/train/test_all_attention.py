"""The games without convolution: what runs in a step, CutMix against its formula, and how a run of each goes on."""

import pytest
import torch
from games import images, make, weights
from operators import Operators
from torch.nn import functional as F

from gander import draws, recipes
from gander.cutmix import composite
from gander.data.batches import Batches
from gander.errors import UserError
from gander.layers.reversible import ReversibleSequence
from gander.layers.spectral_norm import refresh
from gander.losses import LOSSES
from gander.penalties import approximate_r1, r1
from gander.recipes.experiment import Facts
from gander.run import Run
from gander.train.fit import fit
from gander.train.gan import Gan

TINY = {"width": 8, "latent": 16, "discriminator_width": 12, "discriminator_depth": 1, "resolution": 16, "batch": 8, "steps": 4}
RECIPES = {
    "all_attention": {"depth": 1, "tokens": 4, "mapping_depth": 1},
    "all_attention_pyramid": {"depth": (1,)},
    "pixel_discriminator": {"depth": 1, "composite_warm_up": 1, "composites": 1.0, "queries": 4, "scales": 2},
}


def learner_of(name, classes=3, **more):
    torch.manual_seed(0)
    return recipes.load(name)(Facts(48, classes, 3), **{**TINY, **RECIPES.get(name, {}), **more}).learner


def data(batch=8, classes=3, **more):
    return Batches(*images(classes=classes), batch=batch, seed=0, **more)


def operators(name, **more):
    learner, batches = learner_of(name, **more), data()
    with Operators() as found:
        learner.to(torch.device("cpu"), more.pop("precision", "fp32"))
        log = learner.step(1, batches(1), draws.at_step(0, 1))
        learner.samples(0, 2)
    assert ("cutmix_pixels" in log) == (name == "pixel_discriminator")
    assert any("mm" in operator for operator in found.seen)
    return found.convolutions


@pytest.mark.parametrize("name", RECIPES)
def test_no_convolution_runs(name):
    """Forward and backward of both networks, penalties and samples. The control: with a discriminator of convolutions there are."""
    assert not operators(name)
    assert not operators(name, reversible=True, r1=1.0)
    if name != "pixel_discriminator":
        assert {"aten::convolution", "aten::convolution_backward"} <= operators(name, discriminator="sagan")


def test_an_update_with_composites_is_the_formula():
    """Both losses of the pixel discriminator, written out in float64: image, pixels, boxes, composites and their consistency."""
    options = {"dtype": torch.float64, "augment": "none", "clip": 0.0, "warm_up": 0, "batch": 8, "composite_warm_up": 0}
    options |= {"discriminator_lr": 1e-2}
    learner, batches = make("pixels", **options)
    naive, _ = make("pixels", **options)
    draw = draws.at_step(0, 0)
    log = learner.step(0, batches(0), draw)
    G, D, game = naive.generator.train(), naive.discriminator.train(), naive.cutmix
    [(real, labels)] = batches(0)[0]

    refresh(D)
    with torch.no_grad():
        fake = G(torch.randn(8, 16, generator=draw("latent discriminator 0")).double(), labels)  # the labels of the real images
    regions = game.cut(game.draw(draw("cutmix 0"), 8), (16, 16))
    mask = regions.real.double()
    mixed = mask * real + (1 - mask) * fake
    of_real, of_fake, of_mixed = (D.verdicts(x, labels) for x in (real, fake, mixed))
    pixels = F.softplus(-of_real.pixels).mean() + F.softplus(of_fake.pixels).mean()
    terms = {
        "discriminator_loss": F.softplus(-of_real.image).mean() + F.softplus(of_fake.image).mean(),
        "pixels": pixels,
        "cutmix_image": F.softplus(of_mixed.image).mean(),
        "cutmix_pixels": (mask * F.softplus(-of_mixed.pixels) + (1 - mask) * F.softplus(of_mixed.pixels)).mean(),
        "cutmix_consistency": (of_mixed.pixels - (mask * of_real.pixels + (1 - mask) * of_fake.pixels)).square().mean(),
    }
    loss = sum({"discriminator_loss": 1, "cutmix_image": 0.5}.get(name, 1.0) * value for name, value in terms.items())
    loss = loss + 0.1 * sum(value for name, (value, _) in game.discriminator(of_real, of_fake, of_mixed, regions).items()
                            if "boxes" in name)  # fmt: skip
    for name, value in terms.items():
        torch.testing.assert_close(log[name], value.detach(), msg=name)
    assert log["boxes"] > 0
    assert log["cutmix_boxes"] > 0
    descend(naive.discriminator_optimizer, D, loss)

    refresh(G)
    z = torch.randn(8, 16, generator=draw("latent generator")).double()
    other = torch.randint(3, (8,), generator=draw("label generator"))
    said = D.verdicts(G(z, other), other)
    loss = F.softplus(-said.image).mean() + F.softplus(-said.pixels).mean() + 0.1 * F.softplus(said.scores).mean()
    descend(naive.generator_optimizer, G, loss)
    for network in ("generator", "discriminator"):
        theirs = dict(naive.networks[network].named_parameters())
        for name, parameter in learner.networks[network].named_parameters():
            torch.testing.assert_close(parameter, theirs[name], rtol=1e-7, atol=1e-9, msg=f"{network}.{name}")


def descend(optimizer, network, loss):
    parameters = list(network.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
        parameter.grad = gradient
    optimizer.step()


def test_composites_come_by_one_coin_whose_chance_rises():
    learner, batches = make("pixels", composites=0.5, composite_warm_up=400, batch=4)
    seen = []
    for step in (0, 100, 400, 900):
        coins = [learner._cuts(learner._shares(batches(0)[0], draws.at_step(seed, step)), 0, step) for seed in range(400)]
        seen.append(sum(coin is not None for coin in coins) / 400)
    assert seen[0] == 0
    assert seen == pytest.approx([0, 0.125, 0.5, 0.5], abs=0.08)
    assert "cutmix_pixels" not in learner.step(0, batches(0), draws.at_step(0, 0))


@pytest.mark.parametrize(
    ("knobs", "there", "not_there"),
    [
        ({"image": False}, {"pixels", "cutmix_pixels", "boxes", "pixels_generator"}, {"cutmix_image"}),
        ({"pixels": 0.0}, {"cutmix_image", "boxes", "boxes_generator"}, {"pixels", "cutmix_consistency", "pixels_generator"}),
        ({"boxes": 0.0}, {"cutmix_image", "pixels", "cutmix_consistency"}, {"boxes", "cutmix_boxes", "boxes_generator"}),
        ({"composites": 0.0}, {"pixels", "boxes"}, {"cutmix_image", "cutmix_pixels", "cutmix_boxes"}),
        ({"bcr": 1.0, "zcr": 1.0, "lecam": 0.1}, {"bcr", "zcr", "cutmix_pixels"}, {"lecam"}),
    ],
)
def test_each_head_can_be_off(knobs, there, not_there):
    learner = learner_of("pixel_discriminator", **knobs)
    log = learner.step(1, data()(1), draws.at_step(0, 1))  # at step 0 their chance is 0
    assert there <= log.keys()
    assert not not_there & log.keys()
    assert all(value.isfinite() for value in log.values())


def test_without_its_image_head_the_game_is_that_of_the_mean_pixel():
    learner = learner_of("pixel_discriminator", image=False, augment="none")
    seen = []
    learner.discriminator.pixels.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    log = learner.step(0, data()(0), draws.at_step(0, 0))
    assert log["real_logit"] == pytest.approx(seen[0].mean().item(), rel=1e-4)
    assert log["fake_logit"] == pytest.approx(seen[1].mean().item(), rel=1e-4)
    real, fake = (x.mean((1, 2, 3)) for x in seen[:2])
    assert log["discriminator_loss"] == pytest.approx(LOSSES["logistic"].discriminator(real, fake).item())


@pytest.mark.parametrize("name", RECIPES)
def test_four_steps_are_two_and_two_to_the_last_bit(name, tmp_path):
    """With hashes, adaptive augmentation, LeCam and composites in some updates and not in others, all of which have a state."""
    knobs = {"adaptive": True, "lecam": 0.1, "bcr": 1.0, "flip": True}
    knobs |= {"composites": 0.5} if name == "pixel_discriminator" else {}

    def trained(folder, *lengths):
        run = Run.start(tmp_path / folder, {"recipe": name, "knobs": {}, "facts": {}, "seed": 0})[0]
        for steps in lengths:
            learner = learner_of(name, **knobs).to(torch.device("cpu"))
            fit(learner, data(), run, steps=steps, batch=8, log_every=4, save_every=2, sample_every=0)
        return learner, run

    (whole, straight), (parts, halved) = trained("straight", 4), trained("halved", 2, 4)
    for key, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(parts)[key]), key
    files = [sorted((run.checkpoints / "00000004").glob("*")) for run in (straight, halved)]
    assert [f.name for f in files[0]] == [f.name for f in files[1]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*files, strict=True))


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_half_precision_all_terms_are_finite_and_of_fp32(name, precision):
    learner = learner_of(name, lecam=0.1, bcr=1.0, approximate_r1=1.0).to(torch.device("cpu"), precision)
    log = learner.step(1, data()(1), draws.at_step(0, 1))
    assert {value.dtype for value in log.values()} == {torch.float32}
    assert all(value.isfinite() for value in log.values())


class Reversible(torch.nn.Module):
    def __init__(self, reversible):
        super().__init__()
        self.stack = ReversibleSequence([(torch.nn.Linear(6, 6), torch.nn.Linear(6, 6))], dim=-1, reversible=reversible)

    def forward(self, images, labels=None):
        return self.stack(images.mean((2, 3)).repeat(1, 4)).sum(1)


def game_of(discriminator, penalty, **more):
    generator = learner_of("all_attention").generator
    optimizers = [torch.optim.Adam(network.parameters()) for network in (generator, discriminator)]
    how = {"generator_optimizer": optimizers[0], "discriminator_optimizer": optimizers[1], "loss": LOSSES["logistic"]}
    return Gan(generator, discriminator, **how, penalties=[(penalty, 1.0)], **more)


def test_a_second_derivative_of_a_reversible_discriminator_is_refused_before_any_work():
    with pytest.raises(
        UserError, match="r1 takes a second derivative, and this discriminator is reversible, which has none; take app"
    ):
        game_of(Reversible(True), r1)
    for discriminator, penalty in ((Reversible(False), r1), (Reversible(True), approximate_r1)):
        log = game_of(discriminator, penalty).step(0, data()(0), draws.at_step(0, 0))
        assert log[penalty.__name__] > 0


@pytest.mark.parametrize(
    ("name", "knobs", "message"),
    [
        ("all_attention", {"adaptive": True, "loss": "relativistic"}, "says nothing here; take hinge or logistic"),
        ("all_attention", {"adaptive": True, "augment": "none"}, "has nothing to adapt"),
        ("all_attention", {"pixels": "window+lhs"}, "did you mean 'lsh'"),
        ("all_attention", {"resolution": 48}, "resolution 48 is not one of 16, 32"),
        ("all_attention_pyramid", {"head": "fourier"}, "patch is 1; take head linear, or patch 2"),
        ("all_attention_pyramid", {"depth": ()}, "take 1 or more blocks a side"),
        ("pixel_discriminator", {"image": False, "pixels": 0.0}, "leave it the image's head or the pixels'"),
        ("pixel_discriminator", {"composites": 1.5}, "composites in 1.5 of the updates"),
        ("pixel_discriminator", {"scales": 7}, "numbers of scales that can: 1, 2, 3, 4"),
    ],
)
def test_mistakes_get_a_line(name, knobs, message):
    with pytest.raises(UserError, match=message):
        learner_of(name, **knobs)


def test_cutmix_asks_for_pixels():
    cutmix = learner_of("pixel_discriminator").cutmix
    with pytest.raises(UserError, match="CutMix asks for a verdict on each pixel"):
        game_of(Reversible(False), r1, cutmix=cutmix)


def test_show_says_what_a_step_costs(capsys):
    from gander import verbs

    verbs.show("pixel_discriminator", **{**TINY, **RECIPES["pixel_discriminator"]})
    assert "GFLOP at batch 8" in capsys.readouterr().out


def test_composites_are_images_of_both():
    regions = learner_of("pixel_discriminator").cutmix.cut(torch.rand(5, 8), (16, 16))
    mixed = composite(torch.ones(5, 3, 16, 16), torch.zeros(5, 3, 16, 16), regions)
    assert torch.equal(mixed[:, :1] == 1, regions.real)
