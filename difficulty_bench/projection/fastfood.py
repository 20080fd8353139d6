"""Fastfood projection: H G Pi H B with the Walsh-Hadamard matrix H as small matrix products."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.linalg import hadamard
from torch import Tensor
from torch.nn import functional as F

from . import kernels
from .base import Projection, linear, random_signs
from .hashed import both_signs, random_slots, select, select_transposed

if TYPE_CHECKING:
    from .kernels.segments import Lists

_SHORTEST = 256  # shorter transforms save no time: their factors are too small for fast GEMMs


class Fastfood(Projection):
    """Blocks H G_b Pi_b H B of size n x n, stacked and cut to D rows (Le et al. 2013).

    n is the smallest power of two that holds all of z (at least 256, where D allows), so z is
    padded with zeros and never cropped; ceil(D/n) blocks have permutations Pi_b and diagonals G_b
    of their own and share B, so that the first transform H B z, of length n, is computed once.
    H is the unnormalised Walsh-Hadamard matrix; B and G_b are random signs.

    Le et al. draw G Gaussian, because their feature lengths shall follow a chi distribution.
    Here signs are better: every whole block is then a scaled isometry, so columns are orthonormal,
    where a Gaussian G gives column cosines sqrt(2) times those of a Gaussian matrix. Only where
    the last block is cut (D no multiple of n) is length 1 an expectation.

    O(D log d) time, O(D + d) memory.
    """

    name = "fastfood"

    def __init__(self, D: int, d: int, seed: int) -> None:
        super().__init__(D, d, seed)
        rng = self.generator()
        n = max(_power_of_two(self.d), min(_SHORTEST, _power_of_two(self.D)))
        blocks = -(-self.D // n)
        positions = rng.permuted(np.tile(np.arange(n), (blocks, 1)), axis=1)  # (blocks, n)
        order = positions * blocks + np.arange(blocks)[:, None]  # block index fastest
        self.slot = random_slots(rng, order.reshape(-1), n)  # (n * blocks,): G_b and Pi_b
        scale = np.float32(1 / math.sqrt(n * self.D))  # entries of H G Pi H B have variance n
        self.b = torch.from_numpy(random_signs(rng, self.d) * scale)  # (d,)
        self.factors = hadamard_factors(n)
        # Sylvester's matrix: its corner [:f, :f] is that of size f
        self.H = torch.from_numpy(hadamard(max(self.factors, default=1), np.float32))
        self.n = n

    def project(self, z: Tensor) -> Tensor:
        if kernels.apply_to(z):
            return linear(z, self._times, self._times_transposed)
        u = rotate_left(self._pad(z * self.b, self.n), self.factors, self.H)  # (n,) = H B z
        w = select(u, self.slot)  # (n, blocks) = G Pi H B z
        return rotate_left(w, self.factors, self.H)[: self.D]

    def project_transposed(self, g: Tensor) -> Tensor:
        if kernels.apply_to(g):
            return linear(g, self._times_transposed, self._times)
        w = rotate_right(self._pad(g, len(self.slot)), self.factors, self.H)  # (n, blocks)
        u = select_transposed([w], self.slot, self.n)  # (n,)
        return rotate_left(u, self.factors, self.H)[: self.d] * self.b

    def project_batch(self, Z: Tensor) -> Tensor:
        K = len(Z)
        u = rotate_left(self._pad((Z * self.b).t(), self.n), self.factors, self.H)  # (K, n)
        w = both_signs(u.view(K, -1)).index_select(1, self.slot).t()  # (n blocks, K)
        theta = rotate_left(w.reshape(-1), self.factors, self.H)  # (blocks, K, n)
        return theta.view(-1, K, self.n).transpose(0, 1).reshape(K, -1)[:, : self.D]

    def shift(self, theta_0: Tensor, z: Tensor, out: Tensor) -> Tensor:
        if kernels.apply_to(z):
            return self._times(z, theta_0, out)
        return super().shift(theta_0, z, out)

    def tensors(self) -> dict[str, Tensor]:
        return {"slot": self.slot, "b": self.b, "H": self.H}

    def make_lists(self) -> Lists:
        from .kernels import segments

        blocks = self.slot.view(self.n, -1).t().reshape(-1)  # (blocks, n), as transforms run
        return segments.one_per_row(blocks, self.n)

    def _times(self, z: Tensor, base: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        from .kernels.hadamard import transform

        index = self.lists().by_row.index  # (blocks * n,)
        out = z.new_empty(self.D) if out is None else out
        u = transform(z, self.n, 1, factor=self.b)  # (n,) = H B z
        return transform(u, self.n, len(index) // self.n, index=index, base=base, out=out)

    def _times_transposed(self, g: Tensor) -> Tensor:
        from .kernels.hadamard import transform

        w = transform(g, self.n, len(self.slot) // self.n)  # (blocks, n)
        u = self.lists().by_column.sum(w)  # (n,)
        return transform(u, self.n, 1, out=g.new_empty(self.d)) * self.b

    @staticmethod
    def _pad(x: Tensor, length: int) -> Tensor:
        """Zeros behind x (m, ...), in its leading index; flat."""
        return F.pad(x.reshape(-1), (0, (length - len(x)) * x[0].numel()))


def hadamard_factors(n: int) -> list[int]:
    """Sizes of Kronecker factors of the Hadamard matrix of size n: nearly equal, at most 32.

    Factors of 16 and 32 cost least per level on a CPU (GEMMs with 8 columns are slow there).
    """
    levels = n.bit_length() - 1
    parts = -(-levels // 5)
    return [1 << (levels // parts + (i < levels % parts)) for i in range(parts)]


def rotate_left(x: Tensor, factors: list[int], H: Tensor) -> Tensor:
    """Hadamard transform over the leading index: (n, blocks) -> (blocks, n), both flat.

    H_n is the Kronecker product of H_f over `factors`. The index is a number with digits of sizes
    `factors`; each product transforms the leading digit and moves it to the end, so that every
    pass is one plain matrix product and the digits come out in order.
    """
    for f in factors:
        x = x.view(f, -1).t() @ H[:f, :f]
        x = x.reshape(-1)
    return x


def rotate_right(x: Tensor, factors: list[int], H: Tensor) -> Tensor:
    """The transpose of `rotate_left`: (blocks, n) -> (n, blocks), both flat."""
    for f in reversed(factors):
        x = H[:f, :f] @ x.view(-1, f).t()
        x = x.reshape(-1)
    return x


def _power_of_two(size: int) -> int:
    """The smallest power of two at or above `size`."""
    return 1 << (size - 1).bit_length()
