"""Plain mistakes in the data of a problem, found before anything is trained on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .errors import UsageError

CLASS_NUMBERS = torch.int64, torch.uint8  # what torch's cross entropy takes


def check_pair(
    name: str, pair: Any, input_shape: tuple[int, ...], prepare: Callable[[Tensor], Tensor]
) -> None:
    """Raise UsageError unless the split `name` is a pair of tensors that fit each other.

    That is: inputs which `prepare` brings to (n, *input_shape), n targets, and n at least 1.
    """
    if not (isinstance(pair, tuple | list) and len(pair) == 2):
        raise _wrong(name, f"is {_kind(pair)}; give a pair (inputs, targets)")
    for what, part in zip(("inputs", "targets"), pair, strict=True):
        if not isinstance(part, Tensor):
            raise _wrong(name, f"has {what} that are {_kind(part)}; give torch.as_tensor of them")
    sizes = [part.shape[0] if part.ndim else 0 for part in pair]
    if sizes[0] != sizes[1]:
        raise _wrong(name, f"has {sizes[0]:,} inputs and {sizes[1]:,} targets; give one for each")
    if not sizes[0]:
        raise _wrong(name, "is empty; give it rows")
    shape = tuple(prepare(pair[0][:1]).shape[1:])
    if shape != input_shape:
        raise _wrong(
            name, f"has inputs of shape {shape} and input_shape is {input_shape}; mend one of them"
        )


def check_classes(name: str, y: Tensor, classes: int) -> None:
    """Raise UsageError unless cross entropy over `classes` classes takes the targets `y`."""
    if y.is_floating_point() and tuple(y.shape[1:]) == (classes,):
        return  # probabilities
    if y.dtype not in CLASS_NUMBERS or y.ndim != 1:
        raise _wrong(
            name,
            f"has targets of shape {tuple(y.shape)} and {y.dtype}, and cross entropy takes class "
            "numbers of shape (n,) and torch.int64; give these, or a loss of your own",
        )
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise _wrong(
            name,
            f"has class numbers from {low} to {high} and output_size is {classes}: they go from 0 "
            f"to {classes - 1}; mend one of them",
        )


def check_judged(name: str, y: Tensor) -> None:
    """Raise UsageError for targets `y` that are no class numbers, which accuracy compares."""
    if y.is_floating_point() or y.ndim != 1:
        raise _wrong(
            name,
            f"has targets of shape {tuple(y.shape)} and {y.dtype}, and accuracy, the score where "
            "none is given, compares class numbers (n,); give SupervisedProblem(loss=..., "
            "score=..., metric=..., ceiling=...) of your own",
        )


def _kind(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _wrong(name: str, what: str) -> UsageError:
    return UsageError(f"load() of the problem: '{name}' {what}")
