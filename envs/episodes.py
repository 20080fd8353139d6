"""Environments that play one episode each, for learners that score whole episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space


class Episodes(gym.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Steps environments in turn, and lets each rest once its episode is over.

    Where a few policies of many play on for long, the others cost no time. An environment at
    rest repeats its last observation with reward 0 and stays terminated or truncated. On steps
    that end episodes, `info["episode"]` holds return `r` and length `l` as (num_envs,) arrays.
    """

    def __init__(self, makers: Sequence[Callable[[], gym.Env[Any, Any]]]) -> None:
        self.envs = [make() for make in makers]
        self.num_envs = len(self.envs)
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        first = self.envs[0]
        self.single_observation_space = first.observation_space
        self.single_action_space = first.action_space
        self.observation_space = batch_space(first.observation_space, self.num_envs)
        self.action_space = batch_space(first.action_space, self.num_envs)
        self._observations = np.zeros(
            (self.num_envs, *(first.observation_space.shape or ())), first.observation_space.dtype
        )
        self._terminated, self._truncated = np.ones((2, self.num_envs), dtype=bool)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """`seed` is None or one seed per environment."""
        seeds = [None] * self.num_envs if seed is None else [int(value) for value in seed]
        for i, (env, value) in enumerate(zip(self.envs, seeds, strict=True)):
            self._observations[i], _ = env.reset(seed=value, options=options)
        self._terminated[:] = self._truncated[:] = False
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, dtype=int)
        return self._observations.copy(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        playing = ~(self._terminated | self._truncated)
        rewards = np.zeros(self.num_envs)
        for i in np.flatnonzero(playing):
            self._observations[i], rewards[i], self._terminated[i], self._truncated[i], _ = (
                self.envs[i].step(actions[i])
            )
        self._returns += rewards
        self._lengths += playing
        info: dict[str, Any] = {}
        if (playing & (self._terminated | self._truncated)).any():
            info["episode"] = {"r": self._returns.copy(), "l": self._lengths.copy()}
        ended = self._terminated.copy(), self._truncated.copy()
        return self._observations.copy(), rewards, *ended, info

    def close_extras(self, **kwargs: Any) -> None:
        for env in self.envs:
            env.close()
