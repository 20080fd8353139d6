"""`bench bits`: score the solutions of a finished study with few bits per number."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import torch
from joblib import Parallel, delayed

from ..cpu import use_one_thread
from ..environment import default_workers
from ..errors import BenchError, UsageError, described
from ..outputs import stdout_to_stderr
from ..problem import Problem, seeded_evaluation
from ..progress import Progress
from ..results import Scores, TrialResult, describe
from ..solution import Solution
from ..store import Store
from ..study import Prepared, choose_device, preferred, prepare
from ..trial import Trial, check_machine, study_identity
from ..tuning import relevant
from .look import store_to_read
from .run import given_settings, given_tasks, print_rows
from .solutions import without_z


def bits(arguments: argparse.Namespace) -> int:
    """Every subspace trial of every `--task`, on its own evaluation; print the tasks' rows.

    A solution that cannot be scored, or has no finite score, is not solved.
    """
    tasks = given_tasks(arguments, given_settings(arguments))
    progress = Progress(as_json=arguments.json, quiet=arguments.quiet)
    prepared = [prepare(task) for task in tasks]
    devices = [choose_device(preferred(arguments.device, one)) for one in prepared]
    workers = arguments.workers or min(map(default_workers, devices))
    with Store(store_to_read(arguments), read_only=True) as store:  # which creates none
        for one in prepared:
            _finished(one, store)
    with Store(arguments.store) as store:
        for one, device in zip(prepared, devices, strict=True):
            jobs = _missing(one, store, arguments.bits)
            side_by_side = Parallel(workers, return_as="generator_unordered")
            found = side_by_side(delayed(_scores)(*job, device) for job in jobs)
            for n, (trial, scores, reasons) in enumerate(found, 1):
                store.put_quantised(trial.identity, scores)
                name = f"{one.task.name}: {n}/{len(jobs)}: {describe(trial.request)}"
                progress.note(f"{name}: {', '.join(_said(*pair) for pair in scores.items())} bits")
                for reason in reasons:
                    progress.warn(f"{name}: {reason}")
        print_rows(store, tasks, as_json=arguments.json)
    return 0


def _said(bits: int, score: float | None) -> str:
    return f"{'not solved' if score is None else f'{score:.4g}'} at {bits}"


def _missing(one: Prepared, store: Store, bits: Sequence[int]) -> list[tuple[Solution, list[int]]]:
    """The solutions of finished trials, each with the bits per number that it has no score for."""
    known = store.quantised(study_identity(one.task))
    missing = [
        (result, [b for b in bits if b not in known.get(result.identity, {})])
        for result in _finished(one, store)
    ]
    return [
        (_solution(Trial(one.task, result.request), store, result), left)
        for result, left in missing
        if left
    ]


@stdout_to_stderr()
def _scores(solution: Solution, bits: Sequence[int], device: str) -> tuple[Trial, Scores, set[str]]:
    """The scores of `solution` quantised, and why some are None."""
    trial, there = solution.trial, torch.device(device)
    use_one_thread(there)
    problem: Problem = trial.task.problem()
    seed = trial.streams.evaluation  # what the trial's own score was taken on
    scores: dict[int, float | None] = {}
    reasons = set()
    for each in bits:
        try:
            network = solution.quantised(each).network().to(there)
            score = seeded_evaluation(problem, network, split="test", seed=seed, device=there).score
            scores[each] = score if math.isfinite(score) else None
        except BenchError:
            raise
        except (Exception, SystemExit) as error:  # a user's; the other solutions can be scored
            check_machine(trial, error)
            scores[each] = None
            reasons.add(described(error))
    return trial, scores, reasons


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
        raise without_z(store.path, trial.task.name, result.identity)
    return Solution.stored(trial, (), result.D, z)
