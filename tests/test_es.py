"""Evolution strategies: mathematics of the estimate, whole episodes, exact resumption."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from torch import Tensor, nn

from agents import es, es_population, stacked
from agents.es_population import Arena, first_episodes
from agents.es_strategies import CMAES, OpenAIES, centred_ranks
from agents.networks import li2018_cnn, mlp
from agents.stacked import StackedNetwork
from difficulty_bench.context import Interrupted, TrialContext
from difficulty_bench.coordinates import Coordinates
from difficulty_bench.entry_point import EntryPoint
from difficulty_bench.errors import UsageError
from difficulty_bench.problem import EnvironmentProblem, Evaluation, count_parameters
from difficulty_bench.projection import Identity, make
from difficulty_bench.registry import Task
from difficulty_bench.results import Request, TrialResult
from difficulty_bench.solution import Solution
from difficulty_bench.trial import Runtime, Trial, build_network, parameter_vector, run_trial
from envs import atari, control
from tests.quadratic import Quadratic
from tests.test_sb3 import on_each_device
from tests.tiny import StopAfter, request

Keys = dict[str, Any]

CPU = torch.device("cpu")
OPENAI: Keys = {"cma_max_d": 0, "population": 16, "sigma": 0.1, "learning_rate": 0.1}
CMA: Keys = {"cma_max_d": 100, "cma_sigma": 0.3}
STRATEGIES = pytest.mark.parametrize("keys", [OPENAI, CMA], ids=["openai", "cma"])
DIMENSIONS = pytest.mark.parametrize("d", [0, 1, 4])


def make_task(keys: Keys) -> Task:
    return Task.model_validate(
        {
            "name": "test",
            "version": 1,
            "paradigm": "reinforcement",
            "description": "an environment of the tests",
            "problem": {
                "entry_point": "envs.control:make",
                "id": "tests.quadratic:Quadratic-v0",
                "eval_episodes": 20,
            },
            "network": {"entry_point": "agents.networks:mlp", "width": 4, "depth": 1},
            "agent": {"entry_point": "agents.es:evolve", "total_timesteps": 1200, **keys},
            "floor": -100.0,
            "search": {"d_max": 26},
        }
    )


def trial_of(keys: Keys, d: int) -> Trial:
    return Trial(make_task(keys), request(d, lr_scale=math.sqrt(26 / d) if d else 1.0))


def run(keys: Keys, d: int = 0, **runtime: Any) -> TrialResult:
    return run_trial(trial_of(keys, d), Runtime(**runtime))


class Setting:
    """What run_trial hands to an agent, kept within reach."""

    def __init__(self, keys: Keys, d: int) -> None:
        trial = trial_of(keys, d)
        self.task, self.problem = trial.task, trial.task.problem()
        self.network = build_network(trial.task, self.problem, trial.streams.theta_0)
        self.theta_0 = parameter_vector(self.network)
        self.context = TrialContext(trial, count_parameters(self.network), Runtime())

    def train(self) -> None:
        self.task.agent(self.problem, self.network, self.context)


# Many policies at once


@pytest.mark.parametrize("shape", ["chain", "convolutions"])
def test_a_batch_of_policies_is_each_policy_alone(shape: str) -> None:
    inputs = (5,) if shape == "chain" else (2, 12, 12)
    network = mlp(inputs, 3, width=7) if shape == "chain" else li2018_cnn(inputs, 3)
    thetas = torch.randn(4, count_parameters(network)) / 10
    x = torch.randn(4, 2, *inputs)
    together = StackedNetwork(network).bind(thetas)(x)
    assert together.shape == (4, 2, 3)
    for theta, rows, outputs in zip(thetas, x, together, strict=True):
        nn.utils.vector_to_parameters(theta, network.parameters())
        torch.testing.assert_close(outputs, network(rows), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("inputs", [(5,), (3, 5), (2, 3, 5)])
@pytest.mark.parametrize("episodes", [1, 2])
def test_a_chain_and_vmap_agree(inputs: tuple[int, ...], bias: bool, episodes: int) -> None:
    """On inputs of several axes, too, where a layer takes the last one before they are flat."""
    flat = 6 * math.prod(inputs[:-1])
    layers = nn.Linear(5, 6, bias=bias), nn.Tanh(), nn.Flatten(), nn.Linear(flat, 3, bias=bias)
    network = nn.Sequential(*layers)
    policies = StackedNetwork(network)
    thetas, x = torch.randn(4, count_parameters(network)), torch.randn(4, episodes, *inputs)
    assert stacked.chain(network) is not None
    fast = policies.bind(thetas)(x)
    policies._forward = stacked.vmapped(network)
    torch.testing.assert_close(fast, policies.bind(thetas)(x))


@pytest.mark.parametrize("ways", ["by_groups", "by_patches"])
@pytest.mark.parametrize(
    "keys",
    [{}, {"stride": 2, "padding": 1}, {"stride": (1, 2), "bias": False}, {"padding": (0, 2)}],
)
def test_convolutions_of_a_batch_agree_with_vmap(
    ways: str, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either way is made for one device, and right on both; with gradients, which training takes."""
    monkeypatch.setattr(stacked, "by_groups", getattr(stacked, ways))
    convolutions = (
        nn.Conv2d(2, 4, (3, 2), **keys),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 3, 2, **keys),
    )
    network = nn.Sequential(*convolutions, nn.Flatten(), nn.LazyLinear(2))
    x = torch.randn(4, 5, 2, 11, 12)
    network(x[0])
    thetas = torch.randn(4, count_parameters(network), requires_grad=True)
    policies = StackedNetwork(network)
    assert stacked.chain(network) is not None
    found = policies.bind(thetas)(x)
    policies._forward = stacked.vmapped(network)
    expected = policies.bind(thetas)(x)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    gradients = [torch.autograd.grad(y.square().mean(), thetas)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 4, 3, groups=2),
        nn.Conv2d(2, 4, 3, padding="same"),
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(2, 4, 3, dilation=2),
        nn.ConvTranspose2d(2, 4, 3),
    ],
)
def test_other_convolutions_are_left_to_vmap(layer: nn.Module) -> None:
    network, x = nn.Sequential(layer, nn.Tanh()), torch.randn(3, 2, 2, 8, 8)
    assert stacked.chain(network) is None
    thetas = torch.randn(3, count_parameters(network))
    for theta, rows, outputs in zip(
        thetas, x, StackedNetwork(network).bind(thetas)(x), strict=True
    ):
        nn.utils.vector_to_parameters(theta, network.parameters())
        torch.testing.assert_close(outputs, network(rows), atol=1e-5, rtol=1e-4)


class Doubled(nn.Sequential):
    """A chain by its class and by its layers, and not by what it does."""

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = 2 * super().forward(x)
        return output


class Clipped(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).clamp(-0.1, 0.1)


class Twice(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.second(self.first(x).tanh())
        return output


def tied() -> nn.Module:
    network = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5))
    network[2].weight = network[0].weight
    return network


def hooked() -> nn.Module:
    network = nn.Sequential(nn.Linear(5, 5), nn.Tanh())
    network[0].register_forward_hook(lambda layer, inputs, output: output + 1)
    return network


ACTIVATION, LAYER = nn.ReLU(), nn.Linear(5, 5)
CURIOUS: dict[str, nn.Module] = {
    "one activation": nn.Sequential(nn.Linear(5, 5), ACTIVATION, nn.Linear(5, 5), ACTIVATION),
    "one layer": nn.Sequential(LAYER, nn.Tanh(), LAYER),
    "its own forward": Doubled(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 2)),
    "a layer's own forward": nn.Sequential(Clipped(5, 3), nn.Tanh(), nn.Linear(3, 2)),
    "tied weights": tied(),
    "a hook": hooked(),
    "one module": Twice(),
    "another flattening": nn.Sequential(nn.Linear(5, 6), nn.Flatten(0, -1), nn.Linear(12, 2)),
}


@pytest.mark.parametrize("network", CURIOUS.values(), ids=list(CURIOUS))
def test_whatever_a_network_does_a_batch_of_it_does(network: nn.Module) -> None:
    thetas, x = torch.randn(4, count_parameters(network)), torch.randn(4, 2, 5)
    policies = StackedNetwork(network)
    for _ in range(2):
        together = policies.bind(thetas)(x)
    for theta, rows, outputs in zip(thetas, x, together, strict=True):
        nn.utils.vector_to_parameters(theta, network.parameters())
        torch.testing.assert_close(outputs, network(rows), atol=1e-5, rtol=1e-4)


def test_frozen_parameters_are_no_coordinates() -> None:
    network = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3))
    network[0].weight.requires_grad_(False)
    coordinates = Coordinates(network.parameters(), make("hashed", 27, 4, seed=1))
    policies, x = StackedNetwork(network), torch.randn(1, 2, 5)
    z = torch.randn(4)
    outputs = policies.bind(coordinates.thetas(z[None]))(x)
    coordinates.set_z(z)
    torch.testing.assert_close(outputs[0], network(x[0]))


def arena(rows: int, episodes: int) -> Arena:
    problem = control.make(id="tests.quadratic:Quadratic-v0")
    network = mlp((3,), 2, width=4, depth=1)
    return Arena(problem, network, CPU, rows=rows, episodes=episodes)


def test_returns_do_not_depend_on_how_the_memory_divides_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    thetas = torch.randn(7, 26)
    seeds = np.arange(14).reshape(7, 2)
    whole = arena(7, 2)
    expected = whole.play(lambda part: thetas[part], seeds, lambda: None)
    monkeypatch.setattr(es_population, "MAX_BYTES", 3 * 26 * 4)
    parts = arena(7, 2)
    assert parts.envs.num_envs == 6
    returns = parts.play(lambda part: thetas[part], seeds, lambda: None)
    np.testing.assert_allclose(returns, expected, rtol=1e-5)
    assert parts.steps == whole.steps


def test_steps_are_those_of_the_episodes_played() -> None:
    games = arena(3, 2)
    seeds = np.arange(6).reshape(3, 2)
    games.play(lambda part: torch.zeros(3, 26)[part], seeds, lambda: None)
    lengths = []
    for seed in range(6):
        env = control.make_env("tests.quadratic:Quadratic-v0", {})
        env.reset(seed=seed)
        lengths.append(env.unwrapped.left)  # type: ignore[attr-defined]
    assert games.steps == sum(lengths)


@pytest.mark.parametrize(
    "problem",
    [
        control.make(id="CartPole-v1"),
        atari.make(id="ALE/Pong-v5", max_frames=400),
        atari.make(id="ALE/Pong-v5", obs="ram", max_frames=400),
    ],
    ids=["control", "pixels", "ram"],
)
def test_the_same_seed_is_the_same_episode(problem: EnvironmentProblem) -> None:
    """Before and after other episodes, and with other neighbours."""
    envs = problem.make_episodes(3)

    def policy(observations: np.ndarray) -> np.ndarray:
        sums = np.asarray(observations, dtype=float).reshape(3, -1).sum(1)
        return (np.abs(sums * 1000) % problem.output_size).astype(int)

    first = first_episodes(envs, policy, np.array([5, 6, 5]), lambda: None, "x")
    again = first_episodes(envs, policy, np.array([6, 7, 5]), lambda: None, "x")
    assert (first[0][0], first[1][0]) == (first[0][2], first[1][2]) == (again[0][2], again[1][2])
    assert (first[0][1], first[1][1]) == (again[0][0], again[1][0])
    envs.close()


def test_single_episodes_are_those_of_single_environments() -> None:
    def left(observations: np.ndarray) -> np.ndarray:
        return np.zeros(len(observations), dtype=int)

    envs = control.make(id="CartPole-v1").make_episodes(4)
    returns, lengths = first_episodes(envs, left, np.arange(7, 11), lambda: None, "x")
    for seed, total, length in zip(range(7, 11), returns, lengths, strict=True):
        env = gym.make("CartPole-v1")
        env.reset(seed=seed)
        rewards = []
        while len(rewards) < length:
            _, reward, terminated, _, _ = env.step(0)
            rewards.append(float(reward))
        assert terminated
        assert sum(rewards) == total


# The estimate


def test_centred_ranks_are_centred_and_share_ties() -> None:
    assert centred_ranks(np.array([3.0, -7.0, 100.0])).tolist() == [0.0, -0.5, 0.5]
    assert not centred_ranks(np.full(6, -200.0)).any()


def openai(d: int, **keys: Any) -> OpenAIES:
    network = nn.Linear(d, 1, bias=False)
    nn.init.zeros_(network.weight)
    coordinates = Coordinates(network.parameters(), Identity(d))
    defaults = {"sigma": 0.1, "weight_decay": 0.0, "population": 1000}
    return OpenAIES(coordinates, seed=1, **(defaults | keys))


def test_the_estimate_is_that_of_the_paper_and_new_every_generation() -> None:
    strategy = openai(5, population=4)
    points = strategy.ask()
    strategy.tell(np.array([1.0, 4.0, 2.0, 3.0]), 0.1)
    ranks = torch.tensor([-1 / 2, 1 / 2, -1 / 6, 1 / 6])
    expected = (ranks[:, None] * points / 0.1).sum(0) / (4 * 0.1)  # 1 / (n sigma) sum F_i eps_i
    assert strategy.z.grad is not None
    torch.testing.assert_close(-strategy.z.grad, expected)
    shifts = strategy.ask() - strategy.mean()
    assert not torch.isclose(shifts, points).any()


def test_the_mirrored_estimate_points_along_a_linear_function() -> None:
    strategy, slope = openai(5), torch.tensor([1.0, -2.0, 0.5, 3.0, -0.1])
    strategy.tell((strategy.ask() @ slope).numpy(), 0.1)
    assert strategy.z.grad is not None
    ascent = -strategy.z.grad
    # 500 pairs in 5 dimensions: the direction's error is about sqrt(5 / 500)
    assert torch.cosine_similarity(ascent, slope, dim=0) > 0.98


def test_the_estimate_does_not_see_a_constant_or_a_scale() -> None:
    values = []
    for shift, scale in ((0.0, 1.0), (1000.0, 7.0)):
        strategy = openai(5)
        strategy.tell((strategy.ask().sum(1) * scale + shift).double().numpy(), 0.1)
        values.append(strategy.mean())
    torch.testing.assert_close(values[0], values[1])


def test_equal_returns_move_nothing() -> None:
    strategy = openai(5)
    strategy.ask()
    strategy.tell(np.full(1000, -200.0), 0.1)
    assert not strategy.mean().any()


def test_weight_decay_pulls_the_parameters_not_z_towards_zero() -> None:
    network = nn.Linear(8, 1, bias=False)
    nn.init.ones_(network.weight)
    coordinates = Coordinates(network.parameters(), make("hashed", 8, 2, seed=0))
    strategy = OpenAIES(coordinates, sigma=0.1, weight_decay=0.5, population=4, seed=0)
    strategy.ask()
    strategy.tell(np.zeros(4), 0.1)
    expected = 0.5 * coordinates.projection.project_transposed(torch.ones(8))
    torch.testing.assert_close(strategy.z.grad, expected)


@pytest.mark.parametrize("d", [1, 2, 12])
def test_cma_finds_the_minimum_of_an_ellipsoid(d: int) -> None:
    strategy = CMAES(d, sigma=0.5, population=None, seed=3)
    scales, best = torch.logspace(0, 2, d), torch.linspace(-1, 1, d)
    for _ in range(250):
        strategy.tell(-(((strategy.ask() - best) * scales) ** 2).sum(1).double().numpy())
    torch.testing.assert_close(strategy.mean(), best, atol=1e-3, rtol=0)


# As an agent


@STRATEGIES
@pytest.mark.parametrize("d", [0, 10])
def test_the_target_is_found_natively_and_in_the_subspace(keys: Keys, d: int) -> None:
    result = run({**keys, "total_timesteps": 6000}, d)
    assert result.state == "complete"
    before = result.curve[0][2]
    assert result.score is not None
    assert result.score > max(-0.3, before / 5)


@STRATEGIES
@DIMENSIONS
def test_the_network_moves_in_place_within_its_subspace(keys: Keys, d: int) -> None:
    setting = Setting(keys, d)
    parameters = [id(p) for p in setting.network.parameters()]
    setting.train()
    assert parameters == [id(p) for p in setting.network.parameters()]
    moved = parameter_vector(setting.network) - setting.theta_0
    assert moved.norm() > 0.01
    z = setting.context.z
    if d == 0:
        assert z is None
        return
    assert z is not None
    P = make("hashed", 26, d, setting.context.streams.projection)
    torch.testing.assert_close(moved, P.project(z))


@STRATEGIES
def test_a_solution_is_reloaded_from_its_seed_and_z(keys: Keys) -> None:
    setting = Setting(keys, 4)
    setting.train()
    z = setting.context.z
    assert z is not None
    solution = Solution(trial_of(keys, 4), (), 26, z)
    torch.testing.assert_close(
        parameter_vector(solution.network()), parameter_vector(setting.network)
    )


@STRATEGIES
@DIMENSIONS
def test_the_budget_ends_with_the_generation_that_reaches_it(keys: Keys, d: int) -> None:
    result = run({**keys, "episodes": 2, "mean_episodes": 5}, d)
    ticks = [step for step, name, _ in result.curve if name == "episodic_return"]
    assert ticks[-1] == result.steps >= 1200
    assert ticks[-2] < 1200


@on_each_device
@STRATEGIES
@DIMENSIONS
def test_a_trial_repeats_and_leaves_no_trace(keys: Keys, d: int, device: str) -> None:
    first = run(keys, d, device=device)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    again = run(keys, d, device=device)
    assert (first.score, first.z, first.curve) == (again.score, again.z, again.curve)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


@on_each_device
@STRATEGIES
@DIMENSIONS
@pytest.mark.parametrize("beats", [1e9, 0.0], ids=["between", "within"])
def test_an_interrupted_trial_ends_as_an_uninterrupted_one(
    keys: Keys, d: int, beats: float, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the stop comes between generations or within one."""
    whole = run(keys, d, device=device)
    monkeypatch.setattr(es_population, "BEAT_INTERVAL_S", beats)
    for _ in range(2):
        with pytest.raises(Interrupted):
            run(keys, d, device=device, checkpoint_dir=tmp_path, stop=StopAfter(6))
    assert list(tmp_path.glob("*.pt"))
    resumed = run(keys, d, device=device, checkpoint_dir=tmp_path)
    assert (whole.score, whole.z, whole.curve) == (resumed.score, resumed.z, resumed.curve)
    assert whole.steps == resumed.steps


def test_a_learner_that_fails_after_a_resumption_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint that was loaded is not to blame, and deleting it would mend nothing."""
    with pytest.raises(Interrupted):
        run(OPENAI, 4, checkpoint_dir=tmp_path, stop=StopAfter(2))
    monkeypatch.setattr(Quadratic, "step", lambda *_: 1 // 0)
    result = run(OPENAI, 4, checkpoint_dir=tmp_path)
    assert (result.state, (result.reason or "")[:17]) == ("failed", "ZeroDivisionError")


class OwnProblem(EnvironmentProblem):
    """A user's own, with no more than it must have; vectorised by Gymnasium."""

    id, eval_episodes = "own", 3
    input_shape, output_size = (3,), 2
    observation_space, action_space = Quadratic.observation_space, Quadratic.action_space

    def missing(self) -> str | None:
        return None

    def make_envs(self, num_envs: int, seed: int) -> gym.vector.VectorEnv:
        envs = SyncVectorEnv([Quadratic] * num_envs, autoreset_mode=AutoresetMode.SAME_STEP)
        return RecordEpisodeStatistics(envs)

    def evaluate(self, network: nn.Module, **_: Any) -> Evaluation:
        return Evaluation(0.0, 1)


def test_a_problem_of_ones_own_is_played_from_the_starts_asked_for() -> None:
    thetas, seeds = torch.randn(3, 26), np.array([[7, 8], [7, 8], [9, 7]])
    own = Arena(OwnProblem(), mlp((3,), 2, width=4, depth=1), CPU, rows=3, episodes=2)
    returns = own.play(lambda part: thetas[part], seeds, lambda: None)
    expected = arena(3, 2).play(lambda part: thetas[part], seeds, lambda: None)
    np.testing.assert_allclose(returns, expected, rtol=1e-5)


SEARCH = """
import hashlib, numpy as np, torch
from agents.es_strategies import CMAES
from difficulty_bench.cpu import use_one_thread
use_one_thread(torch.device("cpu"))
strategy = CMAES(170, sigma=.3, population=None, seed=3)
for _ in range(60):
    strategy.tell(-((strategy.ask() - 1) ** 2).sum(1).double().numpy())
print(hashlib.sha256(strategy.strategy.mean.tobytes()).hexdigest())
"""


def test_cma_es_hangs_on_no_number_of_threads() -> None:
    """numpy's linear algebra shares out large matrices among all cores there are."""
    means = {
        subprocess.run(
            [sys.executable, "-c", SEARCH],
            env=os.environ | {f"{library}_NUM_THREADS": threads for library in LIBRARIES},
            capture_output=True, text=True, check=True,
        ).stdout
        for threads in ("1", "2")
    }  # fmt: skip
    assert len(means) == 1


LIBRARIES = "OPENBLAS", "MKL", "OMP"


def test_an_early_end_leaves_the_policy_whose_return_was_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Solved(Exception):
        pass

    setting = Setting({**OPENAI, "mean_episodes": 3}, 4)
    told = []

    def tick(steps: int, state: Any, **values: float) -> None:
        told.append(values["episodic_return"])
        if len(told) == 5:
            raise Solved

    monkeypatch.setattr(setting.context, "tick", tick)
    with pytest.raises(Solved):
        setting.train()
    rng = np.random.default_rng([setting.context.streams.data, 4])
    seeds = rng.integers(2**30, size=(4, 1))[1:]
    problem = setting.problem
    games = Arena(problem, setting.network, CPU, rows=3, episodes=1)
    thetas = parameter_vector(setting.network).expand(3, -1)
    returns = games.play(lambda part: thetas[part], seeds, lambda: None)
    assert float(returns.mean()) == pytest.approx(told[-1])


def test_step_sizes_follow_the_rule_natively_and_in_the_subspace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Under the matched rule a perturbation is as long in the subspace as natively."""
    lengths = []

    def measure(self: Any, points: Tensor, mean: Tensor) -> np.ndarray:
        shifts = self.coordinates.thetas(points) - self.coordinates.theta_0
        lengths.append(float(shifts.norm(dim=1).square().mean().sqrt()))
        raise Interrupted

    monkeypatch.setattr(es._Run, "_play", measure)
    for d in (0, 13):
        for keys in ({**OPENAI, "population": 4000}, {**CMA, "cma_population": 4000}):
            with pytest.raises(Interrupted):
                Setting(keys, d).train()
    expected = [0.1 * math.sqrt(26), 0.3 * math.sqrt(26)]
    assert lengths == pytest.approx(2 * expected, rel=0.02)


def test_the_learning_rate_falls_with_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []

    def tell(self: OpenAIES, fitness: np.ndarray, learning_rate: float) -> None:
        rates.append(learning_rate)

    monkeypatch.setattr(OpenAIES, "tell", tell)
    result = run({**OPENAI, "lr_schedule": "linear"}, 13)
    begun = [0, *(step for step, name, _ in result.curve if name == "episodic_return")][:-1]
    assert rates == pytest.approx([0.1 * math.sqrt(2) * (1 - step / 1200) for step in begun])


def told(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, list[np.ndarray]]:
    """The starts of two generations, and what the strategy hears of known returns."""
    starts, fitness = list[np.ndarray](), list[np.ndarray]()

    def play(self: Arena, thetas: Any, seeds: np.ndarray, beat: Any) -> np.ndarray:
        starts.append(seeds)
        self.steps += 600
        return np.arange(seeds.size, dtype=float).reshape(seeds.shape)

    strategy = OpenAIES if keys["cma_max_d"] == 0 else CMAES
    monkeypatch.setattr(Arena, "play", play)
    monkeypatch.setattr(strategy, "tell", lambda self, f, rate: fitness.append(f))
    Setting({**keys, "episodes": 2, "mean_episodes": 4}, 13).train()
    return np.stack(starts), fitness


@STRATEGIES
def test_a_generation_shares_its_starts_and_is_told_its_mean_returns(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, fitness = told(keys, monkeypatch)
    K = len(fitness[0])
    assert starts.shape == (2, K + 2, 2)
    assert (starts[:, :K] == starts[:, :1]).all()
    assert len(np.unique(starts)) == 2 * 3 * 2  # of the mean, and of the next generation: others
    np.testing.assert_allclose(fitness[0], 2 * np.arange(K) + 0.5)


@STRATEGIES
def test_trials_search_in_directions_of_their_own(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = []

    def play(self: Any, asked: Tensor, mean: Tensor) -> np.ndarray:
        points.append(asked)
        raise Interrupted

    monkeypatch.setattr(es._Run, "_play", play)
    for seed in (0, 1):
        setting = Setting(keys, 4)
        setting.context.streams = Trial(setting.task, Request("trial", 4, seed)).streams
        with pytest.raises(Interrupted):
            setting.train()
    assert not torch.isclose(*points).any()


def test_every_key_reaches_the_strategy(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Keys = {}

    class Caught(Exception):
        pass

    def made(self: Any, *_: Any, **keys: Any) -> None:
        seen.update(keys)
        raise Caught

    for strategy in (OpenAIES, CMAES):
        monkeypatch.setattr(strategy, "__init__", made)
    for keys in ({"cma_max_d": 0, "sigma": 0.3, "weight_decay": 0.4, "population": 6},
                 {"cma_sigma": 0.7, "cma_population": 5}):  # fmt: skip
        seen.clear()
        with pytest.raises(Caught):
            Setting(keys, 0).train()
        own = {key.removeprefix("cma_"): value for key, value in keys.items() if key != "cma_max_d"}
        assert {key: seen[key] for key in own} == own


def test_an_episode_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    games = arena(3, 2)
    monkeypatch.setattr("difficulty_bench.problem.MAX_STEPS", 3)
    with pytest.raises(UsageError, match="an episode did not end within 3 steps"):
        games.play(lambda part: torch.zeros(3, 26)[part], np.zeros((3, 2), int), lambda: None)


def scaled(by: float) -> tuple[EnvironmentProblem, nn.Linear]:
    """CartPole in units of 1 / `by`, and a policy that balances it if told of them."""
    network, falls = nn.Linear(4, 2), torch.tensor([0.1, 0.3, 3.0, 1.0]) / by
    network.weight.data, network.bias.data = (
        torch.stack([-falls, falls]),
        torch.tensor([0.02, -0.02]),
    )
    return control.make(id="CartPole-v1", scale=by, eval_episodes=20), network


def test_policies_act_on_prepared_observations() -> None:
    returns = []
    for by in (1.0, 64.0):
        problem, network = scaled(by)
        games = Arena(problem, network, CPU, rows=1, episodes=4)
        theta = parameter_vector(network)[None]
        returns.append(games.play(lambda part, t=theta: t, np.arange(4)[None], lambda: None))  # type: ignore[misc]
        evaluated = problem.evaluate(network, split="test", seed=3, device=CPU)
        returns.append(np.full((1, 4), evaluated.score))
    np.testing.assert_allclose(returns[0], returns[2])
    np.testing.assert_allclose(returns[1], returns[3])
    assert min(map(np.min, returns)) > 100


def test_a_return_that_is_not_finite_fails_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Arena, "play", lambda self, *_: np.full((self.rows, 1), np.nan))
    result = run(OPENAI, 4)
    assert result.state == "failed"
    assert result.reason is not None
    assert result.reason.startswith("diverged: a return is not finite")


def test_an_environment_that_lacks_a_file_fails_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(self: Quadratic, action: np.ndarray) -> Any:
        return Path("mesh.xml").read_text()

    monkeypatch.setattr(Quadratic, "step", step)
    result = run(OPENAI, 4)
    assert result.state == "failed"
    assert result.reason is not None
    assert result.reason.startswith("FileNotFoundError: ")


def test_convolutions_play_from_pixels() -> None:
    task = make_task({**OPENAI, "population": 4, "total_timesteps": 1})
    game = {"id": "ALE/Pong-v5", "max_frames": 40, "image_size": 36, "eval_episodes": 2}
    task = task.model_copy(
        update={
            "problem": EntryPoint.model_validate({"entry_point": "envs.atari:make", **game}),
            "network": EntryPoint.model_validate({"entry_point": "agents.networks:li2018_cnn"}),
        }
    )
    result = run_trial(Trial(task, Request("trial", 5, 0, lr_scale=1.0)), Runtime())
    assert result.state == "complete"
    assert result.steps == 5 * 10


@pytest.mark.parametrize("obs", ["pixels", "ram"])
def test_episodes_of_atari_are_scored_by_the_games_own_returns(obs: Any) -> None:
    """A policy is chosen by what its game gives, not by what a gradient would learn from."""
    problem = atari.make(id="ALE/Qbert-v5", obs=obs, max_frames=600)
    assert problem.rules.clip_rewards
    envs, rng = problem.make_episodes(4), np.random.default_rng(0)
    returns, _ = first_episodes(
        envs, lambda _: rng.integers(6, size=4), np.arange(4), lambda: None, "x"
    )
    envs.close()
    assert returns.max() > 0
    assert set(returns % 25) == {0}  # a cube of Q*bert counts 25


def test_a_data_set_is_no_environment() -> None:
    setting = Setting(OPENAI, 0)
    data: Any = object()
    with pytest.raises(UsageError, match="needs environments, not a data set"):
        es.evolve(data, setting.network, setting.context, total_timesteps=1)
