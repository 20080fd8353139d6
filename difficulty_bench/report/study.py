"""One reading of a study, with the trials that belong to it and what they come to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean, median, stdev

from ..errors import StudyError, UsageError
from ..estimate import Estimate, estimate
from ..records import Reading
from ..registry import Reference, Task
from ..results import Request, Scores, TrialResult
from ..search import unmet
from ..sizes import sizes, unscored
from ..store import Store
from ..tuning import ChosenLr, chosen_lr, possible_pilots, relevant

PARADIGMS = ("supervised", "reinforcement", "synthetic")


@dataclass(frozen=True)
class StudyReport:
    """`results` are the finished trials that this reading rests on, those of other lr rules left
    out. `chosen` is None while pilots are missing; `error` says why there is no estimate. `sizes`
    are the estimates with quantised solutions, by bits per number; `unscored` finished subspace
    trials lack what others have. `unmet` is what the task's stopping rule still asks for.
    """

    reading: Reading
    results: tuple[TrialResult, ...]
    chosen: ChosenLr | None
    estimate: Estimate | None
    error: str | None
    sizes: Mapping[int, Estimate]
    unscored: int
    unmet: str | None

    def of_role(self, role: str) -> list[TrialResult]:
        return [result for result in self.results if result.request.role == role]

    @cached_property
    def points(self) -> list[Point]:
        """The subspace trials, gathered by d, ascending."""
        trials = self.of_role("trial")
        return [
            Point(d, tuple(t.score for t in trials if t.request.d == d))
            for d in sorted({trial.request.d for trial in trials})
        ]

    @property
    def reference(self) -> Reference | None:
        """The published value; None where overrides made the problem or network another one."""
        changed = any(s.startswith(("problem.", "network.")) for s in self.reading.settings)
        return None if changed else self.reading.task.reference

    @property
    def baseline(self) -> tuple[float | None, float | None, int]:
        """Mean, sd over seeds and number of the native trials that finished, also on error."""
        scores = [t.score for t in self.of_role("baseline") if t.score is not None]
        mean = fmean(scores) if scores else None
        return mean, stdev(scores) if len(scores) > 1 else None, len(scores)


@dataclass(frozen=True)
class Point:
    """The scores at one d, None for a failed trial."""

    d: int
    scores: tuple[float | None, ...]

    @property
    def finished(self) -> list[float]:
        return [score for score in self.scores if score is not None]

    @property
    def failed(self) -> int:
        return len(self.scores) - len(self.finished)

    def solved(self, threshold: float | None) -> int | None:
        if threshold is None:
            return None
        return sum(score >= threshold for score in self.finished)

    @property
    def median(self) -> float | None:
        """Of all trials, a failed one lower than any score; None where that makes it a failure."""
        ranked = [float("-inf") if score is None else score for score in self.scores]
        middle = median(ranked)
        return None if middle == float("-inf") else middle


def study_reports(
    source: Store, studies: Iterable[str] | None = None, registered: Sequence[Task] = ()
) -> list[StudyReport]:
    """All readings in the source (of `studies` only, where given), in the order of the tables.

    What was published of the `registered` tasks is what they say now: no trial rests on it.
    """
    wanted = None if studies is None else set(studies)
    readings = [r for r in source.studies() if wanted is None or r.study in wanted]
    readings = [_with_reference(r, registered) for r in readings]
    readings.sort(key=_order)
    return [study_report(r, source.results(r.study), source.quantised(r.study)) for r in readings]


def _with_reference(reading: Reading, registered: Sequence[Task]) -> Reading:
    own = reading.task
    for task in registered:
        if (task.name, task.version) == (own.name, own.version):
            return replace(reading, task=own.model_copy(update={"reference": task.reference}))
    return reading


def _order(reading: Reading) -> tuple[object, ...]:
    task = reading.task
    rank = PARADIGMS.index(task.paradigm)
    variant = (bool(reading.settings), task.projection, task.lr_rule, reading.settings)
    return rank, task.name, task.version, *variant, reading.study


def study_report(
    reading: Reading, results: Sequence[TrialResult], quantised: Mapping[str, Scores]
) -> StudyReport:
    task, D, error = reading.task, reading.D, None
    chosen: ChosenLr | None = None
    found: Estimate | None = None
    small: Mapping[int, Estimate] = {}
    scores_missing, trials_missing = 0, None
    everything = {result.request: result.outcome for result in results}
    belongs = set[Request]()
    try:
        belongs = set(possible_pilots(task, D))
        chosen = chosen_lr(task, D, everything)
        outcomes = relevant(task, D, everything)
        belongs = set(outcomes)
        found = estimate(task, D, outcomes)
        scores = {
            result.request: quantised[result.identity]
            for result in results
            if result.request in belongs and result.identity in quantised
        }
        small = sizes(task, D, outcomes, scores)
        scores_missing = unscored(outcomes, scores)
        trials_missing = unmet(task, D, outcomes)
    except (StudyError, UsageError) as exception:  # the latter of a file from elsewhere
        error = str(exception)
    own = [result for result in results if result.request in belongs]
    return StudyReport(
        reading, tuple(own), chosen, found, error, small, scores_missing, trials_missing
    )
