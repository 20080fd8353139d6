"""The same products by public libraries, each behind one small adapter; for `projection_speed.py`.

What they compute is theirs: another P of the same kind, drawn by their own code and multiplied by
their own call. Where a library has only P^T g, P z is left out and not written for it.
`pip install -e '.[benchmarks]'` installs those that this project does not need otherwise.
"""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from difficulty_bench.projection import Fastfood
from difficulty_bench.projection.hashed import select, select_transposed


class Cost(NamedTuple):
    """Estimates that decide whether a case is measured: the peak, drawing P, one product.

    Times are those of one core; on a GPU a peer's product is measured whatever it takes.
    """

    peak_bytes: float = 0
    draw_s: float = 0
    product_s: float = 0


class Peer(ABC):
    """A random D x d matrix P of another library's, float32, on one device."""

    title: ClassVar[str]
    package: ClassVar[str]  # as pip knows it
    module: ClassVar[str]
    family: ClassVar[str]  # ours of the same kind
    lengths: ClassVar[str]  # of P's columns, where ours have 1
    on_cuda: ClassVar[bool] = False

    @classmethod
    def lack(cls, device: str) -> str | None:
        """Why it cannot run, or None. Imports it, so that no measurement contains that."""
        if device == "cuda" and not cls.on_cuda:
            return "runs on a CPU only"
        try:
            importlib.import_module(cls.module)
        except ModuleNotFoundError as error:
            return f"not installed ({error.name}): pip install {cls.package}"
        return None

    @classmethod
    @abstractmethod
    def cost(cls, D: int, d: int) -> Cost: ...

    @abstractmethod
    def __init__(self, D: int, d: int, device: str) -> None: ...

    def project(self, z: Tensor) -> Tensor | None:
        """P z: (d,) -> (D,); None where the library has no such product."""
        return None

    @abstractmethod
    def project_transposed(self, g: Tensor) -> Tensor:
        """P^T g: (D,) -> (d,)."""

    @property
    def nbytes(self) -> int:
        return 0


class _Sklearn(Peer):
    """components_ is P^T (d, D); `transform` is P^T g with scikit-learn's checks of its input."""

    package, module, lengths = "scikit-learn", "sklearn.random_projection", "about sqrt(D/d)"
    projection: Any

    def project(self, z: Tensor) -> Tensor:
        return torch.from_numpy(self.projection.components_.T @ z.numpy())

    def project_transposed(self, g: Tensor) -> Tensor:
        return torch.from_numpy(self.projection.transform(g.numpy()[None])[0])


class SklearnGaussian(_Sklearn):
    title, family = "GaussianRandomProjection", "dense"

    @classmethod
    def cost(cls, D: int, d: int) -> Cost:
        return Cost(12 * D * d, draw_s=45e-9 * D * d)  # drawn in float64, then copied

    def __init__(self, D: int, d: int, device: str) -> None:
        from sklearn.random_projection import GaussianRandomProjection

        shape = np.zeros((1, D), np.float32)  # all that `fit` reads
        self.projection = GaussianRandomProjection(d, random_state=0).fit(shape)

    @property
    def nbytes(self) -> int:
        return int(self.projection.components_.nbytes)


class SklearnSparse(_Sklearn):
    """Density 1/sqrt(D), its default: the published sparse projection, in CSR."""

    title, family = "SparseRandomProjection", "sparse"

    @classmethod
    def cost(cls, D: int, d: int) -> Cost:
        nonzeros = d * math.sqrt(D)
        return Cost(40 * nonzeros, draw_s=1.6e-6 * nonzeros)  # in a Python loop over columns

    def __init__(self, D: int, d: int, device: str) -> None:
        from sklearn.random_projection import SparseRandomProjection

        shape = np.zeros((1, D), np.float32)
        self.projection = SparseRandomProjection(d, random_state=0, dense_output=True).fit(shape)

    @property
    def nbytes(self) -> int:
        P = self.projection.components_
        return int(P.data.nbytes + P.indices.nbytes + P.indptr.nbytes)


class ScipySketch(Peer):
    """Clarkson and Woodruff 2013: one entry +-1 a row of P, drawn again in every call."""

    title, family = "clarkson_woodruff_transform", "hashed"
    package, module, lengths = "scipy", "scipy.linalg", "about sqrt(D/d)"

    @classmethod
    def cost(cls, D: int, d: int) -> Cost:
        return Cost()

    def __init__(self, D: int, d: int, device: str) -> None:
        self.d = d

    def project_transposed(self, g: Tensor) -> Tensor:
        from scipy.linalg import clarkson_woodruff_transform

        sketch = clarkson_woodruff_transform(g.numpy()[:, None], self.d, rng=0)
        return torch.from_numpy(sketch[:, 0])


class _Trak(Peer):
    """BasicProjector: up to 100 columns kept, more of them drawn again in every product."""

    package, module, lengths, on_cuda = "traker", "trak.projectors", "about sqrt(D)", True
    entries: ClassVar[str]
    entry_s: ClassVar[float]

    @classmethod
    def cost(cls, D: int, d: int) -> Cost:
        drawn = D * d if d > 100 else 0
        return Cost(4 * D * min(d, 100), product_s=cls.entry_s * drawn)

    def __init__(self, D: int, d: int, device: str) -> None:
        from trak.projectors import BasicProjector

        self.projector = BasicProjector(D, d, 0, self.entries, torch.device(device))

    def project_transposed(self, g: Tensor) -> Tensor:
        result: Tensor = self.projector.project(g[None], model_id=0)[0]
        return result

    @property
    def nbytes(self) -> int:
        return int(self.projector.proj_matrix.nbytes)


class TrakNormal(_Trak):
    title, family, entries, entry_s = "BasicProjector, normal", "gaussian", "normal", 5e-9


class TrakRademacher(_Trak):
    title, family, entries, entry_s = (
        "BasicProjector, rademacher",
        "rademacher",
        "rademacher",
        14e-9,
    )
    lengths = "sqrt(D)"


class HadamardFastfood(Peer):
    """Our fastfood's P, with the transforms of `hadamard-transform` in the place of ours."""

    title, family = "hadamard_transform in fastfood", "fastfood"
    package, module, lengths, on_cuda = "hadamard-transform", "hadamard_transform", "1", True

    @classmethod
    def cost(cls, D: int, d: int) -> Cost:
        return Cost()

    def __init__(self, D: int, d: int, device: str) -> None:
        from hadamard_transform import hadamard_transform

        P = Fastfood(D, d, seed=0).to(device)
        self.transform = hadamard_transform  # of every row, divided by sqrt(n)
        self.D, self.d, self.n = D, d, P.n
        self.slot = P.slot.view(P.n, -1).t().reshape(-1)  # (blocks * n,), block by block
        self.b = P.b * P.n  # (d,): both square roots

    def project(self, z: Tensor) -> Tensor:
        u = self.transform(F.pad(z * self.b, (0, self.n - self.d)))  # (n,)
        w: Tensor = self.transform(select(u, self.slot).view(-1, self.n))  # (blocks, n)
        return w.view(-1)[: self.D]

    def project_transposed(self, g: Tensor) -> Tensor:
        padded = F.pad(g, (0, len(self.slot) - self.D)).view(-1, self.n)  # (blocks, n)
        u = select_transposed([self.transform(padded).view(-1)], self.slot, self.n)  # (n,)
        result: Tensor = self.transform(u)[: self.d] * self.b
        return result

    @property
    def nbytes(self) -> int:
        return self.slot.nbytes + self.b.nbytes


PEERS: tuple[type[Peer], ...] = (
    SklearnGaussian,
    TrakNormal,
    TrakRademacher,
    SklearnSparse,
    HadamardFastfood,
    ScipySketch,
)


def versions() -> dict[str, str]:
    """Of the packages of all peers."""
    found = {}
    for package in sorted({kind.package for kind in PEERS}):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
