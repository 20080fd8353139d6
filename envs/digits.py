"""The 1,797 handwritten digits (8 x 8, 17 grey levels) that scikit-learn ships; no download.

The source is the test part of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin
and Kaynak 1998). Rows stand in the order of their writers, so the split is a fixed permutation.
"""

from __future__ import annotations

import functools

import numpy as np
import torch

from difficulty_bench.problem import Pair, SupervisedProblem

PIXELS = (1, 8, 8)
SPLIT_SEED = 0
VALIDATION_ROWS, TEST_ROWS = 250, 500


def make() -> SupervisedProblem:
    """1,047 images to train on, 250 to validate on, 500 to test on."""
    return SupervisedProblem(PIXELS, 10, _splits, scale=1 / 16)


@functools.cache
def _splits() -> dict[str, Pair]:
    """Images uint8 (n, 1, 8, 8) with values 0..16, labels int64 (n,)."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    x = torch.from_numpy(images[order].astype(np.uint8)).reshape(-1, *PIXELS)
    y = torch.from_numpy(labels[order]).long()
    sizes = [len(x) - VALIDATION_ROWS - TEST_ROWS, VALIDATION_ROWS, TEST_ROWS]
    names = ("train", "validation", "test")
    pairs = zip(torch.split(x, sizes), torch.split(y, sizes), strict=True)
    return dict(zip(names, pairs, strict=True))
