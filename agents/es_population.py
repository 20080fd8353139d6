"""Many policies at once: one batched forward pass, one whole episode an environment."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from difficulty_bench.problem import EnvironmentProblem, check_length, to_actions

from .stacked import StackedNetwork

MAX_BYTES = 256 * 2**20  # of parameters in memory at once; 64 policies of Pong's published network
MAX_ENVS = 512  # stepped together; bounds the memory of emulators
BEAT_INTERVAL_S = 2.0


class Arena:
    """Plays `episodes` whole episodes with each of `rows` policies, and counts the steps.

    Where parameters or environments would take too much memory, some policies play after others.
    """

    def __init__(
        self,
        problem: EnvironmentProblem,
        network: nn.Module,
        device: torch.device,
        *,
        rows: int,
        episodes: int,
    ) -> None:
        self.problem, self.device = problem, device
        self.rows, self.episodes = rows, episodes
        self.policies = StackedNetwork(network.eval())
        most = min(MAX_BYTES // (4 * sum(self.policies.sizes)), MAX_ENVS // episodes)
        parts = math.ceil(rows / max(1, most))
        self.rows_at_once = math.ceil(rows / parts)
        self.envs = problem.make_episodes(self.rows_at_once * episodes)
        self.steps = 0

    def play(
        self, thetas: Callable[[slice], Tensor], seeds: np.ndarray, beat: Callable[[], None]
    ) -> np.ndarray:
        """Returns (rows, episodes) for starts from `seeds` (rows, episodes).

        `thetas` gives the parameters (k, D) of a slice of the rows; `beat` is called every few
        seconds.
        """
        size = self.rows_at_once
        slices = [slice(i, min(i + size, self.rows)) for i in range(0, self.rows, size)]
        return np.concatenate([self._play(thetas(part), seeds[part], beat) for part in slices])

    def _play(self, thetas: Tensor, seeds: np.ndarray, beat: Callable[[], None]) -> np.ndarray:
        count, idle = len(seeds), self.rows_at_once - len(seeds)
        if idle:  # fill up the last slice with policies whose episodes are not counted
            thetas = torch.cat([thetas, thetas[-1:].expand(idle, -1)])
            seeds = np.concatenate([seeds, seeds[-1:].repeat(idle, axis=0)])
        outputs = torch.no_grad()(self.policies.bind(thetas))

        def policy(observations: np.ndarray) -> np.ndarray:
            rows = self.problem.prepare(torch.as_tensor(observations, device=self.device))
            grouped = rows.view(len(seeds), self.episodes, *rows.shape[1:])  # (K, E, ...)
            return to_actions(outputs(grouped).flatten(0, 1), self.problem.action_space)

        shape = len(seeds), self.episodes
        returns, lengths = first_episodes(
            self.envs, policy, seeds.reshape(-1), beat, self.problem.id
        )
        self.steps += int(lengths.reshape(shape)[:count].sum())
        return returns.reshape(shape)[:count]

    def close(self) -> None:
        self.envs.close()


def first_episodes(
    envs: gym.vector.VectorEnv,
    policy: Callable[[np.ndarray], np.ndarray],
    seeds: np.ndarray,
    beat: Callable[[], None],
    id: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths (num_envs,) of one episode of every environment.

    Raise UsageError for an episode without an end.
    """
    returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), dtype=int)
    playing = np.ones(len(seeds), dtype=bool)
    observations, _ = envs.reset(seed=seeds.tolist())
    last_beat = time.perf_counter()
    step = 0
    while playing.any():
        check_length(step, id)
        step += 1
        observations, _, terminated, truncated, info = envs.step(policy(observations))
        ended = playing & (terminated | truncated)
        if ended.any():
            returns[ended] = info["episode"]["r"][ended]
            lengths[ended] = info["episode"]["l"][ended]
            playing &= ~ended
        if time.perf_counter() - last_beat > BEAT_INTERVAL_S:
            beat()
            last_beat = time.perf_counter()
    return returns, lengths
