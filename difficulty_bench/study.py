"""The loop: store -> search -> engine -> store. It resumes by construction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from .context import Interrupted
from .engine import Engine
from .errors import ResourceError, UsageError
from .problem import Problem, count_parameters
from .registry import Task
from .results import Request, TrialResult
from .search import next_round
from .store import Store
from .trial import Runtime, Trial, build_network, study_identity


class Listener(Protocol):
    """Told of a study's progress; can neither change nor stop it."""

    def asked(self, task: Task, requests: Sequence[Request]) -> None: ...

    def finished(self, task: Task, result: TrialResult) -> None: ...


@dataclass(frozen=True)
class Plan:
    """How far to measure: what `bench run` was asked for beside the task itself."""

    precision: float | None = None
    max_trials: int | None = None
    grid: tuple[int, ...] | None = None
    seeds: int | None = None


def prepare(task: Task) -> int:
    """Check that the task can run on this machine and return D.

    Raise ResourceError for missing data or packages, UsageError for a network, range or
    threshold that does not fit. Nothing is written.
    """
    problem: Problem = task.problem()
    if (lack := problem.missing()) is not None:
        raise ResourceError(f"{task.name}: {lack}")
    D = count_parameters(build_network(task, problem, seed=0))
    if task.search.d_max > D:
        raise UsageError(
            f"{task.name}: search.d_max = {task.search.d_max} is above D = {D}; "
            f"use --set search.d_max={D} or less"
        )
    for key, value in (("threshold_global", task.threshold_global), ("floor", task.floor)):
        if value is not None and problem.ceiling is not None and value > problem.ceiling:
            raise UsageError(
                f"{task.name}: {key} = {value:g} is above the ceiling {problem.ceiling:g} of "
                f"{problem.metric}; no trial could reach it"
            )
    return D


def choose_device(name: str) -> str:
    """`auto` is the GPU where there is one. Raise ResourceError for a device that is not there."""
    available = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if available else "cpu"
    if name == "cuda" and not available:
        raise ResourceError("--device cuda: torch finds no CUDA device here; use --device cpu")
    return name


def run_study(
    task: Task, D: int, store: Store, engine: Engine, runtime: Runtime, plan: Plan, who: Listener
) -> bool:
    """Measure until the search asks for nothing more; False where it was interrupted."""
    study = study_identity(task)
    while requests := next_round(
        task,
        D,
        store.outcomes(study),
        precision=plan.precision,
        max_trials=plan.max_trials,
        grid=plan.grid,
        seeds=plan.seeds,
    ):
        who.asked(task, requests)
        try:
            for result in engine.run([Trial(task, request) for request in requests], runtime):
                store.put(result)
                who.finished(task, result)
        except Interrupted:
            return False
    return True
