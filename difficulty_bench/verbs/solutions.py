"""`bench export`, `bench eval` and `bench play`: solutions leave, come back and are looked at."""

from __future__ import annotations

import argparse
import math
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from ..cpu import use_one_thread
from ..errors import ResourceError, UsageError, user_code
from ..generators import seeded
from ..play import check_encoder, play, steps_per_s, video
from ..problem import EnvironmentProblem, Problem, interval, seeded_evaluation
from ..registry import Registry
from ..seeds import Streams, content_hash
from ..solution import Solution, load
from ..store import Store
from ..study import choose_device, preferred
from .look import store_to_read


def export(arguments: argparse.Namespace) -> int:
    """Write the solution of one finished subspace trial, where seed and z hold all of it."""
    registry = Registry(arguments.tasks)
    with Store(store_to_read(arguments), read_only=True) as store:
        found = store.find(arguments.trial)
        if len(found) != 1:
            what = "no trial" if not found else f"{len(found)} trials"
            raise UsageError(
                f"{what} of '{arguments.trial}...' in {arguments.store}; see bench show"
            )
        result = found[0]
        z = store.solution(result.identity)
        reading = store.study(result.study)
    if result.score is None or not result.request.d:
        raise UsageError(
            f"{arguments.store}: trial {result.identity[:12]} is native or failed: it has no "
            "solution; give a complete one with a d (see bench show)"
        )
    if z is None:
        raise without_z(arguments.store, reading.task.name, result.identity)
    solution = Solution.of(reading, result, z, registry, str(arguments.store))
    solution.network()  # raises for one that could not be rebuilt from the file
    quantised = "" if arguments.bits is None else f" in float32; {arguments.bits} bits a number"
    if arguments.bits is not None:
        solution = solution.quantised(arguments.bits)
    solution.save(arguments.file)
    judged = "validation score (a pilot's)" if result.request.role == "pilot" else "score"
    print(
        f"{arguments.file}: {reading.task.name}, d = {result.request.d}, {judged} "
        f"{result.score:.6g}{quantised}; z has {solution.size_bits:,} bits"
    )
    return 0


def without_z(store: Path, task: str, identity: str) -> ResourceError:
    """Of a finished subspace trial that came to this store by `bench results import`."""
    return ResourceError(
        f"{store}: trial {identity[:12]} of {task} is here without its "
        "d numbers (a results file holds none); give --store the one that it ran in"
    )


def evaluate(arguments: argparse.Namespace) -> int:
    """Score a solution file on the test set, or on fresh episodes of `--seed`."""
    solution = load(arguments.file, Registry(arguments.tasks))
    problem: Problem = solution.trial.task.problem()
    device = torch.device(choose_device(preferred(arguments.device, problem)))
    if arguments.episodes is not None:
        _acting(problem, arguments.file, "--episodes").eval_episodes = arguments.episodes
    network = solution.network().to(device)
    seed = _seed(solution, arguments.seed)
    use_one_thread(device)
    with _running(solution):
        result = seeded_evaluation(problem, network, split="test", seed=seed, device=device)
    if not math.isfinite(result.score):
        raise UsageError(f"{arguments.file}: its network scores {result.score}; train it anew")
    ends = interval(problem, result)
    unit = "episodes" if isinstance(problem, EnvironmentProblem) else "samples"
    found = f", 95% interval [{ends[0]:.6g}, {ends[1]:.6g}]" if ends else ""
    size = f"z has {solution.size_bits:,} bits"
    print(f"{problem.metric} {result.score:.6g}{found}, n = {result.n} {unit}; {size}")
    if isinstance(problem, EnvironmentProblem) and problem.protocol:
        print(problem.protocol)
    return 0


def play_back(arguments: argparse.Namespace) -> int:
    """A video of fresh episodes of `--seed`."""
    out: Path = arguments.video
    check_encoder(out)
    solution = load(arguments.file, Registry(arguments.tasks))
    problem = _acting(solution.trial.task.problem(), arguments.file, "bench play")
    device = torch.device(choose_device(preferred(arguments.device, problem)))
    seed = _seed(solution, arguments.seed)
    network = solution.network().to(device)
    with _running(solution):
        envs = problem.rendered_envs(seed)
    try:
        with video(out, steps_per_s(envs)) as show, _running(solution), seeded(seed, device):
            for episode in range(1, arguments.episodes + 1):
                total, steps = play(problem, envs, network, device, show)
                print(f"episode {episode}: return {total:.6g}, {steps} steps")
    finally:
        envs.close()
    print(f"{out}: {solution.trial.task.name}, d = {solution.trial.request.d}")
    return 0


def _running(solution: Solution) -> AbstractContextManager[None]:
    return user_code(f"problem '{solution.trial.task.problem.entry_point}'")


def _seed(solution: Solution, number: int) -> int:
    """Of episodes that neither the training nor its own evaluation saw."""
    return Streams.of(content_hash([solution.trial.identity, number])).evaluation


def _acting(problem: Problem, file: Path, what: str) -> EnvironmentProblem:
    if not isinstance(problem, EnvironmentProblem):
        raise UsageError(
            f"{file}: of a data set, and {what} is about episodes; use bench eval FILE"
        )
    return problem
