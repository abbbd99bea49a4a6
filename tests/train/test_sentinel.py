"""The sentinel warns of each sign, in words, once it has held; it is silent on noise; a run goes back to where it was healthy."""

import math
import random

import pytest
import torch
from games import make, weights

from gander.errors import UserError
from gander.run import Run
from gander.train import checkpoint, recovery
from gander.train.fit import fit
from gander.train.sentinel import LINES, Sentinel

DESCRIBED = {"recipe": "sagan", "knobs": {"steps": 12}, "facts": {}, "seed": 0}


def healthy(step, **changes):
    """A line as of a run that goes well, with the noise that such lines have."""
    noise = random.Random(step)
    line = {
        "step": step,
        "discriminator_loss": noise.uniform(0, 2),
        "generator_loss": noise.uniform(-1, 3),
        "real_logit": noise.uniform(-1, 3),
        "fake_logit": noise.uniform(-3, 1),
        "discriminator_gradient": noise.choice([0.0, *[noise.uniform(1, 40)] * 3]),
        "generator_gradient": noise.uniform(3, 30),
        "variety/real": noise.uniform(0.3, 0.4),
        "variety/fake": noise.uniform(0.1, 0.4),
        "variety/real_colour": noise.uniform(0.1, 0.2),
        "variety/fake_colour": noise.uniform(0.02, 0.2),
        "sigma/generator.linear": noise.uniform(1.8, 2.5),
    }
    return {**line, **changes}


def told(lines):
    sentinel = Sentinel()
    return [(line["step"], words) for line in lines for words in sentinel.look(line)]


def test_noise_is_no_sign():
    assert told(healthy(step) for step in range(10, 10_000, 10)) == []


@pytest.mark.parametrize(
    ("words", "sign"),
    [
        ("the images of a batch are alike", lambda line, i: {"variety/fake": 0.01}),
        ("the images of a batch have one colour", lambda line, i: {"variety/fake_colour": 0.004}),
        ("mean logits of real and fake are 205 apart", lambda line, i: {"real_logit": 200.0, "fake_logit": -5.0}),
        ("the generator's gradient is 5e+03", lambda line, i: {"generator_gradient": 5000.0}),
        ("the generator's gradient is 0.001", lambda line, i: {"generator_gradient": 0.001}),
        ("the discriminator's gradient is 9e+03", lambda line, i: {"discriminator_gradient": 9000.0}),
        ("learns no more: in 13 of the last 20 lines", lambda line, i: {"discriminator_gradient": 0.001}),
        ("of generator.linear grew from", lambda line, i: {"sigma/generator.linear": 2 * 1.1**i}),
    ],
)
def test_a_sign_is_told_once_after_it_has_held(words, sign):
    lines = [healthy(step) for step in range(10, 510, 10)]
    lines += [healthy(step, **sign(None, i)) for i, step in enumerate(range(510, 1010, 10))]
    found = [(step, text) for step, text in told(lines) if words in text]
    assert len(found) == 1
    assert 500 < found[0][0] <= 500 + 20 * LINES
    assert "\n" not in found[0][1]


def test_a_blip_is_no_sign():
    lines = [healthy(step, **({"variety/fake": 0.0} if step % 100 else {})) for step in range(10, 2000, 10)]
    assert told(lines) == []


def test_scores_and_other_learners_are_passed_over():
    assert told([{"step": 10, "twins/valid": 0.1}, {"step": 20, "loss": 3.0}]) == []


def test_a_sentinel_that_reads_the_log_again_knows_what_it_knew():
    lines = [healthy(step, **({"variety/fake": 0.0} if step > 500 else {})) for step in range(10, 700, 10)]
    whole = Sentinel(lines)
    resumed = Sentinel(lines[:60])
    for line in lines[60:]:
        resumed.look(line)
    assert whole.healthy == resumed.healthy == 500 - 10 * (2 * LINES - 1)
    assert whole._held == resumed._held


class Falling:
    """A learner whose images are all alike after step 10, as long as its rate is above a limit."""

    def __init__(self, learner, limit, way="alike"):
        self.__dict__.update(learner=learner, limit=limit, way=way)

    def __getattr__(self, name):
        return getattr(self.learner, name)

    @property
    def falls(self):
        return self.learner.generator_optimizer.param_groups[0]["lr"] > self.limit

    def step(self, step, batches, draw):
        log = self.learner.step(step, batches, draw)
        self.__dict__["now"] = step
        if self.falls and step >= 10 and self.way == "nan":
            log["generator_loss"] = torch.tensor(math.nan)
        return log

    def details(self):
        details = self.learner.details()
        return details | ({"variety/fake": torch.tensor(0.0)} if self.falls and self.now >= 10 else {})


def trained(run, limit, on_collapse, steps=16, **more):
    learner, batches = make("article")
    options = {"steps": steps, "batch": 12, "log_every": 1, "save_every": 2, "sample_every": 4, "on_collapse": on_collapse}
    options |= {name: more.pop(name) for name in ("save_every",) if name in more}
    faulty = Falling(learner, limit, **more)
    return faulty, fit(faulty, batches, run, **options)


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr("gander.train.sentinel.LINES", 3)


@pytest.fixture
def run(tmp_path):
    return Run.start(tmp_path / "run", DESCRIBED)[0]


def test_a_warning_goes_on(run, soon, capsys):
    _, outcome = trained(run, 0, "warn")
    assert outcome == (16, 0)
    assert capsys.readouterr().err.count("warning: step 13: the images of a batch are alike: they vary 0 times as much") == 1


def test_stop_ends_with_what_to_do(run, soon):
    with pytest.raises(UserError, match=r"step 13: the images of a batch are alike.*the run was stopped.*--on-collapse rollback"):
        trained(run, 0, "stop")


@pytest.mark.parametrize("way", ["alike", "nan"])
def test_rollback_goes_on_from_the_last_healthy_checkpoint_at_half_the_rates(way, run, soon, capsys):
    learner, outcome = trained(run, 7e-5, "rollback", way=way)  # the recipe's rate is 1e-4: once is enough
    assert outcome == (16, 0)
    rates = [group["lr"] for o in (learner.generator_optimizer, learner.discriminator_optimizer) for group in o.param_groups]
    assert rates == [0.5e-4, 2e-4]
    lines = list(run.logged())
    # the last line that showed nothing is of step 10; a trend over 6 lines may have begun with step 5
    assert [line["step"] for line in lines] == [*range(1, 5), 4, *range(5, 17)]
    fallen = 13 if way == "alike" else 11
    assert lines[4] == {"step": 4, "went_back": 1, "from": fallen}
    assert f"step {fallen}: " in (said := capsys.readouterr().err)
    assert "went back to step 4 with lower rates, time 1 of 3" in said
    assert checkpoint.load_state(run.checkpoints / "00000016")["went_back"] == 1


def test_after_going_back_a_stop_changes_nothing(run, soon, tmp_path):
    """Killed after it went back and before its next save: the lower rates are in the checkpoint that it went back to."""
    whole, _ = trained(run, 7e-5, "rollback")
    other = Run.start(tmp_path / "other", DESCRIBED)[0]

    class Killed(Exception):
        pass

    def kill(learner, step):
        if learner.generator_optimizer.param_groups[0]["lr"] < 7e-5:
            raise Killed
        return {}

    learner, batches = make("article")
    options = {"steps": 16, "batch": 12, "log_every": 1, "save_every": 2, "sample_every": 4, "on_collapse": "rollback"}
    with pytest.raises(Killed):
        fit(Falling(learner, 7e-5), batches, other, watchers=[(1, kill)], **options)
    resumed, _ = trained(other, 7e-5, "rollback")
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name


def test_a_collapse_before_the_first_save_goes_back_to_the_start(run, soon):
    learner, batches = make("article")
    faulty = Falling(learner, 7e-5)
    outcome = fit(faulty, batches, run, steps=16, batch=12, log_every=1, save_every=50, sample_every=0, on_collapse="rollback")
    assert outcome == (16, 0)
    assert [line["step"] for line in run.logged()][:2] == [0, 1]


def test_it_goes_back_a_stated_number_of_times(run, soon):
    with pytest.raises(UserError, match=r"it went back 3 times, to 0.125 of the rates: take another recipe or knobs"):
        trained(run, 0, "rollback")
    assert checkpoint.load_state(checkpoint.find(run.checkpoints)[0])["went_back"] == recovery.TIMES


def test_what_is_put_aside_stays(run, soon):
    trained(run, 7e-5, "rollback")
    assert (run.checkpoints / "00000012.collapsed").is_dir()
    assert checkpoint.damage(run.checkpoints / "00000012.collapsed") is None


def test_what_came_before_going_back_is_no_trend():
    """A weight that grew in the steps that are kept is not told again: those were at the rates that were too high."""
    lines = [healthy(10 * i, **{"sigma/generator.linear": 2 * 1.05**i}) for i in range(1, 2 * LINES)]
    grown = {"sigma/generator.linear": 2 * 1.05 ** (2 * LINES) * 2}
    after = [healthy(10 * i, **grown) for i in range(2 * LINES, 5 * LINES)]
    assert told([*lines, *after])
    assert not told([*lines, {"step": 10 * (2 * LINES - 1), "went_back": 1, "from": 300}, *after])


class Killed(Exception):
    pass


def killed_once_it_went_back(run, monkeypatch, before_the_line, **options):
    """A run that dies right after it went back: before or after the line of the log that says so."""

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        if before_the_line:
            patch.setattr(recovery, "_log", lambda run, step, back: die() if back.times else None)
        else:
            patch.setattr("gander.train.journal.Journal.went_back", die)
        with pytest.raises(Killed):
            trained(run, 7e-5, "rollback", **options)


def said(run):
    return [{k: v for k, v in line.items() if k not in ("time", "images_per_second")} for line in run.logged()]


@pytest.mark.parametrize("before_the_line", [True, False])
@pytest.mark.parametrize("way", ["alike", "nan"])
def test_a_kill_right_after_going_back_changes_nothing(way, before_the_line, run, soon, tmp_path, monkeypatch):
    whole, _ = trained(run, 7e-5, "rollback", way=way)
    other = Run.start(tmp_path / "other", DESCRIBED)[0]
    killed_once_it_went_back(other, monkeypatch, before_the_line, way=way)
    resumed, _ = trained(other, 7e-5, "rollback", way=way)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
    assert said(other) == said(run)
    last = [(r.checkpoints / "00000016" / "manifest.json").read_text() for r in (run, other)]
    assert last[0] == last[1]


def test_a_restart_after_going_back_to_the_start_keeps_the_count(run, soon, monkeypatch):
    killed_once_it_went_back(run, monkeypatch, False, save_every=50)
    assert checkpoint.load_state(run.checkpoints / "00000000")["went_back"] == 1
    learner, outcome = trained(run, 7e-5, "rollback", save_every=50)
    assert outcome == (16, 0)
    assert checkpoint.load_state(run.checkpoints / "00000016")["went_back"] == 1
    assert learner.generator_optimizer.param_groups[0]["lr"] == 0.5e-4


def test_the_rates_are_those_of_the_count_wherever_it_goes_back_to(run, soon):
    """The second time it goes back to a checkpoint from before the first."""
    learner, _ = trained(run, 1, "warn", steps=4)
    assert recovery.go_back(learner, run, 4, recovery.Back(), 9, UserError("first"))[0] == 4
    assert recovery.go_back(learner, run, 2, recovery.Back(1, 9), 9, UserError("second")) == (2, recovery.Back(2, 9))
    assert learner.generator_optimizer.param_groups[0]["lr"] == 0.25e-4


def test_a_damaged_checkpoint_is_not_gone_back_to(run, soon):
    learner, _ = trained(run, 1, "warn", steps=4)
    (run.checkpoints / "00000004" / "generator.safetensors").write_bytes(b"")
    assert recovery.go_back(learner, run, 4, recovery.Back(), 9, UserError("why"))[0] == 2


def test_a_run_that_warned_is_told_again_when_asked_to_go_back(run, soon):
    trained(run, 7e-5, "warn", steps=15)
    learner, outcome = trained(run, 7e-5, "rollback", steps=16)
    assert outcome == (16, 0)
    assert learner.generator_optimizer.param_groups[0]["lr"] == 0.5e-4


@pytest.mark.parametrize("line", [{"step": 10, "discriminator_loss": 1.0}, healthy(10, real_logit="high"), {"step": 10, "loss": 2}])
def test_a_line_of_another_kind_says_nothing(line):
    assert told([line] * 3 * LINES) == []
