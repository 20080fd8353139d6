"""The quantiser: cells, their middles, the step it chooses, and bits in bytes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from difficulty_bench.quantise import Quantiser


def error(z: torch.Tensor, quantiser: Quantiser) -> float:
    return float((quantiser.decode(quantiser.encode(z)) - z).square().mean())


def test_cells_lie_around_0_and_stand_for_their_middles() -> None:
    quantiser = Quantiser(2, 1.0)
    z = torch.tensor([-9.0, -1.5, -0.1, 0.0, 0.9, 1.0, 7.0])
    cells = quantiser.encode(z)
    assert cells.tolist() == [0, 0, 1, 2, 2, 3, 3]
    assert quantiser.decode(cells).tolist() == [-1.5, -1.5, -0.5, 0.5, 0.5, 1.5, 1.5]


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40),
    st.integers(1, 16),
)
def test_packed_numbers_come_back_and_stay_where_they_are(values: list[float], bits: int) -> None:
    z = torch.tensor(values, dtype=torch.float32)
    quantiser = Quantiser.fit(z, bits)
    again = quantiser.unpack(packed := quantiser.pack(z), len(z))
    assert len(packed) == math.ceil(len(z) * bits / 8)
    assert torch.equal(again, quantiser.decode(quantiser.encode(z)))
    assert quantiser.pack(again) == packed


def test_the_error_of_normal_numbers_is_near_the_least_possible() -> None:
    """Max (1960), table II: uniform quantisers of a normal variable, 2 to 64 levels."""
    z = torch.from_numpy(np.random.default_rng(0).normal(0, 3, 20_000).astype(np.float32))
    for bits, least in ((1, 0.3634), (2, 0.1188), (3, 0.03744), (4, 0.01154), (5, 0.003490)):
        assert error(z, Quantiser.fit(z, bits)) / 9 == pytest.approx(least, rel=0.06)


def test_zeros_stay_zero_and_one_bit_keeps_the_signs() -> None:
    zeros, fine = torch.zeros(5), Quantiser.fit(torch.zeros(5), 4)
    assert float(fine.decode(fine.encode(zeros)).abs().max()) < 1e-30
    z = torch.tensor([2.0, -2.0, 2.0])
    quantiser = Quantiser.fit(z, 1)
    assert quantiser.decode(quantiser.encode(z)).tolist() == pytest.approx([2, -2, 2], rel=0.02)
