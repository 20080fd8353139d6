"""The benchmark's peers compute what their own definition says, so that a ratio compares like."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import clarkson_woodruff_transform
from torch import Tensor

from difficulty_bench.projection import NAMES, make

from .test_study import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import measuring
import peers
import projection_page
import projection_speed

D, D_SMALL = 3000, 37
D_LARGE = 250  # traker draws 100 columns at once


def components(peer: Any, d: int) -> Tensor:
    """scikit-learn keeps P^T (d, D), dense or sparse."""
    found = peer.projection.components_
    return torch.from_numpy(found if isinstance(found, np.ndarray) else found.toarray()).t()


def drawn(fill: Callable[[Tensor, torch.Generator], Tensor], d: int) -> Tensor:
    """traker's rule: the columns from 100 i on with the seed 1000 i."""
    width, blocks = min(100, d), range(-(-d // 100))
    generators = [torch.Generator().manual_seed(1000 * i) for i in blocks]
    return torch.cat([fill(torch.empty(D, width), own) for own in generators], 1)[:, :d]


MATRICES: dict[type[peers.Peer], Callable[[Any, int], Tensor]] = {
    peers.SklearnGaussian: components,
    peers.SklearnSparse: components,
    peers.TrakNormal: lambda _, d: drawn(lambda x, own: x.normal_(generator=own), d),
    peers.TrakRademacher: lambda _, d: drawn(
        lambda x, own: 2 * x.bernoulli_(0.5, generator=own) - 1, d
    ),
    peers.ScipySketch: lambda _, d: torch.from_numpy(
        clarkson_woodruff_transform(np.eye(D, dtype=np.float32), d, rng=0)
    ).t(),
    peers.HadamardFastfood: lambda _, d: (
        make("fastfood", D, d, seed=0).project_batch(torch.eye(d)).t()
    ),
}
LENGTHS = {"1": lambda d: 1.0, "sqrt(D)": lambda d: D**0.5, "sqrt(D/d)": lambda d: (D / d) ** 0.5}


@pytest.mark.parametrize("kind", peers.PEERS, ids=lambda kind: kind.title)
@pytest.mark.parametrize("d", [D_SMALL, D_LARGE])
def test_products_are_of_the_peers_own_matrix(kind: type[peers.Peer], d: int) -> None:
    if lack := kind.lack("cpu"):
        pytest.skip(lack)
    peer = kind(D, d, "cpu")
    P, z, g = MATRICES[kind](peer, d).float(), torch.randn(d), torch.randn(D)
    assert P.shape == (D, d)
    torch.testing.assert_close(peer.project_transposed(g).float(), P.t() @ g, atol=1e-3, rtol=1e-3)
    if (up := peer.project(z)) is not None:
        torch.testing.assert_close(up, P @ z, atol=1e-3, rtol=1e-3)
    length = LENGTHS[kind.lengths.removeprefix("about ")](d)
    lengths = P.square().sum(0).mean().sqrt()
    assert float(lengths) == pytest.approx(length, rel=0.02)


def options(**changed: Any) -> argparse.Namespace:
    small = {"sizes": (2000,), "dimensions": (20,), "projection": NAMES, "device": "cpu"}
    return argparse.Namespace(**(small | {"seconds": 0.0, "most": 1.0} | changed))


@pytest.fixture(autouse=True)
def _small_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "COPY_BYTES", 1 << 16)


def test_every_family_is_measured_and_every_peer_is_measured_or_named() -> None:
    table = list(projection_speed.rows(options()))[1:]
    ours = {row["projection"]: row for row in table if "peer" not in row}
    assert list(ours) == list(NAMES)
    theirs = [row for row in table if "peer" in row]
    assert [row["peer"] for row in theirs] == [kind.title for kind in peers.PEERS]
    for row, kind in zip(theirs, peers.PEERS, strict=True):
        assert row["skipped"] == kind.lack("cpu")
    about = {"command": "", "device": "cpu", "load": 0.0, "copy_bytes_per_s": 1e9}
    about |= {"hardware": measuring.hardware("cpu"), "peers": peers.versions()}
    (line,) = [
        line
        for line in projection_page.markdown(about, table).splitlines()
        if "| GaussianRandomProjection |" in line
    ]
    (row,) = [row for row in theirs if row["peer"] == "GaussianRandomProjection"]
    assert line.endswith(f"| {row['down_s'] / ours['dense']['down_s']:.3g} |")


def test_what_cannot_be_measured_is_named() -> None:
    skip = projection_speed.reason_to_skip
    assert skip(peers.Cost(6e9, 3, 3), "cpu", memory=10**10, most_s=1) == "needs 6 GB"
    assert skip(peers.Cost(5e9, 11, 3), "cuda", memory=10**10, most_s=1) == "drawing takes 11 s"
    slow = peers.Cost(5e9, 9, 3)  # by one core
    assert skip(slow, "cpu", memory=10**10, most_s=1) == "a product takes about 3 s"
    assert skip(slow, "cuda", memory=10**10, most_s=1) is None
    assert skip(peers.Cost(5e9, 9, 1), "cpu", memory=10**10, most_s=1) is None
    assert peers.SklearnSparse.lack("cuda") == "runs on a CPU only"


def greedy(clock: measuring.Clock) -> dict[str, Any]:
    raise MemoryError


def killed(clock: measuring.Clock) -> dict[str, Any]:
    os._exit(9)


@pytest.mark.parametrize("measure", [greedy, killed])
def test_a_case_that_the_memory_ends_is_named(measure: Callable[..., dict[str, Any]]) -> None:
    clock = measuring.Clock("cpu", 0.0)
    row = projection_speed.measured(None, measure, clock)
    assert row == {"skipped": "ran out of memory, or its process died"}
