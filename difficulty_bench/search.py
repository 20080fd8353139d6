"""Which trainings to run next. Pure, deterministic, and resumable by replay (see script.py).

A study's script: pilots of the learning rate, the baseline, a bracket of each crossing on the log
scale, then the trials that say most about the crossings, until both are known to the precision
asked for or are censored. Decisions depend on earlier outcomes and on the task only: not on clocks,
on the number of workers, or on `max_trials`, which cuts the sequence without changing it. Trials
that came from elsewhere choose none of the next ones, but they may end the search (`_step`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .design import NATIVE
from .errors import UsageError
from .registry import MOST_TRIALS, Task
from .results import Outcome, Request
from .script import Script, Step, replay
from .stages import Stages
from .tuning import chosen_lr, pilots, relevant

__all__ = ["Stop", "chosen_lr", "lacking", "next_round", "stop_reason", "study_script"]


@dataclass(frozen=True)
class Stop:
    """Why a study asks for nothing more; `cut_short` where it would, but for `max_trials`."""

    reason: str
    cut_short: bool = False


def next_round(
    task: Task,
    D: int,
    outcomes: Mapping[Request, Outcome],
    *,
    precision: float | None = None,
    max_trials: int | None = None,
    grid: Sequence[int] | None = None,
    seeds: int | None = None,
) -> list[Request]:
    """The requests to run now; empty when the study is done (`stop_reason` says why).

    `precision` (> 1) is the largest factor between d_int90 and each end of its interval;
    `max_trials` counts every role; `grid` replaces the search by exactly these d, with `seeds`
    seeds each. None takes the task's own, but for `max_trials` of a grid: all of it. Raise
    UsageError for values that make no sense, and StudyError where the baseline or the pilots cannot
    carry a measurement.
    """
    return _step(task, D, outcomes, precision, max_trials, grid, seeds).missing


def stop_reason(
    task: Task,
    D: int,
    outcomes: Mapping[Request, Outcome],
    *,
    precision: float | None = None,
    max_trials: int | None = None,
    grid: Sequence[int] | None = None,
    seeds: int | None = None,
) -> Stop | None:
    """Why the same call of `next_round` asks for nothing more; None while it does."""
    step = _step(task, D, outcomes, precision, max_trials, grid, seeds)
    if step.capped:
        reached = f"max_trials = {step.asked} reached; a larger --max-trials goes on from here"
        return Stop(reached, cut_short=True)
    return None if step.result is None else Stop(step.result)


def lacking(
    task: Task,
    D: int,
    outcomes: Mapping[Request, Outcome],
    *,
    precision: float | None = None,
    max_trials: int | None = None,
    grid: Sequence[int] | None = None,
    seeds: int | None = None,
) -> str | None:
    """In one line, why the same call of `next_round` asks for more; None where it does not."""
    if not _step(task, D, outcomes, precision, max_trials, grid, seeds).missing:
        return None
    if grid is not None:
        return "trials of the grid are missing"
    held = _held(task, D, outcomes)
    if held is None:
        return "pilots of the learning rate are missing"
    return held.lacks(*_rule(task, precision, seeds)) or "a round or a bracket is not complete"


def _step(
    task: Task,
    D: int,
    outcomes: Mapping[Request, Outcome],
    precision: float | None,
    max_trials: int | None,
    grid: Sequence[int] | None,
    seeds: int | None,
) -> Step[str]:
    """Where the script stands; also at its end where all that is known settles the crossings.

    The latter is asked only where trials are known that the script did not ask for: a study that
    was killed in a round then ends as an uninterrupted one, whichever of its trials came first.
    """
    limit = task.search.max_trials if max_trials is None and grid is None else max_trials
    if limit is not None and limit < 1:
        raise UsageError(f"{task.name}: max_trials = {limit}; it must be at least 1")
    step = replay(study_script(task, D, precision, grid, seeds), outcomes, limit)
    held = _held(task, D, outcomes) if grid is None and step.result is None else None
    if held is None or len(held.outcomes) == step.asked - len(step.missing):
        return step
    precision, seeds = _rule(task, precision, seeds)
    return step if held.lacks(precision, seeds) else Step([], step.asked, held.summary(precision))


def _held(task: Task, D: int, outcomes: Mapping[Request, Outcome]) -> Stages | None:
    """What all trials say, whoever asked for them; None while pilots are missing."""
    chosen = chosen_lr(task, D, outcomes)
    return None if chosen is None else Stages.of(task, D, chosen, relevant(task, D, outcomes))


def _rule(task: Task, precision: float | None, seeds: int | None) -> tuple[float, int]:
    search = task.search
    return (
        search.precision if precision is None else precision,
        search.seeds if seeds is None else seeds,
    )


def study_script(
    task: Task,
    D: int,
    precision: float | None = None,
    grid: Sequence[int] | None = None,
    seeds: int | None = None,
) -> Script[str]:
    """The whole study as a script that returns why it ended; arguments as for `next_round`."""
    precision, seeds = _rule(task, precision, seeds)
    _check(task, D, precision, grid, seeds)
    return _adaptive(task, D, precision, seeds) if grid is None else _grid(task, D, grid, seeds)


def _check(task: Task, D: int, precision: float, grid: Sequence[int] | None, seeds: int) -> None:
    name, search = task.name, task.search
    if not 1.0 < precision < float("inf"):
        raise UsageError(f"{name}: precision = {precision:g}; it is a factor and must be above 1")
    if not 1 <= seeds <= MOST_TRIALS:
        raise UsageError(f"{name}: seeds = {seeds:,}; it must lie within [1, {MOST_TRIALS:,}]")
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


def _grid(task: Task, D: int, grid: Sequence[int], seeds: int) -> Script[str]:
    study = Stages(task, D, (yield from pilots(task, D)))
    dims = [NATIVE] * task.baseline_seeds + sorted(set(grid)) * seeds
    yield from study.run(dims, batch=len(dims))  # nothing to decide: no worker waits for another
    return f"every d of the grid has {seeds} seeds"


def _adaptive(task: Task, D: int, precision: float, seeds: int) -> Script[str]:
    study = Stages(task, D, (yield from pilots(task, D)))
    yield from study.run([NATIVE] * task.baseline_seeds + study.first_section())
    while dims := study.bracket():
        yield from study.run(dims)
    while dims := study.refine(precision, seeds):
        yield from study.run(dims)
    return study.summary(precision)
