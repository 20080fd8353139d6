"""The global random generators, which agents, networks and problems may draw from, seeded."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def reseed(seed: int) -> None:
    """Seed the generators of Python, numpy and torch (every device) with `seed` in [0, 2^63)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the generators; put them (of GPUs: that of `device`) back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        reseed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def get_states(device: torch.device) -> list[Tensor]:
    """The states of torch's generators, of the CPU and of `device`, for a checkpoint."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def put_states(device: torch.device, states: list[Tensor]) -> None:
    """Continue from states that `get_states` gave.

    Those of a CPU say nothing of a GPU's generator, which then goes on as it was seeded.
    """
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
