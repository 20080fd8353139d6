"""What trials say about one crossing, under either likelihood: G(d) = P(p(d) >= 1/2 | data).

Scores here are normalised: (score - floor) / (baseline mean - floor).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from . import curve, psychometric
from .crossing import Array, Dims, geometric
from .curve import Curve
from .psychometric import Psychometric

WINDOW = 0.3  # normalised score; what lies further from every threshold counts as that far
MAX_FAILED = 0.1  # share of failures where trials do get solved, above which scores mislead
NODES = 9  # equally likely values that stand for an uncertain threshold
ONE_SIGMA = 0.994  # standard normal quantile of 0.84


@dataclass(frozen=True)
class Trials:
    """Subspace trials in canonical order, so that no sum depends on the order they came in."""

    d: tuple[int, ...]
    y: tuple[float | None, ...]  # normalised score; None: failed

    @classmethod
    def of(cls, pairs: Sequence[tuple[int, float | None]]) -> Trials:
        ordered = sorted(pairs, key=lambda pair: (pair[0], pair[1] is None, pair[1] or 0.0))
        return cls(tuple(d for d, _ in ordered), tuple(y for _, y in ordered))

    def solved(self, threshold: float) -> NDArray[np.bool_]:
        return np.array([y is not None and y >= threshold for y in self.y], dtype=bool)


@dataclass(frozen=True)
class Threshold:
    """A normalised score: its value, squared standard error and degrees of freedom."""

    value: float
    variance: float = 0.0
    dof: float = 1.0

    def nodes(self) -> Array:
        """Equally likely values."""
        if self.variance == 0.0:
            return np.array([self.value])
        quantiles = (np.arange(NODES) + 0.5) / NODES
        return np.asarray(self.value + np.sqrt(self.variance) * stdtrit(self.dof, quantiles))


@dataclass(frozen=True)
class ScoreBelief:
    """From the scores: the mean score's posterior at d, against the threshold's."""

    curve: Curve
    threshold: Threshold

    def above(self, d: Dims) -> Array:
        t = self.threshold
        return self.curve.above(np.log(d), t.value, t.variance, t.dof)

    def width(self, first: int, last: int) -> float | None:
        """Factor in d over which the mean score rises through one spread about the threshold."""
        x = np.log(geometric(first, last, 1.02))
        off = self.curve.mean(x) - self.threshold.value
        z = np.maximum.accumulate(off / self.curve.spread(x))
        if z[0] > -ONE_SIGMA or z[-1] < ONE_SIGMA:
            return None
        low, high = np.interp([-ONE_SIGMA, ONE_SIGMA], z, x)
        return float(np.exp(high - low))


@dataclass(frozen=True)
class PassBelief:
    """From the pass bits: one psychometric posterior for each likely value of the threshold."""

    parts: tuple[Psychometric, ...]
    weights: tuple[float, ...]

    def above(self, d: Dims) -> Array:
        x = np.log(d)
        pairs = zip(self.weights, self.parts, strict=True)
        return np.asarray(sum(weight * part.above(x) for weight, part in pairs))

    def width(self, first: int, last: int) -> float | None:
        pairs = zip(self.weights, self.parts, strict=True)
        return float(np.exp(sum(weight * np.log(part.width()) for weight, part in pairs)))


Belief = ScoreBelief | PassBelief


def believe(
    trials: Trials,
    threshold: Threshold,
    clip: tuple[float, float],
    scores: bool,
    bracket: tuple[int, int],
) -> Belief:
    """The belief under the `score` likelihood if `scores` and they allow it, else under `pass`."""
    if scores and _smooth(trials, threshold.value):
        return ScoreBelief(clipped_curve(trials, clip), threshold)
    return _pass_belief(trials, threshold, *bracket)


def _smooth(trials: Trials, threshold: float) -> bool:
    """Enough scores, at two d or more, and few failures at d where trials get solved."""
    finished = [d for d, y in zip(trials.d, trials.y, strict=True) if y is not None]
    solved = trials.solved(threshold)
    if len(finished) < curve.MIN_TRIALS or len(set(finished)) < 2:
        return False
    if not solved.any():
        return True
    beyond = [
        y is None
        for d, y in zip(trials.d, trials.y, strict=True)
        if d >= min(np.asarray(trials.d)[solved])
    ]
    return sum(beyond) <= MAX_FAILED * len(beyond)


def clipped_curve(trials: Trials, clip: tuple[float, float]) -> Curve:
    """The curve of scores clipped to `clip`, a failed trial having the lower end of it."""
    low, high = clip
    y = tuple(low if y is None else min(max(y, low), high) for y in trials.y)
    return curve.fit(trials.d, y)


def _pass_belief(trials: Trials, threshold: Threshold, d_min: int, d_max: int) -> PassBelief:
    d, index, n = np.unique(trials.d, return_inverse=True, return_counts=True)
    nodes = threshold.nodes()
    votes: dict[tuple[int, ...], float] = {}
    for node in nodes:
        k = np.bincount(index, trials.solved(float(node)), minlength=len(d)).astype(int)
        key = tuple(k.tolist())
        votes[key] = votes.get(key, 0.0) + 1.0 / len(nodes)
    ds, ns = tuple(d.tolist()), tuple(n.tolist())
    parts = tuple(psychometric.fit(ds, k, ns, d_min, d_max) for k in votes)
    return PassBelief(parts, tuple(votes.values()))
