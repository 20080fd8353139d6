"""The `score` likelihood: the mean score as a smooth random curve of x = log d.

With normalised scores y of trials j at d_i,

    y_ij = b0 + b1 F((x_i - c) / w) + g(x_i) + e_ij,   e_ij ~ N(0, s^2),   g ~ GP(0, s^2 r^2 k_l)

a logistic F that rises about the threshold, plus a departure g from it, of Matern-5/2 kernel k
with length l. b has a flat prior and s^2 a weak inverse-gamma one, so that given (c, w, r, l) the
curve at any x is Student-t; those four run over a grid and are averaged with their marginal
likelihoods (Rasmussen & Williams 2006, sections 2.7 and 5.4). See docs/estimate.md.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, stdtr

Array = NDArray[np.float64]
env=lambda k,d: eval(os.environ.get(k,d))

WIDTHS = env("WS","(0.03,0.06, 0.12, 0.25, 0.5, 1.0, 2.0)")  # w, in units of log d
LENGTHS = env("LEN","(0.2, 0.6, 1.8)")  # l, in units of log d
RATIOS = env("RAT","(2.0, 6.0, 20.0)")  # r: how far the curve departs from F, in spreads of a trial
PLAIN = env("PLAIN",".5")  # prior probability of no departure
PRIOR_DOF = env("PD","1.0")  # the spread's prior is worth one trial ...
PRIOR_SPREAD = 0.01  # ... of this spread in normalised score: METHOD.md's seeds on MNIST
OUTLIER = 3.0  # spreads; a score further from the curve counts as that far
MIN_TRIALS = 5  # below this, and at a single d, the curve says less than the pass bits
ROUNDS = 8
DROP = 3e-3  # weight below which a hypothesis cannot move a 95% interval


@dataclass(frozen=True)
class Curve:
    """Posterior of the mean score; h runs over hypotheses (c, w, r, l), i over the m distinct d."""

    x: Array  # (m,) log d
    centre: Array  # (h,) c
    scale: Array  # (h,) w
    length: Array  # (h,) l
    power: Array  # (h,) r^2
    inverse: Array  # (h, m, m) of r^2 k + diag(1 / n)
    beta: Array  # (h, 2)
    beta_cov: Array  # (h, 2, 2), in units of spread2
    alpha: Array  # (h, m) inverse @ residual from the basis
    spread2: Array  # (h,) s^2
    weight: Array  # (h,) posterior
    dof: float

    def _cross(self, x: Array) -> Array:
        """Prior covariance with the data, in units of spread2, (h, X, m)."""
        return self.power[:, None, None] * matern(x[:, None] - self.x, self.length)

    def _basis(self, x: Array) -> Array:
        return basis(x, self.centre, self.scale)  # (h, X, 2)

    def moments(self, x: Array) -> tuple[Array, Array]:
        """Location (h, X) and squared scale (h, X) of the mean score at log d = x (X,)."""
        k, H = self._cross(x), self._basis(x)
        kc = k @ self.inverse  # (h, X, m)
        r = H - kc @ self._basis(self.x)  # (h, X, 2)
        mean = (H @ self.beta[:, :, None] + k @ self.alpha[:, :, None])[..., 0]
        q = self.power[:, None] - (kc * k).sum(-1) + ((r @ self.beta_cov) * r).sum(-1)
        return mean, self.spread2[:, None] * np.maximum(q, 1e-12)

    def covariance(self, a: Array, b: Array) -> Array:
        """Posterior covariance (A, B) of the mean score under the likeliest hypothesis."""
        h = int(self.weight.argmax())
        ka, kb = self._cross(a)[h], self._cross(b)[h]
        prior = self.power[h] * matern(a[:, None] - b, self.length[h : h + 1])[0]
        ra = self._basis(a)[h] - ka @ self.inverse[h] @ self._basis(self.x)[h]
        rb = self._basis(b)[h] - kb @ self.inverse[h] @ self._basis(self.x)[h]
        inner = prior - ka @ self.inverse[h] @ kb.T + ra @ self.beta_cov[h] @ rb.T
        return np.asarray(self.spread2[h] * inner)

    @cached_property
    def spread(self) -> float:
        """Standard deviation of one trial about the mean score."""
        return float(np.sqrt(self.weight @ self.spread2))

    def mean(self, x: Array) -> Array:
        each = self._basis(x) @ self.beta[:, :, None] + self._cross(x) @ self.alpha[:, :, None]
        return np.asarray(self.weight @ each[..., 0])  # (X,)

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
    return np.asarray(((1.0 + t + t * t / 3.0) * np.exp(-t))[index])


def basis(x: Array, centre: Array, scale: Array) -> Array:
    """[1, F((x - c) / w)] at x (X,) for every (c, w) (h,): (h, X, 2)."""
    rise = expit((x - centre[:, None]) / scale[:, None])
    return np.stack([np.ones_like(rise), rise], axis=-1)


@lru_cache(maxsize=64)
def fit(d: tuple[int, ...], y: tuple[float, ...], about: float) -> Curve:
    """Fit a curve to trials (d_k, y_k) whose crossing is about log d = `about`.

    Outliers are drawn in to OUTLIER spreads (Huber).
    """
    x, y_k = np.log(np.asarray(d, dtype=float)), np.asarray(y)
    drawn = y_k
    for _ in range(ROUNDS):
        curve = _fit(x, drawn, about)
        at = curve.mean(curve.x)[np.searchsorted(curve.x, x)]
        reach = OUTLIER * curve.spread
        update = np.clip(y_k, at - reach, at + reach)
        if np.allclose(update, drawn, rtol=0.0, atol=0.05 * reach):
            break
        drawn = update
    return curve


def _departures() -> tuple[Array, Array, Array]:
    pairs = [(r * r, length) for r in RATIOS for length in LENGTHS]
    power, length = np.array([(0.0, 1.0), *pairs]).T
    prior = np.full(len(power), (1.0 - PLAIN) / len(pairs))
    prior[0] = PLAIN
    return power, length, np.log(prior)


def _rises() -> tuple[Array, Array, Array]:
    rows = []
    for w in WIDTHS:
        low,high=-4*w-.35,2*w+.35
        n=int((high-low)/w*env("CS","1.5"))+1
        rows += [(c,w,-np.log(n)) for c in np.linspace(low,high,n)]
    return tuple(np.array(rows).T)


POWER, LENGTH, LOG_PRIOR = _departures()
OFFSET, SCALE, LOG_PRIOR_RISE = _rises()


def _fit(x_k: Array, y_k: Array, about: float) -> Curve:
    x, index, n = np.unique(x_k, return_inverse=True, return_counts=True)
    ybar = np.bincount(index, y_k) / n
    within = float(((y_k - ybar[index]) ** 2).sum())
    C = POWER[:, None, None] * matern(x[:, None] - x, LENGTH) + np.diag(1.0 / n)
    inverse = np.linalg.inv(C)  # (g, m, m)
    H = basis(x, about + OFFSET, SCALE)  # (k, m, 2)
    S=(H*n[:,None]).transpose(0,2,1)@H
    detS=np.linalg.det(S)
    ok = detS > 1e-4
    H=H[ok];detS=detS[ok]
    CiH = inverse[:,None]@H
    gram = H.transpose(0,2,1) @ CiH  # (g, k, 2, 2)
    rhs = np.einsum('gkmi,m->gki',CiH,ybar)
    beta_cov = np.linalg.inv(gram)
    beta = (beta_cov @ rhs[..., None])[..., 0]
    yy = np.einsum('gij,i,j->g',inverse,ybar,ybar)
    dof = len(x_k) - 2 + PRIOR_DOF
    total = within + np.maximum(yy[:,None] - (beta*rhs).sum(-1),0) + PRIOR_DOF * PRIOR_SPREAD**2
    evidence = -0.5 * (np.linalg.slogdet(C)[1][:,None] - np.log(detS) + np.log(np.linalg.det(gram)) + dof * np.log(total)) + LOG_PRIOR[:,None] + LOG_PRIOR_RISE[ok]
    weight = np.exp(evidence - evidence.max())
    flat=weight.ravel()
    keep = np.flatnonzero(flat > DROP)
    if len(keep)>60: keep=np.sort(np.argsort(-flat,kind='stable')[:60])
    g,k=np.unravel_index(keep,weight.shape)
    resid=ybar-(H[k]@beta[g,k][...,None])[...,0]
    alpha=(inverse[g]@resid[...,None])[...,0]
    return Curve(x,centre=about+OFFSET[ok][k],scale=SCALE[ok][k],length=LENGTH[g],power=POWER[g],inverse=inverse[g],beta=beta[g,k],beta_cov=beta_cov[g,k],alpha=alpha,spread2=total[g,k]/dof,weight=flat[keep]/flat[keep].sum(),dof=dof)
