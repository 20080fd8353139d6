"""Hashed projection: every parameter copies one coordinate of z, up to sign and scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .base import Projection, random_signs

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
        order = rng.permutation(self.D)  # (D,)
        signs = random_signs(rng, self.D)
        self.slot, self.order, self.sign = signed_selection(order, signs, self.d)
        counts = np.full(self.d, self.D // self.d)  # (d,)
        counts[: self.D % self.d] += 1
        self.scale = torch.from_numpy(counts.astype(np.float32) ** -0.5)  # (d,)

    def project(self, z: Tensor) -> Tensor:
        return select(z * self.scale, self.slot)

    def project_transposed(self, g: Tensor) -> Tensor:
        return select_transposed(g, self.order, self.sign) * self.scale

    def tensors(self) -> dict[str, Tensor]:
        return {
            "slot": self.slot,
            "order": self.order,
            "sign": self.sign,
            "scale": self.scale,
        }


def signed_selection(order: Array, signs: Array, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """The matrix S (N x m) with the single entry signs[k] in row order[k], column k mod m.

    Takes a permutation `order` (N,) and `signs` (N,); returns what the two products read:

    - slot (N,): where row i finds its value in the table [u, -u] of length 2 m;
    - order (K, m): the rows of each column, one below the other, K = ceil(N/m);
    - sign (K, m): their signs, 0 where a column has one row fewer than K.
    """
    N = len(order)
    column = np.arange(N) % m  # (N,)
    slot = np.empty(N, dtype=_index_type(2 * m))
    slot[order] = np.where(signs > 0, column, column + m)
    missing = -N % m
    # A short column is filled with its own first row, so that a NaN stays in its coordinate.
    rows = np.concatenate([order, order[m - missing : m]]).astype(_index_type(N))  # (K * m,)
    padded = np.concatenate([signs, np.zeros(missing, dtype=np.float32)])  # (K * m,)
    return (
        torch.from_numpy(slot),
        torch.from_numpy(rows.reshape(-1, m)),
        torch.from_numpy(padded.reshape(-1, m)),
    )


def select(u: Tensor, slot: Tensor) -> Tensor:
    """S u: (m,) -> (N,); a table with both signs saves reading N signs."""
    return torch.cat([u, -u]).index_select(0, slot)


def select_transposed(g: Tensor, order: Tensor, sign: Tensor) -> Tensor:
    """S^T g: (N,) -> (m,), a gather and a sum in a fixed order: deterministic on every device."""
    return (g.index_select(0, order.view(-1)).view_as(sign) * sign).sum(0)


def _index_type(size: int) -> type[np.signedinteger[Any]]:
    """int32 halves the memory that a product reads; int64 where indices do not fit."""
    return np.int32 if size < 2**31 else np.int64
