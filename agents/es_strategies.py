"""Search distributions: ask for points, tell their fitness (larger is better), read the mean."""

from __future__ import annotations

from typing import Any, Protocol

import cma
import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from difficulty_bench.coordinates import Coordinates
from difficulty_bench.seeds import derive

Plain = dict[str, Any]


class Strategy(Protocol):
    population: int

    def mean(self) -> Tensor:
        """The distribution's centre (d,)."""

    def ask(self) -> Tensor:
        """A generation's points (population, d)."""

    def tell(self, fitness: np.ndarray, learning_rate: float) -> None:
        """Take the fitness (population,) of the points last asked for, and a step at this rate.

        CMA-ES sets its rates itself.
        """

    def state(self) -> Plain:
        """Tensors and plain values that say what all `tell`s so far have done."""

    def load(self, state: Plain) -> None:
        """Go on from a `state`, to the same bits; the strategy is new."""


class OpenAIES:
    """Gradient estimates from mirrored Gaussian perturbations, for Adam (Salimans et al. 2017).

    The gradient of the expected fitness under N(z, sigma^2 I) is estimated by
    1 / (population sigma) * sum_i F_i eps_i with F the centred ranks in [-1/2, 1/2] and every
    eps used with both signs. `weight_decay` w adds w * theta to the descent direction, pulled
    back to z.
    """

    def __init__(
        self,
        coordinates: Coordinates,
        *,
        sigma: float,
        weight_decay: float,
        population: int,
        seed: int,
    ) -> None:
        self.coordinates, self.sigma, self.decay = coordinates, sigma, weight_decay
        self.population, self.seed = population, seed
        self.z = coordinates.z.requires_grad_()  # (d,)
        self.adam = torch.optim.Adam([self.z])
        self.generation = 0

    def mean(self) -> Tensor:
        return self.z.detach().clone()

    def ask(self) -> Tensor:
        # On the CPU, so that every device sees the same points.
        generator = torch.Generator().manual_seed(derive(self.seed, self.generation))
        shape = self.population // 2, len(self.z)
        self.eps = torch.randn(shape, generator=generator).to(self.z)  # (population / 2, d)
        shifts = self.sigma * self.eps
        return torch.cat([self.z.detach() + shifts, self.z.detach() - shifts])

    def tell(self, fitness: np.ndarray, learning_rate: float) -> None:
        ranks = torch.as_tensor(centred_ranks(fitness)).to(self.z)  # (population,)
        plus, minus = ranks.chunk(2)
        ascent = (plus - minus) @ self.eps / (self.population * self.sigma)  # (d,)
        self.z.grad = -ascent
        if self.decay:
            P, theta_0 = self.coordinates.projection, self.coordinates.theta_0
            theta = theta_0 + P.project(self.z.detach())  # (D,)
            self.z.grad += self.decay * P.project_transposed(theta)
        self.adam.param_groups[0]["lr"] = learning_rate
        self.adam.step()
        self.generation += 1

    def state(self) -> Plain:
        return {"z": self.mean(), "adam": self.adam.state_dict(), "generation": self.generation}

    def load(self, state: Plain) -> None:
        self.z.detach().copy_(state["z"])
        self.adam.load_state_dict(state["adam"])
        self.generation = state["generation"]


def centred_ranks(fitness: np.ndarray) -> np.ndarray:
    """Ranks from -1/2 (worst) to 1/2 (best), (n,); equal values share theirs.

    So a generation in which all are equal gives no direction.
    """
    ranks: np.ndarray = (rankdata(fitness) - 1) / (len(fitness) - 1) - 0.5
    return ranks


class CMAES:
    """Covariance matrix adaptation (Hansen 2016), from its author's library.

    A checkpoint holds what the strategy was told; it is deterministic, so `load` tells a new one
    the same again and arrives at the same mean, step size, covariance and paths. Its own stopping
    rules are not used: a trial ends with its budget.
    """

    def __init__(self, d: int, *, sigma: float, population: int | None, seed: int) -> None:
        rng = np.random.default_rng(seed)
        options = {
            "verbose": -9,
            "seed": np.nan,  # leaves numpy's global generator alone
            "randn": lambda *shape: rng.standard_normal(shape),
            **({"popsize": population} if population else {}),
        }
        self.strategy = cma.CMAEvolutionStrategy(np.zeros(d), sigma, options)
        self.population: int = self.strategy.popsize
        self.told: list[Tensor] = []

    def mean(self) -> Tensor:
        return torch.as_tensor(self.strategy.mean, dtype=torch.float32)

    def ask(self) -> Tensor:
        self.points = self.strategy.ask()
        return torch.as_tensor(np.stack(self.points), dtype=torch.float32)

    def tell(self, fitness: np.ndarray, learning_rate: float = 0.0) -> None:
        self.strategy.tell(self.points, list(-fitness))
        self.told.append(torch.as_tensor(fitness, dtype=torch.float64))

    def state(self) -> Plain:
        return {"told": torch.stack(self.told) if self.told else torch.zeros(0, self.population)}

    def load(self, state: Plain) -> None:
        for fitness in state["told"]:
            self.ask()
            self.tell(fitness.numpy())
