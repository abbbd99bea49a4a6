"""To a checkpoint and from one: after a stop, and after a collapse."""

import sys
from typing import Any, NamedTuple

from tqdm import tqdm

from gander import distributed
from gander.errors import UserError
from gander.files import seconds
from gander.run import Run
from gander.train import checkpoint
from gander.train.learner import Learner

RATE, TIMES = 0.5, 3  # going back multiplies the rates by this, so many times at most


class Back(NamedTuple):
    """How often a run went back, and from which step the last time."""

    times: int = 0
    fallen: int = 0


def save_seconds() -> float:
    """How long a save may take: `GANDER_SAVE_SECONDS`, by default what a cluster leaves a job between its signal and its end."""
    return seconds("GANDER_SAVE_SECONDS", 30.0)


def save(learner: Learner, run: Run, step: int, back: Back, *, must: bool = True) -> bool:
    """The first process saves. False where the disk hung; `must` raises GivenUp there."""
    state = {"step": step, "went_back": back.times, "from": back.fallen, "learner": learner.state_dict()}
    within = save_seconds()

    def write() -> bool:
        try:
            checkpoint.save(run.checkpoints, step, learner.networks, state, within)
        except checkpoint.GivenUp as late:
            if must:
                raise
            tqdm.write(f"{late}; training goes on", file=sys.stderr)
            return False
        return True

    return distributed.by_chief(write) is not False


def lowest(run: Run, name: str) -> int:
    """The step at which the logged value of this name was lowest, the first of equals; -1 where it never was logged."""
    values = [(line[name], line["step"]) for line in run.logged() if name in line]
    return min(values)[1] if values else -1


def prune(run: Run, keep_every: int, healthy: int | None = None, best: str = "") -> None:
    """Keep the last two checkpoints, every `keep_every`-th step, and that with the `lowest` value of the name `best`.

    With `healthy` also the last that is not after that step, to go back to, and the next, which will take its place.
    """

    def delete() -> None:
        steps = checkpoint.saved(run.checkpoints)
        before = [step for step in steps if healthy is not None and step <= healthy]
        keep = steps[max(0, len(before) - 1) :][:2] if before else []
        checkpoint.prune(run.checkpoints, keep_every, [*keep, lowest(run, best)] if best else keep)

    distributed.by_chief(delete)


def resume(learner: Learner, run: Run) -> tuple[int, Back]:
    """Put the newest whole checkpoint of the run into the learner: (the step it was saved after, how often it went back).

    Step 0 where there is none. What was logged and sampled after it is forgotten.
    """

    def newest() -> int:
        checkpoint.tidy(run.checkpoints)
        if not checkpoint.saved(run.checkpoints):
            run.truncate_log(0)
            return -1
        path, complaints = checkpoint.find(run.checkpoints)
        for complaint in complaints:
            tqdm.write(f"{complaint}; the one before it is taken", file=sys.stderr)
        return int(path.name)

    save_seconds()  # what is wrong with it is said before the first step
    if (step := distributed.chief_says(newest)) < 0:
        return 0, Back()
    state = _load(learner, run, step, "damaged")
    back = Back(state.get("went_back", 0), state.get("from", 0))
    distributed.by_chief(lambda: _log(run, step, back))  # where a kill came between its save and its line
    return step, back


def go_back(learner: Learner, run: Run, healthy: int, back: Back, fallen: int, why: UserError) -> tuple[int, Back]:
    """From step `fallen` to the last whole checkpoint that is not after step `healthy`, else to the first whole one.

    Gives its step and how often that has been done; the rates are RATE ** so often of what they were at first. UserError
    where that was done TIMES times before, or there is no checkpoint. Those after it are put aside as `<step>.collapsed`.
    """
    if back.times == TIMES:
        raise UserError(f"{why}; it went back {TIMES} times, to {RATE**TIMES:g} of the rates: take another recipe or knobs")

    def best() -> int:
        steps = checkpoint.saved(run.checkpoints)
        wanted = [step for step in reversed(steps) if step <= healthy] + [step for step in steps if step > healthy]
        return next((step for step in wanted if checkpoint.damage(run.checkpoints / f"{step:08d}") is None), -1)

    if (step := distributed.chief_says(best)) < 0:
        raise UserError(f"{why}; there is no checkpoint to go back to: take lower rates and --run NEW")
    state = _load(learner, run, step, "collapsed")
    back = Back(back.times + 1, fallen)
    learner.slow_down(RATE ** (back.times - state.get("went_back", 0)))
    save(learner, run, step, back)  # the rates are in it: from here on a stop changes nothing
    distributed.by_chief(lambda: _log(run, step, back))
    return step, back


def _log(run: Run, step: int, back: Back) -> None:
    """Write down that the run went back, unless that was done."""
    if back.times > max((line["went_back"] for line in run.logged() if "went_back" in line), default=0):
        run.log({"step": step, "went_back": back.times, "from": back.fallen})


def _load(learner: Learner, run: Run, step: int, what: str) -> dict[str, Any]:
    """Load a checkpoint; those after it are renamed to `<step>.<what>`, and their steps go from the log."""
    path = run.checkpoints / f"{step:08d}"
    for name, network in learner.networks.items():
        checkpoint.load_network(path / f"{name}.safetensors", network)
    state = checkpoint.load_state(path)
    try:
        if state["step"] != step:
            raise ValueError(f"it is of step {state['step']}")
        learner.load_state_dict(state["learner"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        odd = f"{type(error).__name__}: {error}"
        raise UserError(f"{path / 'state.pt'} does not fit this run ({odd}); delete {path} to take the one before it") from None

    def tidy() -> None:
        checkpoint.put_aside(run.checkpoints, step, what)
        run.truncate_log(step)

    distributed.by_chief(tidy)
    return state
