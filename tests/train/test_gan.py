"""The game against itself written naively, and what must not change it."""

import pytest
import torch
from games import GAMES, make, weights

from gander import draws, look
from gander.attention import MultiHeadAttention
from gander.consistency import Consistency
from gander.data.augment import Augment
from gander.errors import UserError
from gander.layers.spectral_norm import refresh
from gander.train.ema import EMA, ready
from gander.train.learner import attention
from gander.train.samples import latents_of, sample

every_game = pytest.mark.parametrize("game", GAMES)


def take(learner, batches, steps, start=0, seed=0):
    for step in range(start, start + steps):
        log = learner.step(step, batches(step), draws.at_step(seed, step))
    return log


@pytest.mark.parametrize("simultaneous", [False, True])
def test_a_step_is_the_formula(simultaneous):
    """Hinge, Adam, R2 off: one step written out in float64, with the same draws."""
    options = {"simultaneous": simultaneous, "n_dis": 1, "r2": 0.0, "dequantize": False, "augment": "none"}
    learner, batches = make("article simultaneous", dtype=torch.float64, **options)
    naive, _ = make("article simultaneous", dtype=torch.float64, **options)
    draw = draws.at_step(0, 0)
    learner.step(0, batches(0), draw)

    G, D = naive.generator.train(), naive.discriminator.train()
    (real, _), *rest = batches(0)[0]
    assert not rest
    z = torch.randn(12, 128, generator=draw("latent discriminator 0")).double()
    z2 = z if simultaneous else torch.randn(12, 128, generator=draw("latent generator")).double()
    refresh(D)
    if simultaneous:
        refresh(G)
    with torch.no_grad():
        fake = G(z)
    loss = (1 - D(real)).relu().mean() + (1 + D(fake)).relu().mean()
    d_gradients = torch.autograd.grad(loss, list(D.parameters()))
    if not simultaneous:
        move(naive.discriminator_optimizer, D, d_gradients)
        refresh(G)
    g_gradients = torch.autograd.grad(-D(G(z2)).mean(), list(G.parameters()))
    if simultaneous:
        move(naive.discriminator_optimizer, D, d_gradients)
    move(naive.generator_optimizer, G, g_gradients)

    for network in ("generator", "discriminator"):
        theirs = dict(naive.networks[network].named_parameters())
        for name, parameter in learner.networks[network].named_parameters():
            torch.testing.assert_close(parameter, theirs[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("game", "augment"), [("article", "none"), ("article", "color,cutout"), ("dcgan", "none")])
def test_consistency_is_the_formula(game, augment):
    """Both losses with every term on, written out in float64; DCGAN's discriminator has batch norm, so passes are apart."""
    knobs = {"dtype": torch.float64, "spectral_norm": "both", "augment": augment, "loss": "hinge", "flip": False}
    knobs |= {"dequantize": False} if game == "article" else {}
    learner, batches = make(game, **knobs)
    naive, _ = make(game, **knobs)
    learner.consistency = Consistency(cr=2.0, bcr=3.0, zcr=4.0, batch_cr=5.0, sigma=0.3)
    draw = draws.at_step(0, 0)
    log = learner.step(0, batches(0), draw)

    G, D = naive.generator.train(), naive.discriminator.train()
    [(real, _)] = batches(0)[0]
    policy = Augment(augment)

    def looks(images, kind):
        return policy.apply(images, policy.draw(draw(f"augment {kind}"), 12))

    def latents(role):
        z = torch.randn(12, G.latent_dim, generator=draw(f"latent {role}")).double()
        return z, z + 0.3 * torch.randn(12, G.latent_dim, generator=draw(f"near {role}")).double()

    refresh(D)
    z, near = latents("discriminator 0")
    with torch.no_grad():
        fake, fake_near = (looks(G(latent), "fake 0") for latent in (z, near))
    real = looks(real, "real 0")
    of_real, of_fake = D(real), D(fake)
    of_changed_real = D(changed(real, torch.rand(12, 3, generator=draw("change real 0"))))
    of_changed_fake = D(changed(fake, torch.rand(12, 3, generator=draw("change fake 0"))))
    terms = {
        "cr": ((of_real - of_changed_real) ** 2).mean(),
        "bcr": ((of_fake - of_changed_fake) ** 2).mean(),
        "zcr": ((of_fake - D(fake_near)) ** 2).mean(),
        "batch_cr": (of_real.mean() - of_changed_real.mean()) ** 2,
    }
    loss = (1 - of_real).relu().mean() + (1 + of_fake).relu().mean()
    loss = loss + 5 * terms["cr"] + 3 * terms["bcr"] + 4 * terms["zcr"] + 5 * terms["batch_cr"]
    move(naive.discriminator_optimizer, D, torch.autograd.grad(loss, list(D.parameters())))
    refresh(G)
    z, near = latents("generator")
    fake, fake_near = G(z), G(near)
    terms["zcr_generator"] = ((fake - fake_near) ** 2).mean()
    loss = -D(looks(fake, "fake generator")).mean() - 0.4 * terms["zcr_generator"]
    move(naive.generator_optimizer, G, torch.autograd.grad(loss, list(G.parameters()), allow_unused=True))

    for name, value in terms.items():
        assert value > 0
        torch.testing.assert_close(log[name], value.detach())
    for network in ("generator", "discriminator"):
        theirs = dict(naive.networks[network].named_parameters())
        for name, parameter in learner.networks[network].named_parameters():
            torch.testing.assert_close(parameter, theirs[name], rtol=1e-9, atol=1e-11, msg=f"{network}.{name}")


def changed(images, numbers):
    """Each image mirrored where u < ½ and shifted by reflection, one after the other."""
    result = []
    for image, (coin, down, right) in zip(images, numbers.tolist(), strict=True):
        if coin < 0.5:
            image = image.flip(2)
        top, left = 2 - int(down * 5), 2 - int(right * 5)  # 16 pixels: by 2 at most
        padded = torch.nn.functional.pad(image[None], (2, 2, 2, 2), mode="reflect")[0]
        result.append(padded[:, 2 + top : 18 + top, 2 + left : 18 + left])
    return torch.stack(result)


def move(optimizer, network, gradients):
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()


@every_game
def test_the_same_draws_make_the_same_step(game):
    first, batches = make(game)
    second, _ = make(game)
    torch.manual_seed(1)
    take(first, batches, 2)
    torch.manual_seed(2)  # the global generator is nobody's
    take(second, batches, 2)
    for name, tensor in weights(first).items():
        assert torch.equal(tensor, weights(second)[name]), name


@pytest.mark.parametrize("accumulate", [2, 3, 6])
def test_accumulation_is_the_whole_batch_where_nothing_mixes_images(accumulate):
    """A discriminator without batch norm, against a generator in eval mode: gradients are means over images."""
    options = {"dtype": torch.float64, "spectral_norm": "both", "bcr": 10.0, "zcr": 5.0}
    whole, batches = make("wgan-gp", accumulate=1, **options)
    parts, cut = make("wgan-gp", accumulate=accumulate, **options)
    for learner in (whole, parts):
        learner.generator.eval().train = lambda mode=True: None
    take(whole, batches, 3)
    take(parts, cut, 3)
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(tensor, weights(parts)[name], rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_spectral_vectors_move_once_a_step_of_their_own_network(weight):
    consistency = {"cr": weight, "bcr": weight, "zcr": weight}
    learner, batches = make("article simultaneous", simultaneous=False, n_dis=3, **consistency)
    moves = {"generator": 0, "discriminator": 0}
    before = {n: next(b for k, b in net.named_buffers() if k.endswith(".u")) for n, net in learner.networks.items() if n in moves}
    seen = {name: {id(u)} for name, u in before.items()}

    def watch(name, network):
        def hook(module, inputs):
            seen[name].add(id(next(b for k, b in network.named_buffers() if k.endswith(".u"))))
            kept.append(next(b for k, b in network.named_buffers() if k.endswith(".u")))

        network.register_forward_pre_hook(hook)

    kept = list(before.values())  # alive, so that no id is used twice
    for name in moves:
        watch(name, learner.networks[name])
    take(learner, batches, 1)
    assert len(seen["discriminator"]) == 1 + 3
    assert len(seen["generator"]) == 1 + 1


def test_consistency_is_of_fp32_in_any_precision():
    learner, batches = make("consistent", precision="bf16")
    log = take(learner, batches, 1)
    assert {log[name].dtype for name in ("cr", "bcr", "zcr", "zcr_generator")} == {torch.float32}


@every_game
def test_logs_are_tensors_and_name_the_losses(game):
    learner, batches = make(game)
    log = take(learner, batches, 1)
    assert {"discriminator_loss", "generator_loss", "discriminator_gradient", "generator_gradient"} <= log.keys()
    assert all(isinstance(value, torch.Tensor) and value.dim() == 0 and not value.requires_grad for value in log.values())
    details = learner.details()
    assert any(name.startswith("gamma/generator") for name in details) == (game not in ("skinny", "pyramid", "pixels"))
    assert any(name.startswith("entropy/generator") for name in details)
    assert any(name.startswith("sigma/discriminator") for name in details) == (
        GAMES[game][2].get("spectral_norm") not in ("none", False) and game != "dcgan"
    )


def test_the_log_measures_how_far_and_how_widely_attention_looks():
    """Of four samples of seed 0, from 4×4 positions; nothing of the state moves."""
    learner, batches = make("official conditional", attention="self+multi_head")
    take(learner, batches, 1)
    before = weights(learner)
    details = learner.details()
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(learner).items())
    measured = {name: value for name, value in details.items() if name.startswith(("entropy/", "distance/"))}
    assert len(measured) == 2 * len(look.layers(learner.generator)) + 2 * len(look.layers(learner.discriminator)) == 8
    latents, labels = latents_of(learner.generator, 0, range(4))
    images = ready(learner.generator)(latents, labels)
    places = [(y, x) for y in (2, 6, 10, 14) for x in (2, 6, 10, 14)]
    for layer in look.maps(learner.discriminator, (images, labels), places).layers:
        assert details[f"entropy/discriminator.{layer.name}"] == pytest.approx(layer.entropy.mean().item(), rel=1e-5)
        assert details[f"distance/discriminator.{layer.name}"] == pytest.approx(layer.distance.mean().item(), rel=1e-5)
    none, batches = make("article", attention="none")
    take(none, batches, 1)
    assert not any(name.startswith(("entropy/", "distance/")) for name in none.details())


def test_each_head_has_a_line_of_its_own():
    layer = MultiHeadAttention(8, heads=2)
    found = attention(torch.nn.Sequential(layer), [torch.randn(4, 8, 8, 8)], 8, "d.")
    assert found.keys() == {"entropy/d.0.0", "entropy/d.0.1", "distance/d.0.0", "distance/d.0.1"}


def test_the_generator_step_leaves_the_discriminator_alone():
    learner, batches = make("article", discriminator_lr=0.0)
    before = weights(learner)
    take(learner, batches, 1)
    for name, tensor in weights(learner).items():
        if name.startswith("discriminator") and "." in name and not name.endswith((".u", ".v")):
            assert torch.equal(tensor, before[name]), name
    assert all(p.requires_grad for p in learner.discriminator.parameters())


def test_ema_is_the_formula_and_copies_buffers():
    learner, batches = make("article")
    network = learner.generator
    ema = EMA(network, 0.5)
    name = next(name for name, _ in network.named_parameters())
    expected = dict(network.named_parameters())[name].detach().clone()
    for step in range(4):
        take(learner, batches, 1, start=step)
        ema.update(network, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * dict(network.named_parameters())[name].detach()
    torch.testing.assert_close(dict(ema.network.named_parameters())[name], expected)
    for mine, theirs in zip(ema.network.buffers(), network.buffers(), strict=True):
        assert torch.equal(mine, theirs)


def test_sampling_leaves_no_trace():
    learner, batches = make("official conditional")
    take(learner, batches, 2)
    before, state = weights(learner), learner.state_dict()
    torch.manual_seed(5)
    random_state = torch.get_rng_state()
    learner.samples(0, 8)
    ready(learner.generator, [latents_of(learner.generator, 0, range(8))] * 3)
    assert torch.equal(torch.get_rng_state(), random_state)
    for name, tensor in weights(learner).items():
        assert torch.equal(tensor, before[name]), name
    assert str(learner.state_dict()) == str(state)
    assert learner.generator.training


def test_a_sample_does_not_depend_on_its_batch():
    learner, batches = make("official conditional")
    take(learner, batches, 3)
    generator = ready(learner.ema.network)
    whole = sample(generator, 7, range(10), batch=10)
    parts = sample(generator, 7, range(10), batch=3)
    assert (whole - parts).abs().max() <= 1e-5
    alone, label = latents_of(generator, 7, [6])
    many, labels = latents_of(generator, 7, range(10))
    assert torch.equal(alone[0], many[6])
    assert label[0] == labels[6] == 6 % 3


def test_truncation_cuts_the_normal_law():
    learner, _ = make("article")
    generator = learner.generator
    cut, _ = latents_of(generator, 0, range(200), truncation=0.5)
    assert cut.abs().max() <= 0.5
    # the variance of the normal law cut to [-t, t] is 1 - 2·t·φ(t) / (2·Φ(t) - 1)
    t = torch.tensor(0.5, dtype=torch.float64)
    density = torch.exp(-t * t / 2) / (2 * torch.pi) ** 0.5
    variance = 1 - 2 * t * density / (2 * torch.special.ndtr(t) - 1)
    assert abs(cut.double().var() - variance) < 0.02 * variance


def test_standing_statistics_are_those_of_the_stated_batches():
    learner, batches = make("article")
    take(learner, batches, 2)
    generator = learner.ema.network
    inputs = [latents_of(generator, 0, range(i * 16, i * 16 + 16)) for i in range(4)]
    standing = ready(generator, inputs)
    seen = []
    fresh = ready(generator)
    norm = next(m for m in fresh.modules() if hasattr(m, "running_mean"))
    norm.register_forward_pre_hook(lambda module, args: seen.append(args[0].mean((0, 2, 3))))
    fresh.train()
    for batch in inputs:
        fresh(*batch)
    mean = next(m for m in standing.modules() if hasattr(m, "running_mean")).running_mean
    torch.testing.assert_close(mean, torch.stack(seen).mean(0), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(mean, next(m for m in generator.modules() if hasattr(m, "running_mean")).running_mean)


def test_samples_do_not_hang_on_running_statistics():
    """With the small momentum of the official recipe they are for thousands of steps mostly of no network at all."""
    learner, batches = make("official conditional")
    take(learner, batches, 2)
    before = learner.samples(0, 6)
    for norm in learner.ema.network.modules():
        if hasattr(norm, "running_mean"):
            norm.running_mean.fill_(7.0)
    assert torch.equal(learner.samples(0, 6), before)


def test_what_a_user_has_frozen_stays_frozen():
    learner, batches = make("article")
    first = next(learner.discriminator.parameters()).requires_grad_(False)
    before = first.clone()
    take(learner, batches, 2)
    assert not first.requires_grad
    assert torch.equal(first, before)
    assert sum(p.requires_grad for p in learner.discriminator.parameters()) > 3


def test_fp16_that_no_scale_can_save_is_said():
    learner, _ = make("article", precision="fp16")
    learner.details()
    for scaler in learner.precision.scalers.values():
        scaler.load_state_dict({**scaler.state_dict(), "scale": 0.5})
    with pytest.raises(UserError, match="not finite in fp16 at any scale"):
        learner.details()
