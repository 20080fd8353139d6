"""`bench export` and `bench eval`: solutions leave and come back."""

from __future__ import annotations

import argparse

import torch

from ..errors import UsageError
from ..registry import Registry
from ..seeds import Streams, content_hash
from ..solution import Solution, load
from ..store import Store
from ..study import choose_device
from ..trial import Trial


def export(arguments: argparse.Namespace) -> int:
    """Write the solution of one finished subspace trial."""
    registry = Registry(arguments.tasks)
    with Store(arguments.store, read_only=True) as store:
        found = store.find(arguments.trial)
        if len(found) != 1:
            what = "no trial" if not found else f"{len(found)} trials"
            raise UsageError(
                f"{what} of '{arguments.trial}...' in {arguments.store}; see bench show"
            )
        result = found[0]
        z = store.solution(result.identity)
        study = store.study(result.study)
    if z is None:
        raise UsageError(f"trial {result.identity[:12]} is native or failed: it has no d numbers")
    task = registry.get(study.task.name, study.settings)
    values = torch.frombuffer(bytearray(z), dtype=torch.float32)
    solution = Solution(Trial(task, result.request), tuple(study.settings), result.D, values)
    if solution.trial.study != result.study:
        raise UsageError(f"'{task.name}' has another definition now than when this trial ran")
    solution.save(arguments.file)
    print(f"{arguments.file}: {task.name}, d = {result.request.d}, score {result.score:.6g}")
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    """Score a solution file on the test set, or on fresh episodes of `--seed`."""
    device = torch.device(choose_device(arguments.device))
    solution = load(arguments.file, Registry(arguments.tasks))
    problem = solution.trial.task.problem()
    seed = Streams.of(content_hash([solution.trial.identity, arguments.seed])).evaluation
    network = solution.network().to(device)
    result = problem.evaluate(network, split="test", seed=seed, device=device)
    spread = f" +- {1.96 * result.sd / result.n**0.5:.4g} (95%)" if result.sd is not None else ""
    print(f"{problem.metric} {result.score:.6g}{spread}, n = {result.n}")
    return 0
