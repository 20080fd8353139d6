"""Gymnasium environments as problems, and fresh episodes to judge a policy by."""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from difficulty_bench.errors import BenchError, ResourceError, first_line
from difficulty_bench.problem import EnvironmentProblem, Evaluation, Split, act, check_length

OFF_SCREEN = {"MUJOCO_GL": "egl", "SDL_VIDEODRIVER": "dummy"}  # their defaults need a display
MAX_EVAL_ENVS = 100  # environments stepped together; bounds memory, not the number of episodes


class GymnasiumProblem(EnvironmentProblem):
    """An environment scored by `eval_episodes` fresh episodes of the deterministic policy."""

    @abstractmethod
    def build_envs(self, num_envs: int, *, rendered: bool = False) -> gym.vector.VectorEnv:
        """Unseeded environments that keep the promises of `make_envs`, or of `rendered_envs`."""

    def make_envs(self, num_envs: int, seed: int) -> gym.vector.VectorEnv:
        envs = self.build_envs(num_envs)
        envs.reset(seed=self.env_seed(seed))  # later resets go on from the seeded generators
        return envs

    def rendered_envs(self, seed: int) -> gym.vector.VectorEnv:
        if not any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")):
            for library, driver in OFF_SCREEN.items():
                os.environ.setdefault(library, driver)
        try:
            envs = self.build_envs(1, rendered=True)
            envs.reset(seed=self.env_seed(seed))
            pictures = envs.render()
        except BenchError as error:
            mend = "to be drawn, an environment must take render_mode 'rgb_array'"
            raise ResourceError(f"{error}; {mend}") from None
        except Exception as error:  # of whatever library draws
            raise ResourceError(
                f"{self.id}: cannot draw: {first_line(error)}; MuJoCo "
                "without a display needs libegl1 or libosmesa6, and MUJOCO_GL=egl or osmesa"
            ) from None
        if not pictures or np.ndim(pictures[0]) != 3:
            raise ResourceError(f"{self.id}: gives no pictures with render_mode 'rgb_array'")
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

        each = math.ceil(self.eval_episodes / MAX_EVAL_ENVS)
        num_envs = math.ceil(self.eval_episodes / each)
        was_training = network.training
        network.eval()
        envs = self.make_envs(num_envs, seed)
        try:
            returns = episode_returns(envs, policy, self.eval_episodes, self.id)
        finally:
            envs.close()
            network.train(was_training)
        return Evaluation.of_episodes(returns)


def episode_returns(
    envs: gym.vector.VectorEnv, policy: Callable[[np.ndarray], np.ndarray], episodes: int, id: str
) -> list[float]:
    """Returns of `episodes` episodes, the first few of every environment.

    How many from each is fixed beforehand: taking the first episodes to finish, whichever
    environment they come from, would prefer short ones. Raise UsageError for an episode without
    an end.
    """
    each = math.ceil(episodes / envs.num_envs)  # too many are left out of the last environments
    returns: list[list[float]] = [[] for _ in range(envs.num_envs)]
    lengths = np.zeros(envs.num_envs, dtype=int)
    observations, _ = envs.reset()
    while min(map(len, returns)) < each:
        observations, _, terminated, truncated, info = envs.step(policy(observations))
        ended = terminated | truncated
        lengths = np.where(ended, 0, lengths + 1)
        for i in np.flatnonzero(ended):
            returns[i].append(float(info["episode"]["r"][i]))
        check_length(int(lengths.max()), id)
    return [value for own in returns for value in own[:each]][:episodes]
