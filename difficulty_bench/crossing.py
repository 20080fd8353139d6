"""From G(d) = P(p(d) >= 1/2 | data) to d_int90 with its interval and its censoring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Array = NDArray[np.float64]
Dims = NDArray[np.int64]
Solvable = Callable[[Dims], Array]

# Posterior probability outside each end of a 95% interval. Not 0.025: a search that stops when its
# interval is narrow stops more often when that is an accident; the rest of a point pays for it.
TAIL = 0.02
COARSE, FINE = 1.2, 1.01  # ratios of the grids of d on which G is computed ...
CELLS = 40  # ... the fine one with so many cells at most
SURE = 4.0  # normal quantile of G beyond which no crossing is looked for

ABOVE = "> d_max"
BELOW = "<= d_min"
UNFINISHED = "unfinished"


@dataclass(frozen=True)
class Crossing:
    """d_int90 for one threshold: the smallest integer d with p(d) >= 1/2.

    `d_int90` is None where `censored` says why: `> d_max` (more likely than not, p(d_max) < 1/2),
    `<= d_min` (p(d_min) >= 1/2) or `unfinished` (the trials so far bound the crossing on neither
    side, or the d tested do not enclose it).
    `ci_low`, `ci_high` are the ends of the 95% interval for the same integer; None where the d
    tested so far do not bound that side. `width` is the factor in d over which p(d) rises from
    0.16 to 0.84 of its way up: under `score` None where that is not within the d tested, under
    `pass` the prior's while the trials say nothing of it. `largest_failed_d` and
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


def locate(solvable: Solvable, tested: Dims, d_min: int, d_max: int) -> Location:
    """Read the crossing off G = `solvable` between the smallest and largest of `tested`.

    Where p(d) >= 1/2 surely, the smallest such d is at most d; where p(d) < 1/2 surely, and p rises
    with d, it lies above d. Where the trials contradict that rise, surely unsolved above surely
    solved, the interval reaches from the first crossing, which is d_int90, to the last.
    """
    d, z = _tabulate(solvable, np.unique(tested))
    first, last = int(d[0]), int(d[-1])
    solved = np.flatnonzero(z > ndtri(1.0 - TAIL))  # surely
    unsolved = np.flatnonzero(z <= ndtri(TAIL))
    before = unsolved[unsolved < solved[0]] if len(solved) else unsolved
    start, end = (int(some[-1]) + 1 if len(some) else 0 for some in (before, unsolved))
    high = _integer(d, z, ndtri(1.0 - TAIL), end)
    middle = _integer(d, z, 0.0, start)
    low = _integer(d, z, ndtri(TAIL), start)
    if middle is None:
        state = ABOVE if last >= d_max else UNFINISHED
        return Location(None, (low or last + 1) if start else None, high, state)
    if middle == first:
        return Location(None, None, high, BELOW if first <= d_min else UNFINISHED)
    low = low if start or first == 1 else None  # below the first d it may lie as well, but for 1
    if low is None and high is None:  # a guess, without an interval, is no number
        return Location(None, None, None, UNFINISHED)
    return Location(middle, low, high, None)


def _tabulate(solvable: Solvable, tested: Dims) -> tuple[Dims, Array]:
    """Integers d and the normal quantile of G(d), close where the crossing may be."""
    d = np.union1d(tested, geometric(int(tested[0]), int(tested[-1]), COARSE))
    z = _quantile(solvable(d))
    open_ = np.flatnonzero(np.abs(z) < SURE)
    if len(open_) == 0:  # a step between neighbours of this grid
        open_ = np.flatnonzero(np.diff(np.sign(z)))
    if len(open_) == 0:
        return d, z
    low, high = int(d[max(open_[0] - 1, 0)]), int(d[min(open_[-1] + 1, len(d) - 1)])
    extra = np.setdiff1d(geometric(low, high, max(FINE, (high / low) ** (1 / CELLS))), d)
    if len(extra) == 0:
        return d, z
    both, order = np.concatenate([d, extra]), np.argsort(np.concatenate([d, extra]))
    return both[order], np.concatenate([z, _quantile(solvable(extra))])[order]


def _integer(d: Dims, z: Array, level: float, start: int) -> int | None:
    """Smallest integer at which z, linear in log d between its nodes, exceeds `level`."""
    above = np.flatnonzero(z[start:] > level)
    if len(above) == 0:
        return None
    i = start + int(above[0])
    if i == 0 or d[i] - d[i - 1] == 1 or z[i - 1] > level:
        return int(d[i])
    share = (level - z[i - 1]) / (z[i] - z[i - 1])
    x = np.log(d[i - 1]) + share * np.log(d[i] / d[i - 1])
    return int(min(max(np.ceil(np.exp(x)), d[i - 1] + 1), d[i]))


def _quantile(G: Array) -> Array:
    return np.asarray(ndtri(np.clip(G, 1e-12, 1.0 - 1e-12)))


def geometric(first: int, last: int, ratio: float) -> Dims:
    """Distinct integers from first to last, `ratio` apart or one apart where that is more."""
    n = max(2, int(np.ceil(np.log(last / first) / np.log(ratio))) + 1)
    return np.unique(np.geomspace(first, last, n).round().astype(np.int64))
