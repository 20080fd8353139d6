"""Many policies at once: one batched forward pass, one whole episode an environment."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from difficulty_bench.problem import EnvironmentProblem, to_actions

Stack = dict[str, Tensor]  # parameters by name, each with the policies as leading index (K, ...)
Forward = Callable[[Stack, Tensor], Tensor]
Layers = list[tuple[str, nn.Module]]

MAX_BYTES = 256 * 2**20  # of parameters in memory at once; 64 policies of Pong's published network
MAX_ENVS = 512  # stepped together; bounds the memory of emulators
BEAT_INTERVAL_S = 2.0


class Policies:
    """One architecture under many parameter vectors."""

    def __init__(self, network: nn.Module) -> None:
        """Take the network in evaluation mode, as it will be judged, and leave it so."""
        self.shapes = {n: p.shape for n, p in network.named_parameters() if p.requires_grad}
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        network.eval()
        layers = chain(network)
        self._forward = vmapped(network) if layers is None else partial(chained, layers)

    def bind(self, thetas: Tensor) -> Callable[[Tensor], Tensor]:
        """For thetas (K, D), in the network's order: inputs (K, E, ...) -> outputs (K, E, n)."""
        parts = torch.split(thetas, self.sizes, dim=1)
        named = zip(self.shapes.items(), parts, strict=True)
        parameters = {name: part.reshape(-1, *shape) for (name, shape), part in named}
        return torch.no_grad()(partial(self._forward, parameters))


def vmapped(network: nn.Module) -> Forward:
    """The batched forward pass of any network."""

    def forward(parameters: Stack, inputs: Tensor) -> Tensor:
        output: Tensor = functional_call(network, parameters, (inputs,))
        return output

    return vmap(forward)


def chain(network: nn.Module) -> Layers | None:
    """The named layers of a fully connected network whose parameters all train; else None."""
    simple = isinstance(network, nn.Sequential) and all(
        isinstance(layer, nn.Linear | nn.Flatten | nn.Tanh | nn.ReLU) for layer in network
    )
    trained = all(p.requires_grad for p in network.parameters())
    return list(network.named_children()) if simple and trained else None


def chained(layers: Layers, parameters: Stack, inputs: Tensor) -> Tensor:
    """`vmapped` for such layers, 7 times faster: 45 us for 12 policies of 4-64-64-2, not 300."""
    x = inputs  # (K, E, ...)
    for name, layer in layers:
        if isinstance(layer, nn.Linear):
            weight = parameters[f"{name}.weight"].mT  # (K, in, out)
            bias = parameters.get(f"{name}.bias")  # (K, out)
            x = x @ weight if bias is None else torch.baddbmm(bias.unsqueeze(1), x, weight)
        else:
            x = x.flatten(2) if isinstance(layer, nn.Flatten) else layer(x)
    return x  # (K, E, n)


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
        self.policies = Policies(network)
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
        outputs = self.policies.bind(thetas)

        def policy(observations: np.ndarray) -> np.ndarray:
            rows = self.problem.prepare(torch.as_tensor(observations, device=self.device))
            grouped = rows.view(len(seeds), self.episodes, *rows.shape[1:])  # (K, E, ...)
            return to_actions(outputs(grouped).flatten(0, 1), self.problem.action_space)

        shape = len(seeds), self.episodes
        returns, lengths = first_episodes(self.envs, policy, seeds.reshape(-1), beat)
        self.steps += int(lengths.reshape(shape)[:count].sum())
        return returns.reshape(shape)[:count]

    def close(self) -> None:
        self.envs.close()


def first_episodes(
    envs: gym.vector.VectorEnv,
    policy: Callable[[np.ndarray], np.ndarray],
    seeds: np.ndarray,
    beat: Callable[[], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths (num_envs,) of one episode of every environment."""
    returns, lengths = np.zeros(len(seeds)), np.zeros(len(seeds), dtype=int)
    playing = np.ones(len(seeds), dtype=bool)
    # Gymnasium types one seed; its vector environments and ALE's take one for each, too.
    observations, _ = envs.reset(seed=seeds)  # type: ignore[arg-type]
    last_beat = time.perf_counter()
    while playing.any():
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
