"""The VecEnv adapter against stable-baselines3's own DummyVecEnv (Atari: test_atari.py)."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.sb3_vec_env import GymnasiumVecEnv
from difficulty_bench.errors import UsageError


def short_cartpole() -> gym.Env[Any, Any]:
    return gym.make("CartPole-v1", max_episode_steps=20)


def adapted(makers: list[Any]) -> GymnasiumVecEnv:
    envs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    return GymnasiumVecEnv(RecordEpisodeStatistics(envs))


def test_it_steps_as_sb3s_own_vec_env() -> None:
    ours = adapted([short_cartpole] * 3)
    theirs = DummyVecEnv([lambda: Monitor(short_cartpole())] * 3)
    for envs in (ours, theirs):
        envs.seed(11)
    assert np.array_equal(ours.reset(), theirs.reset())
    rng = np.random.default_rng(0)
    ends = set()
    for _ in range(300):
        actions = rng.integers(2, size=3)
        *arrays, infos = ours.step(actions)
        *expected_arrays, expected_infos = theirs.step(actions)
        for array, expected in zip(arrays, expected_arrays, strict=True):
            assert np.array_equal(array, expected)
            assert array.dtype == expected.dtype
        for info, expected in zip(infos, expected_infos, strict=True):
            assert info.get("TimeLimit.truncated", False) == expected["TimeLimit.truncated"]
            assert ("episode" in info) == ("episode" in expected)
            if info:
                ends.add(info["TimeLimit.truncated"])
                terminal = info["terminal_observation"]
                assert np.array_equal(terminal, expected["terminal_observation"])
                assert all(info["episode"][key] == expected["episode"][key] for key in "rl")
    assert ends == {True, False}  # fallen and timed out


def test_discrete_actions_count_from_zero_whatever_the_environment_says() -> None:
    class From5(gym.ActionWrapper[Any, Any, Any]):
        action_space = gym.spaces.Discrete(2, start=5)

        def action(self, action: Any) -> Any:
            assert self.action_space.contains(action)
            return action - 5

    envs = adapted([lambda: From5(short_cartpole())])
    assert envs.action_space == gym.spaces.Discrete(2)
    envs.reset()
    envs.step(np.array([1]))


def test_it_refuses_another_autoreset() -> None:
    with pytest.raises(UsageError, match=r"mode .*NEXT_STEP; make them with .*SAME_STEP"):
        GymnasiumVecEnv(gym.make_vec("CartPole-v1", num_envs=2))
