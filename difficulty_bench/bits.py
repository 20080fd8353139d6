"""How many bits a number of z may have, and what that makes of a solution."""

from __future__ import annotations

MAX_BITS = 16  # per number of z
STEP_BITS = 32  # a float32 beside the codes


def size_bits(d: int, per_number: int | None) -> int:
    """Of z: `per_number` d and the step, or 32 d in float32 (None). The seed is not in it."""
    return 32 * d if per_number is None else per_number * d + STEP_BITS
