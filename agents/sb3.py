"""stable-baselines3's PPO and DQN, unmodified, as agents.

The task's network is trained in place and alone makes up D. Whatever else an algorithm trains
(PPO's critic, the exploration noise of continuous actions) is a training aid in its own native
space, unless `critic: subspace` says otherwise. Defaults are SB3's own.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import torch
from gymnasium.spaces import Discrete
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from torch import nn

from difficulty_bench.context import TrialContext
from difficulty_bench.errors import UsageError
from difficulty_bench.problem import EnvironmentProblem, Problem

from .sb3_networks import install_dqn, install_ppo, policy_kwargs
from .sb3_training import (
    Shape,
    State,
    checked_problem,
    environments,
    load,
    save,
    schedule,
    steps_done,
    train,
)

Share = Annotated[float, Field(ge=0, le=1)]

DQN_TICK_STEPS = 1000
MAX_SAVED_REPLAY_BYTES = 32 * 2**20  # a replay buffer that holds more is not saved


def ppo(
    problem: Problem,
    network: nn.Module,
    context: TrialContext,
    *,
    total_timesteps: PositiveInt,
    learning_rate: PositiveFloat = 3e-4,
    lr_schedule: Shape = "constant",
    n_envs: PositiveInt = 1,
    n_steps: PositiveInt = 2048,
    batch_size: Annotated[int, Field(ge=2)] = 64,
    n_epochs: PositiveInt = 10,
    gamma: Share = 0.99,
    gae_lambda: Share = 0.95,
    clip_range: PositiveFloat = 0.2,
    clip_schedule: Shape = "constant",
    ent_coef: NonNegativeFloat = 0.0,
    vf_coef: NonNegativeFloat = 0.5,
    max_grad_norm: PositiveFloat = 0.5,
    critic: Literal["native", "subspace"] = "native",
) -> None:
    """Proximal policy optimisation (Schulman et al. 2017).

    `critic: subspace` puts the critic's parameters into the subspace, after the policy's; the
    learning-rate rules go on counting the policy's D.
    """
    acting = ppo_check(problem, n_envs=n_envs, n_steps=n_steps, batch_size=batch_size)
    resumed = context.resume()
    with environments(acting, context, n_envs, steps_done(resumed)) as envs:
        model = PPO(
            # the same class as SB3's MlpPolicy but for the extractor, replaced here, and
            # without its warning on a GPU
            ActorCriticCnnPolicy,
            envs,
            learning_rate=schedule(context.learning_rate(learning_rate), lr_schedule),
            n_steps=n_steps,
            batch_size=batch_size,
            n_epochs=n_epochs,
            gamma=gamma,
            gae_lambda=gae_lambda,
            clip_range=schedule(clip_range, clip_schedule),
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            policy_kwargs={**policy_kwargs(problem), "ortho_init": False},
            device=context.device,
        )
        install_ppo(model, network, context, lr=learning_rate, critic=critic)
        if resumed:
            load(model, resumed)
        train(
            model,
            context,
            total_timesteps=total_timesteps,
            interval=1,
            state=lambda: save(model),
        )


def ppo_check(
    problem: Problem, *, n_envs: int, n_steps: int, batch_size: int, **others: Any
) -> EnvironmentProblem:
    """Raise UsageError for a data set, and for batches that do not fill a rollout."""
    if n_envs * n_steps % batch_size:
        raise UsageError(
            f"agent.batch_size = {batch_size} does not divide a rollout of n_envs * n_steps = "
            f"{n_envs * n_steps}; choose a divisor"
        )
    return checked_problem(problem, "ppo")


def dqn(
    problem: Problem,
    network: nn.Module,
    context: TrialContext,
    *,
    total_timesteps: PositiveInt,
    learning_rate: PositiveFloat = 1e-4,
    lr_schedule: Shape = "constant",
    n_envs: PositiveInt = 1,
    buffer_size: PositiveInt = 1_000_000,
    learning_starts: NonNegativeInt = 100,
    batch_size: PositiveInt = 32,
    gamma: Share = 0.99,
    train_freq: PositiveInt = 4,
    gradient_steps: PositiveInt = 1,
    n_steps: PositiveInt = 1,
    target_update_interval: PositiveInt = 10_000,
    exploration_fraction: Share = 0.1,
    exploration_final_eps: Share = 0.05,
    max_grad_norm: PositiveFloat = 10.0,
) -> None:
    """Deep Q learning (Mnih et al. 2015) with a target network and a Huber loss.

    `train_freq` counts steps of the vectorised environment, as in SB3; `n_steps` is how many
    rewards a target sums before it bootstraps (Sutton 1988). Once its replay
    buffer holds more than MAX_SAVED_REPLAY_BYTES, a trial saves no more, and goes on from what it
    saved before.
    """
    acting = dqn_check(problem)
    resumed = context.resume()
    with environments(acting, context, n_envs, steps_done(resumed)) as envs:
        model = DQN(
            "MlpPolicy",
            envs,
            learning_rate=schedule(context.learning_rate(learning_rate), lr_schedule),
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            n_steps=n_steps,
            target_update_interval=target_update_interval,
            exploration_fraction=exploration_fraction,
            exploration_final_eps=exploration_final_eps,
            max_grad_norm=max_grad_norm,
            policy_kwargs=policy_kwargs(problem),
            device=context.device,
        )
        install_dqn(model, network, context, lr=learning_rate)
        if resumed:
            load_dqn(model, resumed)
        train(
            model,
            context,
            total_timesteps=total_timesteps,
            interval=DQN_TICK_STEPS,
            state=lambda: save_dqn(model),
        )


def dqn_check(problem: Problem, **parameters: Any) -> EnvironmentProblem:
    """Raise UsageError for a data set, and for continuous actions."""
    acting = checked_problem(problem, "dqn")
    if not isinstance(acting.action_space, Discrete):
        raise UsageError(
            f"{acting.id}: DQN chooses among discrete actions and these are continuous; use "
            "agents.sb3:ppo"
        )
    return acting


REPLAY_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def save_dqn(model: DQN) -> State | None:
    """None where the replay buffer holds too much: most of its capacity is often empty."""
    buffer = model.replay_buffer
    assert buffer is not None
    used = buffer.size()
    replay = {name: getattr(buffer, name)[:used] for name in REPLAY_ARRAYS}
    if sum(array.nbytes for array in replay.values()) > MAX_SAVED_REPLAY_BYTES:
        return None
    return {
        **save(model),
        "n_calls": model._n_calls,
        "exploration_rate": float(model.exploration_rate),
        "replay_position": buffer.pos,
        "replay": {name: torch.from_numpy(array) for name, array in replay.items()},
    }


def load_dqn(model: DQN, state: State) -> None:
    load(model, state)
    model._n_calls, model.exploration_rate = state["n_calls"], state["exploration_rate"]
    buffer = model.replay_buffer
    assert buffer is not None
    for name, saved in state["replay"].items():
        getattr(buffer, name)[: len(saved)] = saved.numpy()
    buffer.pos = state["replay_position"]
    buffer.full = len(state["replay"]["rewards"]) == buffer.buffer_size
    if buffer.pos or buffer.full:
        # What comes next is of other episodes: no target of n steps may run on into them.
        last = buffer.pos - 1
        buffer.timeouts[last] = np.logical_or(buffer.timeouts[last], buffer.dones[last] == 0)
