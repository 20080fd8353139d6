"""The task's network inside SB3's policies, which are otherwise left as they are."""

from __future__ import annotations

import copy
import math
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import get_parameters_by_name
from torch import Tensor, nn

from difficulty_bench.context import TrialContext
from difficulty_bench.errors import UsageError
from difficulty_bench.problem import Problem

from .networks import channels_last


class PreparedObservations(BaseFeaturesExtractor):
    """What evaluation feeds the network too: observations as `problem.prepare` gives them."""

    def __init__(self, observation_space: gym.Space[Any], problem: Problem) -> None:
        # the size is that of the heads that SB3 builds and `install_*` replaces
        super().__init__(observation_space, features_dim=1)
        self.prepare = problem.prepare

    def forward(self, observations: Tensor) -> Tensor:
        return channels_last(self.prepare(observations))


def policy_kwargs(problem: Problem) -> dict[str, Any]:
    """Arguments for a policy without layers or scaling of its own."""
    return {
        "features_extractor_class": PreparedObservations,
        "features_extractor_kwargs": {"problem": problem},
        "net_arch": [],
        "normalize_images": False,
    }


def install_ppo(
    model: PPO, network: nn.Module, context: TrialContext, *, lr: float, critic: str
) -> None:
    """Make `network` the actor, a critic of the same shape beside it; then their optimiser.

    SB3 builds its optimiser before these are in place, so it is built anew here, with the eps
    of 1e-5 that SB3 gives Adam (as OpenAI's baselines).
    """
    policy = model.policy
    policy.action_net = network
    # SB3 types it Linear and only ever calls it.
    policy.value_net = make_critic(network, context.device)  # type: ignore[assignment]
    parameters, aids = list(network.parameters()), list(policy.value_net.parameters())
    if critic == "subspace":
        parameters, aids = parameters + aids, []
    if hasattr(policy, "log_std"):
        aids.append(policy.log_std)
    policy.optimizer = context.optimizer(parameters, lr=lr, aids=aids, eps=1e-5)


def make_critic(network: nn.Module, device: torch.device) -> nn.Module:
    """`network` with one output, drawn anew from the global generator as SB3 draws its critics.

    What is frozen stays as it is, a pretrained encoder, say. Raise UsageError where there is no
    nn.Linear to take as its output layer.
    """
    critic = copy.deepcopy(nn.Sequential(network) if isinstance(network, nn.Linear) else network)
    layers = [(n, m) for n, m in critic.named_modules() if n and isinstance(m, nn.Linear)]
    if not layers:
        raise UsageError(
            "PPO derives its critic from the network, whose last layer must be an nn.Linear"
        )
    path, old = layers[-1]
    head = nn.Linear(old.in_features, 1, bias=old.bias is not None, device=device)
    critic.set_submodule(path, head)
    for module in critic.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and module.weight.requires_grad:
            nn.init.orthogonal_(module.weight, 1.0 if module is head else math.sqrt(2))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return critic


def install_dqn(model: DQN, network: nn.Module, context: TrialContext, *, lr: float) -> None:
    """Make `network` the Q network, a copy of it the target; then the optimiser."""
    policy = model.policy
    policy.q_net.q_net = network  # type: ignore[assignment]
    policy.q_net_target.q_net = copy.deepcopy(network)  # type: ignore[assignment]
    policy.q_net_target.set_training_mode(False)
    model.batch_norm_stats = get_parameters_by_name(model.q_net, ["running_"])
    model.batch_norm_stats_target = get_parameters_by_name(model.q_net_target, ["running_"])
    policy.optimizer = context.optimizer(network.parameters(), lr=lr)
