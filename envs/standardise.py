"""Mean and spread of an environment's observations, as fixed numbers of the problem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

STEPS = 10_000  # of a random policy: some 400 episodes of Humanoid-v5, in a few seconds
SEED = 0
LARGEST = 10.0  # standardised observations are clipped there, as is usual (OpenAI's baselines)


def moments(make: Callable[[], gym.Env[Any, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of observations over STEPS steps of uniform actions, float32.

    A policy's observations differ from a random one's, but these numbers need no state that a
    solution would have to hold. What never varies gets the deviation 1.
    """
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
    return rows.mean(axis=0).astype(np.float32), np.where(sd > 1e-6, sd, 1).astype(np.float32)
