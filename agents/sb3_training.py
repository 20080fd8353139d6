"""Running an SB3 algorithm as a trial: seeds, schedules, progress, checkpoints."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import BasePolicy

from difficulty_bench.context import TrialContext
from difficulty_bench.errors import UsageError
from difficulty_bench.generators import reseed, seeded
from difficulty_bench.problem import EnvironmentProblem, Problem
from difficulty_bench.seeds import derive

from .sb3_vec_env import GymnasiumVecEnv

Shape = Literal["constant", "linear"]
State = dict[str, Any]


def checked_problem(problem: Problem, agent: str) -> EnvironmentProblem:
    if not isinstance(problem, EnvironmentProblem):
        raise UsageError(f"agent '{agent}' needs environments, not a data set; use another agent")
    return problem


def schedule(initial: float, shape: Shape) -> Callable[[float], float]:
    """A value from the share of training that remains, which SB3 lets fall below 0."""
    if shape == "constant":
        return lambda remaining: initial
    return lambda remaining: initial * max(remaining, 0.0)


@contextmanager
def environments(
    problem: EnvironmentProblem, context: TrialContext, n_envs: int, steps: int
) -> Iterator[GymnasiumVecEnv]:
    """Training environments for a trial at `steps`, with all randomness seeded while they live.

    After a resumption at other `steps` no episode is played a second time.
    """
    seed = derive(context.streams.agent, 0)  # whatever `steps`: the critic is drawn from it
    with seeded(seed, context.device):
        envs = problem.make_envs(n_envs, derive(context.streams.data, steps))
        try:
            yield GymnasiumVecEnv(envs)
        finally:
            envs.close()


class Ticks(BaseCallback):
    """Calls `context.tick` about every `interval` steps, between an update and a rollout.

    Only then is every step so far learned from, so that a checkpoint loses none.
    """

    def __init__(self, context: TrialContext, interval: int, state: Callable[[], State | None]):
        super().__init__()
        self.context, self.interval, self.state = context, interval, state

    def _on_training_start(self) -> None:
        self.next = self.num_timesteps + self.interval
        self.last_told = self._last_episode()

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self.next:
            self._tick()
            self.next = self.num_timesteps + self.interval

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._tick()

    def _tick(self) -> None:
        """Tell the mean return where an episode has ended since it was told last."""
        values = {}
        if (last := self._last_episode()) is not self.last_told:
            values["episodic_return"] = float(np.mean(episodic_returns(self.model)))
            self.last_told = last
        self.context.tick(self.num_timesteps, self.state, **values)

    def _last_episode(self) -> object:
        return self.model.ep_info_buffer[-1] if self.model.ep_info_buffer else None


def train(
    model: BaseAlgorithm,
    context: TrialContext,
    *,
    total_timesteps: int,
    interval: int,
    state: Callable[[], State | None],
) -> None:
    """Learn until `total_timesteps`, those before a resumption included."""
    seed = derive(context.streams.agent, model.num_timesteps)
    reseed(seed)
    model.action_space.seed(seed)
    model.set_logger(Logger(folder=None, output_formats=[]))  # SB3's own makes a folder per run
    if model.num_timesteps:
        context.tick(model.num_timesteps, state, environments_reset=1.0)  # a resumption's mark
    remaining = total_timesteps - model.num_timesteps
    if remaining > 0:
        ticks = Ticks(context, interval, state)
        # SB3 checks for None (no log) and types it int.
        model.learn(remaining, ticks, log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]


def save(model: BaseAlgorithm) -> State:
    """What every SB3 algorithm needs to go on, but for environments and buffers.

    No generator is in it: a resumption starts environments and generators anew, seeded by the
    trial's streams and the number of steps done. Nor are parameters in the subspace, which the
    optimiser's state gives as theta_0 + P z.
    """
    inside = in_subspace(model)
    return {
        "policy": {k: v for k, v in model.policy.state_dict().items() if k not in inside},
        "optimizer": optimizer(model).state_dict(),
        "num_timesteps": model.num_timesteps,
        "n_updates": model._n_updates,
        "episodic_returns": episodic_returns(model),
    }


def in_subspace(model: BaseAlgorithm) -> set[str]:
    """The policy's names for the parameters that lie in the subspace; none natively."""
    groups = [group for group in optimizer(model).param_groups if group.get("subspace")]
    inside = {id(parameter) for group in groups for parameter in group["params"]}
    return {name for name, p in model.policy.named_parameters() if id(p) in inside}


def steps_done(resumed: State | None) -> int:
    return int(resumed["num_timesteps"]) if resumed else 0


def load(model: BaseAlgorithm, state: State) -> None:
    model.policy.load_state_dict({**model.policy.state_dict(), **state["policy"]})
    optimizer(model).load_state_dict(state["optimizer"])
    model.num_timesteps, model._n_updates = state["num_timesteps"], state["n_updates"]
    episodes = [{"r": value} for value in state["episodic_returns"]]
    model.ep_info_buffer = deque(episodes, maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(maxlen=model._stats_window_size)


def optimizer(model: BaseAlgorithm) -> torch.optim.Optimizer:
    policy: BasePolicy = model.policy
    assert policy.optimizer is not None
    return policy.optimizer


def episodic_returns(model: BaseAlgorithm) -> list[float]:
    """Returns of the last training episodes, at most SB3's window of 100."""
    return [float(episode["r"]) for episode in model.ep_info_buffer or ()]
