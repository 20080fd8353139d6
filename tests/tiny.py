"""A problem of the tests: two Gaussian clouds, learned in milliseconds."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from agents.supervised import train
from difficulty_bench.context import TrialContext
from difficulty_bench.errors import UsageError
from difficulty_bench.problem import Evaluation, Pair, Problem, SupervisedProblem
from difficulty_bench.results import Request


def problem(*, separation: float = 2.0) -> SupervisedProblem:
    """Two classes in R^8, `separation` apart."""

    def load() -> Mapping[str, Pair]:
        generator = torch.Generator().manual_seed(1)
        pairs = {}
        for name, n in (("train", 256), ("validation", 128), ("test", 256)):
            y = torch.arange(n) % 2
            x = torch.randn(n, 8, generator=generator)
            pairs[name] = (x + separation * (y[:, None] - 0.5), y)
        return pairs

    return SupervisedProblem((8,), 2, load)


class Unsure(SupervisedProblem):
    def evaluate(self, *arguments: Any, **parameters: Any) -> Evaluation:
        return replace(super().evaluate(*arguments, **parameters), sd=float("nan"))


def unsure() -> SupervisedProblem:
    """Whose evaluation gives a score and, as its spread, nan."""
    return Unsure((8,), 2, lambda: problem().splits)


def without_validation() -> SupervisedProblem:
    splits = dict(problem().splits)
    del splits["validation"]
    return SupervisedProblem((8,), 2, lambda: splits, has_validation=False)


def network(
    input_shape: tuple[int, ...], output_size: int, *, width: int = 4, batch_norm: bool = False
) -> nn.Module:
    norm = [nn.BatchNorm1d(width)] if batch_norm else []
    first, last = nn.Linear(input_shape[0], width), nn.Linear(width, output_size)
    return nn.Sequential(first, *norm, nn.Tanh(), last)


def bad_network(input_shape: tuple[int, ...], output_size: int) -> nn.Module:
    return nn.Linear(input_shape[0], output_size + 1)


FAULTS: dict[str, Exception] = {  # of a machine, not of a learner
    "disk": OSError(24, "Too many open files"),
    "memory": MemoryError("Unable to allocate 24 GiB"),
    "torch memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "gpu": torch.AcceleratorError("CUDA error: unspecified launch failure"),
    "pipe": EOFError("the process at the other end is gone"),
    "loader": RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
}


def misbehave(
    problem: Problem, network: nn.Module, context: TrialContext, *, how: str = "raise"
) -> None:
    """An agent that fails in the way `how` names, after it has resumed if it can."""
    context.resume()
    if how == "raise":
        raise RuntimeError("the learner broke")
    if how == "print":
        print("a learner that talks")
        context.optimizer(network.parameters(), lr=0.1)
    if how == "exit":
        raise SystemExit(0)
    if how == "refuse":
        raise UsageError("not here")
    if how == "diverge":
        context.tick(1, train_loss=float("nan"))
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hang":
        for step in range(10_000):
            time.sleep(0.01)
            context.tick(step)
    if how in FAULTS:
        raise FAULTS[how]
    if how == "poison":
        next(iter(network.parameters())).data.fill_(float("inf"))


def deaf(problem: Problem, network: nn.Module, context: TrialContext, *, marker: str) -> None:
    """An agent that touches the file `marker` and then hears no request to stop for 100 s."""
    Path(marker).touch()
    time.sleep(100)


def mortal(problem: Problem, network: nn.Module, context: TrialContext, *, marker: str) -> None:
    """A learner whose process is killed at d = 3 for as long as there is no file `marker`."""
    if context.d == 3 and not Path(marker).exists():
        os.kill(os.getpid(), signal.SIGKILL)
    train(problem, network, context, learning_rate=0.03, epochs=4)


def hang(problem: Problem, network: nn.Module, context: TrialContext, *, marker: str) -> None:
    """An agent that writes its process's number to `marker` and then goes on for 100 s."""
    Path(marker).write_text(str(os.getpid()))
    misbehave(problem, network, context, how="hang")


def fault(problem: Problem, network: nn.Module, context: TrialContext, *, marker: str) -> None:
    """An agent that finds the disk full once there is a file `marker`."""
    while not Path(marker).exists():
        time.sleep(0.05)
    raise OSError(28, "No space left on device")


def bad_problem(*, how: str = "raise") -> Any:
    """A factory that fails in the way `how` names."""
    if how == "raise":
        raise ValueError("boom\nmore")
    if how == "exit":
        raise SystemExit(5)
    if how == "lack":
        made = problem()
        made.requires = lambda: 1 // 0
        return made
    if how == "load":
        return SupervisedProblem((8,), 2, lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    if how == "labels":
        return SupervisedProblem((8,), 1, lambda: problem().splits)
    return None


def broken_network(input_shape: tuple[int, ...], output_size: int, *, how: str = "raise") -> Any:
    """A factory that fails in the way `how` names."""
    if how == "raise":
        raise KeyError("k")
    if how == "assert":
        raise AssertionError
    if how == "tuple":
        return nn.LSTM(input_shape[0], output_size)
    if how == "frozen":
        return nn.Linear(input_shape[0], output_size).requires_grad_(False)
    return None


def request(d: int, seed: int = 0, lr_scale: float = 1.0) -> Request:
    """As a search asks: of a baseline at d = 0."""
    return Request("trial" if d else "baseline", d, seed, lr_scale)


class StopAfter:
    """A stop request: lets `ticks` ticks pass and asks the trial to stop at the next."""

    def __init__(self, ticks: int) -> None:
        self.left = ticks

    def is_set(self) -> bool:
        self.left -= 1
        return self.left < 0
