"""A user's own Gymnasium id as a task: derived the same every time, refused in one line."""

from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from difficulty_bench.cli import main
from difficulty_bench.errors import BenchError, ResourceError, UsageError
from difficulty_bench.registry import Registry, Task
from difficulty_bench.results import Request
from difficulty_bench.seeds import content_hash
from difficulty_bench.solution import Solution, load
from difficulty_bench.study import prepare
from difficulty_bench.trial import Trial, study_identity
from envs import any as any_env
from envs import control


class Chain(gym.Env[np.ndarray, int]):
    """Ten steps; each pays 1 for action 1. A random policy expects 5."""

    observation_space = Box(-1, 1, (3,))
    action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = 10
        return self.observation_space.low.copy(), {}

    def step(self, action: int) -> Any:
        self.left -= 1
        return self.observation_space.low.copy(), float(action), self.left == 0, False, {}


class Raised(Chain):
    def __init__(self, pay: float = 1.0) -> None:
        self.pay = pay

    def step(self, action: int) -> Any:
        observation, reward, *rest = super().step(action)
        return observation, self.pay * reward, *rest


class Narrow(Chain):
    """As environments from before numpy's generators: seeds of 32 bits, and noise from them."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self.noise = np.random.RandomState(seed)
        return super().reset(seed=seed)

    def step(self, action: int) -> Any:
        observation, _, *rest = super().step(action)
        return observation, self.noise.rand(), *rest


class Whole(Chain):
    action_space = Box(0, 4, (1,), np.int64)  # type: ignore[assignment]


class Endless(Chain):
    def step(self, action: int) -> Any:
        return self.observation_space.low.copy(), 0.0, False, False, {}


class Pixels(Chain):
    observation_space = Box(0, 255, (4, 84, 84), np.uint8)


class Viewed(Chain):
    """Which observations it has is for the user to say."""

    def __init__(self, pixels: bool) -> None:
        space = Pixels.observation_space if pixels else Chain.observation_space
        self.observation_space = space  # type: ignore[assignment]


class Seen(Chain):
    """`Chain` with observations of another kind."""

    def __init__(self, space: gym.Space[Any], shown: Any) -> None:
        self.observation_space, self.shown = space, shown  # type: ignore[assignment]

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        gym.Env.reset(self, seed=seed)
        self.left = 10
        return copy.deepcopy(self.shown), {}

    def step(self, action: int) -> Any:
        self.left -= 1
        return copy.deepcopy(self.shown), float(action), self.left == 0, False, {}


MIXED = gym.spaces.Dict({"at": Discrete(3), "speed": Box(-1, 1, (2,))})
PAINTED = np.arange(12 * 12 * 3, dtype=np.uint8).reshape(12, 12, 3)


class Listed(Chain):
    observation_space = gym.spaces.Sequence(Box(0, 1))  # type: ignore[assignment]


class Single(Chain):
    observation_space = Box(-1, 1, ())


class InitRaises(Chain):
    def __init__(self) -> None:
        raise OSError("no licence")


class ResetRaises(Chain):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        raise OSError("no server")


class StepRaises(Chain):
    def step(self, action: int) -> Any:
        raise RuntimeError("simulator crashed")


class OldApi(Chain):
    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()[0]


class Paying(Chain):
    reward: Any = None

    def step(self, action: int) -> Any:
        observation, _, *rest = super().step(action)
        return observation, self.reward, *rest


class PayingNan(Paying):
    reward = float("nan")


class PayingArray(Paying):
    reward = np.ones(1)


BROKEN = [Single, InitRaises, ResetRaises, StepRaises, OldApi, Paying, PayingNan, PayingArray]
for made in (Chain, Raised, Narrow, Whole, Pixels, Viewed, Listed, *BROKEN):
    gym.register(f"test/{made.__name__}-v0", made, reward_threshold=9.5, max_episode_steps=20)
gym.register("test/Endless-v0", Endless, reward_threshold=5)


def test_an_id_is_a_task() -> None:
    task = Registry().get("ppo@test/Chain-v0", ["agent.total_timesteps=5000"])
    assert task.threshold_global == 9.5
    assert task.floor == pytest.approx(5, abs=0.5)  # sd 1.6, 100 episodes
    assert "100 episodes of seed 0" in (task.notes or "")
    assert task.agent.parameters()["total_timesteps"] == 5000
    prepared = prepare(task)
    assert prepared.D == 3 * 64 + 64 + 64 * 64 + 64 + 64 * 2 + 2
    assert task.search.d_max <= prepared.D


def test_the_same_id_is_the_same_task() -> None:
    first, again = (Registry().get("ppo@test/Chain-v0") for _ in range(2))
    assert first == again
    other = Registry().get("dqn@test/Chain-v0")
    assert other.agent.entry_point == "agents.sb3:dqn"
    assert len({study_identity(task) for task in (first, again, other)}) == 2


def test_seeds_are_as_wide_as_an_environment_takes() -> None:
    narrow, wide = (control.make(id=f"test/{name}-v0") for name in ("Narrow", "Chain"))
    network, cpu, seed = torch.nn.Linear(3, 2), torch.device("cpu"), 2**62 + 5
    scores = [narrow.evaluate(network, split="test", seed=s, device=cpu) for s in (seed, seed, 6)]
    assert scores[0] == scores[1] != scores[2]
    assert wide.env_seed(seed) == seed


def test_whole_numbers_as_continuous_actions_are_refused() -> None:
    with pytest.raises(UsageError, match=r"test/Whole-v0: actions are .* bounded Box of floats"):
        control.make(id="test/Whole-v0")


def test_a_package_is_imported_for_its_id(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("mine: {extends: 'ppo@tests.quadratic:Quadratic-v0'}")
    task = Registry([file]).get("mine")
    assert task.problem.parameters()["id"] == "tests.quadratic:Quadratic-v0"
    assert task.floor < -10  # actions are uniform in [-5, 5]
    assert prepare(task).D > 4000


def test_one_broken_environment_leaves_the_list_its_other_tasks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.yaml"
    file.write_text("a: {extends: ppo@test/StepRaises-v0}\nb: {extends: ppo@test/Chain-v0}\n")
    assert main(["list", "--tasks", str(file)]) == 0
    said = capsys.readouterr().out
    why = "a: cannot be measured: RuntimeError: simulator crashed"
    assert f"unusable: {file}:1: {why}" in said
    assert re.search("^b +reinforcement +mlp", said, re.M)


def test_an_own_entry_extends_a_derived_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("mine: {extends: ppo@test/Chain-v0, floor: 1, agent: {n_envs: 4}}")
    task = Registry([file]).get("mine")
    assert (task.floor, task.agent.parameters()["n_envs"]) == (1, 4)
    assert task.problem.parameters()["id"] == "test/Chain-v0"


def test_an_environment_that_overrides_change_has_a_floor_of_its_own(tmp_path: Path) -> None:
    """Gymnasium's threshold, which is of another environment, is none of it."""
    file = tmp_path / "mine.yaml"
    file.write_text("mine: {extends: ppo@test/Raised-v0, problem: {env_kwargs: {pay: 4}}}")
    plain = Registry().get("ppo@test/Raised-v0")
    by_set = Registry().get("ppo@test/Raised-v0", ["problem.env_kwargs.pay=4"])
    by_file, (*_, listed) = Registry([file]).get("mine"), Registry([file]).registered()
    assert (plain.floor, plain.threshold_global) == (pytest.approx(5, abs=0.5), 9.5)
    for task in (by_set, by_file, listed):
        assert (task.floor, task.threshold_global) == (4 * plain.floor, None)
        assert task.description == "test/Raised-v0 with pay=4"
        assert "random policy with pay=4, 100 episodes" in (task.notes or "")
        assert "reward_threshold 9.5 is of the unchanged environment" in (task.notes or "")


def test_what_an_entry_gives_is_not_measured() -> None:
    task = Registry().get("ppo@test/StepRaises-v0", ["floor=1", "threshold_global=2"])
    assert (task.floor, task.threshold_global) == (1, 2)
    assert task.notes == "Derived from the environment's id."


def test_images_have_a_convolutional_network_with_ppo_and_none_with_dqn() -> None:
    task = Registry().get("ppo@test/Pixels-v0")
    assert task.network.entry_point == "agents.networks:nature_cnn"
    assert task.problem.parameters()["scale"] == 1 / 255
    unit = Registry().get("ppo@test/Pixels-v0", ["problem.observations=unit"])
    assert unit.problem.parameters()["scale"] == 1
    with pytest.raises(UsageError, match=r"images of shape \(4, 84, 84\).*--agent ppo"):
        Registry().get("dqn@test/Pixels-v0")


def test_what_env_kwargs_change_decides_network_and_scale(tmp_path: Path) -> None:
    """An environment that cannot be made without them is a task, too."""
    name, key = "test/Viewed-v0", "problem.env_kwargs"
    file = tmp_path / "mine.yaml"
    file.write_text(f"mine: {{extends: ppo@{name}, problem: {{env_kwargs: {{pixels: true}}}}}}")
    by_set = Registry().get(f"ppo@{name}", [f"{key}={{pixels: true}}"])
    vector = Registry().get(f"ppo@{name}", [f"{key}.pixels=false", "network.width=96"])
    by_file, (*_, listed) = Registry([file]).get("mine"), Registry([file]).registered()
    for task in (by_set, by_file, listed):
        assert task.network.entry_point == "agents.networks:nature_cnn"
        assert task.problem.parameters()["scale"] == 1 / 255
        assert task.search.d_max == 20000
        assert prepare(task).D > 10**6
    assert vector.network.entry_point == "agents.networks:mlp"
    assert (vector.problem.parameters()["scale"], vector.search.d_max) == (1, 4000)
    assert prepare(vector).D == 3 * 96 + 96 + 96 * 96 + 96 + 96 * 2 + 2
    with pytest.raises(UsageError, match=r"images of shape \(4, 84, 84\).*--agent ppo"):
        Registry().get(f"dqn@{name}", [f"{key}.pixels=true"])
    with pytest.raises(UsageError, match="missing 1 required positional argument: 'pixels'"):
        Registry().get(f"ppo@{name}")


def test_an_environment_that_does_not_fit_is_named_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("mine: {extends: dqn@Pendulum-v1}")
    with pytest.raises(UsageError, match=r"mine\.yaml:1: mine: Pendulum-v1: .*continuous"):
        Registry([tmp_path / "mine.yaml"]).get("mine")


def test_atari_ids_get_the_atari_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(any_env, "random_return", lambda problem, episodes: -20.3)
    task = Registry().get("ppo@ALE/Pong-v5")
    assert task.problem.entry_point == "envs.atari:make"
    assert (task.floor, task.threshold_global) == (-20.3, None)


@pytest.mark.parametrize(
    ("space", "shown", "expected"),
    [
        (Discrete(4), 2, [0, 0, 1, 0]),
        (Discrete(3, start=5), 6, [0, 1, 0]),
        (MIXED, {"at": 1, "speed": np.float32([0.5, -0.5])}, [0, 1, 0, 0.5, -0.5]),
        (Box(0, 255, (12, 12, 3), np.uint8), PAINTED, np.moveaxis(PAINTED, 2, 0)),
    ],
)
def test_observations_reach_the_network_as_vectors_or_images_with_channels_first(
    space: gym.Space[Any], shown: Any, expected: Any, tmp_path: Path
) -> None:
    def make() -> gym.Env[Any, Any]:
        return Seen(space, shown)

    gym.register("test/Seen-v0", entry_point=make, max_episode_steps=50)
    try:
        problem = control.make(id="test/Seen-v0", eval_episodes=2)
        assert problem.input_shape == np.shape(expected)
        for envs in (problem.make_envs(2, 0), problem.make_episodes(2)):
            rows, _ = envs.reset(seed=[1, 2])
            np.testing.assert_array_equal(rows, [expected, expected])
            np.testing.assert_array_equal(envs.step(np.array([0, 1]))[0], [expected, expected])
            envs.close()
    finally:
        del gym.registry["test/Seen-v0"]


def test_a_table_of_states_is_measured(tmp_path: Path) -> None:
    short = ["agent.total_timesteps=512", "agent.n_steps=64", "problem.eval_episodes=5"]
    settings = [word for setting in short for word in ("--set", setting)]
    few = ["--max-trials", "2", "--workers", "1", "--store", str(tmp_path / "s.sqlite")]
    assert main(["run", "--env", "FrozenLake-v1", "--agent", "ppo", *settings, *few]) == 0


WRONG = [
    ("ppo@CartPol-v1", UsageError, "Did you mean: `CartPole`"),
    ("ppo@CartPole", UsageError, "name the version.*CartPole-v1"),
    ("ppo@ALE/Pongg-v5", UsageError, "Did you mean: `Pong`"),
    ("ppo@PongNoFrameskip-v4", UsageError, "ALE/...-v5"),
    ("ppo@nowhere:Thing-v0", UsageError, "No module named 'nowhere'"),
    ("ppo@phys2d/CartPole-v1", ResourceError, "install jax"),
    ("ppo@Humanoid-v3", ResourceError, "gymnasium-robotics"),
    ("ppo@test/Listed-v0", UsageError, "needs a Box of one axis or more, or what flattens"),
    ("ppo@test/Single-v0", UsageError, "needs a Box of one axis or more"),
    ("ppo@test/InitRaises-v0", UsageError, r"InitRaises-v0: .*no licence \(test_any_env.py:"),
    ("ppo@test/ResetRaises-v0", UsageError, r"ResetRaises-v0: .*no server \(test_any_env.py:"),
    ("ppo@test/StepRaises-v0", UsageError, r"StepRaises-v0: .*crashed \(test_any_env.py:"),
    ("ppo@test/OldApi-v0", UsageError, "OldApi-v0: .*unexpected keyword argument 'seed'"),
    ("ppo@test/Paying-v0", UsageError, "Paying-v0: .*random policy is nan; rewards must be finite"),
    ("ppo@test/PayingNan-v0", UsageError, "PayingNan-v0: .*rewards must be finite"),
    ("ppo@test/PayingArray-v0", UsageError, "PayingArray-v0: .*ValueError"),
    ("ppo@tests.quadratic:Quadratic", UsageError, "name the version.*Quadratic-v0"),
    ("ppo@tests.quadratic:Quadratc-v0", UsageError, "Did you mean: `Quadratic`"),
    ("dqn@Pendulum-v1", UsageError, "continuous.*--agent ppo"),
    ("pppo@CartPole-v1", UsageError, "no template 'pppo@'; did you mean 'ppo'"),
    ("ppo@", UsageError, "template"),
]


@pytest.mark.parametrize(("name", "error", "says"), WRONG)
@pytest.mark.filterwarnings("ignore")
def test_what_does_not_fit_is_refused_in_one_line(
    name: str, error: type[BenchError], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        Registry().get(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("id", "module", "environment"),
    [
        ("LunarLander-v3", "Box2D", "gymnasium.envs.box2d.lunar_lander"),
        ("InvertedPendulum-v5", "mujoco", "gymnasium.envs.mujoco.inverted_pendulum_v5"),
    ],
)
def test_a_missing_simulator_is_named_with_the_mend(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    id: str,
    module: str,
    environment: str,
) -> None:
    for name in [*sys.modules]:
        if name.startswith(("gymnasium.envs.mujoco", "gymnasium.envs.box2d")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["run", "--env", id, "--dry-run"]) == 3
    said = capsys.readouterr().err
    assert said.startswith(f"bench: {id}: ")
    assert "pip install" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ([], "no step limit"),
        (["floor=0"], "no step limit"),
        (["problem.env_kwargs.max_episode_steps=-1"], "no step limit"),
        (["problem.env_kwargs.max_episode_steps=200001"], "a step limit of 200,001"),
    ],
)
def test_an_environment_without_a_step_limit_is_refused_before_training(
    settings: list[str], says: str
) -> None:
    """Whether or not a random policy's episodes end: a good one's might not."""
    match = f"Endless-v0: episodes have {says}, .* --set problem.env_kwargs.max_episode_steps=N"
    with pytest.raises(UsageError, match=match) as caught:
        Registry().get("ppo@test/Endless-v0", settings)
    assert "\n" not in str(caught.value)
    given = Registry().get("ppo@test/Endless-v0", ["problem.env_kwargs.max_episode_steps=7"])
    assert given.floor == 0
    assert given.threshold_global == 5  # a limit where there was none leaves it what it was


def test_a_study_of_an_id_is_measured_resumed_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["total_timesteps=64", "n_steps=32", "batch_size=32", "n_epochs=1"]
    sets = [word for key in settings for word in ("--set", f"agent.{key}")]
    store = ["--store", str(tmp_path / "bench.sqlite")]
    run = ["run", "--env", "test/Chain-v0", *sets, *store, "--workers", "1", "--json"]
    trials = ["--d", "3", "--seeds", "1", "--set", "floor=-1"]
    assert main([*run, *trials]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["task"], row["threshold_global"]) == ("ppo@test/Chain-v0", 9.5)
    assert main([*run, *trials]) == 0
    again = capsys.readouterr()
    assert "finished" not in again.err
    assert json.loads(again.out) == [row]
    for verb in (["list"], ["status"], ["show", "ppo@test/Chain-v0", *sets]):
        assert main([*verb, *store]) == 0
        assert "ppo@test/Chain-v0" in capsys.readouterr().out
    assert main(["report", *store, "--out", str(tmp_path)]) == 0
    assert "ppo@test/Chain-v0" in (tmp_path / "difficulty.md").read_text()


def test_nothing_to_measure_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run"]) == 2
    assert "--task NAME (see bench list) or --env ID" in capsys.readouterr().err


def test_an_agent_for_a_task_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The task's own would be measured, and taken for the one that was asked for."""
    assert main(["run", "--task", "cartpole", "--agent", "dqn", "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert "--agent dqn: a task has an agent of its own" in said
    assert said.count("\n") == 1


def test_a_solution_of_an_id_reloads_but_may_not_name_a_package(tmp_path: Path) -> None:
    import torch

    task: Task = Registry().get("ppo@test/Chain-v0")
    D = prepare(task).D
    file = tmp_path / "solution.json"
    Solution(Trial(task, Request("trial", 2, 0)), (), D, torch.ones(2)).save(file)
    assert load(file, Registry()).trial.task == task
    content = json.loads(file.read_text())
    del content["checksum"]
    for change in ({"task": "ppo@os:Thing-v0"}, {"settings": ["problem.id=os:Thing-v0"]}):
        changed = content | change
        file.write_text(json.dumps(changed | {"checksum": content_hash(changed)}))
        with pytest.raises(UsageError, match="may not name a package"):
            load(file, Registry())


def test_another_missing_module_is_a_lack_of_this_machine() -> None:
    with pytest.raises(ResourceError, match="jax"):
        control.make(id="phys2d/CartPole-v1")


def test_a_package_that_is_trusted_is_named_in_a_file(tmp_path: Path) -> None:
    import torch

    name = "ppo@tests.quadratic:Quadratic-v0"
    task = Registry().get(name)
    solution = tmp_path / "solution.json"
    Solution(Trial(task, Request("trial", 2, 0)), (), prepare(task).D, torch.ones(2)).save(solution)
    with pytest.raises(UsageError, match="may not name a package") as caught:
        load(solution, Registry())
    line = str(caught.value).partition("the line `")[2].partition("`")[0]
    (tmp_path / "mine.yaml").write_text(line)
    assert load(solution, Registry([tmp_path / "mine.yaml"])).trial.task == task


def test_an_environment_that_shows_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"observations of shape \(0,\) hold nothing"):
        control.checked_observations("x", Box(-1, 1, (0,)))


def test_what_is_wrong_below_an_own_entry_is_named_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("mine: {extends: ppo@CartPol-v1}")
    with pytest.raises(UsageError, match=r"mine\.yaml:1: mine\.extends: CartPol-v1: "):
        Registry([tmp_path / "mine.yaml"]).get("mine")
