"""The identity: native training, for code that searches z and the parameters themselves alike."""

from __future__ import annotations

from torch import Tensor

from .base import Projection


class Identity(Projection):
    """P = I, so d = D. It is no random subspace, and no task can name it."""

    name = "identity"

    def __init__(self, D: int) -> None:
        super().__init__(D, D, seed=0)

    def project(self, z: Tensor) -> Tensor:
        return z.clone()

    def project_transposed(self, g: Tensor) -> Tensor:
        return g.clone()

    def project_batch(self, Z: Tensor) -> Tensor:
        return Z.clone()  # (K, D)

    def tensors(self) -> dict[str, Tensor]:
        return {}
