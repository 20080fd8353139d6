"""A problem whose intrinsic dimension is known (Li et al. 2018, section 2)."""

from __future__ import annotations

import torch
from pydantic import PositiveInt
from torch import Tensor

from difficulty_bench.errors import UsageError
from difficulty_bench.problem import Pair, SupervisedProblem


def make(*, D: PositiveInt = 1000, constraints: PositiveInt = 10) -> SupervisedProblem:
    """D parameters in `constraints` groups whose sums must be 1, 2, ..., `constraints`.

    For a linear network without bias this is a data set: row i of x (constraints, D) marks the
    parameters of group i, and its target is i. Solutions form a plane of dimension D -
    constraints, which a random subspace meets almost surely if d >= constraints and almost never
    if d < constraints: the intrinsic dimension is `constraints`. Group sizes differ by at most 1.

    Raise UsageError for more constraints than parameters.
    """
    if constraints > D:
        raise UsageError(f"problem.constraints = {constraints} is above problem.D = {D}; lower it")
    group = torch.arange(D) * constraints // D  # (D,), 0 .. constraints - 1

    def load() -> dict[str, Pair]:
        x = group == torch.arange(constraints).unsqueeze(1)  # (constraints, D)
        y = torch.arange(1.0, constraints + 1).unsqueeze(1)  # (constraints, 1)
        return dict.fromkeys(("train", "validation", "test"), (x, y))

    return SupervisedProblem(
        (D,), 1, load, loss=squared_error, score=performance, metric="performance"
    )


def squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Summed, not averaged, over the constraints, as published."""
    return (output - target).square().sum()


def performance(output: Tensor, target: Tensor) -> float:
    """exp(-loss): 1 at a solution, 0 far from one."""
    return float(torch.exp(-squared_error(output.double(), target.double())))
