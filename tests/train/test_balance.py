"""What goes by the discriminator's logits of many steps: adaptive augmentation and LeCam, against their formulas."""

import pytest
import torch
from games import make, weights
from processes import run

from gander import distributed, draws
from gander.data.augment import Augment
from gander.errors import UserError
from gander.train.balance import Adaptive, LeCam, load

POLICY = "color,translation,cutout"


def logits(*values):
    return torch.tensor(values, dtype=torch.float32)


def test_p_goes_where_the_signs_point_every_fourth_update():
    """Three of four signs positive are r = 0.5 below 0.6; all are above."""
    ada = Adaptive(POLICY, images=64)
    sure, unsure, seen = logits(1, 0.2, 3, 4), logits(1, 2, 3, -4), []
    for real in [sure] * 8 + [unsure] * 4 + [sure] * 16 + [-sure] * 40:
        ada.see(real)
        seen.append(ada.p.item())
    step = 16 / 64
    assert seen[:12] == [0, 0, 0, step, step, step, step, 2 * step, 2 * step, 2 * step, 2 * step, step]
    assert seen[27] == 1 == max(seen)
    assert seen[-1] == 0 == min(seen)


def test_p_crosses_in_so_many_images():
    ada = Adaptive(POLICY, images=1600)
    for _ in range(100):
        assert ada.p < 1
        ada.see(torch.ones(16))
    assert ada.p == 1


def test_at_one_it_is_the_policy_at_zero_nothing_and_between_each_operation_has_its_coin():
    images = torch.randn(400, 3, 8, 8, generator=draws.generator("images"))
    ada, policy = Adaptive(POLICY), Augment(POLICY)
    numbers = ada.draw(draws.generator("augment"), 400)
    assert numbers.shape == (400, policy.width + 3)
    assert torch.equal(ada.apply(images, numbers), images)
    ada.p.fill_(1.0)
    assert torch.equal(ada.apply(images, numbers), policy.apply(images, numbers[:, : policy.width]))
    ada.p.fill_(0.3)
    changed, chosen = (ada.apply(images, numbers) != images).flatten(1).any(1), (numbers[:, -3:] < 0.3).any(1)
    assert not (changed & ~chosen).any()
    assert (changed & chosen).sum() > 0.9 * chosen.sum()  # but for those that were moved by no pixel
    alone = Adaptive("cutout")
    alone.p.fill_(0.5)
    first = numbers[:, :3]  # two of the rectangle, and the coin
    assert torch.equal((alone.apply(images, first) != images).flatten(1).any(1), first[:, 2] < 0.5)


def test_lecam_is_the_formula():
    lecam = LeCam(0.3, decay=0.9, start=2)
    real, fake = logits(1, 2, 6), logits(-1, 0, -2)
    assert lecam(real, fake) == pytest.approx(sum(x * x for x in (1, 2, 6)) / 3 + 5 / 3)  # anchors of nothing are 0
    lecam.see(real + 5, fake - 5, 0)
    lecam.see(real, fake, 1)
    assert (lecam.real.item(), lecam.fake.item()) == (3, -1)  # before its start the last means
    lecam.see(real + 10, fake + 10, 2)
    assert lecam.real.item() == pytest.approx(0.9 * 3 + 0.1 * 13)
    assert lecam.fake.item() == pytest.approx(0.9 * -1 + 0.1 * 9, abs=1e-6)
    a, b = lecam.real.item(), lecam.fake.item()
    expected = sum((x - b) ** 2 for x in (1, 2, 6)) / 3 + sum((y - a) ** 2 for y in (-1, 0, -2)) / 3
    assert lecam(real, fake).item() == pytest.approx(expected)


def test_lecam_is_in_the_game_from_its_start():
    learner, batches = make("skinny", dtype=torch.float64, adaptive=False, approximate_r1=0.0, bcr=0.0)
    learner.lecam.start = 1
    first = learner.step(0, batches(0), draws.at_step(0, 0))
    assert "lecam" not in first
    a, b = learner.lecam.real.item(), learner.lecam.fake.item()
    assert a == pytest.approx(first["real_logit"].item())
    assert b == pytest.approx(first["fake_logit"].item())
    second = learner.step(1, batches(1), draws.at_step(0, 1))
    # the mean of squares is the square of the mean and the variance
    least = (second["real_logit"] - b) ** 2 + (second["fake_logit"] - a) ** 2
    assert second["lecam"] >= least - 1e-12
    assert learner.lecam.real.item() == pytest.approx(0.99 * a + 0.01 * second["real_logit"].item(), rel=1e-5)


def seen(ada_images):
    """p and anchors of a process that saw its share."""
    ada, lecam = Adaptive(POLICY, images=ada_images), LeCam(0.3, start=0)
    generator = draws.generator("logits")
    for step in range(12):
        [real], [fake] = (distributed.shares(torch.randn(8, generator=generator) + 1) for _ in range(2))
        ada.see(real)
        lecam.see(real, fake, step)
    return {**ada.state_dict(), **lecam.state_dict()}


def test_all_processes_have_the_same_p_and_anchors():
    alone = seen(200)
    assert 0 < alone["p"] < 1
    for other in run(seen, 2, 200):
        for name, tensor in alone.items():
            torch.testing.assert_close(other[name], tensor, msg=name)


def test_the_state_is_in_the_checkpoint_and_is_checked():
    learner, batches = make("skinny")
    for step in range(4):
        log = learner.step(step, batches(step), draws.at_step(0, step))
    assert "augment_p" in log
    state = learner.state_dict()
    other, _ = make("skinny")
    other.load_state_dict(state)
    for name in ("adaptive", "lecam"):
        assert all(torch.equal(value, other.state_dict()[name][key]) for key, value in state[name].items())
    assert state["lecam"]["real"] != 0
    lacking = {key: value for key, value in state.items() if key != "lecam"}
    with pytest.raises(UserError, match="has no lecam; delete that checkpoint"):
        other.load_state_dict(lacking)
    for wrong in (None, {}, {"real": torch.zeros(())}, {"real": torch.zeros(2), "fake": torch.zeros(())},
                  {"real": torch.tensor(torch.nan), "fake": torch.zeros(())}, {"real": 0.0, "fake": 1.0}):  # fmt: skip
        with pytest.raises(UserError, match="state of lecam is not one; delete that checkpoint"):
            load("lecam", LeCam(0.3), wrong)
    assert weights(learner).keys() == weights(other).keys()


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: Adaptive("none"), "nothing to adapt; take --augment color,translation,cutout"),
        (lambda: Adaptive("colour"), "did you mean 'color'"),
        (lambda: Adaptive(POLICY, target=1.0), "target=1, images=500000; 0.6"),
        (lambda: Adaptive(POLICY, images=0), "images=0"),
        (lambda: LeCam(0.0), "weight=0"),
        (lambda: LeCam(float("inf")), "weight=inf"),
        (lambda: LeCam(0.1, decay=1.0), "decay=1"),
        (lambda: make("pyramid", adaptive=True, augment="color"), "says nothing here; take hinge or logistic"),
    ],
)
def test_mistakes_get_a_line(make_it, message):
    with pytest.raises(UserError, match=message):
        make_it()
