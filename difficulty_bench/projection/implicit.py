"""Dense projections that are never stored: entries are drawn again in every product."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor

from ..errors import UsageError
from . import kernels, philox
from .base import Projection, linear

KEEP_BYTES = 1 << 28  # 256 MiB: a P up to this size is drawn once and kept where torch multiplies
# Entries drawn at once: smaller tiles spend more in torch than in arithmetic, larger ones leave the
# caches (an entry of gaussian takes 18, 16 and 18 ns at 2^18, 2^19 and 2^20).
_TILE = 1 << 19


class Implicit(Projection):
    """Independent entries, a function of (seed, row, column), each column divided by its length.

    Entry (i, j) comes from Philox 4x32-10 with the seed as key and (i // r, j, d, D) as counter,
    which serves r rows of a column: P needs no memory but its d column lengths. Both products
    take O(D d) time. torch's keep up to `KEEP_BYTES` of entries and draw larger P tile by tile
    each time; on a GPU one kernel draws and multiplies, and nothing is ever kept.

    Raises UsageError for D or seeds too large for the kernels' int32 rows and Philox's key.
    """

    signs: bool  # entries are random signs, else standard Gaussian

    def __init__(self, D: int, d: int, seed: int) -> None:
        super().__init__(D, d, seed)
        if self.D >= 1 << 31 or self.seed >= 1 << 64:
            raise UsageError(f"projection '{self.name}' needs D < 2^31 and a seed < 2^64")
        self.scale = torch.ones(self.d)  # (d,): 1 / column length, once a product has needed it
        self.measured = False
        self.columns: Tensor | None = None  # (d, D): entries before scaling, where they are kept

    @abstractmethod
    def lengths(self, x: Tensor) -> Tensor:
        """Column lengths before scaling, (d,) float64, on the device and by the code of `x`."""

    def project(self, z: Tensor) -> Tensor:
        return linear(z, self._times, self._times_transposed)

    def project_transposed(self, g: Tensor) -> Tensor:
        return linear(g, self._times_transposed, self._times)

    def tensors(self) -> dict[str, Tensor]:
        kept = {} if self.columns is None else {"columns": self.columns}
        return {"scale": self.scale, **kept}

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        self.columns = None  # drawn again there, if they are needed there
        return super().to(device, dtype)

    def _times(self, z: Tensor) -> Tensor:
        z = z * self._scale_for(z)
        if kernels.apply_to(z):
            from .kernels import entries

            return entries.project(self.seed, self.D, z, signs=self.signs)
        if (columns := self._kept(z)) is not None:
            return columns.t() @ z
        out = z.new_zeros(self.D)
        for rows, cols, tile in self.tiles(z.device):
            out[rows] += tile.to(z.dtype).t() @ z[cols]
        return out  # (D,)

    def _times_transposed(self, g: Tensor) -> Tensor:
        scale = self._scale_for(g)
        if kernels.apply_to(g):
            from .kernels import entries

            return entries.project_transposed(self.seed, self.d, g, signs=self.signs) * scale
        if (columns := self._kept(g)) is not None:
            return (columns @ g) * scale
        out = g.new_zeros(self.d)
        for rows, cols, tile in self.tiles(g.device):
            out[cols] += tile.to(g.dtype) @ g[rows]
        return out * scale  # (d,)

    def _scale_for(self, x: Tensor) -> Tensor:
        if not self.measured:
            # Through float32 always, so that P does not depend on the dtype that came first.
            self.scale = self.lengths(x).reciprocal().float().to(self.scale.dtype)
            self.measured = True
        return self.scale

    def _kept(self, x: Tensor) -> Tensor | None:
        if self.columns is None and 4 * self.D * self.d <= KEEP_BYTES:
            columns = torch.empty(self.d, self.D, dtype=x.dtype, device=x.device)
            for rows, cols, entries in self.tiles(x.device):
                columns[cols, rows] = entries.to(x.dtype)
            self.columns = columns
        return self.columns

    def tiles(self, device: torch.device) -> Iterator[tuple[slice, slice, Tensor]]:
        """All of P before scaling, as (rows, columns, entries (columns, rows) in float32)."""
        per = philox.SIGNS if self.signs else philox.NORMALS  # rows of a counter
        draw = philox.signs if self.signs else philox.normals
        high = min(-(-self.D // per) * per, _TILE // per * per)  # rows of a tile, whole counters
        wide = max(1, _TILE // high)  # columns of a tile
        for j in range(0, self.d, wide):
            columns = torch.arange(j, min(j + wide, self.d), device=device)
            for i in range(0, self.D, high):
                stop = min(i + high, self.D)
                groups = torch.arange(i // per, -(-stop // per), device=device)
                bits = philox.words(self.seed, (self.D, self.d), groups, columns)  # (C, G, 4)
                entries = draw(bits).flatten(1)[:, : stop - i]
                yield slice(i, stop), slice(j, j + len(columns)), entries


class Gaussian(Implicit):
    """Standard Gaussian entries, columns divided by their exact length.

    The distribution of `dense` (Li et al. 2018), with other numbers.
    """

    name = "gaussian"
    signs = False

    def lengths(self, x: Tensor) -> Tensor:
        if kernels.apply_to(x):
            from .kernels.entries import squared_lengths

            return squared_lengths(self.seed, self.D, self.d, x.device).sqrt()
        squares = torch.zeros(self.d, dtype=torch.float64, device=x.device)
        for _, cols, entries in self.tiles(x.device):
            squares[cols] += torch.linalg.vecdot(entries, entries).double()
        return squares.sqrt()


class Rademacher(Implicit):
    """Entries +-1/sqrt(D) with probability 1/2 each (Achlioptas 2003): 128 to a Philox call."""

    name = "rademacher"
    signs = True

    def lengths(self, x: Tensor) -> Tensor:
        return torch.full((self.d,), self.D**0.5, dtype=torch.float64, device=x.device)
