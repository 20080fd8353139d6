"""How many bits a number of z may have, and what that makes of a solution."""

from __future__ import annotations

MOST_BITS = 16  # a number
STEP_BITS = 32  # a float32 beside the codes


def size_bits(d: int, width: int | None) -> int:
    """Of z: `width` d and the step, or 32 d in float32 (None). The seed, small, is not in it."""
    return 32 * d if width is None else width * d + STEP_BITS
