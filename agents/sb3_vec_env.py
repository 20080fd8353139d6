"""A Gymnasium VectorEnv as a stable-baselines3 VecEnv."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from difficulty_bench.errors import UsageError


class GymnasiumVecEnv(VecEnv):
    """Steps all environments at once, in SAME_STEP autoreset mode only: SB3 knows no other.

    The environments must record episode statistics. Infos are empty except on the step that ends
    an episode, where they hold what SB3 reads: `terminal_observation`, `TimeLimit.truncated` (it
    then bootstraps from the value of the terminal observation) and `episode`. Discrete actions
    count from 0, as SB3 has them.
    """

    def __init__(self, envs: gym.vector.VectorEnv) -> None:
        mode = envs.metadata.get("autoreset_mode")
        if mode is not AutoresetMode.SAME_STEP:
            raise UsageError(
                f"make_envs of the problem gives environments with autoreset mode {mode}; make "
                "them with AutoresetMode.SAME_STEP"
            )
        self.envs = envs
        space = envs.single_action_space
        self._first_action = int(space.start) if isinstance(space, Discrete) else 0
        actions = Discrete(int(space.n)) if isinstance(space, Discrete) else space
        super().__init__(envs.num_envs, envs.single_observation_space, actions)

    def reset(self) -> np.ndarray:
        observations, _ = self.envs.reset(seed=self._seeds[0])  # SB3's seeds, too, count up
        self._reset_seeds()
        return np.asarray(observations)

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions + self._first_action if self._first_action else actions

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, terminated, truncated, info = self.envs.step(self._actions)
        dones = terminated | truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(dones):
            infos[i] = {
                "terminal_observation": info["final_obs"][i],
                "TimeLimit.truncated": bool(truncated[i] and not terminated[i]),
                "episode": {"r": float(info["episode"]["r"][i]), "l": int(info["episode"]["l"][i])},
            }
        return observations, rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        self.envs.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return [getattr(self.envs.unwrapped, attr_name)] * self._count(indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        raise NotImplementedError("single environments of a VectorEnv are not within reach")

    def env_method(
        self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        raise NotImplementedError("single environments of a VectorEnv are not within reach")

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        return [False] * self._count(indices)

    def _count(self, indices: VecEnvIndices) -> int:
        chosen: Sequence[int] = list(self._get_indices(indices))
        return len(chosen)
