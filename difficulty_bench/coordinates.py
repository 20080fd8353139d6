"""A network's parameters as a point in coordinates, for learners that use no gradient."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .errors import UsageError
from .flat import FlatParameters
from .projection import Projection


class Coordinates:
    """theta = theta_0 + P z, where theta_0 is where the parameters are now.

    Natively P is the identity and z (D,) the change of the parameters themselves. Parameters
    without `requires_grad` are left alone. A learner with gradients uses SubspaceOptimizer.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], projection: Projection) -> None:
        self._flat = FlatParameters([p for p in parameters if p.requires_grad])
        self.theta_0 = self._flat.values.clone()  # (D,)
        self.projection = projection.to(self.theta_0.device, self.theta_0.dtype)
        self._z = self.theta_0.new_zeros(projection.d)  # (d,)

    @property
    def d(self) -> int:
        """The number of coordinates."""
        return self.projection.d

    @property
    def z(self) -> Tensor:
        """The network's coordinates (d,), a copy: write with `set_z`."""
        return self._z.clone()

    def set_z(self, z: Tensor) -> None:
        """Put the parameters at theta_0 + P z, for z of shape (d,)."""
        if z.shape != self._z.shape:
            raise UsageError(f"z has shape {tuple(z.shape)}, not {tuple(self._z.shape)}")
        self._z.copy_(z)
        with torch.no_grad():
            self.projection.shift(self.theta_0, self._z, out=self._flat.values)
        self._flat.written()

    def thetas(self, Z: Tensor) -> Tensor:
        """Parameters of many points, theta_0 + P z for every row z: (K, d) -> (K, D)."""
        return self.projection.project_batch(Z.to(self._z)).add_(self.theta_0)
