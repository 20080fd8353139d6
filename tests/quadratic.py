"""An environment of the tests whose best policy is known: name the target."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

TARGET = np.array([0.5, -1.0])
LENGTHS = (2, 3, 4)  # episodes differ in length, as real ones do


class Quadratic(gym.Env[np.ndarray, np.ndarray]):
    """Reward -|action - TARGET|^2 a step, for the observation 1 and two numbers of noise."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,))
    action_space = gym.spaces.Box(-5, 5, (2,))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = int(self.np_random.choice(LENGTHS))
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return self._observe(), -float(((action - TARGET) ** 2).sum()), self.left == 0, False, {}

    def _observe(self) -> np.ndarray:
        return np.array([1, *self.np_random.normal(0, 0.1, 2)], dtype=np.float32)


gym.register("Quadratic-v0", Quadratic, max_episode_steps=2 * max(LENGTHS))
