"""The three learning-rate rules, and the pilots by which `tuned` chooses its multipliers.

`paper`: the task's own rate everywhere. `matched`: times sqrt(D / d), so that a subspace step is
as long as a native one. `tuned`: `matched` times a multiplier c, chosen on
the validation split once for native training and once for the subspace, over pilot values of d.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .errors import StudyError, UsageError
from .results import Outcome, Request
from .script import Outcomes, Script, ask, replay

if TYPE_CHECKING:
    from .registry import Task, Tuning


@dataclass(frozen=True)
class ChosenLr:
    """The multipliers of the task's learning rate.

    `*_at_edge`: the best multiplier is an end of the declared grid, which may be too narrow.
    A single multiplier is no grid.
    """

    native: float = 1.0
    subspace: float = 1.0
    native_at_edge: bool = False
    subspace_at_edge: bool = False
    native_pilots: int = 0
    subspace_pilots: int = 0


@dataclass(frozen=True)
class _Contest:
    """Multipliers `left` in the running for training at `dims` (0: native)."""

    name: str
    dims: tuple[int, ...]
    grid: tuple[float, ...]
    left: tuple[float, ...]

    @property
    def open(self) -> bool:
        """A grid of one multiplier has no rivals, and is asked nothing."""
        return len(self.grid) > 1

    @property
    def at_edge(self) -> bool:
        return self.open and self.left[0] in (min(self.grid), max(self.grid))

    def requests(self, D: int, seed: int) -> list[Request]:
        return [_pilot(D, d, c, seed) for c in self.left for d in self.dims] if self.open else []

    def ranked(self, D: int, seeds: int, seen: Outcomes) -> list[float]:
        """Fewest failed pilots first, then the best mean score, then the smaller multiplier."""

        def key(c: float) -> tuple[int, float, float]:
            pairs = [(d, seed) for d in self.dims for seed in range(seeds)]
            scores = [seen[_pilot(D, d, c, seed)].score for d, seed in pairs]
            finished = [score for score in scores if score is not None]
            return len(scores) - len(finished), -sum(finished) / max(1, len(finished)), c

        return sorted(self.left, key=key)


def chosen_lr(task: Task, D: int, outcomes: Outcomes) -> ChosenLr | None:
    """The multipliers that the pilots in `outcomes` chose; None where pilots are missing.

    Raise StudyError where every pilot of one kind failed.
    """
    return replay(pilots(task, D), outcomes).result


def pilots(task: Task, D: int) -> Script[ChosenLr]:
    """Successive halving: every multiplier with the first seed, the better half with the next.

    At least two multipliers stay in until the last seed. Nothing is asked of a grid of one, nor
    unless the rule is `tuned`.
    """
    tuning = task.tuning
    if task.lr_rule != "tuned" or tuning is None:
        return ChosenLr()
    contests = _contests(task.name, tuning, D)
    seen: dict[Request, Outcome] = {}
    for seed in range(tuning.seeds):
        requests = [request for contest in contests for request in contest.requests(D, seed)]
        seen.update((yield from ask(requests, task.search.batch)))
        last = seed + 1 == tuning.seeds
        contests = [_narrowed(contest, D, seed + 1, seen, last) for contest in contests]
    for contest in contests:
        _require_a_success(task.name, contest, seen)
    native, subspace = contests
    n = sum(request.d == 0 for request in seen)
    return ChosenLr(
        *(native.left[0], subspace.left[0]),
        *(native.at_edge, subspace.at_edge),
        *(n, len(seen) - n),
    )


def relevant(task: Task, D: int, outcomes: Outcomes) -> dict[Request, Outcome]:
    """The outcomes that belong to this task's learning-rate rule, in canonical order.

    A store keeps the trainings of every rule of a task together. While pilots are missing, only
    pilots belong.
    """
    chosen = chosen_lr(task, D, outcomes)
    ours = set(possible_pilots(task, D))

    def belongs(request: Request) -> bool:
        if request.role == "pilot":
            return request in ours
        return chosen is not None and request.lr_scale == lr_scale(task, D, request.d, chosen)

    return {request: outcomes[request] for request in sorted(outcomes) if belongs(request)}


def lr_scale(task: Task, D: int, d: int, chosen: ChosenLr) -> float:
    """What multiplies the task's learning rate at d (0: native)."""
    if task.lr_rule == "paper":
        return 1.0
    return _rounded(chosen.native if d == 0 else chosen.subspace * math.sqrt(D / d))


def _rounded(scale: float) -> float:
    """Six digits: part of a trial's identity, which must not hang on a machine's last bit."""
    return float(f"{scale:.6g}")


def _pilot(D: int, d: int, c: float, seed: int) -> Request:
    return Request("pilot", d, seed, _rounded(c if d == 0 else c * math.sqrt(D / d)))


def possible_pilots(task: Task, D: int) -> list[Request]:
    """All that the task's `tuning` may ask for; none under another rule."""
    if task.lr_rule != "tuned" or task.tuning is None:
        return []
    contests = _contests(task.name, task.tuning, D)
    seeds = range(task.tuning.seeds)
    return [request for contest in contests for s in seeds for request in contest.requests(D, s)]


def _contests(name: str, tuning: Tuning, D: int) -> list[_Contest]:
    dims = tuple(sorted(set(tuning.d)))
    if dims[-1] > D:
        raise UsageError(
            f"{name}: tuning.d holds {dims[-1]}, above D = {D}; keep its values within [1, {D}]"
        )
    subspace = tuple(sorted(set(tuning.grid)))
    native = subspace if tuning.native is None else tuple(sorted(set(tuning.native)))
    return [
        _Contest("native", (0,), native, native),
        _Contest("subspace", dims, subspace, subspace),
    ]


def _narrowed(contest: _Contest, D: int, seeds: int, seen: Outcomes, last: bool) -> _Contest:
    if not contest.open:
        return contest
    ranked = contest.ranked(D, seeds, seen)
    keep = 1 if last else max(2, math.ceil(len(ranked) / 2))
    return replace(contest, left=tuple(ranked[:keep]))


def _require_a_success(name: str, contest: _Contest, seen: Outcomes) -> None:
    outcomes = [outcome for request, outcome in seen.items() if request.d in contest.dims]
    if contest.open and all(outcome.score is None for outcome in outcomes):
        raise StudyError(
            f"{name}: all {len(outcomes)} {contest.name} pilots failed at every multiplier of "
            "`tuning`; declare smaller ones, or look at one with `bench show`"
        )
