"""A task for any Gymnasium id: what its registry entry would say, found out from the environment.

Network and input scale follow from its spaces. The floor is measured: the mean return of a policy
that acts uniformly at random. All are functions of the environment, as it is trained, and a fixed
seed, so that the same command gives the same task every time.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Collection
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from difficulty_bench.errors import UsageError, first_line
from difficulty_bench.problem import EnvironmentProblem, Problem

from . import atari, control
from .evaluation import episode_returns

FLOOR_SEED = 0
# An Atari episode costs about a second. Of 100 episodes of LunarLander the mean is known to 10.
FLOOR_EPISODES, FLOOR_EPISODES_OF_IMAGES = 100, 10
Entry = dict[str, Any]


def derive(id: str) -> Entry:
    """The problem of a task for the environment `id`; nothing is made yet, for it may need keys.

    Raise UsageError for an id that is none.
    """
    _check_id(id)
    module = atari if id.startswith("ALE/") else control
    return {"problem": {"entry_point": f"{module.__name__}:make", "id": id}}


def measure(
    problem: Problem,
    given: Collection[str],
    *,
    vector: Entry,
    image: Entry | None = None,
    continuous: bool = True,
) -> Entry:
    """What follows from the environment: network, search range, scale, floor, global threshold.

    `vector` and `image` are what only the caller knows for observations of either kind: network
    and search range; None where the agent has nothing for them. Images are arrays of three axes,
    channels first. `continuous` says whether the agent can take continuous actions. `given` are the
    task's keys that need no measuring. A `reward_threshold` of Gymnasium's is of the environment as
    it is registered, and is none where `env_kwargs` change more than a missing step limit. Raise
    UsageError for a problem without episodes, spaces that do not fit the agent, and as
    `random_return` does.
    """
    if not isinstance(problem, EnvironmentProblem):
        raise UsageError(
            f"a random policy needs episodes to act in, and {type(problem).__name__} has none; "
            "write the whole task, without extending a template"
        )
    return {
        **_template(problem, vector, image, continuous),
        **_scale(problem),
        **_scores(problem, given),
    }


def _template(
    problem: EnvironmentProblem, vector: Entry, image: Entry | None, continuous: bool
) -> Entry:
    if isinstance(problem.action_space, Box) and not continuous:
        raise UsageError(
            f"{problem.id}: actions are continuous, and this agent chooses among discrete ones; "
            "use --agent ppo"
        )
    template = image if problem.sees_images else vector
    if template is None:
        raise UsageError(
            f"{problem.id}: observations are images of shape {problem.input_shape}, and this agent "
            "has no network for images; use --agent ppo or es"
        )
    return template


def _scale(problem: EnvironmentProblem) -> Entry:
    """The problem's keys for raw bytes, which a network shall see between 0 and 1."""
    if not isinstance(problem, control.ControlProblem) or problem.observations != "raw":
        return {}
    if problem.observation_space.dtype != np.uint8:
        return {}
    return {"problem": {"entry_point": f"{control.__name__}:make", "scale": 1 / 255}}


def _scores(problem: EnvironmentProblem, given: Collection[str]) -> Entry:
    """Floor and global threshold, and what to say of them."""
    spec = gym.registry.get(problem.id)
    threshold = spec.reward_threshold if spec else None
    changes = problem.env_kwargs if isinstance(problem, control.ControlProblem) else {}
    changed = ", ".join(f"{key}={value}" for key, value in changes.items())
    # a limit where none was declared makes it measurable, not another environment
    limited = {"max_episode_steps"} if spec and spec.max_episode_steps is None else set[str]()
    another = bool(changes.keys() - limited)
    found: Entry = {
        "description": f"{problem.id} {f'with {changed}' if changed else 'as Gymnasium has it'}",
        "threshold_global": None if threshold is None or another else float(threshold),
    }
    notes = ["Derived from the environment's id."]
    if "floor" not in given:
        episodes = FLOOR_EPISODES_OF_IMAGES if problem.sees_images else FLOOR_EPISODES
        found["floor"] = random_return(problem, episodes)
        notes.append(
            f"Floor: mean return of a uniformly random policy{f' with {changed}' * bool(changed)}, "
            f"{episodes} episodes of seed {FLOOR_SEED}."
        )
    if "threshold_global" not in given:
        notes.append(f"Global threshold: {_threshold_said(threshold, another)}.")
    return {**found, "notes": " ".join(notes)}


def _threshold_said(threshold: float | None, another: bool) -> str:
    if threshold is None:
        return "none declared by Gymnasium"
    if another:
        return (
            f"none, for Gymnasium's reward_threshold {threshold:g} is of the unchanged environment"
        )
    return "reward_threshold by Gymnasium"


def _check_id(id: str) -> None:
    """Raise UsageError for an id that Gymnasium does not know, or of no particular version."""
    package, _, name = id.rpartition(":")
    if package:
        try:
            importlib.import_module(package)
        except ImportError as error:
            mend = "install it, or put it in the working folder"
            raise UsageError(f"{id}: {first_line(error)}; {mend}") from None
    if versions := [known for known in gym.registry if known.startswith(f"{name}-v")]:
        raise UsageError(f"{id}: name the version, for each is another task: {versions[-1]}")
    try:
        spec = gym.spec(name)
    except gym.error.Error as error:
        raise UsageError(f"{id}: {first_line(error)}") from None
    if "game" in spec.kwargs and not id.startswith("ALE/"):
        raise UsageError(f"{id}: Atari is played by the rules of ALE/...-v5 here; give such an id")


def random_return(problem: EnvironmentProblem, episodes: int) -> float:
    """Mean return of a uniformly random policy, to six digits.

    Raise UsageError where it is not finite, or an episode has no end; whatever the environment
    raises comes through.
    """
    envs = problem.make_envs(min(episodes, 10), FLOOR_SEED)
    envs.action_space.seed(FLOOR_SEED)

    def policy(observations: np.ndarray) -> np.ndarray:
        return np.asarray(envs.action_space.sample())

    try:
        returns = episode_returns(envs, policy, episodes, problem.id)
    finally:
        envs.close()
    mean = float(f"{np.mean(returns):.6g}")
    if not math.isfinite(mean):
        raise UsageError(
            f"{problem.id}: the mean return of a random policy is {mean}; rewards must be finite"
        )
    return mean
