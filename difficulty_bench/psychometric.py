"""The `pass` likelihood: solved or not, as a rising function of u = log d.

    p(d) = g + (1 - g - a) F((log d - u) / w + z),   F logistic, z such that p(exp(u)) = 1/2

u = log d_int90 (before rounding up), w the width, a the lapse rate (a seed that fails however
large d is), g a small guess rate. The posterior is summed on a grid; w and a are marginalised, as
in Psi-marginal (Prins 2013) and QUEST+ (Watson 2017). See docs/estimate.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GUESS = 0.01
LAPSES = np.array([0.01, 0.1, 0.25])
LAPSE_PRIOR = np.array([0.5, 0.3, 0.2])
WIDTHS = np.geomspace(0.004, 1.0, 9)  # logistic scale in log d: factors of 1.01 to 28 (.16-.84)
MARGIN = 1.5  # the crossing may lie outside [d_min, d_max]: that is what censoring means
STEP = 0.015  # between nodes u: a factor in d
NEGLIGIBLE = 1e-5  # mass of a node, relative to the largest
MAX_NODES = 80  # nodes on which information is computed

_REST = 1.0 - GUESS - LAPSES
_SHIFT = np.log((0.5 - GUESS) / (_REST - 0.5 + GUESS))  # z: F(z) = (1/2 - g) / (1 - g - a)


@dataclass(frozen=True)
class Psychometric:
    """Posterior over the nodes u (U,), jointly with width and lapse, (U, W, A)."""

    u: Array
    posterior: Array

    @cached_property
    def mass(self) -> Array:
        """Posterior probability of each node, (U,)."""
        return np.asarray(self.posterior.sum((1, 2)))

    def above(self, x: Array) -> Array:
        """P(crossing <= x | data) at log d = x (X,)."""
        total = np.concatenate([[0.0], np.cumsum(self.mass)])
        return np.asarray(total[np.searchsorted(self.u, x, side="right")])

    def width(self) -> float:
        """Geometric mean of the factor in d from p = .16 to p = .84 (of the way up)."""
        log_w = float(self.posterior.sum((0, 2)) @ np.log(WIDTHS))
        return float(np.exp(np.exp(log_w) * 2.0 * np.log(0.84 / 0.16)))

    def solved(self, x: Array) -> tuple[Array, Array]:
        """P(solved at x | u) averaged over width and lapse (X, U), and the mass of u (U,).

        Only at most MAX_NODES nodes u are listed, of those that carry mass.
        """
        kept = np.flatnonzero(self.mass > NEGLIGIBLE * self.mass.max())
        kept = kept[:: -(-len(kept) // MAX_NODES)]
        joint = np.einsum("xuwa,uwa->xu", chance(x[:, None], self.u[kept]), self.posterior[kept])
        mass = self.mass[kept]
        return np.asarray(joint / mass), mass / mass.sum()


def chance(x: Array, u: Array) -> Array:
    """p at log d = x for crossing u: broadcast shape of both, then (W, A)."""
    z = (x - u)[..., None, None] / WIDTHS[:, None] + _SHIFT
    return np.asarray(GUESS + _REST / (1.0 + np.exp(-np.clip(z, -40.0, 40.0))))


@lru_cache(maxsize=256)
def fit(
    d: tuple[int, ...], solved: tuple[int, ...], n: tuple[int, ...], d_min: int, d_max: int
) -> Psychometric:
    """Posterior given `solved` of `n` trials at each d, all of them within [d_min, d_max].

    The prior of u is flat over that range and its margins.
    """
    lattice = _lattice(d_min, d_max)
    between = _between(np.log(np.asarray(d, dtype=float)))
    u = np.concatenate([lattice, between])
    order = np.argsort(u)
    logp = np.zeros((len(u), len(WIDTHS), len(LAPSES)))
    for d_i, k, m in zip(d, solved, n, strict=True):
        yes, no = _logs(d_i, d_min, d_max)
        logp[: len(lattice)] += k * yes + (m - k) * no
        if len(between):
            p = chance(np.log(d_i), between)
            logp[len(lattice) :] += k * np.log(p) + (m - k) * np.log1p(-p)
    u, logp = u[order], logp[order]
    logp += np.log(np.gradient(u))[:, None, None] + np.log(LAPSE_PRIOR)
    weight = np.exp(logp - logp.max())
    return Psychometric(u, weight / weight.sum())


def _lattice(d_min: int, d_max: int) -> Array:
    first, last = np.log(d_min) - MARGIN, np.log(d_max) + MARGIN
    return np.asarray(first + STEP * np.arange(int((last - first) / STEP) + 1))


def _between(x: Array) -> Array:
    """A node in every gap between neighbouring tested d that the lattice may leap over."""
    close = np.flatnonzero(np.diff(x) < 2 * STEP)
    return np.asarray((x[close] + x[close + 1]) / 2)


@lru_cache(maxsize=128)
def _logs(d: int, d_min: int, d_max: int) -> tuple[Array, Array]:
    p = chance(np.log(d), _lattice(d_min, d_max))
    return np.log(p), np.log1p(-p)
