"""Evolution strategies on z: no gradient, only the returns of whole episodes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from difficulty_bench.context import Diverged, TrialContext
from difficulty_bench.coordinates import Coordinates
from difficulty_bench.errors import UsageError
from difficulty_bench.problem import EnvironmentProblem, Problem

from .es_population import Arena
from .es_strategies import CMAES, OpenAIES, Strategy


def evolve(
    problem: Problem,
    network: nn.Module,
    context: TrialContext,
    *,
    total_timesteps: PositiveInt,
    episodes: PositiveInt = 1,
    mean_episodes: PositiveInt = 1,
    population: Annotated[int, Field(ge=2, multiple_of=2)] = 64,
    sigma: PositiveFloat = 0.02,
    learning_rate: PositiveFloat = 1e-2,
    lr_schedule: Literal["constant", "linear"] = "constant",
    weight_decay: NonNegativeFloat = 0.0,
    cma_max_d: NonNegativeInt = 200,
    cma_population: Annotated[int, Field(ge=2)] | None = None,
    cma_sigma: PositiveFloat = 0.1,
) -> None:
    """CMA-ES up to `cma_max_d` coordinates, OpenAI-ES (Salimans et al. 2017) above.

    `total_timesteps` counts the steps of all episodes played; no generation begins after it is
    reached. Every candidate plays `episodes` episodes from starts that all candidates of the
    generation share, the mean at least `mean_episodes` (a multiple of `episodes`), whose return is
    the curve. What remains in the network is the distribution's mean.

    `population`, `sigma`, `learning_rate` (Adam's), its schedule over the budget and
    `weight_decay` are OpenAI-ES's; `cma_population` (null: 4 + 3 ln d) and `cma_sigma`, the
    initial one, are CMA-ES's. Both sigmas and the learning rate are changes of a native
    coordinate: like every step size they are multiplied by the trial's `lr_scale`, so that under
    the matched rule, sqrt(D/d), a perturbation in the subspace is as long as a native one.

    Raise UsageError for a data set.
    """
    acting = evolve_check(problem)
    coordinates = context.coordinates(network.parameters())
    if coordinates.d <= cma_max_d:
        strategy: Strategy = CMAES(
            coordinates.d,
            sigma=cma_sigma * context.lr_scale,
            population=cma_population,
            seed=context.streams.agent,
        )
    else:
        strategy = OpenAIES(
            coordinates,
            sigma=sigma * context.lr_scale,
            weight_decay=weight_decay,
            population=population,
            seed=context.streams.agent,
        )

    def rate(progress: float) -> float:
        share = 1 - progress if lr_schedule == "linear" else 1.0
        return learning_rate * context.lr_scale * share

    mean_rows = math.ceil(mean_episodes / episodes)
    rows = strategy.population + mean_rows
    arena = Arena(acting, network, context.device, rows=rows, episodes=episodes)
    try:
        _Run(context, coordinates, strategy, arena).until(total_timesteps, rate)
    finally:
        arena.close()


def evolve_check(problem: Problem, **parameters: Any) -> EnvironmentProblem:
    """Raise UsageError for a data set."""
    if not isinstance(problem, EnvironmentProblem):
        raise UsageError(
            "agent 'agents.es:evolve' scores episodes and needs environments, not a data set; "
            "use 'agents.supervised:train'"
        )
    return problem


class _Run:
    """Generations until the budget is spent, and all that a checkpoint needs to go on exactly."""

    def __init__(
        self, context: TrialContext, coordinates: Coordinates, strategy: Strategy, arena: Arena
    ) -> None:
        self.context, self.coordinates = context, coordinates
        self.strategy, self.arena = strategy, arena
        self.generation = self.steps = 0
        if resumed := context.resume():
            self.generation, self.steps = resumed["generation"], resumed["steps"]
            self.strategy.load(resumed["strategy"])
            self.arena.steps = self.steps
            self._beat()

    def until(self, total_timesteps: int, rate: Callable[[float], float]) -> None:
        """`rate` is the learning rate at a share of the budget."""
        while self.steps < total_timesteps:
            mean, learning_rate = self.strategy.mean(), rate(self.steps / total_timesteps)
            returns = self._play(self.strategy.ask(), mean)  # (rows, episodes)
            K = self.strategy.population
            self.strategy.tell(returns[:K].mean(axis=1), learning_rate)
            self.generation, self.steps = self.generation + 1, self.arena.steps
            # A trial that ends at this tick keeps the policy whose return the tick tells.
            self.coordinates.set_z(mean)
            self.context.tick(self.steps, self._state, episodic_return=float(returns[K:].mean()))
        self.coordinates.set_z(self.strategy.mean())

    def _play(self, points: Tensor, mean: Tensor) -> np.ndarray:
        rows = torch.cat([points.to(mean), mean.expand(self.arena.rows - len(points), -1)])
        if not bool(torch.isfinite(rows).all()):
            raise Diverged(f"a coordinate is not finite at step {self.steps}")
        seeds = self._seeds(len(points))
        returns = self.arena.play(
            lambda part: self.coordinates.thetas(rows[part]), seeds, self._beat
        )
        if not np.isfinite(returns).all():
            raise Diverged(f"a return is not finite at step {self.arena.steps}")
        return returns

    def _seeds(self, candidates: int) -> np.ndarray:
        """Starts (rows, episodes): one row for all candidates, further ones for the mean."""
        rng = np.random.default_rng([self.context.streams.data, self.generation])
        fresh = rng.integers(2**30, size=(1 + self.arena.rows - candidates, self.arena.episodes))
        return np.concatenate([fresh[:1].repeat(candidates, axis=0), fresh[1:]])

    def _beat(self) -> None:
        """Within a generation a checkpoint is that of its beginning."""
        self.context.tick(self.arena.steps, self._state)

    def _state(self) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "steps": self.steps,
            "strategy": self.strategy.state(),
        }
