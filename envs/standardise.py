"""Observations brought to one scale by fixed numbers of the problem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

STEPS = 10_000  # of a random policy: some 400 episodes of Humanoid-v5, in a few seconds
IMAGES = 2000  # of a random policy, in a second
START = 20  # steps after which no blank frame of a reset is left in a stack
SEED = 0
MIN_SD = 1e-6
CLIP = 10.0  # standardised observations stay within it, as is usual (OpenAI's baselines)
MAX_CHANGE = 3.0  # in units of a byte's usual change

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
    """Subtracts what a random policy sees on average, pixel by pixel; what is left has variance 1.

    Most of a screen never changes, and the few pixels that do are all that there is to learn from.
    As numbers from 0 to 1 they are a small part of what a network sees, and too small for its
    initial weights (Pong: 0.017, root mean square): pilots of PPO learned far slower from them.
    """

    def __init__(self, make: Callable[[], gym.vector.VectorEnv]) -> None:
        envs = make()
        envs.action_space.seed(SEED)
        images, _ = envs.reset(seed=SEED)
        total = np.zeros((2, *images.shape[1:]), dtype=np.int64)  # of pixels and their squares
        steps = IMAGES // envs.num_envs
        for _ in range(START):
            images = envs.step(envs.action_space.sample())[0]
        for _ in range(steps):
            wide = images.astype(np.int64)
            total += [wide.sum(axis=0), np.square(wide).sum(axis=0)]
            images = envs.step(envs.action_space.sample())[0]
        envs.close()
        mean, square = total / (steps * envs.num_envs)
        sd = float(np.sqrt((square - mean**2).mean()))  # one for all pixels, in grey levels
        self.scale = 1 / max(sd, 1.0)
        self.negative = torch.as_tensor(-mean * self.scale, dtype=torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        """Images (B, ...) of bytes -> float32 of the same shape."""
        if self.negative.device != x.device:  # once, not in every step
            self.negative = self.negative.to(x.device)
        return torch.add(self.negative, x, alpha=self.scale)  # in one pass


class Standardiser:
    """Subtracts the mean of a random policy's observations, divides by their deviation, clips.

    A deviation at or below MIN_SD becomes 1.
    """

    def __init__(self, make: Make) -> None:
        rows = random_observations(make)
        sd = rows.std(axis=0)
        self.mean = torch.as_tensor(rows.mean(axis=0), dtype=torch.float32)
        self.sd = torch.as_tensor(np.where(sd > MIN_SD, sd, 1), dtype=torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        """Observations (B, ...) -> float32 of the same shape, within [-CLIP, CLIP]."""
        if self.mean.device != x.device:
            self.mean, self.sd = self.mean.to(x.device), self.sd.to(x.device)
        return (x.float() - self.mean).div_(self.sd).clamp_(-CLIP, CLIP)


class RanksAndChanges:
    """Shows stacked frames of bytes as the newest frame's ranks and the changes before it.

    A byte of a console's memory may count, or hold a position or a code, and its range is its own:
    its rank among what a random policy sees has the same distribution for all that vary. A byte
    that never varied is 0, and what it may later hold falls below or above it, so nothing that a
    better policy brings about is lost. Frames follow each other so closely that only their
    differences tell of motion, in units of each byte's usual one: the jump of a ball to its next
    serve would drown its flight in a standard deviation.
    """

    def __init__(self, make: Make) -> None:
        """Take the numbers from what `make()` shows: frames (F, bytes), the newest last."""
        rows = random_observations(make)
        newest = np.sort(rows[:, -1], axis=0).T
        values = np.arange(256)
        below = [np.searchsorted(seen, values) for seen in newest]
        up_to = [np.searchsorted(seen, values, side="right") for seen in newest]
        ranks = (np.array(below) + np.array(up_to)) / len(rows) - 1  # mid-ranks, in [-1, 1]
        steps = np.abs(np.diff(rows, axis=1)).reshape(-1, rows.shape[-1])
        usual = [np.median(seen[seen > 0]) if seen.any() else 1.0 for seen in steps.T]
        # sqrt(3): the variance of a uniform rank is 1 then
        self.table = torch.as_tensor(ranks.ravel() * 3**0.5, dtype=torch.float32)
        self.start = torch.arange(0, ranks.size, 256)
        self.usual = torch.as_tensor(np.array(usual), dtype=torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        """Frames (B, F, bytes), 0 to 255 -> float32 of the same shape, within [-3, 3].

        Row 0 holds the newest frame's ranks, row i > 0 the change from frame i - 1 to frame i.
        """
        if self.table.device != x.device:
            moved = (t.to(x.device) for t in (self.table, self.start, self.usual))
            self.table, self.start, self.usual = moved
        ranks = self.table[self.start + x[:, -1:].long()]
        changes = x.float().diff(dim=1).div_(self.usual).clamp_(-MAX_CHANGE, MAX_CHANGE)
        return torch.cat([ranks, changes], dim=1)
