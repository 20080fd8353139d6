"""Studies as scripts: coroutines that ask for trainings and can know nothing but their outcomes.

A script yields the requests of one round and is sent exactly those outcomes. Its decisions are
therefore a function of what it asked before, and a study killed anywhere resumes by playing its
script again over the stored outcomes, up to the first round in which one is missing.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from .results import Outcome, Request

Outcomes = Mapping[Request, Outcome]
T = TypeVar("T")
Script = Generator[list[Request], Outcomes, T]


@dataclass(frozen=True)
class Step(Generic[T]):
    """Where a replay stands: the requests still `missing` of its round, or the script's `result`.

    `asked` counts the requests of all rounds so far. With nothing missing and no result, the
    script was `capped`: it would go on if it were allowed more requests.
    """

    missing: list[Request]
    asked: int
    result: T | None = None
    capped: bool = False


def ask(requests: Sequence[Request], batch: int) -> Script[dict[Request, Outcome]]:
    """Ask for `requests` in rounds of at most `batch`; return their outcomes."""
    outcomes: dict[Request, Outcome] = {}
    for start in range(0, len(requests), batch):
        outcomes.update((yield list(requests[start : start + batch])))
    return outcomes


def replay(script: Script[T], outcomes: Outcomes, limit: int | None = None) -> Step[T]:
    """Play `script` over `outcomes`, for at most `limit` requests in all.

    The limit cuts the sequence of requests and never changes it.
    """
    asked = 0
    try:
        requests = next(script)
        while True:
            room = len(requests) if limit is None else min(len(requests), limit - asked)
            asked += room
            missing = [request for request in requests[:room] if request not in outcomes]
            if missing or room < len(requests):
                return Step(missing, asked, capped=not missing)
            requests = script.send({request: outcomes[request] for request in requests})
    except StopIteration as end:
        return Step([], asked, result=end.value)
