"""CIFAR-10 (Krizhevsky 2009): 32 x 32 colour photographs, ten classes.

All 50,000 images to train on, 10,000 to test on. There is no published validation split: the last
5,000 training images serve, and a trial that is judged on them trains on the first 45,000.
"""

from __future__ import annotations

import functools
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import _reconstruct

from difficulty_bench.problem import Pair, SupervisedProblem

from . import files
from .catalogue import data_dir
from .decoded import decoded

PIXELS = (3, 32, 32)
TRAIN_ROWS, TEST_ROWS, VALIDATION_ROWS = 50_000, 10_000, 5_000
DECODED_SHA256 = "14a2bd144501de0a338b4c67a69c1d3c335f24e5f4e22c78ea4775ad4d3c9e6a"  # of `_decode`


def make() -> SupervisedProblem:
    return SupervisedProblem(
        PIXELS,
        10,
        load=lambda: _splits(data_dir()),
        scale=1 / 255,
        validation_in_train=True,
        requires=lambda: files.missing("cifar10"),
    )


@functools.lru_cache(maxsize=1)
def _splits(folder: Path) -> dict[str, Pair]:
    """Images uint8 (n, 3, 32, 32) and labels int64 (n,); read once a process and folder."""
    flat = decoded("cifar10", DECODED_SHA256, _decode)
    rows = TRAIN_ROWS + TEST_ROWS
    x = torch.from_numpy(flat[:-rows]).reshape(rows, *PIXELS)
    y = torch.from_numpy(flat[-rows:]).long()
    validation = slice(TRAIN_ROWS - VALIDATION_ROWS, TRAIN_ROWS)
    return {
        "train": (x[:TRAIN_ROWS], y[:TRAIN_ROWS]),
        "validation": (x[validation], y[validation]),
        "test": (x[TRAIN_ROWS:], y[TRAIN_ROWS:]),
    }


def _decode() -> np.ndarray:
    """All images (training, then test), then all labels, as one flat uint8 array."""
    batches = {file: unpickle(content) for file, content in files.contents("cifar10")}
    ordered = [batches[file] for file in sorted(batches)]  # data_batch_1..5, test_batch
    images = np.concatenate([batch[b"data"] for batch in ordered])
    labels = np.concatenate([batch[b"labels"] for batch in ordered])
    return np.concatenate([images.reshape(-1), labels.astype(np.uint8)])


def unpickle(content: bytes) -> dict[bytes, Any]:
    """A Python 2 pickle of one batch. Raise UnpicklingError for any class but numpy's array."""
    batch: dict[bytes, Any] = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    return batch


class _ArrayUnpickler(pickle.Unpickler):
    """What numpy arrays of 2009 are made of, and nothing else."""

    _allowed = {  # noqa: RUF012  (never changed)
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a data file")
        return self._allowed[module, name]
