"""Hashed projection: every parameter copies one coordinate of z, up to sign and scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from . import kernels
from .base import Projection, linear

if TYPE_CHECKING:
    from .kernels.segments import Lists

_LARGE = 1 << 15  # from this D on, a pass over each tensor costs less than gathering them first

Array = np.ndarray[Any, np.dtype[Any]]


class Hashed(Projection):
    """Row i of P has one entry: sign_i / sqrt(n_j) in column j = hash(i).

    The hash is balanced: a random permutation of (i mod d) over the D parameters. So each
    coordinate has n_j = floor(D/d) or ceil(D/d) parameters, none has none even for d = D, and the
    columns are orthonormal exactly: P is an isometry. Time and memory O(D + d).
    """

    name = "hashed"

    def __init__(self, D: int, d: int, seed: int) -> None:
        super().__init__(D, d, seed)
        rng = self.generator()
        self.slot = random_slots(rng, rng.permutation(self.D), self.d)  # (D,)
        counts = np.full(self.d, self.D // self.d)  # (d,)
        counts[: self.D % self.d] += 1
        self.scale = torch.from_numpy(counts.astype(np.float32) ** -0.5)  # (d,)

    @classmethod
    def of(cls, slot: Tensor, scale: Tensor) -> Hashed:
        """P of these slots (D,) and scales (d,): from no seed, so its identity says nothing."""
        made = cls.__new__(cls)
        Projection.__init__(made, len(slot), len(scale), seed=0)
        made.slot, made.scale = slot, scale
        return made

    def project(self, z: Tensor) -> Tensor:
        if kernels.apply_to(z):
            return linear(z, self._gather, self._sum)
        return select(z * self.scale, self.slot)

    def project_transposed(self, g: Tensor) -> Tensor:
        if kernels.apply_to(g):
            return linear(g, self._sum, self._gather)
        return select_transposed([g], self.slot, self.d) * self.scale

    def project_batch(self, Z: Tensor) -> Tensor:
        return both_signs(Z * self.scale).index_select(1, self.slot)  # (K, D)

    def shift(self, theta_0: Tensor, z: Tensor, out: Tensor) -> Tensor:
        if kernels.apply_to(z):
            return self._gather(z, theta_0, out)
        return torch.index_select(both_signs(z * self.scale), 0, self.slot, out=out).add_(theta_0)

    def pull(self, parts: Sequence[Tensor]) -> Tensor:
        if self.D < _LARGE or self.slot.is_cuda:
            return super().pull(parts)
        return select_transposed(parts, self.slot, self.d) * self.scale

    def tensors(self) -> dict[str, Tensor]:
        return {"slot": self.slot, "scale": self.scale}

    def make_lists(self) -> Lists:
        from .kernels import segments

        return segments.one_per_row(self.slot, self.d)

    def _gather(self, z: Tensor, base: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        from .kernels import segments

        return segments.gather(z, self.lists().by_row.index, self.scale, base, out)

    def _sum(self, g: Tensor) -> Tensor:
        return self.lists().by_column.sum(g) * self.scale


def random_slots(rng: np.random.Generator, order: Array, m: int) -> Tensor:
    """A matrix S (N x m) with one entry +-1 a row: in row order[k] it is in column k mod m.

    Takes a permutation `order` (N,). Row i of S u is entry slot[i] of the table [u, -u] of length
    2 m: one index says both column and sign, and both products read it once, in order. It is
    int64, because torch's scatter and gather of narrower indices are no faster or refused.
    """
    slot = np.empty(len(order), dtype=np.int64)  # (N,)
    slot[order] = np.arange(len(order)) % m + m * rng.integers(0, 2, len(order))
    return torch.from_numpy(slot)


def both_signs(u: Tensor) -> Tensor:
    """(..., m) -> (..., 2 m)."""
    return torch.cat([u, -u], dim=-1)


def select(u: Tensor, slot: Tensor) -> Tensor:
    """S u: (m,) -> (N,)."""
    return both_signs(u).index_select(0, slot)


def select_transposed(parts: Sequence[Tensor], slot: Tensor, m: int) -> Tensor:
    """S^T g -> (m,), for g given as flat tensors whose concatenation is (N,).

    The sums run in the order of the rows on a CPU, so results repeat exactly; on CUDA they do
    where `torch.use_deterministic_algorithms(True)` is set. Twice as fast in a training step as
    a gather by columns and a sum, whose temporaries leave the cache.
    """
    sums = parts[0].new_zeros(2 * m)
    for part, place in zip(parts, torch.split(slot, [len(g) for g in parts]), strict=True):
        sums.scatter_add_(0, place, part)
    return sums[:m] - sums[m:]
