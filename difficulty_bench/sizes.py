"""d_int90 of solutions with so many bits a number of z, and what it comes to in bits. Pure.

A trial's solution is its seed and z. Quantised to w bits a number it has w d + STEP_BITS bits and
a score of its own, so that every width w has a d_int90 of its own, with its interval, from the same
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
from .results import Outcome, Request

if TYPE_CHECKING:
    from .registry import Task


@dataclass(frozen=True)
class Size:
    """The crossing of trials whose z has `width` bits a number, in d and in bits."""

    width: int
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
        return None if d is None else size_bits(d, self.width)


def sizes(
    task: Task,
    D: int,
    outcomes: Mapping[Request, Outcome],
    quantised: Mapping[Request, Mapping[int, float]],
) -> dict[int, Estimate]:
    """By width, the estimate of the task's trials with quantised solutions.

    The baseline and the thresholds stay those of `outcomes`. A width at which a finished trial
    lacks its score is left out.
    """
    finished = [r for r, o in outcomes.items() if r.role == "trial" and o.score is not None]
    widths = {width for request in finished for width in quantised.get(request, ())}
    found = {}
    for width in sorted(widths):
        if all(width in quantised.get(request, ()) for request in finished):
            scores = {r: replace(outcomes[r], score=quantised[r][width]) for r in finished}
            found[width] = estimate(task, D, {**outcomes, **scores})
    return found


def smallest(crossings: Mapping[int, Crossing | None]) -> Size | None:
    """The width whose interval ends lowest in bits: the fewest that the trials vouch for.

    Widths without a d_int90 or an upper end come last; None where no width has a d_int90.
    """
    known = [Size(width, c) for width, c in crossings.items() if c is not None and c.d_int90]
    return min(known, key=lambda size: (size.ci_high or math.inf, size.bits), default=None)
