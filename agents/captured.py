"""A training step on a GPU as one launch: the step's kernels, replayed from a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from difficulty_bench.problem import SupervisedProblem, cross_entropy
from difficulty_bench.trial import lacks_memory

AFTER = (
    20  # calls, before a capture: one takes longer than many steps, and a short training has few
)


class CapturedStep:
    """`step()`, called `AFTER` times and from then on replayed; just called unless it `captures`.

    A replay repeats the kernels of a call on the tensors of that call, so what a step reads, such
    as the batch's indices and the rates of its `optimizer`, is written in place before it. Where a
    step cannot be captured (it waits for the device, say), every call is a call.
    """

    def __init__(
        self, step: Callable[[], None], optimizer: torch.optim.Optimizer, *, captures: bool
    ) -> None:
        self._step, self._optimizer = step, optimizer
        self._left: int | None = AFTER if captures else None  # None: never
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self._left == 0:
            self._capture()
        if self._graph is not None:
            self._graph.replay()
        elif self._left is None:
            self._step()
        else:
            self._left -= 1
            self._warm_up()

    def _warm_up(self) -> None:
        """On a stream of its own, as torch's documentation asks of calls before a capture."""
        here, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(here)
        with torch.cuda.stream(side):
            self._step()
        here.wait_stream(side)

    def _capture(self) -> None:
        """Nothing is computed yet. Raise what says that the device's memory is full."""
        self._left, graph = None, torch.cuda.CUDAGraph()
        try:
            with capturable(self._optimizer), torch.cuda.graph(graph):
                self._step()
        except Exception as error:  # CUDA's, torch's or the step's own: a call will tell
            if lacks_memory(error):
                raise
            return
        self._graph = graph


@contextmanager
def capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """As torch wants Adam marked; where it is at other times, torch warns that no graph is made."""
    marked = [group for group in optimizer.param_groups if "capturable" in group]
    before = [group["capturable"] for group in marked]
    for group in marked:
        group["capturable"] = True
    try:
        yield
    finally:
        for group, value in zip(marked, before, strict=True):
            group["capturable"] = value


def repeats(problem: SupervisedProblem, network: nn.Module, device: torch.device) -> bool:
    """Whether there are graphs, and a step hangs on tensors alone: its replay is as a call.

    Code that is not torch's or ours may draw from Python's generators, or count its calls.
    """
    torchs = all(type(module).__module__.startswith("torch.nn.") for module in network.modules())
    hooks = any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    ours = type(problem) is SupervisedProblem and problem.loss is cross_entropy
    return device.type == "cuda" and torchs and ours and not hooks


def set_rates(optimizer: torch.optim.Optimizer, rate: float, device: torch.device) -> None:
    """On a GPU in place, where a captured step reads them."""
    for group in optimizer.param_groups:
        if device.type != "cuda":
            group["lr"] = rate
        elif isinstance(group["lr"], Tensor) and group["lr"].is_cuda:
            group["lr"].fill_(rate)
        else:
            group["lr"] = torch.tensor(rate, device=device)
