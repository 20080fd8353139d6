"""Gymnasium environments as problems, and fresh episodes to judge a policy by."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from difficulty_bench.problem import EnvironmentProblem, Evaluation, Split, act

MAX_EVAL_ENVS = 100  # environments stepped together; bounds memory, not the number of episodes


class GymnasiumProblem(EnvironmentProblem):
    """An environment scored by `eval_episodes` fresh episodes of the deterministic policy."""

    eval_episodes: int

    @abstractmethod
    def build_envs(self, num_envs: int) -> gym.vector.VectorEnv:
        """Unseeded environments that keep the promises of `make_envs`."""

    def make_envs(self, num_envs: int, seed: int) -> gym.vector.VectorEnv:
        envs = self.build_envs(num_envs)
        envs.reset(seed=self.env_seed(seed))  # later resets go on from the seeded generators
        return envs

    def env_seed(self, seed: int) -> int:
        """A seed of the width that the environments take; they count up from it."""
        return seed

    def missing(self) -> str | None:
        return None  # the factory has made one environment already, or refused

    def evaluate(
        self, network: nn.Module, *, split: Split, seed: int, device: torch.device
    ) -> Evaluation:
        """The splits differ by `seed` alone: every trial is judged on starts of its own."""

        def policy(observations: np.ndarray) -> np.ndarray:
            inputs = self.prepare(torch.as_tensor(observations, device=device))
            return act(network, inputs, self.action_space)

        num_envs = largest_divisor(self.eval_episodes, MAX_EVAL_ENVS)
        was_training = network.training
        network.eval()
        envs = self.make_envs(num_envs, seed)
        try:
            returns = episode_returns(envs, policy, self.eval_episodes // num_envs)
        finally:
            envs.close()
            network.train(was_training)
        return Evaluation.of_episodes(returns)


def episode_returns(
    envs: gym.vector.VectorEnv, policy: Callable[[np.ndarray], np.ndarray], episodes_per_env: int
) -> list[float]:
    """Returns of the first `episodes_per_env` episodes of every environment.

    A fixed number from each: taking the first episodes to finish, whichever environment they
    come from, would prefer short ones.
    """
    returns: list[list[float]] = [[] for _ in range(envs.num_envs)]
    observations, _ = envs.reset()
    while min(map(len, returns)) < episodes_per_env:
        observations, _, terminated, truncated, info = envs.step(policy(observations))
        for i in np.flatnonzero(terminated | truncated):
            returns[i].append(float(info["episode"]["r"][i]))
    return [value for episodes in returns for value in episodes[:episodes_per_env]]


def largest_divisor(number: int, limit: int) -> int:
    return max(n for n in range(1, min(number, limit) + 1) if number % n == 0)
