"""Random streams: every trial derives its own from what identifies it, and no two share one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np


def canonical_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def content_hash(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


@dataclass(frozen=True)
class Streams:
    """Seeds in [0, 2^63) of a trial's independent streams."""

    theta_0: int
    projection: int
    data: int
    agent: int
    evaluation: int

    @classmethod
    def of(cls, identity: str) -> Streams:
        """Derive from a hex identity, so that distinct trials get distinct, independent streams."""
        return cls(*map(_seed, np.random.SeedSequence(int(identity, 16)).spawn(5)))


def derive(stream: int, count: int) -> int:
    """A seed in [0, 2^63) from a trial's stream, another one for every count (of steps, ...)."""
    return _seed(np.random.SeedSequence([stream, count]))


def _seed(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)
