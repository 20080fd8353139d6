"""Sums of signed, gathered numbers: products with matrices that hold a few +-1 per row.

An index v says both place and sign: +x[v], or -x[~v] where v < 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...errors import UsageError
from . import OPTIONS

_TILE = 1024  # numbers that a program gathers at once
_SHARE = 4096  # a longer segment is summed by several programs


@triton.jit
def _gathered(x, index, at, valid, factor, FACTOR: tl.constexpr):
    v = tl.load(index + at, mask=valid, other=0)
    place = tl.where(v < 0, ~v, v)
    value = tl.load(x + place, mask=valid, other=0.0)
    if FACTOR:
        value *= tl.load(factor + place, mask=valid, other=0.0)
    return tl.where(v < 0, -value, value)


@triton.jit
def gather_kernel(
    x, index, factor, base, out, n, FACTOR: tl.constexpr, BASE: tl.constexpr, TILE: tl.constexpr
):
    at = tl.program_id(0) * TILE + tl.arange(0, TILE)
    value = _gathered(x, index, at, at < n, factor, FACTOR)
    if BASE:
        value += tl.load(base + at, mask=at < n)
    tl.store(out + at, value, mask=at < n)


@triton.jit
def sum_kernel(
    x, index, starts, base, out, n, share,
    BASE: tl.constexpr, SEGMENTS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    segment, part = tl.program_id(0) * SEGMENTS + tl.arange(0, SEGMENTS), tl.program_id(1)
    inside = segment < n
    start = tl.load(starts + segment, mask=inside, other=0) + part * share
    stop = tl.load(starts + segment + 1, mask=inside, other=0)
    stop = tl.minimum(stop, start + share)
    total = tl.zeros((SEGMENTS, WIDTH), tl.float32)
    for k in range(0, tl.max(stop - start), WIDTH):
        at = start[:, None] + k + tl.arange(0, WIDTH)[None, :]
        total += _gathered(x, index, at, at < stop[:, None], x, False)
    value = tl.sum(total, 1)
    if BASE:
        value += tl.load(base + segment, mask=inside)
    tl.store(out + part.to(tl.int64) * n + segment, value, mask=inside)


def gather(
    x: Tensor,
    index: Tensor,
    factor: Tensor | None = None,
    base: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """(base +) the signed numbers of `x` (times `factor`, of x's shape) at `index` (n,) -> (n,)."""
    n, x = len(index), x.contiguous()
    out = x.new_empty(n) if out is None else out
    grid = (triton.cdiv(n, _TILE),)
    has = factor is not None, base is not None
    gather_kernel[grid](x, index, _or(factor, x), _or(base, x), out, n, *has, _TILE, **OPTIONS)
    return out


@dataclass(frozen=True)
class Segments:
    """`index` (nonzeros,) cut into segments at `starts` (n + 1,), none longer than `longest`."""

    index: Tensor
    starts: Tensor
    longest: int

    @classmethod
    def of(cls, segment: Tensor, index: Tensor, n: int) -> Segments:
        """Sort the signed `index` by its `segment` in 0..n-1 (both (nonzeros,)), stably."""
        counts = torch.bincount(segment, minlength=n)  # (n,)
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        order = torch.argsort(segment, stable=True)
        return cls(narrow(index[order]), narrow(starts), int(counts.max()))

    def sum(self, x: Tensor, base: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """(base +) the sum over each segment of the signed x[index] -> (n,).

        In an order that depends on the sizes only: the result repeats exactly.
        """
        n, x = len(self.starts) - 1, x.contiguous()
        parts = triton.cdiv(self.longest, _SHARE)
        sums = x.new_empty(parts, n) if parts > 1 or out is None else out
        mean = max(1, min(len(self.index) // n, _SHARE))
        width = min(triton.next_power_of_2(mean), _TILE)
        sum_kernel[(triton.cdiv(n, _TILE // width), parts)](
            x, self.index, self.starts, _or(base, x), sums, n, _SHARE,
            base is not None and parts == 1, _TILE // width, width, **OPTIONS,
        )  # fmt: skip
        if parts == 1:
            return sums.view(n) if out is None else out
        total = sums.sum(0) if base is None else torch.add(base, sums.sum(0))
        return total if out is None else out.copy_(total)


class Lists(NamedTuple):
    """A matrix of entries +-1 as index lists; with one entry in each row, `by_row.starts` is empty
    and `gather` does what `sum` would."""

    by_row: Segments
    by_column: Segments

    @property
    def nbytes(self) -> int:
        return sum(part.index.nbytes + part.starts.nbytes for part in self)


def one_per_row(slot: Tensor, m: int) -> Lists:
    """Of the matrix S that `hashed.random_slots` describes: slot (N,) in the table [u, -u]."""
    column, negative = slot % m, slot >= m
    rows = torch.arange(len(slot), device=slot.device)
    by_column = Segments.of(column, torch.where(negative, ~rows, rows), m)
    index = narrow(torch.where(negative, ~column, column))
    return Lists(Segments(index, index.new_empty(0), 1), by_column)


def several_per_row(rows: Tensor, negative: Tensor, D: int) -> Lists:
    """Of a matrix (D, d) with entries at rows[:, j] in column j: rows and negative (s, d)."""
    columns = torch.arange(rows.shape[1], device=rows.device).expand_as(rows)  # (s, d)
    by_row = Segments.of(rows.reshape(-1), torch.where(negative, ~columns, columns).reshape(-1), D)
    # Column by column in the transpose, so that the stable sort keeps rows in ascending order.
    by_column = Segments.of(
        columns.t().reshape(-1), torch.where(negative, ~rows, rows).t().reshape(-1), rows.shape[1]
    )
    return Lists(by_row, by_column)


def narrow(index: Tensor) -> Tensor:
    """As int32: half the bytes to read in every product."""
    if len(index) and int(index.abs().max()) >= (1 << 31) - 1:
        raise UsageError("a GPU's index lists end at D or nonzeros = 2^31: train on the CPU")
    return index.to(torch.int32)


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """Triton wants a pointer also where the kernel does not look."""
    return other if tensor is None else tensor
