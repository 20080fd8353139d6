"""What the store keeps beside trials, and the checks that every trial passes on its way in."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, get_args

from .registry import ENTRIES, Task
from .results import Request, Role, State, TrialResult
from .seeds import content_hash


@dataclass(frozen=True)
class Reading:
    """A study and one way to read it: what one row of the report is made from.

    A study is what its trials share (`definition`: problem, network, agent, version); a reading
    adds floor, thresholds, search range, reference and learning-rate rule. Reading anew trains
    nothing anew. `settings` are the `--set key=value` overrides in force, `metric` the name of
    the score. `task` is rebuilt from the record: its entry points need not be importable.
    """

    study: str
    task: Task
    definition: dict[str, Any]
    D: int
    settings: tuple[str, ...] = ()
    metric: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """One row a key: the rules choose among a study's trials by their lr_scale."""
        return self.study, self.task.lr_rule


def trial_identity(study: str, request: Request) -> str:
    """The name of one training; all its randomness is seeded by it."""
    return content_hash({"study": study, "request": asdict(request)})


def environment_id(facts: dict[str, str]) -> str:
    """A short name for what many trials were made with."""
    return content_hash(facts)[:16]


def check_reading(reading: Reading) -> None:
    """Raise ValueError unless the task, its definition and the study's identity agree."""
    task, definition = reading.task, reading.definition
    if reading.study != content_hash(definition):
        raise ValueError("the study's identity is not the hash of its definition")
    own = task.own_definition()
    for key in sorted((own.keys() | definition.keys()) - set(ENTRIES)):
        value, defined = own.get(key), definition.get(key)
        if value != defined:
            raise ValueError(f"{key} is {value!r} in the task, {defined!r} defined")
    for key in ENTRIES:
        entry, defined = getattr(task, key), definition.get(key)
        if not isinstance(defined, dict) or defined.get("entry_point") != entry.entry_point:
            raise ValueError(f"{key} of the task is not that of the definition")
    if reading.D < 1:
        raise ValueError(f"D = {reading.D} is below 1")


def check_request(request: Request) -> None:
    """Raise ValueError for what no search asks for."""
    d, seed, lr_scale = request.d, request.seed, request.lr_scale
    if request.role not in get_args(Role):
        raise ValueError(f"role {request.role!r} is not one of {', '.join(get_args(Role))}")
    if not all(type(number) is int and number >= 0 for number in (d, seed)):
        raise ValueError(f"d = {d!r} or seed = {seed!r} is not an integer of at least 0")
    if (request.role == "baseline") != (d == 0) and request.role != "pilot":
        raise ValueError(f"a {request.role} at d = {d}: baselines are native, with d = 0")
    if type(lr_scale) is not float or not 0 < lr_scale < math.inf:  # 1 and 1.0 hash differently
        raise ValueError(f"lr_scale {lr_scale!r} is not a float above 0")


def check_result(result: TrialResult) -> None:
    """Raise ValueError unless `result` is a finished trial whose parts agree."""
    request, score = result.request, result.score
    if result.identity != trial_identity(result.study, request):
        raise ValueError("the trial's identity is not the hash of its study and request")
    check_request(request)
    if result.state not in get_args(State):
        raise ValueError(f"state '{result.state}' is not one of {', '.join(get_args(State))}")
    if (result.state == "complete") != (score is not None):
        raise ValueError(f"state '{result.state}' does not go with score {score}")
    numbers = [score, result.score_sd, result.wall_s]
    if any(number is not None and not math.isfinite(number) for number in numbers):
        raise ValueError(f"not all of {numbers} (score, its sd, wall_s) are finite")
    if result.state != "complete" and not result.reason:
        raise ValueError(f"state '{result.state}' needs a reason")
    if result.D < 0 or 0 < result.D < request.d:
        raise ValueError(f"d = {request.d} is above D = {result.D}")
    if result.wall_s < 0 or result.steps < 0:
        raise ValueError(f"wall_s {result.wall_s} or steps {result.steps} is below 0")
