"""The `score` likelihood: the mean score as a smooth random curve of x = log d.

With normalised scores y of trials j at d_i (universal kriging; Rasmussen & Williams 2006, 2.7),

    y_ij = b0 + b1 (x_i - xbar) + g(x_i) + e_ij,   e_ij ~ N(0, s^2),   g ~ GP(0, s^2 r^2 k_l)

where k_l is the Matern-5/2 kernel with length l, b has a flat prior and s^2 a weak inverse-gamma
one, so that given (r, l) the curve at any x is Student-t. (r, l) run over a small grid and are
averaged with their marginal likelihoods. See docs/estimate.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

Array = NDArray[np.float64]

LENGTHS = (0.1, 0.2, 0.4, 0.8, 1.6)  # l, in units of log d: factors of 1.1 to 5 in d
RATIOS = (1.0, 3.0, 9.0, 27.0, 81.0)  # r: how far the curve strays from a line, in spreads s
STRAY, STRAY_SD = 0.3, 1.0  # log-normal prior of r s, the same in normalised score
PRIOR_DOF = 1.0  # the prior of the spread is worth one trial ...
PRIOR_SPREAD = 0.01  # ... of this spread in normalised score: that of MNIST's seeds
OUTLIER = 3.0  # spreads; a score further from the curve counts as that far
ROUNDS = 8  # of drawing outliers in
DROP = 1e-3  # weight, relative to the largest, of what cannot move a 95% interval
MIN_TRIALS = 5  # below this, and at a single d, the curve says less than the pass bits


@dataclass(frozen=True)
class Curve:
    """Posterior of the mean score; h runs over (r, l), i over the m distinct d."""

    x: Array  # (m,) log d
    length: Array  # (h,) l
    power: Array  # (h,) r^2
    inverse: Array  # (h, m, m) of r^2 k + diag(1 / n)
    beta: Array  # (h, 2)
    beta_cov: Array  # (h, 2, 2), in units of spread2
    alpha: Array  # (h, m) inverse @ residual from the line
    spread2: Array  # (h,) s^2
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

    def lowest(self, x: Array) -> Array:
        """OUTLIER predictive spreads of one trial below the mean score at x, (X,)."""
        mean = self.mean(x)
        location, scale2 = self.moments(x)
        variance = self.weight @ (scale2 + self.spread2[:, None] + (location - mean) ** 2)
        return np.asarray(mean - OUTLIER * np.sqrt(variance))

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

    @cached_property
    def spread(self) -> float:
        """Standard deviation of one trial about the mean score."""
        return float(np.sqrt(self.weight @ self.spread2))

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


@lru_cache(maxsize=64)
def fit(d: tuple[int, ...], y: tuple[float, ...]) -> Curve:
    """Fit a curve to trials (d_k, y_k), outliers drawn in to OUTLIER spreads (Huber)."""
    x, y_k = np.log(np.asarray(d, dtype=float)), np.asarray(y)
    drawn, curve = y_k, _fit(x, y_k)
    for _ in range(ROUNDS):
        at = curve.mean(curve.x)[np.searchsorted(curve.x, x)]
        reach = OUTLIER * curve.spread
        update = np.clip(y_k, at - reach, at + reach)
        if np.allclose(update, drawn, rtol=0.0, atol=0.05 * reach):
            return curve
        drawn, curve = update, _fit(x, update)
    return curve


_PAIRS = np.array([(r * r, length) for r in RATIOS for length in LENGTHS])
_POWER, _LENGTH = _PAIRS[:, 0], _PAIRS[:, 1]


def _fit(x_k: Array, y_k: Array) -> Curve:
    """Generalised least squares for every (r, l); only means and counts at each d matter."""
    x, index, n = np.unique(x_k, return_inverse=True, return_counts=True)
    ybar = np.bincount(index, y_k) / n
    within = float(((y_k - ybar[index]) ** 2).sum())
    H = np.stack([np.ones_like(x), x - x.mean()], axis=-1)  # (m, 2)
    C = _POWER[:, None, None] * matern(x[:, None] - x, _LENGTH) + np.diag(1.0 / n)
    inverse = np.linalg.inv(C)
    gram = H.T @ inverse @ H  # (h, 2, 2)
    beta_cov = np.linalg.inv(gram)
    beta = (beta_cov @ (H.T @ inverse @ ybar)[..., None])[..., 0]
    residual = ybar - beta @ H.T  # (h, m)
    alpha = (inverse @ residual[..., None])[..., 0]
    dof = len(x_k) - 2 + PRIOR_DOF
    total = within + (residual * alpha).sum(-1) + PRIOR_DOF * PRIOR_SPREAD**2
    stray = 0.5 * np.log(_POWER * total / dof)
    evidence = -0.5 * (_logdet(C) + _logdet(gram) + dof * np.log(total))
    evidence -= 0.5 * ((stray - np.log(STRAY)) / STRAY_SD) ** 2
    weight = np.exp(evidence - evidence.max())
    keep = weight > DROP
    return Curve(
        x,
        length=_LENGTH[keep],
        power=_POWER[keep],
        inverse=inverse[keep],
        beta=beta[keep],
        beta_cov=beta_cov[keep],
        alpha=alpha[keep],
        spread2=total[keep] / dof,
        weight=weight[keep] / weight[keep].sum(),
        dof=dof,
    )


def _logdet(a: Array) -> Array:
    return np.asarray(np.linalg.slogdet(a)[1])
