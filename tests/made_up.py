"""Made-up tasks and learners of known difficulty: what the search and the estimate are tested on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from difficulty_bench.registry import Search, Task, Tuning
from difficulty_bench.results import Outcome, Request
from difficulty_bench.search import Plan, Stop

D = 50_000
Learner = Callable[[Request], Outcome]


def made_up_task(**fields: Any) -> Task:
    """Keys of `search` and `tuning` are given as dictionaries, the others as they are."""
    search = Search(**({"d_min": 10, "d_max": 40_000} | fields.pop("search", {})))
    tuning = fields.pop("tuning", None)
    known = {
        "name": "made-up",
        "floor": 0.0,
        "threshold_global": 0.8,
        "lr_rule": "matched",
        "baseline_seeds": 5,
        "projection": "hashed",
        "search": search,
        "tuning": Tuning(**tuning) if tuning else None,
    }
    return Task.model_construct(**(known | fields))


def learner(
    mean: Callable[[float], float], sd: float = 0.01, baseline: float = 1.0, seed: int = 0
) -> Learner:
    """Scores mean(d) + noise that is a function of the request, as a real trial's is."""

    def learn(request: Request) -> Outcome:
        entropy = [seed, request.d, request.seed, len(request.role), round(request.lr_scale * 1e6)]
        noise = np.random.default_rng(entropy).standard_normal()
        return Outcome((mean(request.d) if request.d else baseline) + sd * float(noise))

    return learn


def power_law(d50: float, exponent: float = 0.85) -> Callable[[float], float]:
    """A mean score that crosses 0.9 at d50."""
    return lambda d: max(0.1, 1.0 - 0.1 * (d / d50) ** -exponent)


def next_round(
    task: Task, D: int, outcomes: Mapping[Request, Outcome], **plan: Any
) -> list[Request]:
    return Plan(**plan).next_round(task, D, outcomes)


def stop_reason(
    task: Task, D: int, outcomes: Mapping[Request, Outcome], **plan: Any
) -> Stop | None:
    return Plan(**plan).stop_reason(task, D, outcomes)


def lacking(task: Task, D: int, outcomes: Mapping[Request, Outcome], **plan: Any) -> str | None:
    return Plan(**plan).lacking(task, D, outcomes)


def run_study(task: Task, learn: Learner, **options: Any) -> dict[Request, Outcome]:
    """As the study loop does it: ask, run, ask again."""
    outcomes: dict[Request, Outcome] = {}
    while requests := next_round(task, D, outcomes, **options):
        outcomes |= {request: learn(request) for request in requests}
    return outcomes


def play_study(task: Task, learn: Learner, **options: Any) -> dict[Request, Outcome]:
    """The same in one go, without replaying what is known already."""
    outcomes: dict[Request, Outcome] = {}
    script, limit = Plan(**options).script(task, D), task.search.max_trials
    try:
        requests = next(script)
        while len(outcomes) + len(requests) <= limit:
            answers = {request: learn(request) for request in requests}
            outcomes |= answers
            requests = script.send(answers)
        return outcomes | {r: learn(r) for r in requests[: limit - len(outcomes)]}
    except StopIteration:
        return outcomes


def results(
    scores: Mapping[int, list[float | None]], baseline: list[float | None]
) -> dict[Request, Outcome]:
    """Outcomes under lr_rule `paper`: {d: scores of its seeds}, and the native scores."""
    native = {Request("baseline", 0, i): Outcome(s) for i, s in enumerate(baseline)}
    trials = {
        Request("trial", d, i): Outcome(score)
        for d, ys in scores.items()
        for i, score in enumerate(ys)
    }
    return native | trials
