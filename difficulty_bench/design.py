"""Which trials next: the most information about the open crossings per unit of cost.

For the `score` likelihood, the gain of a trial at c is the expected shrinkage of the mean score's
uncertainty where the crossing may lie, -1/2 log(1 - rho^2(f(t), y_c)) averaged over t; for `pass`,
the mutual information between the bit and the crossing (QUEST+, Psi). Another native seed is a
candidate too: it narrows the local threshold. A batch is chosen greedily, each choice counted as if
its outcome were as expected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from .belief import PassBelief, ScoreBelief
from .crossing import Array, Dims

NATIVE = 0  # as in Request.d

# One training at d costs 1 + d / COST_SCALE native ones. Step times on one CPU core: sparse 3.3 at
# d = 10,000; stored dense 19 at 1,000 and 172 at 10,000, and implicit dense, which keeps P where it
# is small, taken for as much; the O(D) families are flat. Times measured in the study itself would
# make its course depend on the machine.
COST_SCALE = {"dense": 58.0, "gaussian": 58.0, "rademacher": 58.0, "sparse": 4_300.0}


def relative_cost(projection: str, d: Dims) -> Array:
    """Cost of a training at each d, in native trainings."""
    scale = COST_SCALE.get(projection)
    return np.ones(len(d)) if scale is None else 1.0 + d / scale


class Prospect(Protocol):
    """What a trial at each candidate, and last a native one, would tell about one crossing."""

    def gain(self) -> Array:
        """Expected information in nats, (candidates + 1,)."""

    def add(self, index: int) -> None:
        """Count the trial at candidate `index` as if it had been run."""


class ScoreProspect:
    def __init__(self, belief: ScoreBelief, d: Dims, baseline_n: int) -> None:
        self.cov = belief.curve.covariance(np.log(d))  # (C, C)
        self.noise = belief.curve.spread(np.log(d)) ** 2  # (C,)
        self.weight = crossing_mass(belief.above(d))  # (C,)
        self.variance, self.n = belief.threshold.variance, baseline_n

    def gain(self) -> Array:
        own = np.maximum(np.diag(self.cov), 1e-12)
        total = own + self.variance  # of mean score - threshold at each t
        rho2 = self.cov**2 / (total[:, None] * (own + self.noise))  # (t, c)
        native = self.variance / (self.n + 1) / total
        return np.append(self.weight @ _nats(rho2), self.weight @ _nats(native))

    def add(self, index: int) -> None:
        if index == len(self.weight):
            self.variance, self.n = self.variance * self.n / (self.n + 1), self.n + 1
        else:
            column = self.cov[:, index]
            self.cov = self.cov - np.outer(column, column) / (column[index] + self.noise[index])


class PassProspect:
    def __init__(self, belief: PassBelief, d: Dims, baseline_n: int) -> None:
        likeliest = belief.parts[int(np.argmax(belief.weights))]
        self.p, self.mass = likeliest.solved(np.log(d))  # (C, U), (U,)
        self.between, self.within = _variances(belief)
        self.n = baseline_n

    def gain(self) -> Array:
        marginal = self.p @ self.mass
        bits = _entropy(marginal) - _entropy(self.p) @ self.mass
        total = self.between + self.within
        native = _nats(np.array(self.between / (self.n + 1) / max(total, 1e-12)))
        return np.append(np.maximum(bits, 0.0), native)

    def add(self, index: int) -> None:
        if index == len(self.p):
            self.between, self.n = self.between * self.n / (self.n + 1), self.n + 1
            return
        p, expected = self.p[index], float(self.p[index] @ self.mass)
        weight = self.mass * np.exp(expected * np.log(p) + (1 - expected) * np.log1p(-p))
        self.mass = weight / weight.sum()


def prospect(belief: ScoreBelief | PassBelief, d: Dims, baseline_n: int) -> Prospect:
    if isinstance(belief, ScoreBelief):
        return ScoreProspect(belief, d, baseline_n)
    return PassProspect(belief, d, baseline_n)


def choose(prospects: Sequence[Prospect], d: Dims, cost: Array, size: int) -> list[int]:
    """`size` values of `d`, or NATIVE, with repeats; `cost` (candidates + 1,) is relative."""
    chosen = []
    for _ in range(size):
        index = int(np.argmax(sum(p.gain() for p in prospects) / cost))
        chosen.append(NATIVE if index == len(d) else int(d[index]))
        for p in prospects:
            p.add(index)
    return chosen


def crossing_mass(G: Array) -> Array:
    """Where the crossing may lie, from G at increasing d; what lies outside goes to the ends."""
    rising = np.maximum.accumulate(np.clip(G, 0.0, 1.0))
    edges = np.concatenate([[0.0], (rising[1:] + rising[:-1]) / 2, [1.0]])
    return np.asarray(np.diff(edges))


def _nats(rho2: Array) -> Array:
    return np.asarray(-0.5 * np.log1p(-np.clip(rho2, 0.0, 1.0 - 1e-9)))


def _entropy(p: Array) -> Array:
    return np.asarray(-(p * np.log(p) + (1 - p) * np.log1p(-p)))


def _variances(belief: PassBelief) -> tuple[float, float]:
    """Variance of log d_int90 between the likely thresholds and, on average, within one."""
    w = np.asarray(belief.weights)
    mean = np.array([part.mass @ part.u for part in belief.parts])
    second = np.array([part.mass @ part.u**2 for part in belief.parts])
    return float(w @ (mean - w @ mean) ** 2), float(w @ (second - mean**2))
