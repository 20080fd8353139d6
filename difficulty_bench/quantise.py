"""z in fewer bits: a uniform quantiser, and its numbers packed into bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .bits import MAX_BITS

CANDIDATES = 64  # steps tried: fractions of that which puts an outer middle on the largest number


@dataclass(frozen=True)
class Quantiser:
    """2**bits cells of width `step` around 0, each standing for its middle (a midrise quantiser).

    Numbers beyond the outer cells are clipped into them.
    """

    bits: int
    step: float

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MAX_BITS:
            raise ValueError(f"{self.bits} bits a number; give 1 to {MAX_BITS}")
        if not 0 < self.step <= float(np.finfo(np.float32).max) / 2**self.bits:
            raise ValueError(f"step {self.step} is not above 0 or too large for float32")

    @classmethod
    def fit(cls, z: Tensor, bits: int) -> Quantiser:
        """The step, of CANDIDATES, with the least squared error on z (d,)."""
        tiny = float(torch.finfo(torch.float32).tiny)
        widest = max(float(z.abs().max()) / (2 ** (bits - 1) - 0.5), tiny * CANDIDATES)
        steps = [float(np.float32(widest * k / CANDIDATES)) for k in range(1, CANDIDATES + 1)]
        tried = [cls(bits, step) for step in steps]
        return min(tried, key=lambda q: float((q.decode(q.encode(z)) - z).square().sum()))

    def encode(self, z: Tensor) -> np.ndarray:
        """z (d,) -> the numbers of their cells, (d,) int64 from 0 to 2**bits - 1."""
        half = 2 ** (self.bits - 1)
        cells = np.floor(z.double().numpy() / self.step)
        clipped: np.ndarray = np.clip(cells, -half, half - 1).astype(np.int64) + half
        return clipped

    def decode(self, cells: np.ndarray) -> Tensor:
        """Numbers of cells (d,) -> their middles, float32 (d,)."""
        middles = (cells - 2 ** (self.bits - 1) + 0.5) * self.step
        return torch.from_numpy(middles.astype(np.float32))

    def pack(self, z: Tensor) -> bytes:
        """`encode(z)` with `bits` bits each, the first in the highest bits of the first byte."""
        places = np.arange(self.bits - 1, -1, -1)
        return np.packbits((self.encode(z)[:, None] >> places) & 1).tobytes()

    def unpack(self, packed: bytes, d: int) -> Tensor:
        """z (d,) as `pack` left it. Raise ValueError for another number of bytes."""
        if len(packed) != -(-d * self.bits // 8):
            raise ValueError(f"{len(packed)} bytes cannot hold {d} numbers of {self.bits} bits")
        bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=d * self.bits)
        places = 2 ** np.arange(self.bits - 1, -1, -1)
        return self.decode(bits.reshape(d, self.bits) @ places)
