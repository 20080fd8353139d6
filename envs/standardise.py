"""Observations standardised by fixed numbers of the problem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

STEPS = 10_000  # of a random policy: some 400 episodes of Humanoid-v5, in a few seconds
SEED = 0
LARGEST = 10.0  # standardised observations are clipped there, as is usual (OpenAI's baselines)


class Standardiser:
    """Subtracts the mean of a random policy's observations, divides by their deviation, clips.

    A policy's observations differ from a random one's, but these numbers need no state that a
    solution would have to hold. Both are taken over STEPS steps of uniform actions in `make()`,
    each time anew and always the same. A deviation at or below `smallest` becomes 1.
    """

    def __init__(self, make: Callable[[], gym.Env[Any, Any]], *, smallest: float = 1e-6) -> None:
        env = make()
        env.action_space.seed(SEED)
        observation, _ = env.reset(seed=SEED)
        rows = np.empty((STEPS, *observation.shape))
        for i in range(STEPS):
            rows[i] = observation
            observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                observation, _ = env.reset()
        env.close()
        sd = rows.std(axis=0)
        self.mean = torch.as_tensor(rows.mean(axis=0), dtype=torch.float32)
        self.sd = torch.as_tensor(np.where(sd > smallest, sd, 1), dtype=torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        """Observations (B, ...) -> float32 of the same shape, within [-LARGEST, LARGEST]."""
        mean, sd = self.mean.to(x.device), self.sd.to(x.device)
        return (x.float() - mean).div_(sd).clamp_(-LARGEST, LARGEST)
