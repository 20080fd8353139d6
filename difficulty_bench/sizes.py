"""d_int90 of solutions with so many bits per number of z, and what it comes to in bits. Pure.

A trial's solution is its seed and z. Quantised to w bits per number it has w d + STEP_BITS bits and
a score of its own, so that every w has a d_int90 of its own, with its interval, from the same
trials. See docs/estimate.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .bits import size_bits
from .crossing import Crossing
from .estimate import Estimate, estimate
from .results import Outcome, Request, Scores

if TYPE_CHECKING:
    from .registry import Task


@dataclass(frozen=True)
class Size:
    """The crossing of trials whose z has `bits_per_number`, in d and in bits."""

    bits_per_number: int
    crossing: Crossing

    @property
    def bits(self) -> int | None:
        return self._bits(self.crossing.d_int90)

    @property
    def ci_low(self) -> int | None:
        return self._bits(self.crossing.ci_low)

    @property
    def ci_high(self) -> int | None:
        return self._bits(self.crossing.ci_high)

    def _bits(self, d: int | None) -> int | None:
        return None if d is None else size_bits(d, self.bits_per_number)


def sizes(
    task: Task,
    D: int,
    outcomes: Mapping[Request, Outcome],
    quantised: Mapping[Request, Scores],
) -> dict[int, Estimate]:
    """By bits per number, the estimate of the task's trials with quantised solutions.

    The baseline and the thresholds stay those of `outcomes`. What was not scored for every
    finished trial is left out.
    """
    finished = _finished(outcomes)
    tried = {bits for request in finished for bits in quantised.get(request, ())}
    found = {}
    for bits in sorted(tried):
        if all(bits in quantised.get(request, ()) for request in finished):
            scores = {r: replace(outcomes[r], score=quantised[r][bits]) for r in finished}
            found[bits] = estimate(task, D, {**outcomes, **scores})
    return found


def unscored(outcomes: Mapping[Request, Outcome], quantised: Mapping[Request, Scores]) -> int:
    """How many finished trials lack the scores that others have."""
    return sum(r not in quantised for r in _finished(outcomes)) if quantised else 0


def _finished(outcomes: Mapping[Request, Outcome]) -> list[Request]:
    return [r for r, o in outcomes.items() if r.role == "trial" and o.score is not None]


def smallest(crossings: Mapping[int, Crossing | None]) -> Size | None:
    """Of those with a d_int90, the one whose interval ends lowest in bits.

    That is the fewest bits that the trials vouch for. Intervals without an upper end come last.
    """
    known = [Size(bits, c) for bits, c in crossings.items() if c is not None and c.d_int90]
    return min(known, key=lambda size: (size.ci_high or math.inf, size.bits), default=None)
