"""The three learning-rate rules, and the pilots by which `tuned` chooses its multipliers.

`paper`: the task's own rate everywhere. `matched`: times sqrt(D / d), so that a subspace step is
as long as a native one (METHOD.md, section 1). `tuned`: `matched` times a multiplier c, chosen on
the validation split once for native training and once for the subspace, over pilot values of d.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from .errors import StudyError, UsageError
from .results import Outcome, Request

if TYPE_CHECKING:
    from .registry import Task, Tuning

Outcomes = Mapping[Request, Outcome]
T = TypeVar("T")
# Yields the requests of a round, is sent exactly their outcomes, returns T. What it decides can
# thus depend on nothing else, which is what makes a study resumable by replay.
Script = Generator[list[Request], Outcomes, T]


@dataclass(frozen=True)
class ChosenLr:
    """The multipliers of the task's learning rate; `*_at_edge`: the grid may be too narrow."""

    native: float = 1.0
    subspace: float = 1.0
    native_at_edge: bool = False
    subspace_at_edge: bool = False
    n_pilots: int = 0


def lr_scale(task: Task, D: int, d: int, chosen: ChosenLr) -> float:
    """What multiplies the task's learning rate at d (0: native).

    Rounded to 6 significant digits: it is part of a trial's identity, which must not depend on a
    machine's last bit.
    """
    if task.lr_rule == "paper":
        return 1.0
    scale = chosen.native if d == 0 else chosen.subspace * math.sqrt(D / d)
    return float(f"{scale:.6g}")


def chosen_lr(task: Task, D: int, outcomes: Outcomes) -> ChosenLr | None:
    """The multipliers that the pilots in `outcomes` chose; None where pilots are missing.

    Raise StudyError where every pilot of one kind failed.
    """
    script = pilots(task, D)
    try:
        requests = next(script)
        while all(request in outcomes for request in requests):
            requests = script.send({request: outcomes[request] for request in requests})
    except StopIteration as end:
        return end.value if isinstance(end.value, ChosenLr) else None
    return None


def pilots(task: Task, D: int) -> Script[ChosenLr]:
    """Successive halving: every multiplier with the first seed, the better half with the next.

    At least two multipliers are compared on every seed.
    """
    if task.lr_rule != "tuned" or task.tuning is None:
        return ChosenLr()
    tuning, count = task.tuning, 0
    kinds: dict[str, tuple[int, ...]] = {"native": (0,), "subspace": _pilot_dims(tuning, D)}
    left = {kind: tuple(sorted(set(tuning.grid))) for kind in kinds}
    seen: dict[Request, Outcome] = {}
    for seed in range(tuning.seeds):
        requests = [
            pilot for kind, ds in kinds.items() for pilot in _pilots(D, ds, left[kind], seed)
        ]
        seen.update((yield from ask(requests, task.search.batch)))
        count += len(requests)
        keep = math.ceil if seed + 1 < tuning.seeds else lambda _: 1
        for kind, ds in kinds.items():
            ranked = _ranked(D, ds, left[kind], seed + 1, seen)
            half = max(2, keep(len(ranked) / 2)) if seed + 1 < tuning.seeds else 1
            left[kind] = tuple(ranked[:half])
    best = {kind: left[kind][0] for kind in kinds}
    _check_some_finished(task, kinds, seen)
    edges = {kind: c in (min(tuning.grid), max(tuning.grid)) for kind, c in best.items()}
    return ChosenLr(
        best["native"], best["subspace"], edges["native"], edges["subspace"], count
    )
