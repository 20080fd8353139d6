"""Walsh-Hadamard transforms with what comes before and after them, in one pass for n <= 2^14."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from . import OPTIONS
from .segments import _gathered

_BITS = 14  # a pass transforms up to 2^14 numbers in the registers of one program
_SMALLEST = 1024  # numbers of a program, where transforms are shorter
_ROW = 5  # a later pass reads rows of at least 2^5 neighbours, a whole cache line


@triton.jit
def transform_kernel(
    x, index, factor, base, out, valid_in, valid_out, inner,
    GATHER: tl.constexpr, FACTOR: tl.constexpr, BASE: tl.constexpr,
    TILE: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr,
):  # fmt: skip
    # Number e of a tile is e & (2^LOW - 1) along rows and e >> LOW across them, `inner` apart.
    e = tl.arange(0, TILE)
    at = tl.program_id(0).to(tl.int64) * (TILE >> LOW) * inner
    at = at + tl.program_id(1) * (1 << LOW) + (e >> LOW) * inner + (e & ((1 << LOW) - 1))
    if GATHER:
        value = _gathered(x, index, at, at < valid_in, factor, FACTOR)
    else:
        value = tl.load(x + at, mask=at < valid_in, other=0.0)
        if FACTOR:
            value *= tl.load(factor + at, mask=at < valid_in, other=0.0)
    for bit in tl.static_range(LOW, HIGH):
        pairs = tl.permute(tl.reshape(value, (TILE >> (bit + 1), 2, 1 << bit)), (0, 2, 1))
        first, second = tl.split(pairs)
        pairs = tl.join(first + second, first - second)
        value = tl.reshape(tl.permute(pairs, (0, 2, 1)), (TILE,))
    if BASE:
        value += tl.load(base + at, mask=at < valid_out, other=0.0)
    tl.store(out + at, value, mask=at < valid_out)


def transform(
    x: Tensor,
    n: int,
    blocks: int,
    *,
    index: Tensor | None = None,
    factor: Tensor | None = None,
    base: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """(base +) H_n of each of `blocks` rows of n numbers: flat (blocks * n,) or shorter.

    The numbers are `x` padded with zeros, times `factor` (of x's shape); with `index`
    (blocks * n,) they are the signed x[index] instead. The result is cut to the length of `out`.
    """
    length, x = blocks * n, x.contiguous()
    out = x.new_empty(length) if out is None else out
    levels = n.bit_length() - 1
    low = 0
    while True:
        bits = min(_BITS if low == 0 else _BITS - _ROW, levels - low)
        last = low + bits == levels
        target = out if last else x.new_empty(length)
        _pass(x, target, length, low, bits, index, factor, base if last else None)
        if last:
            return out
        x, index, factor, low = target, None, None, low + bits


def _pass(
    x: Tensor, out: Tensor, length: int, low: int, bits: int,
    index: Tensor | None, factor: Tensor | None, base: Tensor | None,
) -> None:  # fmt: skip
    """One kernel: butterflies over the address bits low .. low + bits - 1."""
    inner = 1 << low
    row = 0 if low == 0 else min(low, max(_ROW, 10 - bits))
    tile = 1 << (row + bits) if low else max(1 << bits, _SMALLEST)
    across = inner >> row if low else 1
    grid = (triton.cdiv(length, tile * across), across)
    valid_in = length if index is not None else len(x)
    has = index is not None, factor is not None, base is not None
    unused = x
    transform_kernel[grid](
        x, unused if index is None else index, unused if factor is None else factor,
        unused if base is None else base, out, valid_in, len(out), inner,
        *has, tile, row, row + bits, num_warps=max(4, min(32, tile // 512)), **OPTIONS,
    )  # fmt: skip
