"""stable-baselines3's algorithms as agents: the same algorithms, in place, resumable."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO
from torch import Tensor, nn

from agents import sb3, sb3_networks
from agents.sb3_training import (
    environments,
    episodic_returns,
    load,
    save,
    schedule,
    train,
)
from agents.sb3_vec_env import GymnasiumVecEnv
from difficulty_bench.checkpoint import read_checkpoint
from difficulty_bench.context import Interrupted, TrialContext
from difficulty_bench.errors import UsageError
from difficulty_bench.generators import reseed, seeded
from difficulty_bench.problem import EnvironmentProblem, count_parameters
from difficulty_bench.registry import EarlyStop, Task
from difficulty_bench.results import Request, TrialResult
from difficulty_bench.seeds import derive
from difficulty_bench.solution import Solution
from difficulty_bench.subspace import SubspaceOptimizer
from difficulty_bench.trial import Runtime, Trial, build_network, parameter_vector, run_trial
from envs import control
from tests.tiny import StopAfter, request

Keys = dict[str, Any]
on_each_device = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
)

PPO_KEYS: Keys = {
    "entry_point": "agents.sb3:ppo",
    "total_timesteps": 640,
    "n_envs": 4,
    "n_steps": 16,
    "n_epochs": 2,
    "learning_rate": 0.01,
}
DQN_KEYS: Keys = {
    "entry_point": "agents.sb3:dqn",
    "total_timesteps": 1600,
    "learning_rate": 0.001,
    "buffer_size": 2000,
    "target_update_interval": 50,
}


def make_task(agent: Keys, id: str = "CartPole-v1") -> Task:
    return Task.model_validate(
        {
            "name": "test",
            "version": 1,
            "paradigm": "reinforcement",
            "description": "an environment of the tests",
            "problem": {"entry_point": "envs.control:make", "id": id, "eval_episodes": 5},
            "network": {
                "entry_point": "agents.networks:mlp",
                **{"width": 8, "depth": 1, "activation": "tanh"},
            },
            "agent": agent,
            "floor": 0.0,
            "search": {"d_max": 50},
        }
    )


def run(agent: Keys, d: int = 0, **runtime: Any) -> TrialResult:
    return run_trial(Trial(make_task(agent), request(d)), Runtime(**runtime))


class Setting:
    """What run_trial hands to an agent, kept within reach."""

    def __init__(self, agent: Keys, d: int = 0, id: str = "CartPole-v1", **runtime: Any):
        self.task = make_task(agent, id)
        trial = Trial(self.task, request(d, lr_scale=3.0))
        self.streams = trial.streams
        self.problem: EnvironmentProblem = self.task.problem()
        self.network = build_network(self.task, self.problem, trial.streams.theta_0)
        self.theta_0 = self.theta()
        self.context = TrialContext(trial, count_parameters(self.network), Runtime(**runtime))

    def theta(self) -> Tensor:
        return parameter_vector(self.network)

    def train(self) -> torch.optim.Optimizer:
        self.task.agent(self.problem, self.network, self.context)
        assert self.context._trained is not None
        return self.context._trained


# The algorithms are SB3's


def copy_weights(pairs: list[tuple[nn.Module, nn.Module]]) -> None:
    for source, target in pairs:
        target.load_state_dict(source.state_dict())


def test_native_ppo_is_plain_ppo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights and seeds give the same weights after ten updates."""
    setting = Setting(PPO_KEYS)
    plain = PPO(
        "MlpPolicy",
        GymnasiumVecEnv(setting.problem.make_envs(4, derive(setting.streams.data, 0))),
        learning_rate=0.03,  # the setting's lr_scale is in it
        n_steps=16,
        n_epochs=2,
        policy_kwargs={"net_arch": {"pi": [8], "vf": [8]}},
    )
    actor, body = setting.network, plain.policy.mlp_extractor
    critic = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    copy_weights([(body.policy_net[0], actor[1]), (plain.policy.action_net, actor[3])])
    copy_weights([(body.value_net[0], critic[1]), (plain.policy.value_net, critic[3])])
    monkeypatch.setattr(sb3_networks, "make_critic", lambda *_: critic)
    setting.train()
    reseed(derive(setting.streams.agent, 0))
    plain.learn(640)
    torch.testing.assert_close(actor[1].state_dict(), body.policy_net[0].state_dict())
    torch.testing.assert_close(actor[3].state_dict(), plain.policy.action_net.state_dict())
    torch.testing.assert_close(critic[3].state_dict(), plain.policy.value_net.state_dict())


def test_native_dqn_is_plain_dqn() -> None:
    setting = Setting(DQN_KEYS)
    plain = DQN(
        "MlpPolicy",
        GymnasiumVecEnv(setting.problem.make_envs(1, derive(setting.streams.data, 0))),
        learning_rate=0.003,
        buffer_size=2000,
        target_update_interval=50,
        policy_kwargs={"net_arch": [8], "activation_fn": nn.Tanh},
    )
    ours, theirs = setting.network, plain.q_net.q_net
    copy_weights([(theirs[0], ours[1]), (theirs[2], ours[3])])
    plain.q_net_target.load_state_dict(plain.q_net.state_dict())
    setting.train()
    seed = derive(setting.streams.agent, 0)
    reseed(seed)
    plain.action_space.seed(seed)
    plain.learn(1600)
    torch.testing.assert_close(ours[1].state_dict(), theirs[0].state_dict())
    torch.testing.assert_close(ours[3].state_dict(), theirs[2].state_dict())


# The subspace


@pytest.mark.parametrize("agent", [PPO_KEYS, DQN_KEYS])
def test_the_network_moves_in_place_within_its_subspace(agent: Keys) -> None:
    setting = Setting(agent, d=5)
    optimizer = setting.train()
    assert isinstance(optimizer, SubspaceOptimizer)
    assert optimizer.z.abs().min() > 0
    expected = setting.theta_0 + optimizer.projection.project(optimizer.z)
    torch.testing.assert_close(setting.theta(), expected)


def test_a_native_critic_keeps_its_learning_rate_beside_a_scaled_z() -> None:
    optimizer = Setting(PPO_KEYS, d=5).train()
    policy, critic = optimizer.param_groups
    assert policy["lr"] == critic["lr"] == 0.01
    assert (policy["lr_scale"], critic["lr_scale"]) == (3.0, 1.0)
    assert policy["eps"] == 1e-5
    assert sum(p.numel() for p in critic["params"]) == 4 * 8 + 8 + 8 + 1


def test_a_critic_in_the_subspace_comes_after_the_policy() -> None:
    setting = Setting({**PPO_KEYS, "critic": "subspace"}, d=5)
    optimizer = setting.train()
    assert isinstance(optimizer, SubspaceOptimizer)
    moved = optimizer.theta_0 + optimizer.projection.project(optimizer.z)
    torch.testing.assert_close(setting.theta(), moved[: setting.context.D])
    assert len(moved) == setting.context.D + 4 * 8 + 8 + 8 + 1


def test_a_solution_whose_critic_shares_the_subspace_is_rebuilt() -> None:
    """P spans both, so the policy's own D would draw another P."""
    setting = Setting({**PPO_KEYS, "critic": "subspace"}, d=5)
    setting.train()
    trial = Trial(setting.task, Request("trial", 5, 0, lr_scale=3.0))
    result = run_trial(trial, Runtime())
    assert result.z is not None
    z = torch.frombuffer(bytearray(result.z), dtype=torch.float32)
    again = Solution(trial, (), result.D, z).network()
    torch.testing.assert_close(parameter_vector(again), setting.theta())


def test_the_noise_of_continuous_actions_is_no_part_of_the_policy() -> None:
    setting = Setting({**PPO_KEYS, "learning_rate": 0.001}, d=5, id="Pendulum-v1")
    noise = setting.train().param_groups[1]["params"][-1].detach()
    assert noise.shape == (1,)
    assert noise.all()
    assert setting.context.D == 3 * 8 + 8 + 8 + 1


class Nested(nn.Module):
    """The last layer is a direct child, those before it are not."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
        self.head = nn.Linear(8, 2, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.trunk(x))


@pytest.mark.parametrize("bias", [True, False])
def test_the_critics_head_takes_the_place_of_the_last_layer(bias: bool) -> None:
    critic = sb3_networks.make_critic(Nested(bias), torch.device("cpu"))
    assert critic(torch.zeros(3, 4)).shape == (3, 1)
    assert sum(p.numel() for p in critic.parameters()) == 4 * 8 + 8 + 8 + bias


def test_a_network_without_a_last_layer_has_no_critic() -> None:
    with pytest.raises(UsageError, match=r"must be an nn\.Linear"):
        sb3_networks.make_critic(nn.Sequential(nn.Conv1d(4, 2, 1)), torch.device("cpu"))


def test_the_critic_of_a_linear_policy_is_linear() -> None:
    critic = sb3_networks.make_critic(nn.Linear(4, 2), torch.device("cpu"))
    assert critic(torch.zeros(3, 4)).shape == (3, 1)


def test_what_the_policy_keeps_frozen_the_critic_keeps_too() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 2))
    network[0].requires_grad_(False)
    critic = sb3_networks.make_critic(network, torch.device("cpu"))
    assert torch.equal(critic[0].weight, network[0].weight)  # type: ignore[index]
    assert not torch.equal(critic[2].weight, network[2].weight)  # type: ignore[index]
    assert [p.requires_grad for p in critic.parameters()] == [False] * 2 + [True] * 4


def test_the_return_is_told_when_an_episode_has_ended() -> None:
    """A window told twice would count twice for `early_stop`."""
    result = run({**PPO_KEYS, "n_envs": 1, "n_steps": 4, "batch_size": 4}, 5)
    told = [value for _, name, value in result.curve if name == "episodic_return"]
    ended = round(result.steps / np.mean(told))  # CartPole's return is its length
    assert 1 < len(told) <= 1.5 * ended < result.steps / 4
    assert all(a != b for a, b in pairwise(told))


def test_the_critic_is_drawn_as_sb3_draws_it() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2))
    critic = sb3_networks.make_critic(network, torch.device("cpu"))
    hidden, head = critic[0], critic[3]  # type: ignore[index]
    torch.testing.assert_close(hidden.weight.T @ hidden.weight, 2 * torch.eye(4))
    assert head.weight.shape == (1, 8)
    assert head.weight.norm().item() == pytest.approx(1)
    assert not head.bias.any()
    assert network[3].weight.shape == (2, 8)


def test_schedules_never_go_below_zero() -> None:
    falling = schedule(0.2, "linear")
    assert [falling(x) for x in (1.0, 0.5, 0.0, -0.1)] == [0.2, 0.1, 0.0, 0.0]
    assert schedule(0.2, "constant")(-0.1) == 0.2


# Randomness


@on_each_device
@pytest.mark.parametrize("agent", [PPO_KEYS, DQN_KEYS], ids=["ppo", "dqn"])
def test_a_trial_repeats_whatever_ran_before_and_leaves_no_trace(agent: Keys, device: str) -> None:
    first = run(agent, d=5, device=device)
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    again = run(agent, d=5, device=device)
    assert (first.score, first.z, first.curve) == (again.score, again.z, again.curve)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    assert before[2] == random.getstate()


def test_a_resumption_meets_new_episodes_and_draws_the_same_critic() -> None:
    setting = Setting(PPO_KEYS)
    seen = []
    for steps in (0, 64, 64):
        with environments(setting.problem, setting.context, 2, steps) as envs:
            seen.append((envs.reset(), torch.rand(3)))
    (first, critic), (other, same), (again, _) = seen
    assert not np.isin(first, other).any()
    assert np.array_equal(other, again)
    assert torch.equal(critic, same)


def test_a_resumption_draws_other_numbers_than_the_beginning() -> None:
    setting = Setting(PPO_KEYS)
    drawn = []
    for steps in (0, 640, 640):
        actions = gym.spaces.Discrete(1000)
        model: Any = SimpleNamespace(
            num_timesteps=steps, action_space=actions, set_logger=id, learn=lambda *_, **__: None
        )
        with seeded(0, torch.device("cpu")):
            train(model, setting.context, total_timesteps=640, interval=1, state=None)
            own = [int(actions.sample()) for _ in range(5)]
            drawn.append((own, torch.rand(1).item(), np.random.rand(), random.random()))
    assert drawn[1] == drawn[2]
    assert not any(a == b for a, b in zip(drawn[0], drawn[1], strict=True))


def test_what_is_saved_is_what_is_loaded() -> None:
    def fresh() -> PPO:
        envs = GymnasiumVecEnv(make_task(PPO_KEYS).problem().make_envs(2, 0))
        return PPO("MlpPolicy", envs, n_steps=32, batch_size=64, n_epochs=3)

    with seeded(0, torch.device("cpu")):
        model, again = fresh(), fresh()
        model.learn(128)
        load(again, save(model))
    assert (again.num_timesteps, again._n_updates) == (128, 6)
    assert episodic_returns(again) == episodic_returns(model) != []
    assert again.ep_info_buffer is not None
    assert again.ep_info_buffer.maxlen == 100
    torch.testing.assert_close(again.policy.state_dict(), model.policy.state_dict())
    moments = (m.policy.optimizer.state_dict()["state"] for m in (again, model))
    torch.testing.assert_close(*moments)


# Resumption


@pytest.mark.parametrize(("agent", "d"), [(PPO_KEYS, 0), (PPO_KEYS, 5), (DQN_KEYS, 5)])
@pytest.mark.parametrize(
    ("device", "other"),
    [
        ("cpu", "cpu"),
        *(
            pytest.param(*pair, marks=pytest.mark.gpu)
            for pair in (("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda"))
        ),
    ],
)
def test_an_interrupted_trial_goes_on_where_it_was(
    agent: Keys, d: int, device: str, other: str, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        run(agent, d, device=device, checkpoint_dir=tmp_path, stop=StopAfter(1))
    (checkpoint,) = tmp_path.glob("*.pt")
    saved = torch.load(checkpoint, weights_only=True, map_location="cpu")
    result = run(agent, d, device=other, checkpoint_dir=tmp_path)
    assert result.state == "complete"
    assert result.steps == agent["total_timesteps"]
    (reset,) = [point for point in result.curve if point[1] == "environments_reset"]
    assert reset[0] == saved["steps"] == saved["state"]["num_timesteps"] > 0
    steps = [step for step, name, _ in result.curve if name == "episodic_return"]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize("agent", [PPO_KEYS, DQN_KEYS], ids=["ppo", "dqn"])
def test_a_stop_while_a_trial_resumes_loses_nothing(agent: Keys, tmp_path: Path) -> None:
    for stop in (StopAfter(1), StopAfter(0)):
        with pytest.raises(Interrupted):
            run(agent, 5, checkpoint_dir=tmp_path, stop=stop)
    (checkpoint,) = map(read_checkpoint, tmp_path.glob("*.pt"))
    assert checkpoint.state is not None
    assert checkpoint.steps == checkpoint.state["num_timesteps"] > 0


def test_no_target_of_n_steps_runs_on_into_what_follows_a_resumption(tmp_path: Path) -> None:
    agent = {**DQN_KEYS, "n_steps": 3, "n_envs": 2}
    with pytest.raises(Interrupted):
        run(agent, 5, checkpoint_dir=tmp_path, stop=StopAfter(1))
    (checkpoint,) = map(read_checkpoint, tmp_path.glob("*.pt"))
    assert checkpoint.state is not None
    envs = GymnasiumVecEnv(make_task(agent).problem().make_envs(2, 0))
    model = DQN("MlpPolicy", envs, buffer_size=2000, n_steps=3)
    state = {**checkpoint.state, "policy": {}, "optimizer": model.policy.optimizer.state_dict()}
    sb3.load_dqn(model, state)
    buffer = model.replay_buffer
    assert buffer is not None
    last = buffer.pos - 1
    assert last > 0
    assert ((buffer.dones[last] + buffer.timeouts[last]) > 0).all()
    assert (buffer.timeouts[last] == 1 - buffer.dones[last]).all()


@pytest.mark.parametrize("d", [0, 5])
def test_weights_moments_and_schedule_survive_a_resumption(d: int, tmp_path: Path) -> None:
    agent = {**PPO_KEYS, "lr_schedule": "linear"}
    setting = Setting(agent, d, checkpoint_dir=tmp_path, stop=StopAfter(4))
    with pytest.raises(Interrupted):
        setting.train()
    # stop again at once: the second checkpoint is the first, saved by the resumed training
    resumed = Setting(agent, d, checkpoint_dir=tmp_path, stop=StopAfter(1))
    with pytest.raises(Interrupted):
        resumed.train()
    assert resumed.context.steps == setting.context.steps + 64
    optimizer = resumed.context._trained
    assert optimizer is not None
    remaining = 1 - resumed.context.steps / 640
    assert optimizer.param_groups[0]["lr"] == pytest.approx(
        resumed.context.learning_rate(0.01) * remaining
    )
    steps_taken = {float(entry["step"]) for entry in optimizer.state_dict()["state"].values()}
    assert steps_taken == {resumed.context.steps / 64 * 2}  # 2 epochs of one minibatch a rollout


@pytest.mark.parametrize("d", [0, 7])
@pytest.mark.parametrize("agent", [PPO_KEYS, DQN_KEYS], ids=["ppo", "dqn"])
def test_the_tasks_rule_ends_a_trial_early(agent: Keys, d: int) -> None:
    rule = EarlyStop(metric="episodic_return", at=1.0, times=1)
    task = make_task(agent).model_copy(update={"early_stop": rule})
    result = run_trial(Trial(task, request(d)), Runtime())
    assert result.state == "complete"
    assert 0 < result.steps < agent["total_timesteps"]
    assert [name for _, name, _ in result.curve] == ["episodic_return"]


def test_a_large_replay_buffer_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sb3, "MAX_SAVED_REPLAY_BYTES", 1000)
    with pytest.raises(Interrupted):
        run(DQN_KEYS, 5, checkpoint_dir=tmp_path, stop=StopAfter(1))
    (mark,) = tmp_path.iterdir()
    assert read_checkpoint(mark).state is None
    assert mark.stat().st_size < 4000
    again = run({**DQN_KEYS, "total_timesteps": 1040}, 5, checkpoint_dir=tmp_path)
    assert "environments_reset" not in {name for _, name, _ in again.curve}  # started again


def test_a_replay_buffer_of_which_little_is_used_is_saved(tmp_path: Path) -> None:
    agent = {**DQN_KEYS, "buffer_size": 1_000_000}  # SB3's default: 50 MiB of CartPole's
    with pytest.raises(Interrupted):
        run(agent, 5, checkpoint_dir=tmp_path, stop=StopAfter(1))
    (checkpoint,) = tmp_path.iterdir()
    assert read_checkpoint(checkpoint).state is not None
    assert checkpoint.stat().st_size < 100_000
    result = run(agent, 5, checkpoint_dir=tmp_path)
    assert "environments_reset" in {name for _, name, _ in result.curve}


# Refusals


@pytest.mark.parametrize(
    ("agent", "id", "says"),
    [
        (DQN_KEYS, "Pendulum-v1", "Pendulum-v1: DQN .* use agents.sb3:ppo"),
        ({**PPO_KEYS, "batch_size": 60}, "CartPole-v1", "batch_size = 60 does not divide"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(agent: Keys, id: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Setting(agent, id=id).train()


def test_a_data_set_is_no_environment() -> None:
    setting = Setting(PPO_KEYS)
    data: Any = object()
    with pytest.raises(UsageError, match="'ppo' needs environments"):
        sb3.ppo(data, setting.network, setting.context, total_timesteps=1)


# What the task says


ODD: dict[str, Keys] = {
    "PPO": {
        **{"n_steps": 12, "batch_size": 6, "n_epochs": 3, "gamma": 0.9, "gae_lambda": 0.8},
        **{"ent_coef": 0.3, "vf_coef": 0.4, "max_grad_norm": 0.7},
    },
    "DQN": {
        **{"buffer_size": 99, "learning_starts": 7, "batch_size": 5, "gamma": 0.9},
        **{"train_freq": 3, "gradient_steps": 2, "n_steps": 6, "target_update_interval": 11},
        **{"exploration_fraction": 0.6, "exploration_final_eps": 0.2, "max_grad_norm": 0.7},
    },
}


@pytest.mark.parametrize(("name", "agent"), [("PPO", PPO_KEYS), ("DQN", DQN_KEYS)])
def test_every_key_reaches_the_algorithm(
    name: str, agent: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Keys = {}

    class Caught(Exception):
        pass

    def algorithm(*_: Any, **keys: Any) -> None:
        seen.update(keys)
        raise Caught

    monkeypatch.setattr(sb3, name, algorithm)
    own = ODD[name]
    linear: Keys = {"lr_schedule": "linear"}
    if name == "PPO":
        linear |= {"clip_range": 0.3, "clip_schedule": "linear"}
    with pytest.raises(Caught):
        Setting({**agent, **own, **linear}).train()
    assert {key: seen[key] for key in own} == own
    assert seen["learning_rate"](0.5) == pytest.approx(3 * agent["learning_rate"] / 2)
    if name == "PPO":
        assert seen["clip_range"](0.5) == pytest.approx(0.15)


def test_the_learner_sees_prepared_observations() -> None:
    problem = control.make(id="CartPole-v1", scale=0.5)
    x = torch.randn(3, 4)
    seen = sb3_networks.PreparedObservations(problem.observation_space, problem)(x)
    torch.testing.assert_close(seen, x / 2)


def test_a_resumed_dqn_stands_where_the_stopped_one_did() -> None:
    """Its replay buffer has gone round once."""
    keys = {"buffer_size": 50, "learning_starts": 10, "exploration_fraction": 0.9, "seed": 0}
    envs = GymnasiumVecEnv(control.make(id="CartPole-v1").make_envs(1, 0))
    stopped, resumed = (DQN("MlpPolicy", envs, **keys) for _ in range(2))
    stopped.learn(120)
    state = sb3.save_dqn(stopped)
    assert state is not None
    sb3.load_dqn(resumed, state)
    one, other = stopped.replay_buffer, resumed.replay_buffer
    assert one is not None
    assert other is not None
    assert one.dones.any()
    for name in sb3.REPLAY_ARRAYS:
        expected = getattr(one, name).copy()
        if name == "timeouts":  # of the last step, after which other episodes begin
            expected[one.pos - 1] = one.dones[one.pos - 1] == 0
        np.testing.assert_array_equal(getattr(other, name), expected)
    assert (other.pos, other.full) == (one.pos, True)
    assert resumed._n_calls == stopped._n_calls > 0
    assert resumed.exploration_rate == stopped.exploration_rate < 1
