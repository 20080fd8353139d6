"""Observations standardised or whitened by fixed numbers of the problem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

STEPS = 10_000  # of a random policy: some 400 episodes of Humanoid-v5, in a few seconds
IMAGES = 2000  # of a random policy, in a second
SEED = 0
SMALLEST = 1e-6
LARGEST = 10.0  # standardised observations are clipped there, as is usual (OpenAI's baselines)

Make = Callable[[], gym.Env[Any, Any]]


def random_observations(make: Make) -> np.ndarray:
    """What a policy of uniform actions sees in STEPS steps of `make()`: (STEPS, ...), float64.

    The same rows each time. A learning policy's observations differ from them, but numbers taken
    from these need no state that a solution would have to hold.
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
    return rows


class Background:
    """Subtracts what a random policy sees on average, pixel by pixel, and scales by 1 / 255.

    Most of a screen never changes, and the few pixels that do are all that there is to learn from.
    As numbers from 0 to 1 they are a small part of what a network sees, and a critic of Pong learns
    from them several times slower than without the background.
    """

    def __init__(self, make: Callable[[], gym.vector.VectorEnv]) -> None:
        envs = make()
        envs.action_space.seed(SEED)
        images, _ = envs.reset(seed=SEED)
        total = np.zeros(images.shape[1:], dtype=np.int64)
        steps = IMAGES // envs.num_envs
        for _ in range(steps):
            total += images.sum(axis=0, dtype=np.int64)
            images = envs.step(envs.action_space.sample())[0]
        envs.close()
        mean = total / (steps * envs.num_envs * 255)
        self.negative = torch.as_tensor(-mean, dtype=torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        """Images (B, ...) of bytes -> float32 of the same shape, within [-1, 1]."""
        if self.negative.device != x.device:  # once, not in every step
            self.negative = self.negative.to(x.device)
        return torch.add(self.negative, x, alpha=1 / 255)  # in one pass


class Standardiser:
    """Subtracts the mean of a random policy's observations, divides by their deviation, clips.

    A deviation at or below SMALLEST becomes 1.
    """

    def __init__(self, make: Make) -> None:
        rows = random_observations(make)
        sd = rows.std(axis=0)
        self.mean = torch.as_tensor(rows.mean(axis=0), dtype=torch.float32)
        self.sd = torch.as_tensor(np.where(sd > SMALLEST, sd, 1), dtype=torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        """Observations (B, ...) -> float32 of the same shape, within [-LARGEST, LARGEST]."""
        if self.mean.device != x.device:
            self.mean, self.sd = self.mean.to(x.device), self.sd.to(x.device)
        return (x.float() - self.mean).div_(self.sd).clamp_(-LARGEST, LARGEST)


class Whitener:
    """Subtracts a random policy's mean observation, multiplies by C^(-1/2), clips.

    C is the covariance of a random policy's observations, taken over all numbers of one (those of
    stacked frames together), so that small differences, as between two frames, count as much as
    the frames themselves. C^(-1/2) is the symmetric root (ZCA), which does not depend on how an
    eigenvector's sign falls out. Eigenvalues below `smallest` squared are raised to it, those of
    numbers that never vary among them.
    """

    def __init__(self, make: Make, *, smallest: float) -> None:
        rows = random_observations(make)
        flat = rows.reshape(len(rows), -1)
        # Apart, because most bytes of a console never vary: three times as fast, and eigh would
        # leave entries of 1e-40 in their place, by which a processor multiplies ten times slower.
        varies = np.flatnonzero(np.ptp(flat, axis=0))
        values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(flat[:, varies], rowvar=False)))
        root = vectors / np.sqrt(np.maximum(values, smallest**2)) @ vectors.T
        self.smallest = smallest
        self.mean = torch.as_tensor(flat.mean(axis=0), dtype=torch.float32)
        self.varies = torch.as_tensor(varies)
        self.root = torch.as_tensor(root, dtype=torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        """Observations (B, ...) -> float32 of the same shape, within [-LARGEST, LARGEST]."""
        if self.mean.device != x.device:
            moved = (t.to(x.device) for t in (self.mean, self.varies, self.root))
            self.mean, self.varies, self.root = moved
        rows = x.flatten(1).float() - self.mean
        white = rows / self.smallest
        white[:, self.varies] = rows[:, self.varies] @ self.root
        return white.clamp_(-LARGEST, LARGEST).view(x.shape)
