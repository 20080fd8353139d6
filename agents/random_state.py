"""torch's global random generators, which dropout draws from, as part of a checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor


def get(device: torch.device) -> list[Tensor]:
    """The states of the generators of the CPU and of `device`."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def put(device: torch.device, states: list[Tensor]) -> None:
    """Continue from states that `get` gave.

    Those of a CPU say nothing of a GPU's generator, which then goes on as it was seeded.
    """
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
