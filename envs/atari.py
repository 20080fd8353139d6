"""Atari games with every choice of the protocol explicit.

Pixels come from ale-py's own vectorised environment (C++ threads, preprocessing inside), RAM
from one emulator per environment. A network sees pixels less their background, and bytes of RAM
as ranks, with their changes in place of earlier frames: most never vary, each has a range of its
own, and those of one frame are nearly those of the frame before. The defaults are those of
`ALE/<Game>-v5` (frame skip 4, sticky actions 0.25, minimal actions) with the usual preprocessing
around them. That is not Machado et al. 2018 to the letter, who use all 18 actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import ale_py
import gymnasium as gym
import numpy as np
import torch
from ale_py.vector_env import AtariVectorEnv
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FrameStackObservation
from gymnasium.wrappers.vector import ClipReward, RecordEpisodeStatistics
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from difficulty_bench.errors import UsageError

from .episodes import Episodes
from .evaluation import GymnasiumProblem
from .standardise import Background, RanksAndChanges

SCREENS_PER_S = 60  # of an NTSC console
Observation = Literal["pixels", "ram"]

gym.register_envs(ale_py)  # names the import's purpose: it registers the `ALE/` ids
ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner for every emulator


@dataclass(frozen=True)
class Protocol:
    """How the game is played; `describe` says it in one line, as `bench eval` prints it."""

    id: str
    obs: Observation
    sticky_probability: float
    frame_skip: int
    full_action_space: bool
    noop_max: int
    fire_reset: bool
    max_frames: int
    clip_rewards: bool
    image_size: int
    stack: int

    def describe(self, num_actions: int) -> str:
        pixels = f"{self.image_size}x{self.image_size} grey, maximum of the last 2 frames"
        view = (
            f"{pixels}, less the background, of variance 1"
            if self.obs == "pixels"
            else "128 bytes of RAM, as ranks and changes"
        )
        fire = ", FIRE" if self.fire_reset else ""
        clip = "clipped to [-1, 1]" if self.clip_rewards else "not clipped"
        return (
            f"{self.id}: sticky actions {self.sticky_probability:g}, frame skip {self.frame_skip}, "
            f"{num_actions} actions; {view}, {self.stack} stacked; at reset up to "
            f"{self.noop_max} no-op frames{fire}; at most {self.max_frames:,} frames an episode; "
            f"rewards {clip} in training, never in evaluation"
        )


def make(
    *,
    id: str,
    obs: Observation = "pixels",
    eval_episodes: PositiveInt = 20,
    ceiling: float | None = None,
    sticky_probability: Annotated[float, Field(ge=0, lt=1)] = 0.25,
    frame_skip: PositiveInt = 4,
    full_action_space: bool = False,
    noop_max: NonNegativeInt = 30,
    fire_reset: bool = True,
    max_frames: PositiveInt = 108_000,
    clip_rewards: bool = True,
    image_size: PositiveInt = 84,
    stack: PositiveInt = 4,
) -> AtariProblem:
    """The game `id` (`ALE/Pong-v5`). Raise UsageError for a game that ale-py does not have."""
    try:
        spec = gym.spec(id)
    except gym.error.Error as error:
        raise UsageError(f"{id}: {error}; Atari ids look like ALE/Pong-v5") from None
    if "game" not in spec.kwargs:
        raise UsageError(f"{id}: not an Atari game; use 'envs.control:make'")
    protocol = Protocol(
        id=id,
        obs=obs,
        sticky_probability=sticky_probability,
        frame_skip=frame_skip,
        full_action_space=full_action_space,
        noop_max=noop_max,
        fire_reset=fire_reset,
        max_frames=max_frames,
        clip_rewards=clip_rewards,
        image_size=image_size,
        stack=stack,
    )
    return AtariProblem(protocol, spec.kwargs["game"], eval_episodes, ceiling)


class AtariProblem(GymnasiumProblem):
    """An Atari game under one protocol."""

    def __init__(
        self, protocol: Protocol, game: str, eval_episodes: int, ceiling: float | None
    ) -> None:
        self.rules, self.game, self.id = protocol, game, protocol.id
        self.eval_episodes, self.ceiling = eval_episodes, ceiling
        envs = self.build_envs(1)
        self.observation_space, self.action_space = (
            envs.single_observation_space,
            envs.single_action_space,
        )
        envs.close()
        assert isinstance(self.observation_space, Box)
        assert isinstance(self.action_space, Discrete)
        self.input_shape = self.observation_space.shape
        self.output_size = int(self.action_space.n)
        self.protocol = protocol.describe(self.output_size)

    @cached_property
    def ranks_and_changes(self) -> RanksAndChanges:
        return RanksAndChanges(lambda: self._ram_env(None))

    @cached_property
    def background(self) -> Background:
        return Background(lambda: self._pixel_envs(8))

    def prepare(self, x: Tensor) -> Tensor:
        return self.ranks_and_changes(x) if self.rules.obs == "ram" else self.background(x)

    def env_seed(self, seed: int) -> int:
        return seed % 2**30  # the emulator takes 32-bit seeds

    def build_envs(self, num_envs: int, *, rendered: bool = False) -> gym.vector.VectorEnv:
        if self.rules.obs == "ram":
            games: gym.vector.VectorEnv = self._ram_envs(num_envs, rendered)
        elif rendered:
            games = WithScreen(self._pixel_envs(num_envs), self._screens(num_envs))
        else:
            games = self._pixel_envs(num_envs)
        games.metadata = {**games.metadata, "render_fps": SCREENS_PER_S / self.rules.frame_skip}
        envs: gym.vector.VectorEnv = RecordEpisodeStatistics(games)
        # outside of the statistics, which count the game's own score
        return ClipReward(envs, -1, 1) if self.rules.clip_rewards else envs

    def make_episodes(self, num_envs: int) -> gym.vector.VectorEnv:
        if self.rules.obs == "ram":
            return Episodes([lambda: self._ram_env(None)] * num_envs)
        return RecordEpisodeStatistics(SeedEach(self._pixel_envs(num_envs)))

    def _screens(self, num_envs: int) -> gym.vector.VectorEnv:
        """The same games, seen as the whole coloured screen."""
        return self._pixel_envs(
            num_envs, img_height=210, img_width=160, grayscale=False, stack_num=1
        )

    def _pixel_envs(self, num_envs: int, **view: Any) -> gym.vector.VectorEnv:
        rules = self.rules
        view = {
            **{"img_height": rules.image_size, "img_width": rules.image_size},
            **{"grayscale": True, "stack_num": rules.stack},
            **view,
        }
        return AtariVectorEnv(
            self.game,
            num_envs,
            num_threads=min(num_envs, torch.get_num_threads()),  # results do not depend on it
            max_num_frames_per_episode=rules.max_frames,
            repeat_action_probability=rules.sticky_probability,
            full_action_space=rules.full_action_space,
            autoreset_mode=AutoresetMode.SAME_STEP,
            frameskip=rules.frame_skip,
            maxpool=True,
            noop_max=rules.noop_max,
            use_fire_reset=rules.fire_reset,
            episodic_life=False,
            reward_clipping=False,
            **view,
        )

    def _ram_envs(self, num_envs: int, rendered: bool) -> gym.vector.VectorEnv:
        makers = [lambda: self._ram_env("rgb_array" if rendered else None)] * num_envs
        return SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)

    def _ram_env(self, render_mode: str | None) -> gym.Env[Any, Any]:
        rules = self.rules
        env = gym.make(
            self.id,
            obs_type="ram",
            render_mode=render_mode,
            frameskip=rules.frame_skip,
            repeat_action_probability=rules.sticky_probability,
            full_action_space=rules.full_action_space,
            max_num_frames_per_episode=rules.max_frames,
        )
        started = Start(env, rules.noop_max // rules.frame_skip, rules.fire_reset)
        return FrameStackObservation(started, rules.stack)


class SeedEach(gym.vector.VectorWrapper):
    """ALE's environments, seeded by a list of one seed for each, as Gymnasium's own are."""

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        seeds = np.asarray(seed) if isinstance(seed, list) else seed
        return self.env.reset(seed=seeds, options=options)  # type: ignore[arg-type]


class WithScreen(gym.vector.VectorWrapper):
    """Games that are played twice, from the same seed by the same actions: to learn, and to see.

    A view of another size changes nothing in the game, sticky actions and no-ops included.
    """

    def __init__(self, envs: gym.vector.VectorEnv, screens: gym.vector.VectorEnv) -> None:
        super().__init__(envs)
        self.screens = screens

    def reset(self, **keys: Any) -> Any:
        self._seen, _ = self.screens.reset(**keys)
        return self.env.reset(**keys)

    def step(self, actions: Any) -> Any:
        played = self.env.step(actions)
        self._seen, *seen, _ = self.screens.step(actions)
        assert all(np.array_equal(a, b) for a, b in zip(played[1:4], seen, strict=True))
        return played

    def render(self) -> tuple[np.ndarray, ...]:
        return tuple(self._seen[:, -1])

    def close(self, **keys: Any) -> None:
        self.screens.close(**keys)
        self.env.close(**keys)


class Start(gym.Wrapper[np.ndarray, int, np.ndarray, int]):
    """Begin an episode with 0 to `max_noops` no-ops and, where the game has it, FIRE."""

    def __init__(self, env: gym.Env[Any, Any], max_noops: int, fire: bool) -> None:
        super().__init__(env)
        meanings = env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
        self.max_noops = max_noops
        self.fire = meanings.index("FIRE") if fire and "FIRE" in meanings else None

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        noops = int(self.unwrapped.np_random.integers(self.max_noops + 1))
        for action in [0] * noops + ([] if self.fire is None else [self.fire]):
            observation, _, _, _, info = self.env.step(action)
        return observation, info
