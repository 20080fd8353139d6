"""Where the tests find data sets, and how they skip without them; kernels without a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from envs import files
from envs.catalogue import VARIABLE

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
if not os.environ.get(VARIABLE) and _BESIDE.is_dir():
    os.environ[VARIABLE] = str(_BESIDE)


def pytest_configure(config: pytest.Config) -> None:
    """Before torch sees a GPU and Triton is imported, in this process and in those of the tests."""
    if "gpu" not in config.option.markexpr.replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """As trials do on a CPU; more would contend in nets this small."""
    torch.set_num_threads(1)


@pytest.fixture
def seeded() -> None:
    """torch's global generator at 0; for a whole file by `pytestmark`."""
    torch.manual_seed(0)


@pytest.fixture
def mnist_files() -> None:
    _skip_without("mnist")


@pytest.fixture
def cifar10_files() -> None:
    _skip_without("cifar10")


def _skip_without(name: str) -> None:
    if reason := files.missing(name):
        pytest.skip(reason)
