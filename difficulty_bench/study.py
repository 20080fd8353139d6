"""The loop: store -> search -> engine -> store. It resumes by construction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from . import projection
from .checkpoint import discard_checkpoints
from .context import Interrupted
from .engine import Engine
from .errors import ResourceError, UsageError, did_you_mean, user_code
from .outputs import stdout_to_stderr
from .problem import Problem, SupervisedProblem, count_parameters
from .registry import Task
from .results import Request, TrialResult
from .search import Plan, Stop
from .store import Store
from .trial import Runtime, Trial, build_network, study_identity


class Listener(Protocol):
    """Told of a study's progress; can neither change nor stop it."""

    def asked(self, task: Task, requests: Sequence[Request]) -> None: ...

    def finished(self, task: Task, result: TrialResult) -> None: ...


@dataclass(frozen=True)
class Prepared:
    """A task that can run here: D of its network, the name of its score, where it is fastest."""

    task: Task
    D: int
    metric: str
    faster_on_gpu: bool


@stdout_to_stderr()
def prepare(task: Task) -> Prepared:
    """Check that the task can run on this machine; its `chance`, if not declared, is measured.

    Raise ResourceError for missing data or packages, UsageError for a projection, agent, network,
    data set, range or threshold that does not fit. Nothing is written.
    """
    with _named(task):
        return _prepare(task)


def _prepare(task: Task) -> Prepared:
    if task.projection not in projection.NAMES:
        raise UsageError(
            f"{task.name}: no projection '{task.projection}'"
            f"{did_you_mean(task.projection, projection.NAMES)}"
        )
    task.agent.check_call("problem", "network", "context")
    problem: Problem = task.problem()
    if (lack := task.problem.missing(problem)) is not None:
        raise ResourceError(f"{task.name}: {lack}")
    if (check := task.agent.companion("check")) is not None:
        with user_code(f"agent '{task.agent.entry_point}'"):
            check(problem)
    task.problem.check_data(problem)
    if task.chance is None and isinstance(problem, SupervisedProblem):
        with user_code(f"{task.name}: problem '{task.problem.entry_point}': its test data"):
            task = task.model_copy(update={"chance": problem.chance()})
    if task.lr_rule == "tuned" and not problem.has_validation:
        raise UsageError(
            f"{task.name}: lr_rule 'tuned' needs a validation split, and this problem has none; "
            "use --set lr_rule=matched"
        )
    rule = task.early_stop
    if rule and isinstance(problem, SupervisedProblem) and rule.metric == problem.metric:
        raise UsageError(
            f"{task.name}: early_stop.metric: '{rule.metric}' is the score on the held-out data "
            "itself, and a training may not be ended by it; use train_loss"
        )
    D = count_parameters(build_network(task, problem, seed=0))
    if D == 0:
        raise UsageError(
            f"{task.name}: network '{task.network.entry_point}' has no trainable parameters, and "
            "d counts the dimensions searched among them; let some require gradients"
        )
    for key, value in (("threshold_global", task.threshold_global), ("floor", task.floor)):
        if value is not None and problem.ceiling is not None and value > problem.ceiling:
            raise UsageError(
                f"{task.name}: {key} = {value:g} is above the ceiling {problem.ceiling:g} of "
                f"{problem.metric}; no trial could reach it"
            )
    return Prepared(task, D, problem.metric, problem.faster_on_gpu)


@contextmanager
def _named(task: Task) -> Iterator[None]:
    """A problem or an agent does not know which task it belongs to: say it in its UsageErrors."""
    try:
        yield
    except UsageError as error:
        if str(error).startswith(f"{task.name}:"):
            raise
        raise UsageError(f"{task.name}: {error}") from error


def preferred(name: str, where: Prepared | Problem) -> str:
    """The device called `name`; `auto` stays where a GPU is faster, and else is the CPU."""
    return "cpu" if name == "auto" and not where.faster_on_gpu else name


def choose_device(name: str) -> str:
    """`auto` is the GPU where there is one. Raise ResourceError for a device that is not there."""
    available = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if available else "cpu"
    if name == "cuda" and not available:
        raise ResourceError("--device cuda: torch finds no CUDA device here; use --device cpu")
    return name


def run_study(
    prepared: Prepared, store: Store, engine: Engine, runtime: Runtime, plan: Plan, who: Listener
) -> Stop | None:
    """Measure until the search asks for nothing more; why it ended, or None if interrupted.

    Raise UsageError, with the task's name, for what only a training found out not to fit.
    """
    task, study = prepared.task, study_identity(prepared.task)
    if runtime.checkpoint_dir is not None:  # a run may be killed once a result is stored
        stored = [result.identity for result in store.results(study)]
        discard_checkpoints(runtime.checkpoint_dir, stored)
    while requests := plan.next_round(task, prepared.D, store.outcomes(study)):
        who.asked(task, requests)
        try:
            with _named(task):
                for result in engine.run([Trial(task, request) for request in requests], runtime):
                    store.put(result)
                    if runtime.checkpoint_dir is not None:
                        discard_checkpoints(runtime.checkpoint_dir, [result.identity])
                    who.finished(task, result)
        except Interrupted:
            return None
    return plan.stop_reason(task, prepared.D, store.outcomes(study))
