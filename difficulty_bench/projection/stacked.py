"""Several projections side by side, as one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Projection
from .hashed import Hashed
from .identity import Identity


class Stacked:
    """P_1, ..., P_K as one block-diagonal map R^(d_1 + ... + d_K) -> R^(K D).

    The d_k may differ; D is shared. Hashed projections and identities become one hashed
    projection, a single pass over memory whatever K is; others take a pass each.
    """

    def __init__(self, projections: Sequence[Projection], device: torch.device) -> None:
        self.d = [projection.d for projection in projections]
        merged = _merge(projections, device)
        self.parts = list(projections) if merged is None else [merged]

    def project(self, z: Tensor) -> Tensor:
        """(sum of d,) -> (K D,)."""
        coordinates = torch.split(z, [part.d for part in self.parts])
        pairs = zip(self.parts, coordinates, strict=True)
        return torch.cat([part.project(own) for part, own in pairs])

    def project_transposed(self, g: Tensor) -> Tensor:
        """(K D,) -> (sum of d,)."""
        gradients = torch.split(g, [part.D for part in self.parts])
        pairs = zip(self.parts, gradients, strict=True)
        return torch.cat([part.project_transposed(own) for part, own in pairs])


def _merge(projections: Sequence[Projection], device: torch.device) -> Hashed | None:
    """One hashed projection for them all, or None where a family has no such form."""
    if not all(type(projection) in (Hashed, Identity) for projection in projections):
        return None
    total = sum(projection.d for projection in projections)
    slots, scales, first = list[Tensor](), list[Tensor](), 0
    for projection in projections:
        slot, scale = _as_hashed(projection, device)
        negative = slot >= projection.d  # entries of [u, -u] behind u
        slots.append(slot + torch.where(negative, first + total - projection.d, first))
        scales.append(scale)
        first += projection.d
    return Hashed.of(torch.cat(slots), torch.cat(scales))


def _as_hashed(projection: Projection, device: torch.device) -> tuple[Tensor, Tensor]:
    if isinstance(projection, Hashed):
        return projection.slot, projection.scale
    D = projection.D
    return torch.arange(D, device=device), torch.ones(D, device=device)
