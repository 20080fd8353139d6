"""Any Gymnasium environment with observations that flatten and a Discrete or Box action."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FlattenObservation, TransformObservation
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from pydantic import AfterValidator, PositiveFloat, PositiveInt, ValidationInfo
from torch import Tensor

from difficulty_bench.errors import ResourceError, UsageError, first_line
from difficulty_bench.problem import check_limit

from .episodes import Episodes
from .evaluation import GymnasiumProblem
from .standardise import Standardiser

Observations = Literal["raw", "unit", "standardised"]


def _of_raw(scale: float, keys: ValidationInfo) -> float:
    """Not ignored in silence: only `raw` observations are multiplied by it."""
    observations = keys.data.get("observations", "raw")
    if scale != 1 and observations != "raw":
        raise ValueError(f"should be 1 beside `observations: {observations}`, which has its own")
    return scale


def make(
    *,
    id: str,
    eval_episodes: PositiveInt = 100,
    ceiling: float | None = None,
    observations: Observations = "raw",
    scale: Annotated[PositiveFloat, AfterValidator(_of_raw)] = 1.0,
    env_kwargs: dict[str, Any] | None = None,
) -> ControlProblem:
    """The environment `id`; `package:Name-v0` imports `package` first, as `gymnasium.make` does.

    `observations: unit` maps each observation linearly from its bounds to [-1, 1]; `scale`
    multiplies `raw` ones instead. `standardised` subtracts the mean and divides by the standard
    deviation that a random policy's observations have, and clips at 10. `env_kwargs` go to
    `gymnasium.make`, `max_episode_steps` among them. Observations that are no Box (Discrete, Dict
    and others) are flattened as Gymnasium does, categories one-hot; images get their channels
    first. Raise UsageError for an unknown id, for spaces that no policy here fits and for no step
    limit, ResourceError for a package not installed.
    """
    env = make_env(id, env_kwargs or {})
    try:
        return ControlProblem(env, env_kwargs or {}, eval_episodes, ceiling, observations, scale)
    finally:
        env.close()


def make_env(id: str, env_kwargs: dict[str, Any]) -> gym.Env[Any, Any]:
    try:
        return fitted(gym.make(id, **env_kwargs))
    except gym.error.DependencyNotInstalled as error:
        raise ResourceError(f"{id}: {first_line(error)}") from None
    except (gym.error.Error, TypeError) as error:
        raise UsageError(f"{id}: {first_line(error)}") from None
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name is None:
            raise UsageError(f"{id}: {first_line(error)}") from None  # the `package:` of the id
        mend = f"; install {error.name}" if error.name else ""
        raise ResourceError(f"{id}: {first_line(error)}{mend}") from None


def fitted(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """The same with observations that a network takes: vectors, or images with channels first."""
    space = env.observation_space
    if isinstance(space, Box):
        if len(space.shape) == 3 and space.shape[2] < space.shape[0]:
            low, high = (np.moveaxis(bound, -1, 0) for bound in (space.low, space.high))
            first = Box(low, high, dtype=space.dtype)
            return TransformObservation(env, lambda image: np.moveaxis(image, -1, 0), first)
        return env
    return FlattenObservation(env) if space.is_np_flattenable else env


class ControlProblem(GymnasiumProblem):
    """One process, environments stepped in turn: what small control problems need."""

    def __init__(
        self,
        env: gym.Env[Any, Any],
        env_kwargs: dict[str, Any],
        eval_episodes: int,
        ceiling: float | None,
        observations: Observations,
        scale: float,
    ) -> None:
        assert env.spec is not None
        self.id, self.env_kwargs = env.spec.id, env_kwargs
        self.observation_space = checked_observations(env.spec.id, env.observation_space)
        self.action_space, self.output_size = checked_actions(env.spec.id, env.action_space)
        self.input_shape = self.observation_space.shape
        self.eval_episodes, self.ceiling, self.scale = eval_episodes, ceiling, scale
        self.observations = observations
        self.low, self.span = bounds(self.id, self.observation_space, observations)
        limit = env.spec.max_episode_steps
        check_limit(limit, self.id)
        self.protocol = f"{self.id}, at most {limit:,} steps"
        if isinstance(env, FlattenObservation):
            self.protocol += f", {env.env.observation_space} flattened"

    @cached_property
    def standardiser(self) -> Standardiser:
        return Standardiser(lambda: make_env(self.id, self.env_kwargs))

    def prepare(self, x: Tensor) -> Tensor:
        if self.observations == "standardised":
            return self.standardiser(x)
        if self.span is None:
            return super().prepare(x)
        low, span = (torch.as_tensor(array, device=x.device) for array in (self.low, self.span))
        return (x.float() - low).mul_(2 / span).sub_(1)

    def env_seed(self, seed: int) -> int:
        return seed if self.takes_wide_seeds else seed % 2**31

    @cached_property
    def takes_wide_seeds(self) -> bool:
        """Not so where an environment seeds numpy's old generators, which take 32 bits."""
        env = make_env(self.id, self.env_kwargs)
        try:
            env.reset(seed=2**62)
        except (ValueError, OverflowError):
            return False
        finally:
            env.close()
        return True

    def build_envs(self, num_envs: int, *, rendered: bool = False) -> gym.vector.VectorEnv:
        drawing = {"render_mode": "rgb_array"} if rendered else {}
        makers = [lambda: make_env(self.id, {**self.env_kwargs, **drawing})] * num_envs
        return RecordEpisodeStatistics(
            SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
        )

    def make_episodes(self, num_envs: int) -> gym.vector.VectorEnv:
        return Episodes([lambda: make_env(self.id, self.env_kwargs)] * num_envs)


def checked_observations(id: str, space: gym.Space[Any]) -> Box:
    if not isinstance(space, Box) or not space.shape:
        raise UsageError(
            f"{id}: observations are {space}, a policy here needs a Box of one axis or more, or "
            "what flattens into one; wrap the environment"
        )
    if 0 in space.shape:
        raise UsageError(f"{id}: observations of shape {space.shape} hold nothing to act on")
    return space


def checked_actions(id: str, space: gym.Space[Any]) -> tuple[Discrete | Box, int]:
    """The space, and the number of outputs that a policy needs for it."""
    if isinstance(space, Discrete):
        return space, int(space.n)
    if (
        isinstance(space, Box)
        and np.issubdtype(space.dtype, np.floating)
        and len(space.shape) == 1
        and space.is_bounded()
    ):
        return space, space.shape[0]
    raise UsageError(
        f"{id}: actions are {space}, a policy here needs Discrete or a bounded Box of floats in "
        "one dimension; wrap the environment"
    )


def bounds(
    id: str, space: Box, observations: Observations
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Lower bounds and widths of the observations, both None where they are not used."""
    if observations != "unit":
        return None, None
    if not space.is_bounded():
        raise UsageError(f"{id}: observations have no bounds; use 'observations: raw'")
    return space.low.astype(np.float32), (space.high - space.low).astype(np.float32)
