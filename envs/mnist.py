"""MNIST (LeCun, Cortes, Burges): 28 x 28 grey digits, ten classes.

50,000 images to train on and 10,000 to validate on (the first and last of the published 60,000),
10,000 to test on.
"""

from __future__ import annotations

import functools
import gzip
import struct
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, NonNegativeInt

from difficulty_bench.problem import Pair, SupervisedProblem

from . import files
from .catalogue import data_dir

TRAIN_ROWS = 50_000  # as in Li et al. 2018
PIXELS = (1, 28, 28)
Fraction = Annotated[float, Field(gt=0, le=1)]


def make(*, shuffled_pixels: bool = False, pixel_seed: NonNegativeInt = 0) -> SupervisedProblem:
    """Digits; with `shuffled_pixels`, every image through one permutation drawn from `pixel_seed`.

    The permutation is part of the problem: the same for every trial and every split.
    """

    def load() -> dict[str, Pair]:
        splits = _splits(data_dir())
        if not shuffled_pixels:
            return splits
        order = torch.from_numpy(np.random.default_rng(pixel_seed).permutation(28 * 28))
        return {
            name: (x.flatten(1)[:, order].reshape(-1, *PIXELS), y)
            for name, (x, y) in splits.items()
        }

    return SupervisedProblem(PIXELS, 10, load, scale=1 / 255, requires=_requires)


def memorise(*, fraction: Fraction = 1.0, label_seed: NonNegativeInt = 0) -> SupervisedProblem:
    """The first `fraction` of the training images, their labels permuted among them.

    Nothing can be generalised, so the score is the accuracy on the training set itself.
    """

    def load() -> dict[str, Pair]:
        x, y = _splits(data_dir())["train"]
        rows = round(fraction * len(x))
        order = torch.from_numpy(np.random.default_rng(label_seed).permutation(rows))
        pair = x[:rows], y[:rows][order]
        return {"train": pair, "test": pair}

    return SupervisedProblem(
        PIXELS,
        10,
        load,
        metric="train_accuracy",
        scale=1 / 255,
        has_validation=False,
        requires=_requires,
    )


def _requires() -> str | None:
    return files.missing("mnist")


@functools.lru_cache(maxsize=1)
def _splits(folder: Path) -> dict[str, Pair]:
    """Images uint8 (n, 1, 28, 28) and labels int64 (n,); read once a process and folder."""
    arrays = {file: parse_idx(content) for file, content in files.contents("mnist")}
    x, y = (torch.from_numpy(arrays[f"train-{kind}-ubyte.gz"]) for kind in _KINDS)
    test_x, test_y = (torch.from_numpy(arrays[f"t10k-{kind}-ubyte.gz"]) for kind in _KINDS)
    x, y = x.reshape(-1, *PIXELS), y.long()
    return {
        "train": (x[:TRAIN_ROWS], y[:TRAIN_ROWS]),
        "validation": (x[TRAIN_ROWS:], y[TRAIN_ROWS:]),
        "test": (test_x.reshape(-1, *PIXELS), test_y.long()),
    }


_KINDS = ("images-idx3", "labels-idx1")


def parse_idx(content: bytes) -> np.ndarray:
    """A gzipped IDX file of unsigned bytes -> uint8 array.

    The format: two zero bytes, the type (8: unsigned byte), the number of axes, each axis's
    length as a big-endian uint32, then the values. Raise ValueError for anything else.
    """
    raw = gzip.decompress(content)
    zero, kind, axes = struct.unpack_from(">HBB", raw)
    if zero != 0 or kind != 8:
        raise ValueError("not an IDX file of unsigned bytes")
    shape = struct.unpack_from(f">{axes}I", raw, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape).copy()
