"""P z and P^T g of entries drawn by Philox: drawing and multiplying in one kernel.

A program owns a tile of 128 x COLUMNS entries and walks with it along its share of the other
dimension, summing in registers; shares are added in order afterwards.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import OPTIONS

ROWS = 128  # of a tile: the signs of one counter, or the normals of 32
PROGRAMS = 1024  # shares are made until so many programs run: some for each of 132 processors
_SIZES = ["key", "D", "d", "blocks"]  # else Triton compiles anew for 1 and for multiples of 16


@triton.jit
def _normals(words_1, words_2):
    """As philox.normals: both numbers of Box and Muller from a pair of words."""
    u1 = ((words_1 >> 8) + 1).to(tl.float32) * 5.9604644775390625e-08  # 2^-24
    radius = tl.sqrt(-2.0 * tl.log(u1))
    # Sine and cosine of a quarter turn's fraction by the polynomials of Cephes (sinf.c, error
    # 1e-7): the library's functions branch for large angles, and there are none here.
    quarters = (words_2 >> 8).to(tl.float32) * 2.384185791015625e-07  # 2^-22: [0, 4)
    nearest = tl.floor(quarters + 0.5)
    a = (quarters - nearest) * 1.5707963267948966
    q = a * a
    sine = ((-1.9515295891e-4 * q + 8.3321608736e-3) * q - 1.6666654611e-1) * q * a + a
    cosine = (2.443315711809948e-5 * q - 1.388731625493765e-3) * q + 4.166664568298827e-2
    cosine = cosine * q * q - 0.5 * q + 1.0
    quadrant = nearest.to(tl.int32)
    odd = (quadrant & 1) == 1
    x, y = tl.where(odd, sine, cosine), tl.where(odd, cosine, sine)
    x = tl.where(((quadrant + 1) & 2) == 2, -x, x)
    y = tl.where((quadrant & 2) == 2, -y, y)
    return radius * x, radius * y


@triton.jit
def _signs(words):
    """As philox.signs: words (1, COLUMNS) -> +-1 of bits 0 to 31, (32, COLUMNS)."""
    shifts = (31 - tl.arange(0, 32))[:, None].to(tl.uint32)
    flipped = words ^ 0xFFFFFFFF  # Triton 3.7 interprets no ~ of unsigned integers
    bits = ((flipped << shifts) & 0x80000000) | 0x3F800000  # a float's sign bit before the 1
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _entries(key, row_block, columns, D, d, SIGNS: tl.constexpr):
    """Entries before scaling of rows `_rows(row_block, k)` for k = 0 to 3, (32, COLUMNS) each."""
    GROUPS: tl.constexpr = 1 if SIGNS else 32
    groups = row_block * GROUPS + tl.arange(0, GROUPS)[:, None]  # (GROUPS, 1)
    c0 = (groups + tl.zeros_like(columns)[None, :]).to(tl.uint32)  # (GROUPS, COLUMNS)
    zero = tl.zeros_like(c0)
    c1, c2, c3 = (
        zero + columns[None, :].to(tl.uint32),
        zero + d.to(tl.uint32),
        zero + D.to(tl.uint32),
    )
    w0, w1, w2, w3 = tl.philox(key, c0, c1, c2, c3)
    if SIGNS:
        e0, e1, e2, e3 = _signs(w0), _signs(w1), _signs(w2), _signs(w3)
    else:
        e0, e1 = _normals(w0, w1)
        e2, e3 = _normals(w2, w3)
    return e0, e1, e2, e3


@triton.jit
def _rows(row_block, k: tl.constexpr, SIGNS: tl.constexpr):
    """Word k of a counter serves 32 rows in a row, or row k of each 4."""
    within = 32 * k + tl.arange(0, 32) if SIGNS else k + 4 * tl.arange(0, 32)
    return row_block * 128 + within


@triton.jit
def _store(out, row_block, total, k: tl.constexpr, D, SIGNS: tl.constexpr):
    rows = _rows(row_block, k, SIGNS)
    tl.store(out + rows, tl.sum(total, 1), mask=rows < D)


@triton.jit
def _down(
    total, entries, g, row_block, k: tl.constexpr, D, SIGNS: tl.constexpr, SQUARES: tl.constexpr
):
    rows = _rows(row_block, k, SIGNS)
    if SQUARES:
        total += tl.where((rows < D)[:, None], entries * entries, 0.0)
    else:
        total += entries * tl.load(g + rows, mask=rows < D, other=0.0)[:, None]
    return total


@triton.jit(do_not_specialize=_SIZES)
def project_kernel(key, u, out, D, d, blocks, SIGNS: tl.constexpr, COLUMNS: tl.constexpr):
    """out (shares, D): E u over the share's columns."""
    row_block, share = tl.program_id(0), tl.program_id(1)
    t0 = tl.zeros((32, COLUMNS), tl.float32)
    t1, t2, t3 = t0, t0, t0
    for block in range(share * blocks, (share + 1) * blocks):
        columns = block * COLUMNS + tl.arange(0, COLUMNS)
        factor = tl.load(u + columns, mask=columns < d, other=0.0)[None, :]
        e0, e1, e2, e3 = _entries(key, row_block, columns, D, d, SIGNS)
        t0, t1, t2, t3 = t0 + e0 * factor, t1 + e1 * factor, t2 + e2 * factor, t3 + e3 * factor
    out += share.to(tl.int64) * D
    _store(out, row_block, t0, 0, D, SIGNS)
    _store(out, row_block, t1, 1, D, SIGNS)
    _store(out, row_block, t2, 2, D, SIGNS)
    _store(out, row_block, t3, 3, D, SIGNS)


@triton.jit(do_not_specialize=_SIZES)
def transposed_kernel(
    key, g, out, D, d, blocks, SIGNS: tl.constexpr, COLUMNS: tl.constexpr, SQUARES: tl.constexpr
):
    """out (shares, d): E^T g, or the sums of squares of E's columns, over the share's rows."""
    columns, share = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS), tl.program_id(1)
    total = tl.zeros((32, COLUMNS), tl.float32)
    for block in range(share * blocks, (share + 1) * blocks):
        e0, e1, e2, e3 = _entries(key, block, columns, D, d, SIGNS)
        total = _down(total, e0, g, block, 0, D, SIGNS, SQUARES)
        total = _down(total, e1, g, block, 1, D, SIGNS, SQUARES)
        total = _down(total, e2, g, block, 2, D, SIGNS, SQUARES)
        total = _down(total, e3, g, block, 3, D, SIGNS, SQUARES)
    tl.store(out + share * d + columns, tl.sum(total, 0), mask=columns < d)


def project(key: int, D: int, u: Tensor, *, signs: bool) -> Tensor:
    """E u: (d,) -> (D,), for the entries E before scaling."""
    wide, programs, needed = _tiles(D, len(u), signs)
    shares, blocks = _shares(programs, needed)
    u, out = u.contiguous(), u.new_empty(shares, D)
    project_kernel[(programs, shares)](key, u, out, D, len(u), blocks, signs, wide, **OPTIONS)
    return out.sum(0) if shares > 1 else out[0]


def project_transposed(key: int, d: int, g: Tensor, *, signs: bool) -> Tensor:
    """E^T g: (D,) -> (d,), for the entries E before scaling."""
    return _transposed(key, d, g, signs, False).sum(0)


def squared_lengths(key: int, D: int, d: int, device: torch.device) -> Tensor:
    """Of the Gaussian columns before scaling: (d,) float64."""
    return _transposed(key, d, torch.empty(D, device=device), False, True).double().sum(0)


def _transposed(key: int, d: int, g: Tensor, signs: bool, squares: bool) -> Tensor:
    wide, needed, programs = _tiles(len(g), d, signs)
    shares, blocks = _shares(programs, needed)
    g, out = g.contiguous(), g.new_empty(shares, d)
    transposed_kernel[(programs, shares)](
        key, g, out, len(g), d, blocks, signs, wide, squares, **OPTIONS
    )
    return out


def _tiles(D: int, d: int, signs: bool) -> tuple[int, int, int]:
    """Columns of a tile (signs: one counter a thread), tiles along D and along d."""
    wide = 128 if signs else 32
    return wide, triton.cdiv(D, ROWS), triton.cdiv(d, wide)


def _shares(programs: int, needed: int) -> tuple[int, int]:
    """Shares of the `needed` tiles, and tiles of a share; of the sizes only, so results repeat."""
    shares = min(needed, max(1, PROGRAMS // programs))
    blocks = triton.cdiv(needed, shares)
    return triton.cdiv(needed, blocks), blocks
