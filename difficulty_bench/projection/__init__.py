"""Random projections P (D x d), one file a family; `base.py` holds the contract."""

from __future__ import annotations

from ..errors import UsageError, did_you_mean
from .base import Projection
from .dense import Dense
from .fastfood import Fastfood
from .hashed import Hashed
from .identity import Identity
from .implicit import Gaussian, Rademacher
from .sparse import Sparse
from .stacked import Stacked

FAMILIES: dict[str, type[Projection]] = {
    family.name: family for family in (Dense, Gaussian, Rademacher, Sparse, Fastfood, Hashed)
}
NAMES = tuple(FAMILIES)

__all__ = ["FAMILIES", "NAMES", "Identity", "Projection", "Stacked", "make"]


def make(name: str, D: int, d: int, seed: int) -> Projection:
    """The P of family `name`, on the CPU in float32.

    Raises UsageError for an unknown name, a d outside 1..D or a negative seed.
    """
    if name not in FAMILIES:
        raise UsageError(f"unknown projection '{name}'{did_you_mean(name, NAMES)}")
    return FAMILIES[name](D, d, seed)
