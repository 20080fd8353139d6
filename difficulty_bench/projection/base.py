"""The contract of a projection P (D x d)."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError

if TYPE_CHECKING:
    from .kernels.segments import Lists


class Projection(ABC):
    """A frozen random linear map P from R^d to R^D whose columns have length 1.

    Every family keeps these promises; `tests/test_projection.py` runs them over all:

    - `project(z)` is P z and `project_transposed(g)` is P^T g of one and the same P:
      <P z, g> = <z, P^T g> to float rounding.
    - P depends on (family, D, d, seed) only, drawn on the CPU with numpy or a function of (seed,
      row, column), so that every device has the same P, and differs between two d of one seed.
    - Columns have length 1 (fastfood: in expectation where the last block is cut) and, on
      average, pairwise cosines no larger than those of a Gaussian matrix of the same size.
    - Every column has an entry other than 0, and any 1 <= d <= D works, powers of two or not;
      other d are refused.
    - `to(device, dtype)` moves it in place and returns it; results stay equal to rounding.
    - Memory is what `nbytes` says: O(D d) dense, O(nonzeros) sparse, O(D + d) for the others (and
      up to `implicit.KEEP_BYTES` of entries that gaussian and rademacher need not draw again).
    - `project` and `project_transposed` return new tensors, keep nothing that changes a result,
      wait for no device (but in a first call, which may prepare index lists or column lengths)
      and are differentiable; `shift` and `pull` are the same products as a step needs them.
    """

    name: str
    _lists: Lists | None = None

    def __init__(self, D: int, d: int, seed: int) -> None:
        """Raise UsageError unless 1 <= d <= D and seed >= 0."""
        self.D, self.d, self.seed = operator.index(D), operator.index(d), operator.index(seed)
        if not 1 <= d <= D:
            raise UsageError(f"d = {d} does not fit: a subspace of D = {D} has 1 <= d <= {D}")
        if seed < 0:
            raise UsageError(f"projection seed = {seed}: a seed is 0 or larger")

    @abstractmethod
    def project(self, z: Tensor) -> Tensor:
        """P z: (d,) -> (D,)."""

    @abstractmethod
    def project_transposed(self, g: Tensor) -> Tensor:
        """P^T g: (D,) -> (d,)."""

    def project_batch(self, Z: Tensor) -> Tensor:
        """P z for every row z of Z at once: (K, d) -> (K, D). P is not stored for it."""
        return torch.stack([self.project(z) for z in Z])

    def shift(self, theta_0: Tensor, z: Tensor, out: Tensor) -> Tensor:
        """theta_0 + P z, (D,) and (d,) -> (D,), written into `out` (D,) and returned.

        Called once a training step, without gradients: a family saves temporaries here.
        """
        return torch.add(theta_0, self.project(z), out=out)

    def pull(self, parts: Sequence[Tensor]) -> Tensor:
        """P^T g -> (d,), for g given as flat tensors whose concatenation is (D,).

        Also called once a training step: a family that needs no g in one piece saves the copy.
        """
        return self.project_transposed(torch.cat(list(parts)))

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The frozen tensors that make up P, by attribute name; what `to` and `nbytes` act on."""

    def lists(self) -> Lists:
        """What the kernels read in the place of `tensors()`: made in their first product."""
        if self._lists is None:
            self._lists = self.make_lists()
        return self._lists

    def make_lists(self) -> Lists:
        """Only families whose kernels read index lists have them."""
        raise NotImplementedError(self.name)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides P, as plain values; two equal identities are the same P."""
        return {"projection": self.name, "D": self.D, "d": self.d, "seed": self.seed}

    def generator(self) -> np.random.Generator:
        """The stream from which P is drawn: one per (D, d, seed), the same on every platform.

        numpy's, not torch's: `torch.randn` gives other values on CPUs without AVX2.
        """
        return np.random.default_rng((self.seed, self.D, self.d))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Self:
        self._lists = None
        for key, value in self.tensors().items():
            setattr(self, key, value.to(device, dtype if value.is_floating_point() else None))
        return self

    @property
    def nbytes(self) -> int:
        lists = 0 if self._lists is None else self._lists.nbytes
        return lists + sum(t.numel() * t.element_size() for t in self.tensors().values())


Product = Callable[[Tensor], Tensor]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, product: Product, adjoint: Product) -> Tensor:
        ctx.products = product, adjoint
        return product(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        product, adjoint = ctx.products
        return linear(grads[0], adjoint, product), None, None


def linear(x: Tensor, product: Product, adjoint: Product) -> Tensor:
    """product(x), differentiable by its transpose `adjoint`: autograd need not see inside."""
    if not x.requires_grad:
        return product(x)
    result: Tensor = _Linear.apply(x, product, adjoint)  # type: ignore[no-untyped-call]
    return result


def random_signs(rng: np.random.Generator, *shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """+1 or -1 with probability 1/2 each, float32."""
    return (2 * rng.integers(0, 2, shape, dtype=np.int8) - 1).astype(np.float32)
