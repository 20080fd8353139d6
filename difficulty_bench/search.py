"""Which trainings to run next. Pure, deterministic, and resumable by replay (see script.py).

A study's script: pilots of the learning rate, the baseline, a bracket of each crossing on the log
scale, then the trials that say most about the crossings, until both are known to the precision
asked for or are censored. Decisions depend on earlier outcomes and on the task only: not on clocks,
on the number of workers, or on `max_trials`, which cuts the sequence without changing it. Trials
that came from elsewhere choose none of a script's, but the search ends where all trials together
satisfy its rule, before the script's end or after it (`_step`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .design import NATIVE
from .errors import UsageError
from .registry import MAX_TRIALS, Task
from .results import Outcome, Request
from .script import Script, Step, replay
from .stages import Stages
from .tuning import chosen_lr, pilots, relevant

Known = Mapping[Request, Outcome]


@dataclass(frozen=True)
class Stop:
    """Why a study asks for nothing more; `cut_short` where it would, but for `max_trials`."""

    reason: str
    cut_short: bool = False


@dataclass(frozen=True)
class Plan:
    """How far to measure: what `bench run` was asked for beside the task itself.

    `precision` (> 1) is the largest factor between d_int90 and each end of its interval;
    `max_trials` counts every role, and once a search goes on after its script's end every trial
    of the study; `grid` replaces the search by exactly these d, with `seeds`
    seeds each. None takes the task's own, but for `max_trials` of a grid: all of it. `shard` (i, n)
    leaves of a grid's trials every n-th, from the i-th on, so that n jobs train each of them once.
    What is asked of a plan raises UsageError for values that make no sense, and StudyError where
    the baseline or the pilots cannot carry a measurement.
    """

    precision: float | None = None
    max_trials: int | None = None
    grid: Sequence[int] | None = None
    seeds: int | None = None
    shard: tuple[int, int] = (1, 1)

    def check(self, task: Task, D: int) -> None:
        """Raise UsageError for a plan that does not fit the task, whatever was measured of it."""
        replay(self.script(task, D), {})

    def next_round(self, task: Task, D: int, outcomes: Known) -> list[Request]:
        """The requests to run now; empty when the study is done (`stop_reason` says why)."""
        return self._step(task, D, outcomes).missing

    def stop_reason(self, task: Task, D: int, outcomes: Known) -> Stop | None:
        """Why `next_round` asks for nothing more; None while it does."""
        step = self._step(task, D, outcomes)
        if step.capped:
            limit = self._limit(task)
            reached = f"max_trials = {limit} reached; a larger --max-trials goes on from here"
            return Stop(reached, cut_short=True)
        return None if step.result is None else Stop(step.result)

    def lacking(self, task: Task, D: int, outcomes: Known) -> str | None:
        """In one line, why `next_round` asks for more; None where it does not."""
        if not self._step(task, D, outcomes).missing:
            return None
        if self.grid is not None:
            return f"trials of {self._share()} are missing"
        unmet = _unmet(_held(task, D, outcomes), *self._rule(task))
        return unmet or "a round or a bracket is not complete"

    def script(self, task: Task, D: int) -> Script[str]:
        """The whole study as a script that returns why it ended; `max_trials` does not cut it."""
        precision, seeds = self._rule(task)
        _check(task, D, precision, self.grid, seeds)
        if self.grid is None:
            if self.shard != (1, 1):
                raise UsageError("--shard: a search goes by what it has seen; divide a grid (--d)")
            return _adaptive(task, D, precision, seeds)
        return self._grid(task, D, self.grid, seeds)

    def _step(self, task: Task, D: int, outcomes: Known) -> Step[str]:
        """Where the script stands; where trials are known that it did not ask for, they count, too.

        The search is then done once all that is known settles the crossings, as the row is of all
        of it. Without such trials a study that was killed in a round ends as an uninterrupted one,
        whichever of its trials came first.
        """
        limit = self._limit(task)
        if limit is not None and limit < 1:
            raise UsageError(f"{task.name}: max_trials = {limit}; it must be at least 1")
        if self.shard[0] > 1 and chosen_lr(task, D, outcomes) is None:
            # each shard's own might choose other step sizes, which make other trials
            raise UsageError(
                f"{task.name}: --shard: its pilots of the learning rate are missing here; run "
                "shard 1 first, and bench results import its trials into the store of this one"
            )
        step = replay(self.script(task, D), outcomes, limit)
        if step.capped:  # by a limit that the store is beyond: nothing may be missing
            whole = replay(self.script(task, D), outcomes)
            step = step if whole.result is None else whole
        held = _held(task, D, outcomes) if self.grid is None else None
        if held is None or len(held.outcomes) == step.asked - len(step.missing):
            return step
        precision, seeds = self._rule(task)
        if not held.lacks(precision, seeds):
            return Step([], step.asked, held.summary(precision))
        if step.result is None:
            return step
        requests = held.unasked(held.bracket() or held.refine(precision, seeds))
        known = len(held.outcomes)
        if limit is not None and known + len(requests) > limit:
            requests = requests[: max(0, limit - known)]
        return Step(requests, known + len(requests), capped=not requests)

    def _grid(self, task: Task, D: int, grid: Sequence[int], seeds: int) -> Script[str]:
        study = Stages(task, D, (yield from pilots(task, D)))
        dims = [NATIVE] * task.baseline_seeds + sorted(set(grid)) * seeds
        first, step = self.shard
        # one round, as there is nothing to decide: no worker waits for another
        yield from study.run(dims, batch=len(dims), share=slice(first - 1, None, step))
        return f"{self._share()} has all its trials"

    def _share(self) -> str:
        first, step = self.shard
        return "the grid" if step == 1 else f"shard {first} of {step} of the grid"

    def _limit(self, task: Task) -> int | None:
        own = self.max_trials is None and self.grid is None
        return task.search.max_trials if own else self.max_trials

    def _rule(self, task: Task) -> tuple[float, int]:
        search = task.search
        return (
            search.precision if self.precision is None else self.precision,
            search.seeds if self.seeds is None else self.seeds,
        )


def _held(task: Task, D: int, outcomes: Known) -> Stages | None:
    """What all trials say, whoever asked for them; None while pilots are missing."""
    chosen = chosen_lr(task, D, outcomes)
    return None if chosen is None else Stages.of(task, D, chosen, relevant(task, D, outcomes))


def unmet(task: Task, D: int, outcomes: Known) -> str | None:
    """What the task's own stopping rule asks for beside all these trials; None where it is met.

    Raise StudyError where the baseline or the pilots cannot carry a measurement.
    """
    return _unmet(_held(task, D, outcomes), task.search.precision, task.search.seeds)


def _unmet(held: Stages | None, precision: float, seeds: int) -> str | None:
    if held is None:
        return "pilots of the learning rate are missing"
    return held.lacks(precision, seeds)


def _check(task: Task, D: int, precision: float, grid: Sequence[int] | None, seeds: int) -> None:
    name, search = task.name, task.search
    if not 1.0 < precision < float("inf"):
        raise UsageError(f"{name}: precision = {precision:g}; it is a factor and must be above 1")
    if not 1 <= seeds <= MAX_TRIALS:
        raise UsageError(f"{name}: seeds = {seeds:,}; it must lie within [1, {MAX_TRIALS:,}]")
    if not 1 <= search.d_min <= search.d_max <= D:
        raise UsageError(
            f"{name}: search.d_min = {search.d_min}, search.d_max = {search.d_max} must lie within "
            f"[1, D = {D}]; use --set search.d_max={D} or less"
        )
    if grid is not None and (not grid or not all(1 <= d <= D for d in grid)):
        raise UsageError(f"{name}: --d {','.join(map(str, grid))} must lie within [1, D = {D}]")
    if task.threshold_global is not None and task.threshold_global <= task.floor:
        raise UsageError(
            f"{name}: threshold_global = {task.threshold_global:g} is not above the floor "
            f"{task.floor:g}; every trial would reach it"
        )


def _adaptive(task: Task, D: int, precision: float, seeds: int) -> Script[str]:
    study = Stages(task, D, (yield from pilots(task, D)))
    yield from study.run([NATIVE] * task.baseline_seeds + study.first_section())
    while dims := study.bracket():
        yield from study.run(dims)
    while dims := study.refine(precision, seeds):
        yield from study.run(dims)
    return study.summary(precision)
