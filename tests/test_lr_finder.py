"""The range test: rates, averages, a suggestion that a quadratic knows in closed form, and the line of each mistake."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gander import lr_finder, recipes
from gander.data.batches import Batches
from gander.lr_finder import HIGHEST, LOWEST, STEPS, STILL, Found, averaged, picture, range_test, suggested, worded
from gander.recipes.experiment import Facts


class Quadratic:
    """½ Σ cᵢ wᵢ² by SGD from w = 1, curvatures up to `top`; its gradient at w + noise. It diverges above a rate of 2 / top."""

    accumulate = 1

    def __init__(self, top, noise=0.0, own_rate=None):
        self.curvatures = top * torch.linspace(0.05, 1, 20, dtype=torch.float64)
        self.w, self.noise, self.own_rate = torch.nn.Parameter(torch.ones(20, dtype=torch.float64)), noise, own_rate
        self.optimizer = torch.optim.SGD([self.w], lr=0.3)
        self.told = []

    def step(self, step, batches, draw):
        self.told.append(step)
        if self.own_rate:
            self.optimizer.param_groups[0]["lr"] = self.own_rate
        self.optimizer.zero_grad()
        noise = self.noise * torch.randn(20, generator=draw("noise"), dtype=torch.float64)
        (self.curvatures * (self.w**2 / 2 + noise * self.w)).sum().backward()
        loss = (self.curvatures * self.w**2 / 2).sum().detach()
        self.optimizer.step()
        return {"loss": loss}


def swept(learner, seed=0):
    return range_test(learner, lambda step: [], seed=seed)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("top", [1, 7, 30, 1000])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_suggestion_is_below_the_rate_that_diverges_and_within_a_decade_of_it(top, noise, seed):
    found = swept(Quadratic(float(top), noise), seed)
    diverges = 2 / top
    assert diverges / 10 < found.suggestion < diverges
    learner = Quadratic(float(top))
    w = learner.w.detach().clone()
    for _ in range(200):
        w -= found.suggestion * learner.curvatures * w
    assert w.abs().max() < 0.3
    assert (1 - 1.05 * diverges * learner.curvatures).abs().max() > 1


def test_rates_rise_geometrically_whatever_the_learner_sets_itself():
    learner, seen = Quadratic(1e-3, own_rate=5.0), []
    learner.optimizer.register_step_post_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"]))
    found = swept(learner)
    assert len(found.rates) == STEPS
    assert seen == found.rates
    assert (found.rates[0], found.rates[-1]) == (LOWEST, pytest.approx(HIGHEST))
    ratios = [b / a for a, b in zip(found.rates, found.rates[1:], strict=False)]
    assert ratios == pytest.approx([1e8 ** (1 / 99)] * 99)
    assert found.rates[STILL - 1] < 1.5e-6
    assert learner.told == [0] * STEPS
    learner.step(0, [], lambda purpose: torch.Generator())
    assert seen[-1] == 5.0, "the learner has its rate back"


@pytest.mark.parametrize(("given", "shares"), [((2e-3, 1e-3), (1.0, 0.5)), ((0.0, 0.0), (1.0, 1.0))])
def test_groups_keep_their_shares_of_the_rate(given, shares):
    learner, seen = Quadratic(1e-3), []
    other = torch.nn.Parameter(torch.zeros(1))
    learner.optimizer = torch.optim.SGD([{"params": [learner.w], "lr": given[0]}, {"params": [other], "lr": given[1]}], lr=1.0)
    learner.optimizer.register_step_post_hook(lambda optimizer, *_: seen.append([g["lr"] for g in optimizer.param_groups]))
    found = swept(learner)
    assert seen == [[rate * share for share in shares] for rate in found.rates]


def test_it_ends_where_the_average_is_four_times_its_lowest_or_no_number():
    found = swept(Quadratic(1000.0))
    assert len(found.rates) < STEPS
    assert found.averages[-1] > 4 * min(found.averages)
    assert all(a <= 4 * min(found.averages[: i + 1]) for i, a in enumerate(found.averages[:-1]))
    for bad in (math.nan, math.inf):
        for at in (0, 40):
            learner, losses = Quadratic(1e-3), iter([1.0] * at + [bad])
            learner.step = lambda step, batches, draw, losses=losses: {"loss": torch.tensor(next(losses))}
            found = swept(learner)
            assert len(found.losses) == at + 1
            assert found.suggestion is None
            assert picture(found, "toy").startswith("<svg")


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=60))
@settings(max_examples=50)
def test_the_average_is_the_formula(losses):
    for i, found in enumerate(averaged(losses)):
        weights = np.array([0.9 ** (i - j) for j in range(i + 1)])
        assert found == pytest.approx((weights * losses[: i + 1]).sum() / weights.sum(), abs=1e-9)


@given(st.floats(0.1, 10), st.floats(1.1, 100), st.floats(3, 20))
@settings(max_examples=30)
def test_the_suggestion_is_half_way_down_and_knows_no_unit_of_loss(low, times, turn):
    """A smooth step from `low · times` to `low`: its middle, but for the lag of the average; twice the loss has the same."""
    rates = [LOWEST * (HIGHEST / LOWEST) ** (i / 99) for i in range(100)]
    losses = [low * (1 + (times - 1) / (1 + math.exp((i - 50) * turn / 20))) for i in range(100)]
    found = suggested(rates, losses, averaged(losses))
    at = rates.index(found)
    assert 50 <= at <= 62
    assert suggested(rates, [2 * x for x in losses], averaged([2 * x for x in losses])) == found


def test_there_is_no_suggestion_where_nothing_falls():
    rates = [LOWEST * (HIGHEST / LOWEST) ** (i / 99) for i in range(100)]
    noise = np.random.default_rng(0).normal(2, 0.1, (20, 100)).tolist()
    for losses in (*noise, [1.0] * 100, [1.0 + 0.01 * i for i in range(100)], [2.0] * 5, [0.3] * 100, [0.0] * 100):
        assert suggested(rates[: len(losses)], losses, averaged(losses)) is None


@pytest.mark.parametrize(("rate", "words"), [(3e-3, "3e-3"), (1.7e-2, "1.7e-2"), (10.0, "1e1"), (0.999, "1e0"), (1e-7, "1e-7")])
def test_a_rate_is_said_as_it_can_be_typed(rate, words):
    assert worded(rate) == words
    assert float(words) == pytest.approx(rate, rel=0.05)


def test_a_lesson_takes_these_rates_and_its_seed_alone_decides(monkeypatch):
    monkeypatch.setattr(lr_finder, "STEPS", 20)
    monkeypatch.setattr(lr_finder, "STILL", 5)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 52, 52, 3), np.uint8)

    def once(seed):
        torch.manual_seed(seed)
        knobs = {"network": "xresnet18", "width": 4, "resolution": 20, "batch": 4, "steps": 3, "progressive": (18,)}
        learner = recipes.load("imagewoof")(Facts(16, 2, 3), **knobs).learner
        seen = []
        learner.optimizer.register_step_post_hook(lambda optimizer, *_: seen.append({g["lr"] for g in optimizer.param_groups}))
        found = range_test(learner, Batches(pixels, np.arange(16) % 2, batch=4, seed=seed), seed=seed)
        assert seen == [{rate} for rate in found.rates]
        assert learner.details()["beta1"] == pytest.approx(0.95)
        return found

    first = once(0)
    torch.rand(7)
    assert once(0) == first
    assert once(1).losses != first.losses


def photos(folder, n=12):
    generator = np.random.default_rng(0)
    for kind in ("cats", "dogs"):
        (folder / kind).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(generator.integers(0, 256, (24, 20, 3), np.uint8)).save(folder / kind / f"{i}.png")


@pytest.fixture
def _here(tmp_path, monkeypatch):
    monkeypatch.setenv("GANDER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos")


@pytest.mark.usefixtures("_here")
def test_a_picture_and_a_line_and_nothing_else(say, tmp_path):
    code, out, err = say("lr autoencoder --data photos --resolution 16 --width 4 --latent 8 --batch 8 --device cpu --lr 0")
    assert code == 0, err
    assert "the loss at rates from 1e-7 to 1e1: lr.svg" in out
    suggestion = float(re.search(r"suggestion: --lr (\S+)\n", out)[1])
    assert 1e-4 < suggestion < 1
    assert {f.name for f in tmp_path.iterdir()} == {"photos", "cache", "lr.svg"}
    drawn = (tmp_path / "lr.svg").read_text()
    assert drawn.startswith("<svg")
    assert f"suggestion: {worded(suggestion)}" in drawn
    say("lr autoencoder --data photos --resolution 16 --width 4 --latent 8 --batch 8 --device cpu --out b.svg")
    assert (tmp_path / "b.svg").read_text() == drawn


def test_a_picture_says_what_it_shows_also_without_a_suggestion():
    found = Found([1e-7, 1e-6, 1e-5], [1.0, 2.0, 900.0], [1.0, 1.5, 300.0], None)
    drawn = picture(found, "a <toy>")
    assert "a &lt;toy&gt;" in drawn
    assert "suggestion" not in drawn


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("lr", "gander lr wants a recipe first"),
        ("lr imagewoof", "gander lr imagewoof needs --data"),
        ("lr imagewof --data photos", "no recipe called 'imagewof'; did you mean 'imagewoof'"),
        ("lr sagan --data photos --batch 8", "sagan trains networks against each other, and lr is for learners of one"),
        ("lr imagewoof --data photos --lrr 1", "no knob called '--lrr'"),
        ("lr imagewoof --data nowhere", "nowhere"),
        ("lr imagewoof --data photos", "22 images are fewer than a batch of 64; take --batch 22 or less"),
        ("lr imagewoof --data photos --batch 8 --out lr.png", "--out lr.png is no SVG file; name it like lr.svg"),
        ("lr imagewoof --data photos --batch 8 --precision fp8", "no precision called 'fp8'"),
        ("lr imagewoof --data photos --batch 9 --accumulate 2", "9 cannot be cut into 2"),
        ("lr imagewoof --data probe:twins", "probe:twins has no labels"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(line, message, say, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("an image was decoded")

    monkeypatch.setattr("gander.data.prepare", never)
    code, _, err = say(line)
    assert code == 2
    assert err.count("\n") == 1, err
    assert re.search(message, err), err
    assert not list(tmp_path.glob("*.svg"))
