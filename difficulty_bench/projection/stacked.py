"""Several projections side by side, as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from .base import Projection
from .hashed import Hashed
from .identity import Identity


class Stacked:
    """P_1, ..., P_K as one block-diagonal map R^(d_1 + ... + d_K) -> R^(K D).

    The d_k may differ; D is shared. Hashed projections that follow one another become one hashed
    projection, a single pass over memory whatever their number is, and identities one identity;
    others take a pass each.
    """

    def __init__(self, projections: Sequence[Projection]) -> None:
        self.d = [projection.d for projection in projections]
        self.parts = list(_merged(projections))

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


def _merged(projections: Sequence[Projection]) -> Iterator[Projection]:
    """An identity is not merged with a hashed projection, though it has that form.

    A kernel that sums gives every program as many coordinates as their mean length allows; among
    the D coordinates of native training, of one parameter each, the long ones would come last.
    """
    for family, run in groupby(projections, type):
        if family is Hashed:
            yield _one_hashed([projection for projection in run if isinstance(projection, Hashed)])
        elif family is Identity:
            yield Identity(sum(projection.D for projection in run))
        else:
            yield from run


def _one_hashed(projections: Sequence[Hashed]) -> Hashed:
    total = sum(projection.d for projection in projections)
    slots, first = list[Tensor](), 0
    for projection in projections:
        slot = projection.slot
        negative = slot >= projection.d  # entries of [u, -u] behind u
        slots.append(slot + torch.where(negative, first + total - projection.d, first))
        first += projection.d
    return Hashed.of(torch.cat(slots), torch.cat([p.scale for p in projections]))
