"""`bench bits`: score the solutions of a finished study with fewer bits a number."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

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
    device = torch.device(choose_device(arguments.device))
    progress = Progress(as_json=arguments.json, quiet=arguments.quiet)
    prepared = [prepare(task) for task in tasks]
    with Store(arguments.store) as store:
        for one in prepared:
            _score(one, store, arguments.widths, device, progress)
        print_rows(store, tasks, as_json=arguments.json)
    return 0


def _score(
    one: Prepared, store: Store, widths: Sequence[int], device: torch.device, progress: Progress
) -> None:
    task, problem = one.task, one.task.problem()
    known, trials = store.quantised(study_identity(task)), _finished(one, store)
    for n, result in enumerate(trials, 1):
        missing = [w for w in widths if w not in known.get(result.identity, {})]
        if missing:
            solution = _solution(Trial(task, result.request), store, result)
            scores = {w: _evaluate(solution.quantised(w), problem, device) for w in missing}
            store.put_quantised(result.identity, scores)
            said = ", ".join(f"{score:.4g} at {w}" for w, score in scores.items())
            progress.note(
                f"{task.name}: {n}/{len(trials)}: {describe(result.request)}: {said} bits"
            )


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


def _evaluate(solution: Solution, problem: Problem, device: torch.device) -> float:
    network = solution.network().to(device)
    seed = solution.trial.streams.evaluation  # what the trial's own score was taken on
    return problem.evaluate(network, split="test", seed=seed, device=device).score
