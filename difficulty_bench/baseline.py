"""The baseline: the mean score of native trials, which sets the local threshold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtrit

from .errors import StudyError
from .results import Outcome, Request

if TYPE_CHECKING:
    from .registry import Task

CONFIDENCE = 0.95  # one-sided, that the baseline is above the floor


@dataclass(frozen=True)
class Baseline:
    """The mean of the n native scores, and how far off it may be.

    `error2` is the squared standard error of the mean with `dof` degrees of freedom, from the
    spread of the seeds that every study runs: the search adds further ones where the spread is
    large, and a spread that decided this cannot be averaged with them (Stein 1945).
    """

    mean: float
    n: int
    error2: float
    dof: int

    def lower_bound(self) -> float:
        return self.mean - self._reach()

    def upper_bound(self) -> float:
        return self.mean + self._reach()

    def _reach(self) -> float:
        return float(stdtrit(self.dof, CONFIDENCE) * np.sqrt(self.error2))


def measure_baseline(task: Task, outcomes: Mapping[Request, Outcome]) -> Baseline | None:
    """None before the first native trial has finished.

    Raise StudyError where one failed, or where all of them together cannot be told from the floor.
    """
    native = {r.seed: o.score for r, o in outcomes.items() if r.role == "baseline"}
    failed = sorted(seed for seed, score in native.items() if score is None)
    scores = [score for _, score in sorted(native.items()) if score is not None]
    if failed:
        limit = task.timeout_s
        others = f"; the others scored {_listed(scores)}" if scores else ""
        longer = f", or a longer timeout_s than {limit:g} where they ran out of it" if limit else ""
        raise StudyError(
            f"{task.name}: {len(failed)} of {len(native)} baseline trials failed (seeds "
            f"{', '.join(map(str, failed))}{others}); "
            "a difficulty needs native training that works: give the agent other parameters"
            f"{longer}, or mend its code and raise the task's `version`, for trials stay as long "
            "as that does"
        )
    if not scores:
        return None
    baseline = _summary(scores, scores[: task.baseline_seeds])
    if len(scores) >= task.baseline_seeds:
        _require_above_floor(task, baseline, scores)
    return baseline


def _summary(scores: list[float], first: list[float]) -> Baseline:
    n, sd = len(scores), float(np.std(first, ddof=1)) if len(first) > 1 else 0.0
    return Baseline(float(np.mean(scores)), n, sd**2 / n, max(1, len(first) - 1))


def _require_above_floor(task: Task, baseline: Baseline, scores: list[float]) -> None:
    if baseline.mean <= task.floor or baseline.lower_bound() <= task.floor:
        raise StudyError(
            f"{task.name}: the baseline is no better than the floor {task.floor:g}: mean "
            f"{baseline.mean:.6g} of {_listed(scores)}, 95% lower bound "
            f"{baseline.lower_bound():.6g}; give the agent more budget, or the task more "
            "baseline_seeds"
        )


def _listed(scores: list[float]) -> str:
    return ", ".join(f"{score:.4g}" for score in scores) or "nothing"
