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
LEAST = 3  # seeds; METHOD.md, section 2


@dataclass(frozen=True)
class Baseline:
    """Mean and spread (n - 1; None for a single trial) of the native scores."""

    mean: float
    sd: float | None
    n: int

    @property
    def variance(self) -> float:
        """Squared standard error of the mean; 0 for a single trial, which does not know it."""
        return 0.0 if self.sd is None else self.sd**2 / self.n

    def lower_bound(self) -> float:
        return float(self.mean - stdtrit(self.n - 1, CONFIDENCE) * np.sqrt(self.variance))


def measure_baseline(task: Task, outcomes: Mapping[Request, Outcome]) -> Baseline | None:
    """None before the first native trial has finished.

    Raise StudyError where one failed, or where all of them together cannot be told from the floor.
    """
    native = {r.seed: o.score for r, o in outcomes.items() if r.role == "baseline"}
    failed = sorted(seed for seed, score in native.items() if score is None)
    scores = [score for _, score in sorted(native.items()) if score is not None]
    if failed:
        raise StudyError(
            f"{task.name}: {len(failed)} of {len(native)} baseline trials failed (seeds "
            f"{', '.join(map(str, failed))}; the others scored {_listed(scores)}); "
            "a difficulty needs native training that works: mend the agent or its budget"
        )
    if not scores:
        return None
    sd = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
    baseline = Baseline(float(np.mean(scores)), sd, len(scores))
    if len(scores) >= max(LEAST, task.baseline_seeds):
        _require_above_floor(task, baseline, scores)
    return baseline


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
