"""The `score` likelihood: the mean score as a smooth random curve of x = log d.

With normalised scores y of trials j at d_i (universal kriging; Rasmussen & Williams 2006, 2.7),

    y_ij = b0 + b1 (x_i - xbar) + g(x_i) + e_ij,   e_ij ~ N(0, s^2 / v_ij),   g ~ GP(0, s^2 r^2 k_l)

where k_l is the Matern-5/2 kernel with length l, b has a flat prior and s^2 a weak inverse-gamma
one, so that given (r, l) and the precisions v the curve at any x is Student-t. v grows with d as
d^(2 c), c the decay of the spread, and is WIDE^2 times smaller for an outlier; a trial is one with
probability ODD: a contaminated normal (Tukey 1960; Box & Tiao 1968). (r, l, c) run over a small
grid, and with the likely sets of outliers are averaged by their marginal likelihoods. See
docs/estimate.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, stdtr

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

LENGTHS = (0.1, 0.2, 0.4, 0.8, 1.6)  # l, in units of log d: factors of 1.1 to 5 in d
RATIOS = (1.0, 3.0, 9.0, 27.0, 81.0)  # r: how far the curve strays from a line, in spreads s
STRAY, STRAY_SD = 0.3, 1.0  # log-normal prior of r s, the same in normalised score
DECAYS = (-0.5, 0.0, 0.5, 1.0, 1.5)  # c: seeds at d spread as d^-c ...
DECAY, DECAY_SD = 0.5, 0.7  # ... normal prior of c
PRIOR_DOF = 1.0  # the prior of the spread is worth one trial ...
PRIOR_SPREAD = 0.01  # ... of this spread in normalised score: that of MNIST's seeds
ODD = 0.05  # prior probability that a trial is an outlier ...
ODDS = np.log(ODD / (1.0 - ODD))
WIDE = 30.0  # ... whose spread is so many times that of the others
DROP = 1e-3  # weight, relative to the largest, of what cannot move a 95% interval
MIN_TRIALS = 5  # below this, and at a single d, the curve says less than the pass bits


@dataclass(frozen=True)
class Curve:
    """Posterior of the mean score.

    h runs over (r, l, c) and sets of outliers, i over the m distinct d, k over the n trials.
    """

    x: Array  # (m,) log d
    centre: float  # mean log d of the trials, where their spread is s
    length: Array  # (h,) l
    power: Array  # (h,) r^2
    decay: Array  # (h,) c
    inverse: Array  # (h, m, m) of r^2 k + diag(1 / n), n_i the sum of v at d_i
    beta: Array  # (h, 2)
    beta_cov: Array  # (h, 2, 2), in units of spread2
    alpha: Array  # (h, m) inverse @ residual from the line
    spread2: Array  # (h,) s^2
    odd: Array  # (h, n) 1 for an outlier, else 0
    weight: Array  # (h,) posterior
    dof: float

    def _cross(self, x: Array) -> Array:
        """Prior covariance with the data, in units of spread2, (h, X, m)."""
        return self.power[:, None, None] * matern(x[:, None] - self.x, self.length)

    def _line(self, x: Array) -> Array:
        return np.stack([np.ones_like(x), x - self.x.mean()], axis=-1)  # (X, 2)

    def _located(self, k: Array, x: Array) -> Array:
        return np.asarray(self.beta @ self._line(x).T + (k @ self.alpha[:, :, None])[..., 0])

    def mean(self, x: Array) -> Array:
        return np.asarray(self.weight @ self._located(self._cross(x), x))  # (X,)

    def moments(self, x: Array) -> tuple[Array, Array]:
        """Location (h, X) and squared scale (h, X) of the mean score, Student-t with `dof`."""
        k = self._cross(x)
        kc = k @ self.inverse  # (h, X, m)
        r = self._line(x) - kc @ self._line(self.x)  # (h, X, 2)
        q = self.power[:, None] - (kc * k).sum(-1) + ((r @ self.beta_cov) * r).sum(-1)
        return self._located(k, x), self.spread2[:, None] * np.maximum(q, 1e-12)

    def covariance(self, x: Array) -> Array:
        """Posterior covariance (X, X) of the mean score, within hypotheses and between them."""
        k = self._cross(x)
        kc = k @ self.inverse
        r = self._line(x) - kc @ self._line(self.x)
        prior = self.power[:, None, None] * matern(x[:, None] - x, self.length)
        inner = prior - kc @ k.transpose(0, 2, 1) + r @ self.beta_cov @ r.transpose(0, 2, 1)
        within = np.tensordot(self.weight * self.spread2, inner, 1)
        off = self._located(k, x)
        off = off - self.weight @ off
        return np.asarray(within + (self.weight[:, None] * off).T @ off)

    @property
    def outlier(self) -> Array:
        """The probability that trial k is an outlier, (n,)."""
        return np.asarray(self.weight @ self.odd)

    def spread(self, x: Array) -> Array:
        """Standard deviation at x of one trial about the mean score, (X,)."""
        return np.sqrt((self.weight * self.spread2) @ _fading(self.decay, x - self.centre))

    def above(self, x: Array, threshold: float, variance: float = 0.0, dof: float = 1.0) -> Array:
        """P(mean score at x >= threshold | data), (X,), for a threshold known to `variance`.

        Where both are uncertain, their difference is taken as Student-t with Welch's and
        Satterthwaite's degrees of freedom.
        """
        mean, scale2 = self.moments(x)
        total = scale2 + variance
        nu = total**2 / (scale2**2 / self.dof + variance**2 / dof)
        return np.asarray(self.weight @ stdtr(nu, (mean - threshold) / np.sqrt(total)))


def matern(distance: Array, length: Array) -> Array:
    """Matern-5/2 correlation of distance (...) for every length (h,): (h, ...)."""
    distinct, index = np.unique(length, return_inverse=True)
    t = np.sqrt(5.0) * np.abs(distance) / distinct.reshape(-1, *[1] * distance.ndim)
    return np.asarray(((1.0 + t + t * t / 3.0) * np.exp(-t))[index])


@lru_cache(maxsize=256)  # a round replays all before it; beyond that many it would fit all anew
def fit(d: tuple[int, ...], y: tuple[float, ...]) -> Curve:
    """Fit a curve to trials (d_k, y_k), averaged over which of them are outliers.

    Over the likeliest set that a search by single trials finds, and all sets that differ from it in
    one trial. Where no single trial is better called an outlier, the search goes one step downhill,
    unless all are steep: two outliers may hide each other.
    """
    x, scores = np.log(np.asarray(d, dtype=float)), np.asarray(y)
    single = np.eye(len(d), dtype=bool)
    odd, best, kept = np.zeros(len(d), dtype=bool), -np.inf, list[tuple[Flags, Flags]]()
    uphill = True
    while True:
        _, here, there = _fit(x, scores, odd)
        evidence, neighbours = logsumexp(here), logsumexp(there, axis=0)
        before, uphill = uphill, bool(evidence > best)
        if uphill:
            best, least = evidence, evidence + np.log(DROP)
            near = np.flatnonzero(neighbours > least)
            kept = [(odd, here > least), *((odd ^ single[k], there[:, k] > least) for k in near)]
        if not (before or uphill) or neighbours.max() < best + (ODDS if uphill else 1e-9):
            break
        odd = odd ^ single[neighbours.argmax()]
    return _average([_fit(x, scores, *which)[:2] for which in kept if which[1].any()])


_BY_HYPOTHESIS = (
    "length", "power", "decay", "inverse", "beta", "beta_cov", "alpha", "spread2", "odd",
)  # fmt: skip
_GRID = np.array([(r * r, length, c) for r in RATIOS for length in LENGTHS for c in DECAYS])


def _fit(
    x_k: Array, y_k: Array, odd: Flags, which: Flags | slice = slice(None)
) -> tuple[Curve, Array, Array]:
    """Generalised least squares for every (r, l, c), or those of `which`, with outliers `odd` (n,).

    Returns the log evidence of each (r, l, c), too: of these outliers (h,), and of those that
    differ from them in one trial (h, n). Only means and precisions at each d matter.
    """
    x, index = np.unique(x_k, return_inverse=True)
    at = np.eye(len(x))[index]  # (n, m)
    power, length, decay = _GRID[which].T  # (h,)
    usual = 1.0 / _fading(decay, x_k - x_k.mean())  # (h, n)
    v = np.where(odd, WIDE**-2, 1.0) * usual
    n = v @ at  # (h, m)
    ybar = (v * y_k) @ at / n
    off = y_k - ybar[:, index]  # (h, n)
    within = (v * off**2).sum(-1)
    H = np.stack([np.ones_like(x), x - x.mean()], axis=-1)  # (m, 2)
    C = power[:, None, None] * matern(x[:, None] - x, length)
    C[:, *np.diag_indices(len(x))] += 1.0 / n
    inverse = np.asarray(np.linalg.inv(C), dtype=np.float64)
    solved = inverse @ H  # (h, m, 2)
    gram = H.T @ solved  # (h, 2, 2)
    beta_cov = np.linalg.inv(gram)
    beta = (beta_cov @ (solved.transpose(0, 2, 1) @ ybar[..., None]))[..., 0]
    residual = ybar - beta @ H.T  # (h, m)
    alpha = (inverse @ residual[..., None])[..., 0]
    dof = len(x_k) - 2 + PRIOR_DOF
    total = within + (residual * alpha).sum(-1) + PRIOR_DOF * PRIOR_SPREAD**2
    dets = _logdet(C) + _logdet(gram) + np.log(n).sum(-1) - np.log(v).sum(-1)
    evidence = _evidence(power, decay, dets, total, dof) + odd.sum() * ODDS
    # With another precision of trial k, the covariance of all trials is A + a e_k e_k'. By the
    # matrix determinant lemma and Sherman and Morrison, Q = A^-1 - A^-1 H (H' A^-1 H)^-1 H' A^-1:
    q = np.diagonal(inverse, axis1=1, axis2=2) - ((solved @ beta_cov) * solved).sum(-1)  # (h, m)
    share = v / n[:, index]
    q_kk = v - v * share + share**2 * q[:, index]  # (h, n)
    q_y = v * off + share * alpha[:, index]
    a = np.where(odd, 1.0 - WIDE**2, WIDE**2 - 1.0) / usual
    grown = 1.0 + a * q_kk
    others = dets[:, None] + np.log(grown), total[:, None] - a * q_y**2 / grown
    flipped = _evidence(power[:, None], decay[:, None], *others, dof)
    flipped += (odd.sum() + np.where(odd, -1, 1)) * ODDS
    curve = Curve(
        x,
        centre=float(x_k.mean()),
        length=length,
        power=power,
        decay=decay,
        inverse=inverse,
        beta=beta,
        beta_cov=beta_cov,
        alpha=alpha,
        spread2=total / dof,
        odd=np.tile(odd.astype(float), (len(power), 1)),
        weight=np.exp(evidence - logsumexp(evidence)),
        dof=dof,
    )
    return curve, evidence, flipped


def _fading(decay: Array, x: Array) -> Array:
    """Variance of one trial at x (X,) in units of that at x = 0, for every decay (h,): (h, X)."""
    return np.asarray(np.exp(-2.0 * decay[:, None] * x))


def _evidence(power: Array, decay: Array, dets: Array, total: Array, dof: float) -> Array:
    """Log marginal likelihood, s^2 integrated out, and log prior of decay and of r s."""
    stray = 0.5 * np.log(power * total / dof)
    off = (stray - np.log(STRAY)) / STRAY_SD, (decay - DECAY) / DECAY_SD
    return np.asarray(-0.5 * (dets + dof * np.log(total) + off[0] ** 2 + off[1] ** 2))


def _average(parts: Sequence[tuple[Curve, Array]]) -> Curve:
    """One curve of all hypotheses of several through the same x, with their evidence (h,)."""
    curves, evidences = zip(*parts, strict=True)
    joined = {key: np.concatenate([getattr(one, key) for one in curves]) for key in _BY_HYPOTHESIS}
    evidence = np.concatenate(evidences)
    weight = np.exp(evidence - logsumexp(evidence))
    curve: Curve = replace(curves[0], **joined, weight=weight)
    return curve


def _logdet(a: Array) -> Array:
    return np.asarray(np.linalg.slogdet(a)[1])
