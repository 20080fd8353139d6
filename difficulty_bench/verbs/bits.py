"""`bench bits`: score the solutions of a finished study with fewer bits a number."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from joblib import Parallel, delayed

from ..environment import usable_cores
from ..errors import ResourceError, UsageError
from ..problem import Problem
from ..progress import Progress, describe
from ..results import TrialResult
from ..solution import Solution
from ..store import Store
from ..study import Prepared, choose_device, prepare
from ..trial import Trial, study_identity
from ..tuning import relevant
from .run import given_settings, given_tasks, print_rows


def bits(arguments: argparse.Namespace) -> int:
    """Every subspace trial of every `--task` at every width, on its own evaluation; print rows."""
    tasks = given_tasks(arguments, given_settings(arguments))
    device = choose_device(arguments.device)
    workers = arguments.workers or (usable_cores() if device == "cpu" else 1)
    progress = Progress(as_json=arguments.json, quiet=arguments.quiet)
    prepared = [prepare(task) for task in tasks]
    with Store(arguments.store) as store:
        for one in prepared:
            jobs = _missing(one, store, arguments.widths)
            side_by_side = Parallel(workers, return_as="generator_unordered")
            found = side_by_side(delayed(_scores)(*job, device) for job in jobs)
            for n, (trial, scores) in enumerate(found, 1):
                store.put_quantised(trial.identity, scores)
                said = ", ".join(f"{score:.4g} at {w}" for w, score in scores.items())
                name = describe(trial.request)
                progress.note(f"{one.task.name}: {n}/{len(jobs)}: {name}: {said} bits")
        print_rows(store, tasks, as_json=arguments.json)
    return 0


def _missing(
    one: Prepared, store: Store, widths: Sequence[int]
) -> list[tuple[Solution, list[int]]]:
    """The solutions of finished trials, each with the widths at which it has no score yet."""
    known = store.quantised(study_identity(one.task))
    missing = [
        (result, [w for w in widths if w not in known.get(result.identity, {})])
        for result in _finished(one, store)
    ]
    return [
        (_solution(Trial(one.task, result.request), store, result), left)
        for result, left in missing
        if left
    ]


def _scores(
    solution: Solution, widths: Sequence[int], device: str
) -> tuple[Trial, dict[int, float]]:
    trial, there = solution.trial, torch.device(device)
    problem: Problem = trial.task.problem()
    seed = trial.streams.evaluation  # what the trial's own score was taken on
    scores = {}
    for width in widths:
        network = solution.quantised(width).network().to(there)
        scores[width] = problem.evaluate(network, split="test", seed=seed, device=there).score
    return trial, scores


def _finished(one: Prepared, store: Store) -> list[TrialResult]:
    task, results = one.task, store.results(study_identity(one.task))
    own = relevant(task, one.D, {result.request: result.outcome for result in results})
    kept = [r for r in results if r.request in own and r.request.role == "trial"]
    if not kept:
        raise UsageError(f"{task.name}: no trials in {store.path}; bench run measures them first")
    return [result for result in kept if result.score is not None]


def _solution(trial: Trial, store: Store, result: TrialResult) -> Solution:
    z = store.solution(result.identity)
    if z is None:
        raise ResourceError(
            f"{store.path}: trial {result.identity[:12]} of {trial.task.name} is here without its "
            "d numbers (a results file holds none); give --store the one that it ran in"
        )
    values = torch.frombuffer(bytearray(z), dtype=torch.float32)
    return Solution(trial, (), result.D, values)
