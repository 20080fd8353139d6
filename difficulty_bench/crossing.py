"""From G(d) = P(p(d) >= 1/2 | data) to d_int90 with its interval and its censoring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Dims = NDArray[np.int64]
Solvable = Callable[[Dims], Array]

TAIL = 0.025  # outside each end of a 95% interval
STEP = 1.08  # ratio of the coarse grid of d; the fine one has a ratio of 1.006 or every integer
FINE = 13

ABOVE = "> d_max"
BELOW = "<= d_min"
UNFINISHED = "unfinished"


@dataclass(frozen=True)
class Crossing:
    """d_int90 for one threshold: the smallest integer d with p(d) >= 1/2.

    `d_int90` is None where `censored` says why: `> d_max` (p(d_max) < 1/2), `<= d_min`
    (p(d_min) >= 1/2) or `unfinished` (the d tested so far do not enclose the crossing).
    `ci_low`, `ci_high` are the ends of the 95% interval for the same integer; None where the d
    tested so far do not bound that side. `width` is the factor in d over which p(d) rises from
    0.16 to 0.84, None where that is not within the d tested. `largest_failed_d` and
    `smallest_solved_d` are raw facts: single trials below and at or above the threshold.
    `paper_rule_d` is the smallest tested d whose mean score is strictly above the threshold, a
    failed trial counting with the score of the floor.
    """

    threshold: float
    d_int90: int | None = None
    ci_low: int | None = None
    ci_high: int | None = None
    censored: str | None = UNFINISHED
    width: float | None = None
    largest_failed_d: int | None = None
    smallest_solved_d: int | None = None
    paper_rule_d: int | None = None

    def factors(self) -> tuple[float, float]:
        """How far each end of the interval is from d_int90, as a ratio; inf where unbounded."""
        if self.d_int90 is None:
            return np.inf, np.inf
        low = self.d_int90 / self.ci_low if self.ci_low is not None else np.inf
        high = self.ci_high / self.d_int90 if self.ci_high is not None else np.inf
        return low, high


@dataclass(frozen=True)
class Location:
    """Where G(d) passes 1/2 and its tails, on the integers between the first and last d tested."""

    d_int90: int | None
    ci_low: int | None
    ci_high: int | None
    censored: str | None


def locate(solvable: Solvable, tested: Dims, d_min: int, d_max: int, tail: float = TAIL) -> Location:
    """Read the crossing off G = `solvable` between the smallest and largest of `tested`.

    The upper end needs no assumption: p(d) >= 1/2 surely, so the smallest such d is at most d.
    The lower end uses that p rises with d: p(d) < 1/2 surely, so the crossing lies above d.
    """
    first, last = int(tested.min()), int(tested.max())
    d, G = _tabulate(solvable, first, last, tail)
    low = _after_last(G <= tail)
    high = _first(G >= 1.0 - tail, low)
    middle = _first(G >= 0.5, low)
    ci_high = None if high is None else int(d[high])
    if middle is None:
        reached = last >= d_max
        bound = int(d[min(low, len(d) - 1)]) if low else None
        return Location(None, bound, ci_high, ABOVE if reached else UNFINISHED)
    if middle == 0:
        return Location(None, None, ci_high, BELOW if first <= d_min else UNFINISHED)
    ci_low = int(d[low]) if low or first <= d_min else None
    return Location(int(d[middle]), ci_low, ci_high, None)


def _tabulate(solvable: Solvable, first: int, last: int, tail: float) -> tuple[Dims, Array]:
    """G on a geometric grid of integers, refined in the cells where it passes a level."""
    d = geometric(first, last, STEP)
    G = solvable(d)
    extra = [
        np.unique(np.linspace(d[i], d[i + 1], FINE).round().astype(np.int64))[1:-1]
        for i in range(len(d) - 1)
        if any((G[i] < level) != (G[i + 1] < level) for level in (tail, 0.5, 1.0 - tail))
    ]
    if not extra:
        return d, G
    fine = np.concatenate(extra)
    d, G = np.concatenate([d, fine]), np.concatenate([G, solvable(fine)])
    order = np.argsort(d)
    return d[order], G[order]


def geometric(first: int, last: int, ratio: float) -> Dims:
    """Distinct integers from first to last, `ratio` apart or one apart where that is more."""
    n = max(2, int(np.ceil(np.log(last / first) / np.log(ratio))) + 1)
    return np.unique(np.geomspace(first, last, n).round().astype(np.int64))


def _first(condition: NDArray[np.bool_], start: int) -> int | None:
    index = np.flatnonzero(condition[start:])
    return start + int(index[0]) if len(index) else None


def _after_last(condition: NDArray[np.bool_]) -> int:
    index = np.flatnonzero(condition)
    return int(index[-1]) + 1 if len(index) else 0
