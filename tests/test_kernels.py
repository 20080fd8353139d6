"""The Triton kernels against torch's code: interpreted on the CPU, compiled under the mark `gpu`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard as matrix
from torch import Tensor

from difficulty_bench.projection import NAMES, Projection, kernels, make

pytest.importorskip("triton")

from difficulty_bench.projection.kernels import entries, hadamard, segments

KERNEL_NAMES = [name for name in NAMES if name != "dense"]
families = pytest.mark.parametrize("name", KERNEL_NAMES)
# One number; less than a tile; several tiles and shares; sparse rows with 0 to several entries.
# Small, because the interpreter takes 30 ms for a tile of Gaussian entries.
SIZES = [(1, 1), (7, 3), (150, 150), (1000, 10), (1025, 33)]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the kernels run; on the CPU, by Triton's interpreter."""
    name: str = request.param
    if name == "cpu":
        if os.environ.get("TRITON_INTERPRET") != "1":
            pytest.skip("kernels are compiled in this session: see the mark gpu")
        monkeypatch.setattr(kernels, "apply_to", lambda x: x.dtype == torch.float32)
    return name


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one.cpu(), other.cpu(), atol=1e-5, rtol=1e-4)


def by_torch(P: Projection, compute: Callable[[Projection], Tensor]) -> Tensor:
    """The same in torch's code: kernels are for float32 only."""
    double = make(P.name, P.D, P.d, P.seed).to("cpu", torch.float64)
    return compute(double).float()


@families
@pytest.mark.parametrize(("D", "d"), SIZES)
def test_kernels_give_the_numbers_of_torch(name: str, D: int, d: int, device: str) -> None:
    z, g, theta_0 = torch.randn(d), torch.randn(D), torch.randn(D)
    P = make(name, D, d, seed=5).to(device)
    on = [x.to(device) for x in (z, g, theta_0)]
    there = P.project(on[0])
    close(there, by_torch(P, lambda Q: Q.project(z.double())))
    close(P.project_transposed(on[1]), by_torch(P, lambda Q: Q.project_transposed(g.double())))
    out = torch.empty(D, device=device)
    assert P.shift(on[2], on[0], out) is out
    close(out, on[2] + there)


@families
def test_results_repeat_exactly(name: str, device: str) -> None:
    P = make(name, 1000, 17, seed=5).to(device)
    z, g = torch.randn(17, device=device), torch.randn(1000, device=device)
    assert torch.equal(P.project(z), P.project(z))
    assert torch.equal(P.project_transposed(g), P.project_transposed(g))


@families
def test_kernels_are_differentiable(name: str, device: str) -> None:
    P = make(name, 300, 20, seed=5).to(device)
    z, g = torch.randn(20, device=device, requires_grad=True), torch.randn(300, device=device)
    (P.project(z) @ g).backward()
    assert z.grad is not None
    assert torch.equal(z.grad, P.project_transposed(g))
    g.requires_grad_(True)
    (P.project_transposed(g) @ z.detach()).backward()
    assert g.grad is not None
    assert torch.equal(g.grad, P.project(z.detach()))


@families
def test_float64_stays_with_torch(name: str, device: str) -> None:
    P, z = make(name, 300, 20, seed=5).to(device), torch.randn(20, device=device)
    low = P.project(z)
    close(P.to(device, torch.float64).project(z.double()).float(), low)
    close(P.to(device, torch.float32).project(z), low)


def test_drawn_integers_are_those_of_the_reference(device: str) -> None:
    """A column of signs is the bits of its words: all four of each counter, all equal."""
    P = make("rademacher", 600, 3, seed=(1 << 63) + 12345).to(device)
    for j in range(3):
        e = torch.zeros(3, device=device)
        e[j] = 1.0
        column = (
            make("rademacher", 600, 3, P.seed).to("cpu", torch.float64).project(e.cpu().double())
        )
        assert torch.equal(P.project(e).cpu() > 0, column > 0)


def test_gaussian_entries_in_every_quadrant(device: str) -> None:
    P = make("gaussian", 1024, 1, seed=1).to(device)
    one = torch.ones(1, dtype=torch.float64)
    exact = by_torch(P, lambda Q: Q.project(one)) * 32  # entries of standard size
    got = P.project(torch.ones(1, device=device)).cpu() * 32
    torch.testing.assert_close(got, exact, atol=2e-6, rtol=2e-6)


@families
def test_shares_of_a_sum_are_added_up(
    name: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for small d on large D, and n > 2^14 in fastfood: several programs, several passes."""
    monkeypatch.setattr(segments, "_SHARE", 8)
    monkeypatch.setattr(entries, "PROGRAMS", 3)
    monkeypatch.setattr(hadamard, "_BITS", 5)
    monkeypatch.setattr(hadamard, "_ROW", 2)
    d = 70 if name in ("gaussian", "rademacher") else 600
    z, g, theta_0 = torch.randn(d), torch.randn(700), torch.randn(700)
    P = make(name, 700, d, seed=5).to(device)
    out = torch.empty(700, device=device)
    close(P.shift(theta_0.to(device), z.to(device), out),
          theta_0 + by_torch(P, lambda Q: Q.project(z.double())))  # fmt: skip
    down = P.project_transposed(g.to(device))
    close(down, by_torch(P, lambda Q: Q.project_transposed(g.double())))


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("n", [1, 2, 256, 2048])
def test_transform_of_padded_and_cut_rows(n: int, blocks: int, device: str) -> None:
    length = max(1, n * blocks - n // 3)
    x, factor = torch.randn(length, device=device), torch.randn(length, device=device)
    padded = torch.zeros(n * blocks)
    padded[:length] = (x * factor).cpu()
    base, out = torch.randn(length, device=device), torch.empty(length, device=device)
    hadamard.transform(x, n, blocks, factor=factor, base=base, out=out)
    expected = (padded.view(blocks, n) @ torch.from_numpy(matrix(n, np.float32))).flatten()[
        :length
    ] + base.cpu()
    torch.testing.assert_close(out.cpu(), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", ["sparse", "fastfood", "hashed"])
def test_memory_counts_the_index_lists(name: str, device: str) -> None:
    P = make(name, 2000, 50, seed=0).to(device)
    before = P.nbytes
    P.project_transposed(torch.zeros(2000, device=device))
    added = {"hashed": 8 * 2000 + 4 * 51, "fastfood": 8 * 2048 + 4 * 257}
    added["sparse"] = 8 * 50 * 45 + 4 * 2001 + 4 * 51
    assert P.nbytes - before == added[name]
    assert P.to(device).nbytes == before


@pytest.mark.parametrize(
    ("capability", "sizes"),
    [
        ("80", ["1000,10"]),
        # d = 1, LeNet, and fastfood's transforms of 2^14 and, in two passes, 2^16.
        *(
            pytest.param(
                c, ["1,1", "44426,300", "199210,10000", "100000,40000"], marks=pytest.mark.slow
            )
            for c in ("80", "90")
        ),
    ],
)
def test_kernels_assemble_without_a_gpu(capability: str, sizes: list[str]) -> None:
    """To machine code of an A100 and an H100 (compute capability 8.0 and 9.0)."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.compiled", capability, *sizes]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "gather_kernel, project_kernel, sum_kernel, transform_kernel, transposed_kernel: "
        "no atomics, no tensor cores"
    ]


@pytest.mark.gpu
@families
def test_large_products_are_adjoint_and_repeat(name: str) -> None:
    """At Pong's size, where a stored matrix would take 24 GB."""
    D, d = 1_005_974, 6_000
    P = make(name, D, d, seed=1).to("cuda")
    z, g = torch.randn(d, device="cuda"), torch.randn(D, device="cuda")
    up, down = P.project(z), P.project_transposed(g)
    assert torch.equal(up, P.project(z))
    assert torch.equal(down, P.project_transposed(g))
    left, right = float(up.double() @ g.double()), float(z.double() @ down.double())
    assert left == pytest.approx(right, abs=1e-4 * float(up.norm() * g.norm()))
    assert torch.cuda.max_memory_allocated() < 4 << 30


def test_kernels_are_for_the_device_that_triton_launches_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "usable", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    for device, expected in (("cuda:1", True), ("cuda:0", False), ("cpu", False)):
        x: Any = SimpleNamespace(
            is_cuda=device != "cpu", device=torch.device(device), dtype=torch.float32
        )
        assert kernels.apply_to(x) is expected


def test_without_a_compiler_torch_does_what_kernels_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton builds a module before its first launch, on many machines without a C compiler."""

    import triton

    def broken() -> int:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    active = SimpleNamespace(get_current_device=broken)
    monkeypatch.setattr(triton.runtime, "driver", SimpleNamespace(active=active))
    kernels.usable.cache_clear()
    try:
        with pytest.warns(UserWarning, match="torch's code does: RuntimeError: Failed to find C"):
            assert not kernels.usable()
    finally:
        kernels.usable.cache_clear()
