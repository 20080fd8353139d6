"""Sparse projection: density 1/sqrt(D), entries of one size and random sign."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from . import kernels
from .base import Projection, linear, random_signs

if TYPE_CHECKING:
    from .kernels.segments import Lists

_CHUNK = 1 << 18  # nonzeros per CPU pass: the temporaries then stay in the cache (measured)


class Sparse(Projection):
    """Exactly s = round(sqrt(D)) entries +-1/sqrt(s) in every column.

    Density 1/sqrt(D) as in Li et al. 2018 (there a binomial number per column, so that a column
    may be empty; here none is, and every column has length 1 exactly). The rows are cut into s
    strata of nearly equal size and each column has one entry in each (the block construction of
    Kane and Nelson 2014), so that the s rows of a column differ without rejection.

    Stored as index lists, (s, d) rows and signs: O(d sqrt(D)) time and memory, never D x d.
    Rows that no column touches stay at theta_0, as in the published construction.
    """

    name = "sparse"

    def __init__(self, D: int, d: int, seed: int) -> None:
        super().__init__(D, d, seed)
        rng = self.generator()
        s = max(1, round(math.sqrt(self.D)))
        bounds = np.arange(s + 1) * self.D // s  # (s + 1,)
        rows = rng.integers(bounds[:-1, None], bounds[1:, None], (s, self.d))  # (s, d)
        self.rows = torch.from_numpy(rows)
        self.values = torch.from_numpy(random_signs(rng, s, self.d) / np.float32(math.sqrt(s)))

    def project(self, z: Tensor) -> Tensor:
        if kernels.apply_to(z):
            return linear(z, self._times, self._times_transposed)
        return self._add_to(z.new_zeros(self.D), z)

    def project_transposed(self, g: Tensor) -> Tensor:
        if kernels.apply_to(g):
            return linear(g, self._times_transposed, self._times)
        total = g.new_zeros(self.d)  # (d,)
        for rows, values in self._chunks():
            total += g.index_select(0, rows.reshape(-1)).view_as(values).mul_(values).sum(0)
        return total

    def shift(self, theta_0: Tensor, z: Tensor, out: Tensor) -> Tensor:
        if kernels.apply_to(z):
            return self._times(z, theta_0, out)
        return self._add_to(out.copy_(theta_0), z)

    def tensors(self) -> dict[str, Tensor]:
        return {"rows": self.rows, "values": self.values}

    def make_lists(self) -> Lists:
        from .kernels import segments

        return segments.several_per_row(self.rows, self.values < 0, self.D)

    def _times(self, z: Tensor, base: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        return self.lists().by_row.sum(z / math.sqrt(len(self.rows)), base, out)

    def _times_transposed(self, g: Tensor) -> Tensor:
        return self.lists().by_column.sum(g) / math.sqrt(len(self.rows))

    def _add_to(self, theta: Tensor, z: Tensor) -> Tensor:
        for rows, values in self._chunks():
            theta.scatter_add_(0, rows.reshape(-1), (values * z).view(-1))
        return theta  # (D,)

    def _chunks(self) -> list[tuple[Tensor, Tensor]]:
        """Whole strata, some at a time: a GPU takes all at once."""
        if self.rows.is_cuda or self.rows.numel() <= _CHUNK:
            return [(self.rows, self.values)]
        strata = max(1, _CHUNK // self.d)
        return list(
            zip(torch.split(self.rows, strata), torch.split(self.values, strata), strict=True)
        )
