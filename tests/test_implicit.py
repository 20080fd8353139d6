"""Dense projections without a stored P: Philox's words, and entries that any tile draws alike."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from difficulty_bench.errors import UsageError
from difficulty_bench.projection import implicit, make, philox

families = pytest.mark.parametrize("name", ["gaussian", "rademacher"])

# kat_vectors of Random123 1.09, lines "philox4x32 10": counter, key, words.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


def numbers(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_philox_gives_the_published_words(counter: str, key: str, expected: str) -> None:
    c0, c1, c2, c3 = (torch.full((3,), c) for c in numbers(counter))
    k0, k1 = numbers(key)
    got = philox.philox4x32((c0, c1, c2, c3), k0 | k1 << 32)
    assert [w.tolist() for w in got] == [[w] * 3 for w in numbers(expected)]


def test_counter_is_row_group_column_and_shape() -> None:
    got = philox.words(7, (1000, 30), torch.tensor([0, 5]), torch.tensor([29]))  # (1, 2, 4)
    one = philox.philox4x32(
        (torch.tensor(5), torch.tensor(29), torch.tensor(30), torch.tensor(1000)), 7
    )
    assert got.shape == (1, 2, 4)
    assert got[0, 1].tolist() == [int(w) for w in one]


def test_signs_are_the_bits_from_the_lowest() -> None:
    bits = philox.signs(torch.tensor([1, 0x80000000, 0, 0xFFFFFFFF]))
    assert [i for i in range(128) if bits[i] > 0] == [0, 63, *range(96, 128)]
    assert set(bits.tolist()) == {1.0, -1.0}


def test_normals_are_box_muller_of_word_pairs() -> None:
    words = torch.tensor([0, 0, 0xFFFFFFFF, 0x40000000])
    a, b, c, d = philox.normals(words).tolist()
    assert (a, b) == pytest.approx((math.sqrt(2 * math.log(2**24)), 0))  # u1 = 2^-24, u2 = 0
    assert (c, d) == (0, 0)  # u1 = 1


def test_normals_are_gaussian() -> None:
    n = 1 << 18
    groups, columns = torch.arange(n // 4), torch.tensor([3])
    x = philox.normals(philox.words(1, (n, 5), groups, columns)).flatten().double()
    assert float(x.mean()) == pytest.approx(0, abs=4 / math.sqrt(n))
    assert float(x.square().mean()) == pytest.approx(1, abs=4 * math.sqrt(2 / n))
    assert float(x.pow(4).mean()) == pytest.approx(3, abs=4 * math.sqrt(96 / n))
    below = (x[:, None] < torch.tensor([-2.0, -1.0, 0.5, 1.5])).double().mean(0)
    exact = torch.special.ndtr(torch.tensor([-2.0, -1.0, 0.5, 1.5], dtype=torch.float64))
    torch.testing.assert_close(below, exact, atol=4 * 0.5 / math.sqrt(n), rtol=0)


def products(name: str, z: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    P = make(name, len(g), len(z), seed=3)
    return P.project(z), P.project_transposed(g)


@families
@pytest.mark.parametrize(("D", "d"), [(1000, 37), (130, 130), (5, 2)])
@pytest.mark.parametrize("tile", [1, 300, 5000])
def test_tiles_and_keeping_do_not_change_the_matrix(
    name: str, D: int, d: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    z, g = torch.randn(d), torch.randn(D)
    kept = products(name, z, g)
    monkeypatch.setattr(implicit, "KEEP_BYTES", 0)
    monkeypatch.setattr(implicit, "_TILE", max(tile, 128))
    for one, other in zip(kept, products(name, z, g), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@families
def test_nothing_is_kept_above_the_budget(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    P, g = make(name, 2000, 50, seed=0), torch.randn(2000)
    P.project_transposed(g)
    assert P.nbytes == 4 * 50 + 4 * 2000 * 50
    monkeypatch.setattr(implicit, "KEEP_BYTES", 4 * 2000 * 50 - 1)
    P = make(name, 2000, 50, seed=0)
    P.project_transposed(g)
    assert P.nbytes == 4 * 50


@families
def test_the_matrix_is_the_same_whatever_dtype_came_first(name: str) -> None:
    z = torch.randn(20, dtype=torch.float64)
    first, second = make(name, 300, 20, seed=0), make(name, 300, 20, seed=0)
    second.project(z.float())
    assert torch.equal(first.to("cpu", z.dtype).project(z), second.to("cpu", z.dtype).project(z))


@families
def test_what_counter_and_key_cannot_hold_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="needs D < 2"):
        make(name, 1 << 31, 1, seed=0)
    with pytest.raises(UsageError, match="seed < 2"):
        make(name, 10, 1, seed=1 << 64)
    assert make(name, 10, 1, seed=(1 << 64) - 1).project(torch.ones(1)).isfinite().all()
