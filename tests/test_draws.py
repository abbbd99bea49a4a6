"""A draw is a function of its key: no history, no machine, no version of gander changes it."""

import subprocess
import sys
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gander import draws

words = st.text(st.characters(exclude_characters="\0"), max_size=8)
parts = st.one_of(words.filter(lambda word: not word.lstrip("-").isdecimal()), st.integers(-(10**9), 10**9))


@settings(max_examples=50, deadline=None)
@given(st.lists(parts, max_size=4))
def test_the_same_key_is_the_same_numbers(key):
    assert torch.equal(torch.rand(5, generator=draws.generator(*key)), torch.rand(5, generator=draws.generator(*key)))


@settings(max_examples=100, deadline=None)
@given(st.lists(parts, max_size=4), st.lists(parts, max_size=4))
def test_another_key_is_another_seed(one, other):
    """Parts are kept apart: (1, 23) is not (12, 3), and ("a", "b") is not ("ab",). No part at all is one empty part."""
    assert (draws.key_seed(*one) == draws.key_seed(*other)) == ((one or [""]) == (other or [""]))


def test_seeds_fit_63_bits():
    seeds = [draws.key_seed("sample", 0, i) for i in range(1000)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62
    assert len({seed % 2**32 for seed in seeds}) == 1000  # the bits that torch's CPU generator makes use of


@pytest.mark.parametrize(
    ("key", "seed"),
    [
        (("step", 0, 0, "latent generator"), 7844787875526460054),
        (("sample", 0, 0), 8504193258220890774),
        (("order", 0, 0), 3906830348122062774),
    ],
)
def test_seeds_never_change(key, seed):
    """Pinned: with other seeds a run that is resumed, and every published sample, would be another."""
    assert draws.key_seed(*key) == seed


def test_numbers_never_change():
    uniform = torch.rand(3, generator=draws.at_step(0, 0)("flip 0"), dtype=torch.float64)
    assert uniform.tolist() == [0.9630531933465308, 0.7202855041837404, 0.2962878729304649]
    assert torch.randint(10, (8,), generator=draws.at_step(0, 0)("label generator")).tolist() == [4, 5, 7, 5, 6, 4, 6, 0]
    assert torch.randperm(8, generator=draws.generator("order", 0, 0)).tolist() == [5, 1, 0, 3, 6, 2, 4, 7]
    normal = torch.randn(3, generator=draws.of_sample(0, 0))
    torch.testing.assert_close(
        normal, torch.tensor([1.7831060886383057, -0.920365035533905, 0.8143843412399292]), rtol=1e-5, atol=1e-6
    )


def test_steps_purposes_and_seeds_are_independent():
    """No two draws of a small grid are alike, and none is correlated with another."""
    drawn = [
        torch.randn(4096, generator=draws.at_step(seed, step)(purpose))
        for seed, step, purpose in product(range(3), range(3), ["latent generator", "latent discriminator 0", "flip 0"])
    ]
    table = torch.corrcoef(torch.stack(drawn)) - torch.eye(len(drawn))
    assert table.abs().max() < 6 / 4096**0.5


def test_one_purpose_drawn_twice_begins_again():
    draw = draws.at_step(3, 4)
    first = torch.randn(7, generator=draw("latent generator"))
    torch.randn(100, generator=draw("flip 0"))
    torch.randn(100)
    assert torch.equal(torch.randn(7, generator=draw("latent generator")), first)


def test_the_global_generator_is_nobodys():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    torch.randn(3, generator=draws.of_sample(1, 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_generators_live_on_the_cpu():
    assert draws.generator("anything").device == torch.device("cpu")


def test_seeds_do_not_depend_on_the_process():
    """Unlike `hash` of a word. The module is read alone: torch is slow to load, and is not needed for a seed."""
    code = (
        "import sys, types; sys.modules['torch'] = types.SimpleNamespace(Generator=object, Tensor=object)\n"
        f"exec(open({draws.__file__!r}).read()); print(key_seed('step', 0, 0, 'latent generator'))"
    )
    seeds = [
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": salt}, capture_output=True, text=True, check=True
        ).stdout
        for salt in "12"
    ]
    assert {int(seed) for seed in seeds} == {draws.key_seed("step", 0, 0, "latent generator")}


def test_noise_is_uniform_and_a_function_of_key_and_place():
    keys = torch.randint(1 << 62, (64,), generator=draws.generator("keys"))
    noise = draws.noise(keys, (3, 16, 16))
    assert noise.shape == (64, 3, 16, 16)
    assert noise.min() >= 0
    assert noise.max() < 1
    assert torch.equal(draws.noise(keys[[5, 2]], (3, 16, 16)), noise[[5, 2]])
    assert torch.equal(draws.noise(keys[:1], (768,))[0], noise[0].flatten())
    # mean 1/2, variance 1/12, no correlation between neighbours, places or keys: within four standard errors
    n = noise.numel()
    assert abs(noise.mean() - 1 / 2) < 4 * (1 / 12 / n) ** 0.5
    assert abs(noise.var() - 1 / 12) < 4 * (1 / 180 / n) ** 0.5
    centred = (noise - 0.5) * 12**0.5
    for other in (centred.roll(1, -1), centred.roll(1, 0), centred.roll(1, 1)):
        assert abs((centred * other).mean()) < 4 / n**0.5
    histogram = torch.histc(noise, 16, 0, 1)
    assert ((histogram - n / 16).square() / (n / 16)).sum() < 40  # chi squared, 15 degrees: 99.95 %


def test_normal_numbers_of_keys():
    """Mean 0, variance 1, fourth moment 3, no two keys alike, and none infinite."""
    keys = torch.arange(200_000) * 7 + 3
    x = draws.normal(keys, (2, 3)).double()
    assert x.shape == (200_000, 2, 3)
    assert x.isfinite().all()
    assert abs(x.mean()) < 0.005
    assert abs(x.var() - 1) < 0.01
    assert abs((x**4).mean() - 3) < 0.05
    assert abs((x[:, 0, 0] * x[:, 1, 2]).mean()) < 0.01
    assert torch.equal(draws.normal(keys[5:6], (2, 3)).double(), x[5:6])
