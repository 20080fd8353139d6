"""The stages of one adaptive study: bracket each crossing, refine it, know when to stop."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .baseline import measure_baseline
from .crossing import ABOVE, BELOW, Crossing, Dims, geometric
from .design import NATIVE, choose, prospect, relative_cost
from .estimate import Target, subspace_trials, targets
from .results import Outcome, Request
from .script import Script
from .tuning import ChosenLr, lr_scale

if TYPE_CHECKING:
    from .registry import Task

NEAR = 1.3  # factor in d within which a trial counts as near a crossing
BRACKETED = 2.0  # ratio of a bracket at which information takes over from bisection
AT_END = 3  # trials at d_max or d_min that settle a censored crossing
AT_HOPELESS_END = 2  # the same where nothing reaches the threshold, native training included
LATTICE = 1.05  # ratio of neighbouring candidates
MAX_ZONE = 24  # candidates for one crossing
REACH = 1.2  # how far beyond an interval's ends candidates are looked for


class Bracket(NamedTuple):
    """Largest unsolved d below the smallest solved one; None where no trial says so."""

    low: int | None
    high: int | None


class Stages:
    """What a script has asked and learned so far, and what follows from it."""

    def __init__(self, task: Task, D: int, chosen: ChosenLr) -> None:
        self.task, self.D, self.chosen = task, D, chosen
        self.outcomes: dict[Request, Outcome] = {}
        self.asked: Counter[int] = Counter()
        self._known, self._found = -1, list[Target]()

    @classmethod
    def of(
        cls, task: Task, D: int, chosen: ChosenLr, outcomes: Mapping[Request, Outcome]
    ) -> Stages:
        """As if all of `outcomes`, which are `relevant` ones, had been asked for."""
        stages = cls(task, D, chosen)
        stages.outcomes.update(outcomes)
        stages.asked.update(request.d for request in outcomes if request.role != "pilot")
        return stages

    def run(
        self, dims: Iterable[int], batch: int | None = None, share: slice = slice(None)
    ) -> Script[None]:
        """Ask for one more seed at each of `dims`, in rounds of `batch`, else the task's.

        Of them all, only for those of `share`.
        """
        requests = [self._request(d) for d in dims][share]
        batch = batch or self.task.search.batch
        for start in range(0, len(requests), batch):
            self.outcomes.update((yield requests[start : start + batch]))
            measure_baseline(self.task, self.outcomes)  # stops the study where it must

    def _request(self, d: int) -> Request:
        seed = self.asked[d]
        self.asked[d] += 1
        return self._of(d, seed)

    def _of(self, d: int, seed: int) -> Request:
        scale = lr_scale(self.task, self.D, d, self.chosen)
        return Request("baseline" if d == NATIVE else "trial", d, seed, scale)

    def unasked(self, dims: Iterable[int]) -> list[Request]:
        """A trial at each of `dims`, of the smallest seed of which no outcome is known."""
        requests, taken = list[Request](), set(self.outcomes)
        for d in dims:
            seeds = (self._of(d, seed) for seed in itertools.count())
            requests.append(next(request for request in seeds if request not in taken))
            taken.add(requests[-1])
        return requests

    def first_section(self) -> list[int]:
        """Enough d, evenly on the log scale, to fill the round in which the baseline ends."""
        search = self.task.search
        count = -self.task.baseline_seeds % search.batch
        while count < 2:
            count += search.batch
        return between(search.d_min, search.d_max, count)

    def bracket(self) -> list[int]:
        """d that cut every open bracket evenly on the log scale; empty when all are closed."""
        brackets = {self._bracket(target) for target in self._targets() if self._hopeful(target)}
        wide = sorted((b for b in brackets if self._is_wide(b)), key=str)
        share = max(1, self.task.search.batch // max(1, len(wide)))
        return sorted({d for bracket in wide for d in self._cut(bracket, share)})

    def refine(self, precision: float, seeds: int) -> list[int]:
        """The trials (or NATIVE ones) that say most next; empty when every crossing is settled."""
        found = self._targets()
        at_ends: Counter[int] = Counter()
        for target in found:
            at_ends |= self._missing_at_end(target)
        if at_ends:
            return sorted(at_ends.elements())
        unsettled = [t for t in found if self._lack(t, precision, seeds)]
        return self._informative(unsettled, precision) if unsettled else []

    def lacks(self, precision: float, seeds: int) -> str | None:
        """What the stopping rule still asks for; None where the study may end."""
        natives, wanted = self.asked[NATIVE], self.task.baseline_seeds
        if natives < wanted:
            return f"baseline has {natives} of {wanted} native trials"
        pairs = [(name, self._lack(t, precision, seeds)) for name, t in self._named()]
        return "; ".join(f"{name} {lack}" for name, lack in pairs if lack) or None

    def summary(self, precision: float) -> str:
        """Why the study ended."""
        return "; ".join(f"{name} {self._verdict(t, precision)}" for name, t in self._named())

    def _named(self) -> list[tuple[str, Target]]:
        return list(zip(("local", "global"), self._targets(), strict=False))

    def _verdict(self, target: Target, precision: float) -> str:
        crossing = target.crossing
        if crossing.censored is None and crossing.ci_low is None:
            return f"within a factor {precision:g}, open below d_min = {self.task.search.d_min}"
        return crossing.censored or f"within a factor {precision:g}"

    def _targets(self) -> list[Target]:
        if len(self.outcomes) != self._known:
            self._known = len(self.outcomes)
            self._found = [t for t in targets(self.task, self.outcomes) if t is not None]
        return self._found

    def _hopeful(self, target: Target) -> bool:
        """Whether the threshold may be reached: native training may, or a subspace has."""
        if self._bracket(target).high is not None:
            return True  # a subspace's learner may be the better one (CMA-ES against OpenAI-ES)
        baseline = measure_baseline(self.task, self.outcomes)
        return baseline is None or target.threshold <= baseline.upper_bound()

    def _bracket(self, target: Target) -> Bracket:
        pairs = subspace_trials(self.outcomes)
        solved = {d for d, score in pairs if score is not None and score >= target.threshold}
        high = min(solved, default=None)
        unsolved = {d for d, _ in pairs if high is None or d < high}
        return Bracket(max(unsolved, default=None), high)

    def _is_wide(self, bracket: Bracket) -> bool:
        low, high = bracket
        if low is None or high is None:
            return not self.asked[self.task.search.d_min if low is None else self.task.search.d_max]
        return high > low * BRACKETED and high - low > 1

    def _cut(self, bracket: Bracket, count: int) -> list[int]:
        search, (low, high) = self.task.search, bracket
        if high is None:
            return [*between(low or search.d_min, search.d_max, count - 1), search.d_max]
        if low is None:
            return [search.d_min, *between(search.d_min, high, count - 1)]
        return between(low, high, count)

    def _missing_at_end(self, target: Target) -> Counter[int]:
        search, hopeful = self.task.search, self._hopeful(target)
        if target.crossing.censored == BELOW:
            return Counter({search.d_min: max(0, AT_END - self.asked[search.d_min])})
        if target.crossing.censored == ABOVE or not (hopeful or self.asked[search.d_max]):
            wanted = AT_END if hopeful else AT_HOPELESS_END
            return Counter({search.d_max: max(0, wanted - self.asked[search.d_max])})
        return Counter()

    def _lack(self, target: Target, precision: float, seeds: int) -> str | None:
        """Why a crossing is not settled; None where it is."""
        crossing, missing = target.crossing, self._missing_at_end(target)
        for d, n in missing.items():
            if n:
                return f"needs {n} more at d = {d}"
        if crossing.censored in (ABOVE, BELOW):
            return None
        factor, near = self._factor(crossing), self._near(crossing)
        if factor == np.inf:
            return "has an open interval"
        if factor > precision:
            return f"within a factor {factor:.4g}, wanted {precision:g}"
        if near < seeds:
            return f"has {near} of {seeds} trials within a factor {NEAR:g}"
        return None

    def _factor(self, crossing: Crossing) -> float:
        """The larger of `factors`; d_min ends an interval that is open below it."""
        low, high = crossing.factors()
        d_min, tested = self.task.search.d_min, [d for d in self.asked if d]
        if crossing.d_int90 is not None and low == np.inf and min(tested) <= d_min:
            low = crossing.d_int90 / d_min
        return max(low, high)

    def _near(self, crossing: Crossing) -> int:
        centre = crossing.d_int90 or 0
        return sum(n for d, n in self.asked.items() if d and centre / NEAR <= d <= centre * NEAR)

    def _informative(self, unsettled: list[Target], precision: float) -> list[int]:
        zones = [self._candidates(target.crossing, precision) for target in unsettled]
        d = np.unique(np.concatenate(zones))
        baseline = measure_baseline(self.task, self.outcomes)
        n = baseline.n if baseline else 0
        prospects = [prospect(t.belief, d, n) for t in unsettled if t.belief is not None]
        cost = np.append(relative_cost(self.task.projection, d), 1.0)
        return choose(prospects, d, cost, self.task.search.batch)

    def _candidates(self, crossing: Crossing, precision: float) -> Dims:
        """Integers that cover the interval and a little more, or what is near once it is known."""
        search, tested = self.task.search, [d for d in self.asked if d]
        low = (crossing.ci_low or min(tested) / 4) / REACH
        high = (crossing.ci_high or max(tested) * 4) * REACH
        if crossing.d_int90 is not None and self._factor(crossing) <= precision:
            low, high = crossing.d_int90 / NEAR, crossing.d_int90 * NEAR
        first = max(min(search.d_min, *tested), int(np.ceil(low)))
        last = min(max(search.d_max, *tested), int(high))  # a script tests nothing out of range
        ratio = max(LATTICE, (last / first) ** (1 / MAX_ZONE)) if last - first > MAX_ZONE else 1.0
        digits = 2 if precision >= 1.1 else 3
        lattice = range(first, last + 1) if ratio == 1.0 else geometric(first, last, ratio)
        d = [tidy(int(d), digits) for d in lattice]
        return np.unique(np.clip(d, first, last)).astype(np.int64)


def between(low: int, high: int, count: int) -> list[int]:
    """Up to `count` integers strictly between, evenly on the log scale."""
    inner = np.geomspace(low, high, count + 2)[1:-1]
    return sorted({d for d in (tidy(round(float(x))) for x in inner) if low < d < high})


def tidy(d: int, digits: int = 2) -> int:
    """Rounded to so many digits, so that seeds gather at few d and tables are read easily."""
    return int(float(f"{d:.{digits - 1}e}"))
