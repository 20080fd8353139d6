"""The contract of a projection P (D x d)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..errors import UsageError


class Projection(ABC):
    """A frozen random linear map P from R^d to R^D whose columns have expected length 1.

    Every family keeps these promises; `tests/test_projection.py` runs them over all:

    - `project(z)` is P z and `project_transposed(g)` is P^T g of one and the same P:
      <P z, g> = <z, P^T g> to float rounding.
    - P depends on (D, d, seed) only. It is drawn on the CPU, so that every device has the same P.
    - Columns have length 1 (in expectation where the family says so) and pairwise cosines no
      larger than those of a Gaussian matrix of the same size.
    - Any 1 <= d <= D works, powers of two or not; other d are refused.
    - `to(device, dtype)` moves it in place and returns it; results stay equal to rounding.
    - Memory is what `nbytes` says: O(D d) dense, O(nonzeros) sparse, O(D + d) for the others.
    """

    name: str

    def __init__(self, D: int, d: int, seed: int) -> None:
        """Raise UsageError unless 1 <= d <= D."""
        if not 1 <= d <= D:
            raise UsageError(f"d = {d} does not fit: a subspace of D = {D} has 1 <= d <= {D}")
        self.D, self.d, self.seed = D, d, seed

    @abstractmethod
    def project(self, z: Tensor) -> Tensor:
        """P z: (d,) -> (D,)."""

    @abstractmethod
    def project_transposed(self, g: Tensor) -> Tensor:
        """P^T g: (D,) -> (d,)."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The frozen tensors that make up P, by attribute name; what `to` and `nbytes` act on."""

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Projection:
        for key, value in self.tensors().items():
            setattr(self, key, value.to(device, dtype if value.is_floating_point() else None))
        return self

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.tensors().values())
