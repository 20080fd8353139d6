"""Philox 4x32-10 in torch, and matrix entries made of its words.

The generator is a function of a counter (Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3"), so that any entry of a random matrix can be drawn again, alone, on any device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57  # Random123, philox.h
_WEYL = 0x9E3779B9, 0xBB67AE85
_WORD = 0xFFFFFFFF

NORMALS, SIGNS = 4, 128  # rows that one counter serves: one word, or one bit, an entry


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: int) -> tuple[Tensor, ...]:
    """Four 32-bit words for every counter of four words, all int64 tensors of one shape.

    int64 holds every 32 x 32-bit product bit by bit, also where it overflows.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key & _WORD, key >> 32
    for _ in range(10):
        low, high = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = _upper(high).bitwise_xor_(c1).bitwise_xor_(k0)
        c2 = _upper(low).bitwise_xor_(c3).bitwise_xor_(k1)
        c1, c3 = high.bitwise_and_(_WORD), low.bitwise_and_(_WORD)
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def words(key: int, shape: tuple[int, int], groups: Tensor, columns: Tensor) -> Tensor:
    """Words of the counters (group, column, d, D) for a matrix of shape (D, d).

    groups (G,) and columns (C,) are int64; the result (C, G, 4) is too, entries below 2^32.
    """
    D, d = shape
    zero = torch.zeros(len(columns), len(groups), dtype=torch.int64, device=groups.device)  # (C, G)
    counter = zero + groups, zero + columns[:, None], zero + d, zero + D
    return torch.stack(philox4x32(counter, key), 2)


def normals(bits: Tensor) -> Tensor:
    """Standard Gaussian numbers by Box and Muller 1958: words (..., 4) -> float32 (..., 4).

    Words give in pairs a uniform u1 in (0, 1] and u2 in [0, 1) of 24 bits, exact in float32: the
    largest number is sqrt(2 log 2^24) = 5.8.
    """
    uniform = (bits >> 8).float() * 2.0**-24
    u1, u2 = uniform[..., 0::2] + 2.0**-24, uniform[..., 1::2]
    radius, angle = torch.sqrt(-2 * torch.log(u1)), (2 * math.pi) * u2
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], -1).flatten(-2)


def signs(bits: Tensor) -> Tensor:
    """+1 for a bit 1, -1 for a bit 0, lowest bit first: words (..., 4) -> float32 (..., 128)."""
    device = bits.device
    byte, place = torch.arange(256, device=device), torch.arange(8, device=device)
    table = ((byte[:, None] >> place) & 1).mul(2).sub(1).float()  # (256, 8)
    return table[(bits[..., None] >> (8 * place[:4])) & 255].flatten(-3)


def _upper(product: Tensor) -> Tensor:
    return (product >> 32).bitwise_and_(_WORD)
