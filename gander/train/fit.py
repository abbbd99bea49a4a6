"""One loop for every learner: log, save, sample, watch, resume, stop, go back. It knows no game.

A learner is anything that `Learner` describes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from gander import distributed, draws
from gander.run import Outcome, Run
from gander.signals import heard
from gander.train import recovery
from gander.train.journal import Journal
from gander.train.learner import Learner
from gander.train.sentinel import Collapse, NotFinite, Sentinel

Watcher = tuple[int, Callable[[Learner, int], dict[str, float]]]  # every so many steps, a function of (learner, step)


def fit(
    learner: Learner,
    batches: Callable[[int], list],
    run: Run,
    *,
    steps: int,
    batch: int,
    seed: int = 0,
    log_every: int = 50,
    save_every: int = 1000,
    sample_every: int = 250,
    keep_every: int = 0,
    on_collapse: Literal["warn", "stop", "rollback"] = "warn",
    watchers: Sequence[Watcher] = (),
    best: str = "",
    tensorboard: bool = False,
) -> Outcome:
    """Train to `steps` steps, going on from the newest whole checkpoint of the run.

    `batches(step)` gives the step's global batches, cut for this process; `batch` is their size, for the images/s. Saves
    every `save_every` steps, at the end and when a signal asks to stop; keeps the last two checkpoints and every
    `keep_every`-th step. What the sentinel sees in the log is said; with `on_collapse="stop"` it ends the run, with
    "rollback" the run goes back to its last healthy checkpoint with lower rates. Raises UserError where a loss, a gradient
    or a weight is no finite number, before it reaches a checkpoint ("rollback" goes back there too). `best` names a value of
    a watcher: the step with its lowest is saved and kept.
    """
    done, back = recovery.resume(learner, run)
    chief, first_rates = distributed.rank() == 0, back.times == 0
    sentinel = Sentinel(run.logged() if chief else (), again=on_collapse != "warn")
    journal = Journal(run, steps, batch * learner.draws_per_step, done, tensorboard)
    watchers = [(every, watcher) for every, watcher in watchers if every]
    recent: list[tuple[int, dict[str, Tensor]]] = []
    stop, saved = 0, True

    def look(logging: bool, saving: bool) -> None:
        values = _checked(recent, learner if saving else None)
        if not logging:
            return
        values |= _finite(done, learner.details())
        journal.log(done, values)
        for words in sentinel.look({"step": done, **values}) if chief else ():
            if on_collapse != "warn":
                raise Collapse(f"step {done}: {words}; it was well at step {sentinel.healthy}")
            journal.say(f"warning: step {done:,}: {words}")

    def watch(due: list[Callable[[Learner, int], dict[str, float]]]) -> None:
        for watcher in due:
            with journal.aside():
                values = _finite(done, watcher(learner, done))
            journal.watched(done, values)

    with heard() as asked, journal:
        if done == 0 and sample_every:
            journal.samples(learner, 0, seed)
        if done == 0 and first_rates and on_collapse == "rollback":
            recovery.save(learner, run, 0, back)
        while done < steps and not stop:
            distributed.at(done + 1)
            torch.manual_seed(draws.key_seed("layers", seed, done))  # for what layers draw themselves, as dropout does
            recent.append((done + 1, learner.step(done, batches(done), draws.at_step(seed, done))))
            done += 1
            stop = distributed.agree(asked[0])
            last = done == steps
            due = [watcher for every, watcher in watchers if done % every == 0 or last]
            due = [] if stop and not last else due  # a stop has little time; its step is scored by nobody
            logging, saving = done % log_every == 0 or last, done % save_every == 0 or last or stop
            looking, why = logging or saving or due, None
            if looking:
                why = _verdict(done, look, logging, bool(saving or (due and best)))
            if due and not why:
                why = _verdict(done, watch, due)
                saving = saving or bool(best and not why and distributed.chief_says(lambda: recovery.lowest(run, best)) == done)
            if why:
                if on_collapse != "rollback":
                    raise type(why)(f"{why}; the run was stopped{why.advice}") from None
                done, back = recovery.go_back(learner, run, sentinel.healthy, back, done, why)
                journal.went_back(done, back.times, why)
                sentinel = Sentinel(run.logged() if chief else ())
            if looking:
                recent.clear()
            if why:
                continue
            if sample_every and (done % sample_every == 0 or last):
                with journal.aside():
                    journal.samples(learner, done, seed)
            if saving:
                must = bool(last or stop or not saved)  # a disk may hang once
                saved = recovery.save(learner, run, done, back, must=must)
                recovery.prune(run, keep_every, None if on_collapse == "warn" else sentinel.healthy, best)
            journal.bar.update()
    return Outcome(done, stop if done < steps else 0)


def _verdict(step: int, look: Callable[..., None], *arguments: Any) -> Collapse | None:
    """The collapse that `look` raises, here or in another process: all go on with it, or all without."""
    why = None
    try:
        look(*arguments)
    except Collapse as found:
        why = found
    if distributed.agree(int(why is not None)):
        return why or Collapse(f"step {step}: another process saw the run go wrong; its own line says how")
    return None


def _checked(recent: list[tuple[int, dict[str, Tensor]]], learner: Learner | None) -> dict[str, float]:
    """The values of the last step, as their mean over processes, once all since the last look are known to be finite.

    Collapse where they are not. With a learner its weights and buffers are looked at too. The verdict is that of all processes.
    """
    table = torch.stack([value.float() for _, values in recent for value in values.values()])
    table = distributed.all_reduce(table) / distributed.processes()  # a NaN of one process is a NaN for all
    numbers = iter(table.tolist())
    for step, values in recent:  # a step may have terms that another has not
        last = dict(zip(values, numbers, strict=False))
        for name, value in last.items():
            if not math.isfinite(value):
                raise NotFinite(_not_finite(step, name.replace("_", " "), value))
    if learner:
        odd = _odd_tensor(learner)
        if distributed.agree(int(odd is not None)):
            raise NotFinite(_not_finite(recent[-1][0], odd or "weight of another process", math.nan))
    return last


def _odd_tensor(learner: Learner) -> str | None:
    """The name of a parameter or buffer that is not finite, if there is one."""
    for network_name, network in learner.networks.items():
        named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        floats = {name: tensor for name, tensor in named.items() if tensor.is_floating_point() and tensor.numel()}
        finite = torch.stack([tensor.detach().isfinite().all() for tensor in floats.values()]).tolist()
        for name, fine in zip(floats, finite, strict=True):
            if not fine:
                return f"{network_name}'s {name}"
    return None


def _finite(step: int, values: Mapping[str, Tensor | float]) -> dict[str, float]:
    """As plain numbers. Collapse where one is none."""
    numbers = {name: float(value) for name, value in values.items()}
    for name, number in numbers.items():
        if not math.isfinite(number):
            raise NotFinite(_not_finite(step, name, number))
    return numbers


def _not_finite(step: int, what: str, value: float) -> str:
    return f"step {step}: the {what} is {value}"
