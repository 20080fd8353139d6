"""Gymnasium environments as problems: seeds, counted episodes, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from torch import Tensor, nn

from difficulty_bench.errors import ResourceError, UsageError
from difficulty_bench.problem import SupervisedProblem, to_actions
from difficulty_bench.registry import Registry
from envs import control
from envs.evaluation import episode_returns
from envs.standardise import RanksAndChanges

CPU = torch.device("cpu")


class Fixed(gym.Env[np.ndarray, int]):
    """Reward 1 a step; episodes of `length` steps."""

    observation_space = gym.spaces.Box(0, 1, (1,))
    action_space = gym.spaces.Discrete(2, start=3)

    def __init__(self, length: int) -> None:
        self.length = length

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.left = self.length
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.left -= 1
        return np.zeros(1, np.float32), 1.0, self.left == 0, False, {}


class Balance(nn.Module):
    """Push the cart to the side to which the pole falls: solves CartPole."""

    def forward(self, x: Tensor) -> Tensor:
        falls_right = x @ torch.tensor([0.1, 0.3, 3.0, 1.0])
        return torch.stack([-falls_right, falls_right], dim=1)


def test_every_environment_gives_the_same_number_of_episodes() -> None:
    """Whichever end first: the short ones of one environment must not crowd out the others."""
    makers = [lambda: Fixed(1), lambda: Fixed(7)]
    envs = RecordEpisodeStatistics(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP))
    assert episode_returns(envs, lambda x: np.full(2, 3), 6, "Fixed") == [1, 1, 1, 7, 7, 7]
    assert episode_returns(envs, lambda x: np.full(2, 3), 5, "Fixed") == [1, 1, 1, 7, 7]


def test_an_episode_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("difficulty_bench.problem.MAX_STEPS", 50)
    makers = [lambda: Fixed(1), lambda: Fixed(1000)]
    envs = RecordEpisodeStatistics(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP))
    with pytest.raises(UsageError, match="Fixed: an episode did not end within 50 steps"):
        episode_returns(envs, lambda x: np.full(2, 3), 6, "Fixed")


def test_outputs_that_are_nan_choose_no_action() -> None:
    with pytest.raises(ValueError, match="outputs are nan"):
        to_actions(torch.tensor([[0.0, float("nan")]]), gym.spaces.Discrete(2))


def test_returns_are_those_of_single_environments_with_the_same_seeds() -> None:
    problem = control.make(id="CartPole-v1", eval_episodes=5)
    evaluation = problem.evaluate(Left(), split="test", seed=7, device=CPU)
    expected = [cartpole_return(7 + i) for i in range(5)]
    assert evaluation.score == np.mean(expected)
    assert evaluation.sd == pytest.approx(np.std(expected, ddof=1))
    assert evaluation.n == 5


class Left(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([[1.0, 0.0]]).expand(len(x), 2)


def cartpole_return(seed: int) -> float:
    env = gym.make("CartPole-v1")
    env.reset(seed=seed)
    env.reset()  # as make_envs, which leaves environments seeded
    total, done = 0.0, False
    while not done:
        _, reward, terminated, truncated, _ = env.step(0)
        total, done = total + float(reward), terminated or truncated
    return total


def test_evaluation_depends_on_its_seed_alone_and_leaves_the_mode() -> None:
    problem = control.make(id="CartPole-v1", eval_episodes=10)
    network = nn.Sequential(nn.Linear(4, 2)).train()
    scores = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed + 5)
        scores.append(problem.evaluate(network, split="test", seed=seed, device=CPU))
        assert network.training
    assert scores[0] == scores[2] != scores[1]


class Judged(nn.Module):
    """Batch norm and dropout would differ in the mode of training."""

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        return torch.zeros(len(x), 2)


def test_a_network_is_judged_in_the_mode_of_evaluation() -> None:
    network = Judged().train()
    control.make(id="CartPole-v1", eval_episodes=2).evaluate(
        network, split="test", seed=0, device=CPU
    )
    assert network.training
    pair = torch.zeros(5, 3), torch.zeros(5, dtype=torch.long)
    data = SupervisedProblem((3,), 2, lambda: {"train": pair, "test": pair, "validation": pair})
    assert data.evaluate(network, split="test", seed=0, device=CPU).score == 1.0
    assert network.training


def test_a_known_controller_gets_the_known_return() -> None:
    problem = control.make(id="CartPole-v1", eval_episodes=20, ceiling=500.0)
    assert problem.evaluate(Balance(), split="test", seed=0, device=CPU).score == problem.ceiling


def test_training_environments_repeat_by_seed_and_differ_without() -> None:
    problem = control.make(id="CartPole-v1")
    first, again, other = (problem.make_envs(2, seed).reset()[0] for seed in (1, 1, 9))
    assert np.array_equal(first, again)
    assert not np.isin(first, other).any()
    assert problem.make_envs(2, 1).metadata["autoreset_mode"] is AutoresetMode.SAME_STEP


def test_shapes_and_protocol_are_known_at_once() -> None:
    problem = control.make(id="Acrobot-v1", eval_episodes=30)
    assert (problem.input_shape, problem.output_size) == ((6,), 3)
    assert problem.protocol == "Acrobot-v1, at most 500 steps"


def test_continuous_actions_are_outputs_clipped_to_their_bounds() -> None:
    problem = control.make(id="Pendulum-v1", eval_episodes=4)
    assert problem.output_size == 1

    def score(output: float) -> float:
        network = nn.Linear(3, 1)
        nn.init.zeros_(network.weight)
        nn.init.constant_(network.bias, output)
        return problem.evaluate(network, split="test", seed=3, device=CPU).score

    assert score(2.0) == score(50.0) != score(0.0)


def test_unit_observations_run_from_minus_one_to_one() -> None:
    problem = control.make(id="MountainCar-v0", observations="unit")
    space = problem.observation_space
    rows = torch.tensor(np.stack([space.low, space.high, (space.low + space.high) / 2]))
    expected = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]])
    assert torch.allclose(problem.prepare(rows), expected, atol=1e-6)


@pytest.mark.parametrize("observations", ["unit", "standardised"])
def test_a_scale_beside_other_than_raw_observations_is_refused(
    tmp_path: Path, observations: str
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"mine:\n  extends: inverted-pendulum\n  problem: {{observations: {observations}}}"
    )
    with pytest.raises(UsageError) as caught:
        Registry([file]).get("mine")
    key = "mine.problem.scale: should be 1 beside `observations: "
    assert f": {key}{observations}`, which has its own, not 5" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert Registry([file]).get("mine", ["problem.scale=1"]).problem.parameters()["scale"] == 1


def test_standardised_observations_have_mean_0_and_sd_1_under_a_random_policy() -> None:
    problem, again = (
        control.make(id="tests.quadratic:Quadratic-v0", observations="standardised")
        for _ in range(2)
    )
    envs = problem.make_envs(10, seed=3)
    seen = [torch.tensor(envs.step(envs.action_space.sample())[0]) for _ in range(400)]
    rows = torch.cat([problem.prepare(x) for x in seen])
    # sd of a mean of 4,000 is .016, of the moments' own 10,000 .01
    torch.testing.assert_close(rows.mean(0), torch.zeros(3), atol=0.08, rtol=0)
    torch.testing.assert_close(rows.std(0), torch.tensor([0.0, 1.0, 1.0]), atol=0.05, rtol=0)
    assert torch.equal(rows, torch.cat([again.prepare(x) for x in seen]))
    assert problem.prepare(torch.full((1, 3), 1e6)).tolist() == [[10.0] * 3]


class Counter(gym.Env[Any, Any]):
    """Two frames of four bytes: 0 to 9 in turn, its double, one that stays, one that jumps once."""

    observation_space = gym.spaces.Box(0, 255, (2, 4), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def frames(self) -> np.ndarray:
        turns = (max(self.time - 1, 0), self.time)
        return np.array([[t % 10, t % 10 * 2, 7, 90 * (t > 5000)] for t in turns], dtype=np.uint8)

    def reset(self, **_: Any) -> tuple[np.ndarray, dict[str, Any]]:
        self.time = 0
        return self.frames(), {}

    def step(self, _: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return self.frames(), 0.0, False, False, {}


def test_bytes_become_ranks_and_changes() -> None:
    view = RanksAndChanges(Counter)
    frames = torch.tensor([[[3, 6, 7, 0], [5, 4, 7, 0]], [[0, 0, 6, 0], [9, 18, 8, 90]]])
    seen = view(frames.to(torch.uint8))
    # Mid-ranks: a tenth of the rows hold each of 0 to 9; half of them 0 and half 90, but for one.
    ranks = torch.tensor([[0.1, -0.5, 0.0, -0.5], [0.9, 0.9, 1.0, 0.5]]) * 3**0.5
    torch.testing.assert_close(seen[:, 0], ranks, atol=1e-3, rtol=0)
    # The usual changes are 1, 2, none and 90; a larger one is cut at 3 of them.
    assert seen[:, 1].tolist() == [[2.0, -1.0, 0.0, 0.0], [3.0, 3.0, 2.0, 1.0]]
    assert torch.equal(view(torch.full((1, 2, 4), 255))[0, 0], torch.full((4,), 3**0.5))
    assert torch.equal(RanksAndChanges(Counter)(frames), seen)


def test_preparing_leaves_the_observations_as_they_were() -> None:
    for keys in ({"scale": 0.5}, {"observations": "unit"}, {"observations": "standardised"}):
        problem = control.make(id="MountainCar-v0", **keys)  # type: ignore[arg-type]
        rows = torch.ones(1, 2)
        problem.prepare(rows)
        assert torch.equal(rows, torch.ones(1, 2))


@pytest.mark.parametrize(
    ("id", "keys", "error", "says"),
    [
        ("CartPol-v1", {}, UsageError, "Did you mean: `CartPole`"),
        ("CartPole-v7", {}, UsageError, "versioned environments"),
        ("nowhere:Thing-v0", {}, UsageError, "No module named 'nowhere'"),
        ("CartPole-v1", {"env_kwargs": {"gravity_": 1}}, UsageError, "gravity_"),
        ("Blackjack-v1", {}, UsageError, "no step limit"),
        ("CartPole-v1", {"observations": "unit"}, UsageError, "no bounds"),
    ],
)
def test_what_no_policy_fits_is_refused_in_one_line(
    id: str, keys: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error) as caught:
        control.make(id=id, **keys)
    assert id in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_package_that_is_not_installed_is_named_with_the_mend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(id: str, **kwargs: Any) -> None:
        raise gym.error.DependencyNotInstalled('MuJoCo is not installed, run `pip install "x"`')

    monkeypatch.setattr(gym, "make", refuse)
    with pytest.raises(ResourceError, match=r"Humanoid-v5: MuJoCo .*pip install"):
        control.make(id="Humanoid-v5")


@pytest.mark.parametrize(
    ("episodes", "num_envs"), [(1, 1), (20, 20), (100, 100), (150, 75), (1000, 100), (101, 51)]
)
def test_any_number_of_episodes_is_played_side_by_side(
    episodes: int, num_envs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = control.make(id="CartPole-v1", eval_episodes=episodes)
    asked, make_envs = [], problem.make_envs

    def noted(count: int, seed: int) -> gym.vector.VectorEnv:
        asked.append(count)
        return make_envs(count, seed)

    monkeypatch.setattr(problem, "make_envs", noted)
    assert problem.evaluate(Left(), split="test", seed=7, device=CPU).n == episodes
    assert asked == [num_envs]
