"""One conformance suite over all families of projections: the contract in `projection/base.py`."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard
from torch import Tensor

from difficulty_bench.errors import ResourceError, UsageError
from difficulty_bench.projection import NAMES, Projection, dense, make, sparse
from difficulty_bench.projection.fastfood import (
    Fastfood,
    hadamard_factors,
    rotate_left,
    rotate_right,
)

# D a power of two and not; d = 1, odd, a power of two, above a block of 256, and d = D.
SIZES = [(1, 1), (7, 3), (64, 64), (1000, 1), (1000, 10), (1000, 257), (1024, 64), (601, 601)]
STRUCTURED = [name for name in NAMES if name != "dense"]
pytestmark = pytest.mark.usefixtures("seeded")


families = pytest.mark.parametrize("name", NAMES)
sizes = pytest.mark.parametrize(("D", "d"), SIZES)


def matrix(P: Projection) -> Tensor:
    """P itself, column by column."""
    return torch.stack([P.project(e) for e in torch.eye(P.d)], dim=1)  # (D, d)


def cosines(A: Tensor) -> Tensor:
    """|cos| between every two different columns of A (D, d)."""
    unit = A / A.norm(dim=0)
    gram = unit.t() @ unit  # (d, d)
    return gram[torch.triu(torch.ones_like(gram), diagonal=1) == 1].abs()


@families
@sizes
def test_products_are_of_one_matrix(name: str, D: int, d: int) -> None:
    P = make(name, D, d, seed=1)
    A = matrix(P)
    z, g = torch.randn(d), torch.randn(D)
    assert A.shape == (D, d)
    torch.testing.assert_close(P.project(z), A @ z, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(P.project_transposed(g), A.t() @ g, atol=1e-5, rtol=1e-4)


@families
@sizes
def test_a_batch_is_projected_row_by_row(name: str, D: int, d: int) -> None:
    P, Z = make(name, D, d, seed=1), torch.randn(3, d)
    expected = torch.stack([P.project(z) for z in Z])
    torch.testing.assert_close(P.project_batch(Z), expected, atol=1e-5, rtol=1e-4)


@families
@sizes
def test_adjoint(name: str, D: int, d: int) -> None:
    """A transform scaled differently on the way back would fail here."""
    P = make(name, D, d, seed=2).to("cpu", torch.float64)
    z, g = torch.randn(d, dtype=torch.float64), torch.randn(D, dtype=torch.float64)
    left, right = P.project(z) @ g, z @ P.project_transposed(g)
    assert float(left - right) == pytest.approx(0, abs=1e-10 * float(z.norm() * g.norm()))


@families
@sizes
def test_gradient_is_the_transposed_product(name: str, D: int, d: int) -> None:
    P = make(name, D, d, seed=2)
    z, g = torch.randn(d, requires_grad=True), torch.randn(D)
    (P.project(z) @ g).backward()
    torch.testing.assert_close(z.grad, P.project_transposed(g), atol=1e-5, rtol=1e-4)


@families
@sizes
def test_columns_have_length_one(name: str, D: int, d: int) -> None:
    P = make(name, D, d, seed=3)
    lengths = matrix(P).double().norm(dim=0).float()  # (d,)
    if isinstance(P, Fastfood) and D % P.n:
        # Length 1 in expectation: a sum of D squares of unit variance, so sd about 1/sqrt(2 D).
        assert float((lengths - 1).abs().max()) < 5 / math.sqrt(2 * D)
    else:
        torch.testing.assert_close(lengths, torch.ones(d), atol=2e-6, rtol=0)


@families
@pytest.mark.parametrize(("D", "d"), [(1000, 100), (1024, 64), (3000, 300), (300, 300)])
def test_columns_are_no_more_parallel_than_gaussian_ones(name: str, D: int, d: int) -> None:
    """Excludes positive entries (mean cosine 0.75) and overlapping cut transforms."""
    seen = torch.cat([cosines(matrix(make(name, D, d, seed))) for seed in range(3)])
    gaussian = cosines(torch.randn(D, 3 * d, generator=torch.Generator().manual_seed(0)))
    assert float(seen.mean()) <= 1.05 * float(gaussian.mean())
    assert float(seen.max()) <= 1.5 * float(gaussian.max())


@families
@pytest.mark.parametrize(("D", "d"), [(1000, 1), (1000, 300), (2000, 513)])
def test_no_coordinate_is_lost(name: str, D: int, d: int) -> None:
    """A cropped z or an empty column would lower the rank."""
    assert int(torch.linalg.matrix_rank(matrix(make(name, D, d, seed=4)))) == d


@families
@pytest.mark.parametrize(("D", "d"), [(1, 1), (5, 5), (50, 50), (601, 601)])
def test_no_column_is_empty_at_full_dimension(name: str, D: int, d: int) -> None:
    assert bool((matrix(make(name, D, d, seed=0)).norm(dim=0) > 0).all())


@families
def test_entries_have_no_common_sign(name: str) -> None:
    A = matrix(make(name, 3000, 20, seed=5))
    assert abs(float(A.sign().sum() / A.sign().abs().sum())) < 0.05


@families
def test_every_part_of_theta_gets_its_share(name: str) -> None:
    """The energy of P in a range of rows is proportional to the range's length."""
    energy = matrix(make(name, 4000, 200, seed=6)).square().sum(1)  # (D,)
    for part in (slice(0, 100), slice(100, 1000), slice(1000, 3900), slice(3900, 4000)):
        expected = 200 * (part.stop - part.start) / 4000
        assert float(energy[part].sum()) == pytest.approx(expected, rel=0.3)


@families
def test_same_seed_same_matrix_other_seed_other_matrix(name: str) -> None:
    first, again, other = (matrix(make(name, 500, 30, seed)) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    aligned = (first * other).sum(0).abs()  # (d,): |cos| between columns of two seeds
    assert float(aligned.mean()) < 3 / math.sqrt(500)


@families
def test_drawing_ignores_the_global_random_state(name: str) -> None:
    torch.manual_seed(1)
    first = matrix(make(name, 100, 10, seed=9))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(first, matrix(make(name, 100, 10, seed=9)))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dense", 0.511),
        ("gaussian", 3.7418),
        ("rademacher", 1.6453),
        ("sparse", -2.0912),
        ("fastfood", -3.1176),
        ("hashed", -3.0216),
    ],
)
def test_streams_are_the_same_on_every_machine_and_version(name: str, expected: float) -> None:
    """Stored results and exported solutions rest on these streams: a change breaks them."""
    P = make(name, 1000, 10, seed=2018)
    g, z = torch.linspace(-1, 1, 1000), torch.linspace(1, 2, 10)
    assert float(z @ P.project_transposed(g)) == pytest.approx(expected, abs=1e-4)


@families
def test_dtype_moves(name: str) -> None:
    z, g = torch.randn(50), torch.randn(700)
    P = make(name, 700, 50, seed=10)
    before = P.project(z), P.project_transposed(g)
    assert P.to("cpu", torch.float64) is P
    after = P.project(z.double()), P.project_transposed(g.double())
    for low, high in zip(before, after, strict=True):
        assert high.dtype == torch.float64
        torch.testing.assert_close(low.double(), high, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(P.to("cpu", torch.float32).project(z), before[0])


@families
def test_to_moves_every_tensor(name: str) -> None:
    P = make(name, 700, 50, seed=11)
    held = [value for value in vars(P).values() if isinstance(value, Tensor)]
    assert {id(t) for t in held} == {id(t) for t in P.tensors().values()}
    P.to("cpu", torch.float64)
    assert all(t.dtype != torch.float32 for t in vars(P).values() if isinstance(t, Tensor))


@pytest.mark.gpu
@families
def test_device_moves(name: str) -> None:
    z, g = torch.randn(300), torch.randn(5000)
    P = make(name, 5000, 300, seed=12)
    before = P.project(z), P.project_transposed(g)
    P.to("cuda")
    after = P.project(z.cuda()), P.project_transposed(g.cuda())
    for cpu, gpu in zip(before, after, strict=True):
        assert gpu.is_cuda
        torch.testing.assert_close(cpu, gpu.cpu(), atol=1e-5, rtol=1e-4)


@families
@sizes
def test_shift_adds_the_product_to_theta_0(name: str, D: int, d: int) -> None:
    P = make(name, D, d, seed=14)
    theta_0, z, out = torch.randn(D), torch.randn(d), torch.empty(D)
    before = theta_0.clone()
    assert P.shift(theta_0, z, out) is out
    torch.testing.assert_close(out, theta_0 + P.project(z), atol=1e-5, rtol=1e-4)
    assert torch.equal(theta_0, before)


@families
@pytest.mark.parametrize("D", [1000, 50_000])
def test_pull_takes_the_gradient_in_parts(name: str, D: int) -> None:
    P, g = make(name, D, 30, seed=14), torch.randn(D)
    parts = g.split([1, 400, D - 500, 99])
    torch.testing.assert_close(P.pull(parts), P.project_transposed(g), atol=1e-4, rtol=1e-4)


@families
def test_copies_are_equal(name: str) -> None:
    P, z = make(name, 300, 20, seed=13), torch.randn(20)
    assert torch.equal(copy.deepcopy(P).project(z), P.project(z))


@families
def test_products_repeat_exactly(name: str) -> None:
    P, z, g = make(name, 3000, 200, seed=14), torch.randn(200), torch.randn(3000)
    assert torch.equal(P.project(z), P.project(z))
    assert torch.equal(P.project_transposed(g), P.project_transposed(g))


@pytest.mark.parametrize("d", [10, 1000, 10_000])
def test_memory_promises(d: int) -> None:
    """At the size of the MNIST network; never a stored D x d matrix (0.8 GB at d = 1,000)."""
    D = 199_210
    assert make("hashed", D, d, 0).nbytes <= 16 * (D + d)
    assert make("fastfood", D, d, 0).nbytes <= 16 * (D + 2 * d) + 4 * 32 * 32
    assert make("sparse", D, d, 0).nbytes == 12 * d * round(math.sqrt(D))
    assert make("dense", 100, 10, 0).nbytes == 4 * 100 * 10


@pytest.mark.parametrize("name", STRUCTURED)
def test_nbytes_counts_every_tensor(name: str) -> None:
    P = make(name, 2000, 100, 0)
    held = [value for value in vars(P).values() if isinstance(value, Tensor)]
    assert P.nbytes == sum(t.untyped_storage().nbytes() for t in held)
    assert max([t.numel() for t in held], default=0) < 2000 * 100 / 4


def test_sparse_density() -> None:
    A = matrix(make("sparse", 10_000, 50, seed=0))
    assert torch.equal((A != 0).sum(0), torch.full((50,), 100))  # sqrt(D) entries a column


def test_a_large_sparse_matrix_is_multiplied_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above 2^18 entries, which no other test draws."""
    P, z, g = make("sparse", 3000, 20, seed=1), torch.randn(20), torch.randn(3000)
    theta_0, out = torch.randn(3000), torch.empty(3000)
    expected = P.project(z), P.project_transposed(g)
    monkeypatch.setattr(sparse, "_CHUNK", 100)
    torch.testing.assert_close(P.project(z), expected[0])
    torch.testing.assert_close(P.project_transposed(g), expected[1])
    torch.testing.assert_close(P.shift(theta_0, z, out), theta_0 + expected[0])
    assert [len(rows) for rows, _ in P._chunks()] == [5] * 11  # type: ignore[attr-defined]


def test_hashed_is_balanced() -> None:
    A = matrix(make("hashed", 1000, 300, seed=0))
    assert torch.equal((A != 0).sum(1), torch.ones(1000, dtype=torch.long))
    assert set((A != 0).sum(0).tolist()) == {3, 4}
    torch.testing.assert_close(A.t() @ A, torch.eye(300), atol=1e-6, rtol=0)


def test_hashed_keeps_a_bad_gradient_in_its_coordinate() -> None:
    P, g = make("hashed", 1000, 300, seed=0), torch.zeros(1000)
    for row in range(20):
        bad = g.clone()
        bad[row] = torch.nan
        assert int(P.project_transposed(bad).isnan().sum()) == 1


def test_fastfood_blocks_are_isometries() -> None:
    A = matrix(make("fastfood", 2048, 256, seed=0))
    torch.testing.assert_close(A.t() @ A, torch.eye(256), atol=2e-5, rtol=0)


def test_fastfood_entries_look_gaussian() -> None:
    entries = matrix(make("fastfood", 5000, 100, seed=0)).flatten() * math.sqrt(5000)
    assert float(entries.mean()) == pytest.approx(0, abs=0.01)
    assert float(entries.square().mean()) == pytest.approx(1, abs=0.01)
    assert float(entries.pow(4).mean()) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("levels", range(13))
@pytest.mark.parametrize("blocks", [1, 3])
def test_hadamard_by_small_products(levels: int, blocks: int) -> None:
    n = 1 << levels
    factors, x = hadamard_factors(n), torch.randn(n, blocks)
    assert math.prod(factors) == n
    assert max(factors, default=1) <= 32
    small, H = (torch.from_numpy(hadamard(size, np.float32)) for size in (32, n))
    there = rotate_left(x.flatten(), factors, small).view(blocks, n)
    torch.testing.assert_close(there, (H @ x).t(), atol=1e-3, rtol=1e-4)
    back = rotate_right(there.flatten(), factors, small).view(n, blocks)
    torch.testing.assert_close(back / n, x, atol=1e-4, rtol=1e-4)


@families
@pytest.mark.parametrize(("D", "d"), [(10, 11), (10, 0), (10, -1), (0, 0)])
def test_dimension_outside_the_range_is_refused(name: str, D: int, d: int) -> None:
    with pytest.raises(UsageError, match=f"d = {d} does not fit"):
        make(name, D, d, seed=0)


def test_bad_names_and_seeds_are_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'fastfood'"):
        make("fastfod", 10, 2, seed=0)
    with pytest.raises(UsageError, match="seed = -1"):
        make("hashed", 10, 2, seed=-1)
    with pytest.raises(TypeError):
        make("hashed", 10, 2.5, seed=0)  # type: ignore[arg-type]


def test_dense_refuses_what_memory_cannot_hold() -> None:
    with pytest.raises(ResourceError, match="use 'hashed'"):
        make("dense", 10**9, 10**6, seed=0)


def test_dense_keeps_to_a_containers_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "usable_memory", lambda: 8 * 100 * 10)
    assert make("dense", 100, 10, seed=0).nbytes == 4 * 100 * 10
    with pytest.raises(ResourceError, match="use 'hashed'"):
        make("dense", 100, 11, seed=0)
