"""The `score` likelihood: the mean score as a smooth random curve of x = log d.

Universal kriging (Rasmussen & Williams 2006, section 2.7): with normalised scores y,

    y_ij = b0 + b1 (x_i - xbar) + g(x_i) + e_ij,   e_ij ~ N(0, s^2),   g ~ GP(0, s^2 r^2 k_l)

where k_l is the Matern-5/2 kernel with length l, b has a flat prior and s^2 a weak inverse-gamma
one, so that given (r, l) the curve at any x is Student-t. (r, l) run over a small grid and are
averaged with their marginal likelihoods. r = 0 is a straight line, whose interval for the crossing
is Fieller's. See docs/estimate.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

Array = NDArray[np.float64]

import os
LENGTHS = eval(os.environ.get("LEN","(0.2, 0.4, 0.8, 1.6, 3.2)"))  # l, in units of log d: factors of 1.2 to 25 in d
RATIOS = (1.0, 3.0, 9.0, 27.0, 81.0)
AMP=float(os.environ.get("AMP",".3")); AMPSD=float(os.environ.get("AMPSD","1")); MAT=os.environ.get("MAT","52")
PRIOR_DOF = float(os.environ.get("PD","1"))  # the spread's prior is worth one trial ...
PRIOR_SPREAD = 0.01  # ... of this spread in normalised score: METHOD.md's seeds on MNIST
OUTLIER = 3.0  # spreads; a score further from the curve counts as that far
MIN_TRIALS = 5  # below this, and at a single d, the curve says less than the pass bits
ROUNDS = 8


@dataclass(frozen=True)
class Curve:
    """Posterior of the mean score; h runs over (r, l), i over the m distinct d.

    `moments(x)` gives, for each h, the location and squared scale of a Student-t with `dof`.
    """

    x: Array  # (m,) log d
    length: Array  # (h,)
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

    def _basis(self, x: Array) -> Array:
        return np.stack([np.ones_like(x), x - self.x.mean()], axis=-1)  # (X, 2)

    def moments(self, x: Array) -> tuple[Array, Array]:
        """Location (h, X) and squared scale (h, X) of the mean score at log d = x (X,)."""
        k, H = self._cross(x), self._basis(x)
        kc = k @ self.inverse  # (h, X, m)
        r = H - kc @ self._basis(self.x)  # (h, X, 2)
        mean = (H @ self.beta[:, :, None])[..., 0] + (k @ self.alpha[:, :, None])[..., 0]
        q = self.power[:, None] - (kc * k).sum(-1) + ((r @ self.beta_cov) * r).sum(-1)
        return mean, self.spread2[:, None] * np.maximum(q, 1e-12)

    def covariance(self, x: Array) -> Array:
        """Posterior covariance (X, X) of the mean score, between hypotheses and within them."""
        k, H = self._cross(x), self._basis(x)
        kc = k @ self.inverse
        r = H - kc @ self._basis(self.x)
        T = (0, 2, 1)
        prior = self.power[:, None, None] * matern(x[:, None] - x, self.length)
        inner = prior - kc @ k.transpose(T) + r @ self.beta_cov @ r.transpose(T)
        mean = (H @ self.beta[:, :, None] + k @ self.alpha[:, :, None])[..., 0]
        off = mean - self.weight @ mean
        within = np.tensordot(self.weight * self.spread2, inner, 1)
        return np.asarray(within + (self.weight[:, None] * off).T @ off)

    @cached_property
    def spread(self) -> float:
        """Standard deviation of one trial about the mean score."""
        return float(np.sqrt(self.weight @ self.spread2))

    def mean(self, x: Array) -> Array:
        k = np.tensordot(self.weight, self._cross(x)@ self.alpha[:, :, None],1)[:,0]
        return np.asarray(k+self._basis(x)@(self.weight@self.beta))  # (X,)

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
    unique, index = np.unique(length, return_inverse=True)
    t = np.sqrt(5.0) * np.abs(distance) / unique.reshape(-1, *[1] * distance.ndim)
    if MAT=="32":
        t=t*np.sqrt(3/5)
        return (1+t)*np.exp(-t)
    return np.asarray(((1.0 + t + t * t / 3.0) * np.exp(-t))[index])


@lru_cache(maxsize=64)
def fit(d: tuple[int, ...], y: tuple[float, ...], about: float=0) -> Curve:
    """Fit a curve to trials (d_k, y_k), outliers drawn in to OUTLIER spreads (Huber)."""
    x, y_k = np.log(np.asarray(d, dtype=float)), np.asarray(y)
    drawn = y_k
    for _ in range(ROUNDS):
        curve = _fit(x, drawn)
        at = curve.mean(curve.x)[np.searchsorted(curve.x, x)]
        reach = OUTLIER * curve.spread
        update = np.clip(y_k, at - reach, at + reach)
        if np.allclose(update, drawn, rtol=0.0, atol=0.02 * reach):
            break
        drawn = update
    return curve


def _hyper() -> tuple[Array, Array, Array]:
    pairs = [(r * r, length) for r in RATIOS for length in LENGTHS]
    power, length = np.array(pairs).T
    return power, length, 0*power


POWER, LENGTH, LOG_PRIOR = _hyper()


def _fit(x_k: Array, y_k: Array) -> Curve:
    x, index, n = np.unique(x_k, return_inverse=True, return_counts=True)
    ybar = np.bincount(index, y_k) / n
    within = float(((y_k - ybar[index]) ** 2).sum())
    H = np.stack([np.ones_like(x), x - x.mean()], axis=-1)  # (m, 2)
    C = POWER[:, None, None] * matern(x[:, None] - x, LENGTH) + np.diag(1.0 / n)
    inverse = np.linalg.inv(C)
    gram = H.T @ inverse @ H  # (h, 2, 2)
    beta_cov = np.linalg.inv(gram)
    beta = (beta_cov @ (H.T @ inverse @ ybar)[..., None])[..., 0]
    residual = ybar - beta @ H.T  # (h, m)
    alpha = (inverse @ residual[..., None])[..., 0]
    dof = len(x_k) - 2 + PRIOR_DOF
    total = within + (residual * alpha).sum(-1) + PRIOR_DOF * PRIOR_SPREAD**2
    evidence = -0.5 * (_logdet(C) + _logdet(gram) + dof * np.log(total)) -.5*(np.log(POWER*total/dof)/2-np.log(AMP))**2/AMPSD**2
    weight = np.exp(evidence - evidence.max())
    keep = weight > 1e-3  # the rest cannot move a 95% interval
    return Curve(
        x,
        length=LENGTH[keep],
        power=POWER[keep],
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
