"""Results in, Estimate out: d_int90 with its interval, for both thresholds. Pure.

The model, its formulas and its assumptions are on one page: docs/estimate.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from .baseline import Baseline, measure_baseline
from .belief import WINDOW, Belief, ScoreBelief, Threshold, Trials, believe, clipped_curve
from .crossing import Crossing, locate
from .results import Outcome, Request
from .tuning import relevant

if TYPE_CHECKING:
    from .registry import Task

LOCAL = 0.9  # the normalised score that `local` asks for (docs/estimate.md)


@dataclass(frozen=True)
class Estimate:
    """What a study says so far; None where it cannot say yet.

    `outliers` are subspace trials, (d, score) with None for a failed one, that hardly count: under
    the `score` likelihood they are more likely outliers than not, and not only beside clipped
    scores.
    `at_chance`: a prediction that is always the same reaches the local threshold, or may score as
    the baseline does, so that a d_int90 says nothing.
    """

    threshold_local: float | None
    local: Crossing | None
    global_: Crossing | None
    outliers: tuple[tuple[int, float | None], ...]
    at_chance: bool


@dataclass(frozen=True)
class Target:
    """One threshold (raw score), what is believed of its crossing, and what that comes to."""

    threshold: float
    belief: Belief | None
    crossing: Crossing


def estimate(task: Task, D: int, outcomes: Mapping[Request, Outcome]) -> Estimate:
    """Everything that `outcomes` say about `task`; their order does not matter.

    Trials of another learning-rate rule than the task's are left out. Raise StudyError where a
    baseline trial failed, or where the baseline is no better than the floor.
    """
    used = relevant(task, D, outcomes)
    baseline = measure_baseline(task, used)
    local, global_ = targets(task, used)
    return Estimate(
        threshold_local=local.threshold if local else None,
        local=local.crossing if local else None,
        global_=global_.crossing if global_ else None,
        outliers=_outliers(
            subspace_trials(used), task.floor, baseline, *(t for t in (local, global_) if t)
        ),
        at_chance=_at_chance(task, baseline, local),
    )


def targets(task: Task, outcomes: Mapping[Request, Outcome]) -> tuple[Target | None, Target | None]:
    """The local and the global crossing, both None until there is a baseline above the floor.

    The global one is None, too, where the task has no such threshold. `outcomes` are `relevant`
    ones: of one learning-rate rule.
    """
    baseline = measure_baseline(task, outcomes)
    if baseline is None or baseline.mean <= task.floor:
        return None, None
    scale = Scale(task.floor, baseline.mean - task.floor)
    raws = [task.floor + LOCAL * scale.unit]
    if task.threshold_global is not None:
        raws.append(task.threshold_global)
    pairs = subspace_trials(outcomes)
    data = _Data(task, pairs, Trials.of(_scaled(pairs, scale)), scale, tuple(raws))
    error = LOCAL**2 * baseline.error2 / scale.unit / scale.unit  # a square may overflow
    if baseline.n > 1:
        local = data.target(raws[0], error, baseline.dof)
    else:  # one native trial does not know how far off it is
        local = Target(raws[0], None, data.crossing(raws[0]))
    return local, data.target(raws[1]) if len(raws) > 1 else None


def _at_chance(task: Task, baseline: Baseline | None, local: Target | None) -> bool:
    if task.chance is None or baseline is None or local is None:
        return False
    return min(baseline.lower_bound(), local.threshold) <= task.chance


def _outliers(
    pairs: list[tuple[int, float | None]], floor: float, baseline: Baseline | None, *found: Target
) -> tuple[tuple[int, float | None], ...]:
    """Of `pairs`, in canonical order; one curve serves both thresholds.

    Clipped scores do not spread, and beside them an ordinary one looks odd: it must look so, too,
    in a window twice as wide, where its neighbours are not clipped.
    """
    beliefs = [target.belief for target in found]
    curves = [belief.curve for belief in beliefs if isinstance(belief, ScoreBelief)]
    if baseline is None or not curves or not (curves[0].outlier > 0.5).any():
        return ()
    scale, raw = Scale(floor, baseline.mean - floor), Trials.of(pairs)
    whole = Trials.of(_scaled(pairs, scale))
    values = [scale.of(target.threshold) for target in found]
    again = clipped_curve(whole, (min(values) - 2 * WINDOW, max(values) + 2 * WINDOW))
    odd = (curves[0].outlier > 0.5) & (again.outlier > 0.5)
    return tuple((d, score) for d, score, o in zip(raw.d, raw.y, odd, strict=True) if o)


def subspace_trials(outcomes: Mapping[Request, Outcome]) -> list[tuple[int, float | None]]:
    """(d, score) of every subspace trial; the score of a failed one is None."""
    pairs = sorted(outcomes.items(), key=lambda pair: pair[0])
    return [(request.d, outcome.score) for request, outcome in pairs if request.role == "trial"]


def paper_rule(
    pairs: Iterable[tuple[int, float | None]], threshold: float, floor: float
) -> int | None:
    """Smallest tested d whose mean score is strictly above the threshold; a failure: the floor."""
    scores: dict[int, list[float]] = {}
    for d, score in pairs:
        scores.setdefault(d, []).append(floor if score is None else score)
    passing = [d for d, ys in scores.items() if sum(sorted(ys)) / len(ys) > threshold]
    return min(passing, default=None)


@dataclass(frozen=True)
class Scale:
    """Normalised scores: 0 at the floor, 1 at the baseline's mean."""

    floor: float
    unit: float

    def of(self, score: float) -> float:
        return (score - self.floor) / self.unit


def _scaled(
    pairs: Iterable[tuple[int, float | None]], scale: Scale
) -> list[tuple[int, float | None]]:
    return [(d, None if score is None else scale.of(score)) for d, score in pairs]


@dataclass(frozen=True)
class _Data:
    task: Task
    pairs: list[tuple[int, float | None]]
    trials: Trials
    scale: Scale
    raws: tuple[float, ...]

    def target(self, raw: float, error: float = 0.0, dof: float = 1.0) -> Target:
        values, value = list(map(self.scale.of, self.raws)), self.scale.of(raw)
        if not self.trials.d:
            return Target(raw, None, self.crossing(raw))
        search = self.task.search
        belief = believe(
            self.trials,
            Threshold(value, error, dof),
            clip=(min(values) - WINDOW, max(values) + WINDOW),
            scores=search.model == "score",
            bracket=(min(search.d_min, *self.trials.d), max(search.d_max, *self.trials.d)),
        )
        d = np.asarray(self.trials.d)
        where = locate(belief.above, d, search.d_min, search.d_max)
        width = None if where.d_int90 is None else belief.width(int(d[0]), int(d[-1]))
        found = replace(self.crossing(raw), **asdict(where), width=width)
        return Target(raw, belief, found)

    def crossing(self, raw: float) -> Crossing:
        """What the trials say of a threshold without a model: an unfinished crossing."""
        d = np.asarray(self.trials.d)
        solved = self.trials.solved(self.scale.of(raw))
        return Crossing(
            threshold=raw,
            largest_failed_d=int(d[~solved].max()) if not solved.all() else None,
            smallest_solved_d=int(d[solved].min()) if solved.any() else None,
            paper_rule_d=paper_rule(self.pairs, raw, self.task.floor),
        )
