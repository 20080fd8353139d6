"""Solutions to look at: the very game that is scored, as a video, as clips of the report."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from imageio.core.format import Format
from imageio.v2 import LegacyWriter
from PIL import Image, ImageSequence
from scipy import stats
from torch import nn

from difficulty_bench import clips
from difficulty_bench.cli import main
from difficulty_bench.errors import ResourceError, UsageError
from difficulty_bench.play import play
from difficulty_bench.problem import EnvironmentProblem, Evaluation, SupervisedProblem, interval
from difficulty_bench.registry import Registry
from difficulty_bench.results import Request
from difficulty_bench.solution import Solution
from difficulty_bench.store import Store
from difficulty_bench.study import prepare
from difficulty_bench.trial import Trial, study_identity
from envs import atari, control

from . import recorded
from .test_es import scaled

CPU = torch.device("cpu")


def short_pong(obs: Any) -> EnvironmentProblem:
    return atari.make(id="ALE/Pong-v5", obs=obs, eval_episodes=1, max_frames=200)


PROBLEMS = {
    "cartpole": lambda: control.make(id="CartPole-v1", eval_episodes=1),
    "mountain-car": lambda: control.make(
        id="MountainCarContinuous-v0", eval_episodes=1, env_kwargs={"max_episode_steps": 30}
    ),
    "pong": lambda: short_pong("pixels"),
    "pong-ram": lambda: short_pong("ram"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_is_shown_is_what_is_scored(name: str) -> None:
    """With the evaluation's seed it is the evaluation's episode, a picture a step."""
    problem = PROBLEMS[name]()
    torch.manual_seed(0)
    size = int(np.prod(problem.input_shape))
    network = nn.Sequential(nn.Flatten(), nn.Linear(size, problem.output_size))
    score = problem.evaluate(network, split="test", seed=5, device=CPU).score
    pictures: list[np.ndarray] = []
    envs = problem.rendered_envs(5)
    total, steps = play(problem, envs, network, CPU, pictures.append)
    envs.close()
    assert total == pytest.approx(score)
    assert steps == len(pictures)
    assert {picture.dtype for picture in pictures} == {np.dtype(np.uint8)}
    assert pictures[0].shape[2] == 3
    assert (pictures[0] != pictures[-1]).any()


def test_the_policy_acts_on_prepared_observations() -> None:
    problem, network = scaled(64.0)
    problem.eval_episodes = 1
    envs = problem.rendered_envs(5)
    total, _ = play(problem, envs, network, CPU, lambda picture: None)
    envs.close()
    assert total == problem.evaluate(network, split="test", seed=5, device=CPU).score > 100


def test_the_coloured_screen_is_what_the_policy_sees() -> None:
    envs = short_pong("pixels").rendered_envs(3)
    observations, _ = envs.reset()
    assert envs.metadata["render_fps"] == 15
    rng = np.random.default_rng(0)
    for _ in range(60):
        (picture,) = envs.render() or ()
        assert picture.shape == (210, 160, 3)
        rows = np.linspace(0, 209, 84).round().astype(int)
        columns = np.linspace(0, 159, 84).round().astype(int)
        grey = picture @ [0.299, 0.587, 0.114]
        difference = np.abs(grey[np.ix_(rows, columns)] - observations[0, -1])
        assert np.median(difference) < 1.5
        observations = envs.step(rng.integers(6, size=1))[0]


class Blind(gym.Env[np.ndarray, int]):
    observation_space, action_space = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(3, np.float32), {}

    def step(self, action: int) -> Any:
        return np.zeros(3, np.float32), 0.0, True, False, {}


gym.register("test/Blind-v0", Blind, max_episode_steps=10)


def test_an_episode_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = PROBLEMS["cartpole"]()
    envs, network = problem.rendered_envs(0), nn.Linear(4, 2)
    monkeypatch.setattr("difficulty_bench.problem.MAX_STEPS", 5)
    with pytest.raises(UsageError, match="CartPole-v1: an episode did not end within 5 steps"):
        play(problem, envs, network, CPU, id)


class Breaking(Blind):
    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def step(self, action: int) -> Any:
        if self.render_mode:
            raise RuntimeError("the renderer is gone")
        return super().step(action)

    def render(self) -> Any:
        return np.zeros((8, 8, 3), np.uint8)


gym.register("test/Breaking-v0", Breaking, max_episode_steps=10)


def test_an_environment_that_breaks_in_a_clip_leaves_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "bench.sqlite", tmp_path / "reports"
    task = Registry().get("ppo@test/Breaking-v0", ["lr_rule=paper"])
    with Store(path) as store:
        study = store.add_study(task, prepare(task).D, ["lr_rule=paper"], "episodic_return")
        store.put(recorded.result(store.study(study), "trial", 2, 0, 30.0))
    assert main(["report", "--store", str(path), "--out", str(out), "--clips"]) == 0
    said = capsys.readouterr().err
    assert "warning: no clips: ppo@test/Breaking-v0: problem 'envs.control:make': Runtime" in said
    assert (out / "difficulty.md").exists()


@pytest.mark.filterwarnings("ignore")
def test_an_environment_without_pictures_is_refused() -> None:
    with pytest.raises(ResourceError, match="test/Blind-v0: ") as caught:
        control.make(id="test/Blind-v0").rendered_envs(0)
    assert "\n" not in str(caught.value)


def test_a_failing_renderer_is_named_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any) -> None:
        raise AttributeError("no OpenGL\nhere")

    monkeypatch.setattr(gym.vector.SyncVectorEnv, "render", fail)
    with pytest.raises(ResourceError, match=r"cannot draw: no OpenGL; .*MUJOCO_GL=egl") as caught:
        control.make(id="CartPole-v1").rendered_envs(0)
    assert "\n" not in str(caught.value)


def test_a_problem_of_ones_own_without_the_method_says_so() -> None:
    class Own(EnvironmentProblem):
        id = "mine"
        evaluate = make_envs = missing = None  # type: ignore[assignment]

    with pytest.raises(ResourceError, match=r"mine: Own draws nothing; give it .*rendered_envs"):
        Own().rendered_envs(0)


def solution(name: str, d: int, path: Path, settings: tuple[str, ...] = ()) -> Path:
    task = Registry().get(name, settings)
    trial = Trial(task, Request("trial", d, 0))
    Solution(trial, settings, prepare(task).D, torch.linspace(-1, 1, d)).save(path)
    return path


@pytest.mark.parametrize("suffix", ["mp4", "gif"])
def test_a_video_has_every_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    import imageio.v3 as iio

    file = str(solution("cartpole", 4, tmp_path / "s.json"))
    out = tmp_path / "new" / f"film.{suffix}"
    assert main(["play", file, "--video", str(out), "--seed", "2", "--episodes", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    steps = [int(line.split()[-2]) for line in lines[:2]]
    if suffix == "mp4":
        frames = iio.imread(out, plugin="FFMPEG")
        assert frames.shape == (sum(steps), 400, 600, 3)
    else:
        with Image.open(out) as image:  # a picture like the one before only prolongs that
            pictures = [picture.info["duration"] for picture in ImageSequence.Iterator(image)]
        assert sum(pictures) == 20 * sum(steps)  # ms at 50 steps a second
    assert [path.name for path in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize(
    ("out", "missing", "code", "says"),
    [
        ("film.avi", None, 2, "no encoder for '.avi' files; use .mp4 or .gif"),
        ("film", None, 2, "no encoder for '' files"),
        ("film.gif", "imageio", 3, "pip install 'difficulty-bench[video]'"),
        ("film.mp4", "imageio_ffmpeg", 3, "pip install 'difficulty-bench[video]'"),
        ("no-folder/film.gif", None, 2, "cannot write"),
    ],
)
def test_a_video_that_cannot_be_is_refused_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    out: str,
    missing: str | None,
    code: int,
    says: str,
) -> None:
    (tmp_path / "no-folder").touch()
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    file = str(solution("cartpole", 4, tmp_path / "s.json"))
    assert main(["play", file, "--video", str(tmp_path / out)]) == code
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("film", ["film.gif", "film.mp4"])
def test_a_disk_that_fills_up_is_no_fault_of_the_environment(
    film: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for writer in (Format.Writer, LegacyWriter):
        monkeypatch.setattr(writer, "append_data", full)
    file = str(solution("cartpole", 4, tmp_path / "s.json"))
    assert main(["play", file, "--video", str(tmp_path / film)]) == 2
    said = capsys.readouterr().err
    assert f"{film}: cannot write: [Errno 28] No space left on device; give another" in said
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]


def test_a_classifier_plays_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(solution("digits", 4, tmp_path / "s.json"))
    assert main(["play", file, "--video", str(tmp_path / "film.gif")]) == 2
    assert main(["eval", file, "--episodes", "3"]) == 2
    said = capsys.readouterr().err
    assert "of a data set, and bench play is about episodes" in said
    assert "of a data set, and --episodes is about episodes" in said
    assert said.count("\n") == 2


def test_a_problem_that_breaks_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(solution("digits", 4, tmp_path / "s.json"))

    def broken(*_: Any, **keys: Any) -> Any:
        raise KeyError("label")

    monkeypatch.setattr(SupervisedProblem, "evaluate", broken)
    assert main(["eval", file]) == 2
    said = capsys.readouterr().err
    assert said.startswith("bench: problem 'envs.digits:make': KeyError: 'label' (test_play.py:")
    assert said.count("\n") == 1


def test_eval_takes_any_number_of_episodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(solution("cartpole", 4, tmp_path / "s.json"))
    for extra, n in (([], 100), (["--episodes", "7"], 7)):
        assert main(["eval", file, *extra]) == 0
        said = capsys.readouterr().out
        assert "95% interval [" in said
        assert f"n = {n} episodes" in said
        assert said.endswith("CartPole-v1, at most 500 steps\n")


def test_intervals_are_students_and_wilsons() -> None:
    returns = [3.0, 5.0, 4.0, 9.0]
    expected = stats.ttest_1samp(returns, 0).confidence_interval(0.95)
    problem = control.make(id="CartPole-v1")
    assert interval(problem, Evaluation.of_episodes(returns)) == pytest.approx(expected)
    data = SupervisedProblem((1,), 2, dict)
    wilson = stats.binomtest(97, 100).proportion_ci(0.95, "wilson")
    assert interval(data, Evaluation(0.97, 100)) == pytest.approx(tuple(wilson))
    other = SupervisedProblem((1,), 2, dict, score=lambda output, target: 0.0)
    assert interval(other, Evaluation(0.97, 100)) is None


def test_clips_are_of_median_trials_at_the_ends_and_near_the_crossing() -> None:
    of = recorded.reading()
    trials = [
        recorded.result(of, "trial", d, seed, score)
        for d in (10, 50, 90, 400)
        for seed, score in enumerate((0.1, 0.9, 0.5, None))
    ]
    found = clips.chosen(trials, 80.0)
    assert [(t.request.d, t.score) for t in found] == [(10, 0.5), (90, 0.5), (400, 0.5)]
    assert [t.request.d for t in clips.chosen(trials, None)] == [10, 90, 400]
    assert [t.request.d for t in clips.chosen(trials[:4], 3.0)] == [10]
    assert clips.chosen([], 3.0) == []


def test_a_clip_is_thinned_until_it_is_small() -> None:
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (120, 160, 3), np.uint8)) for _ in range(40)]
    with Image.open(io.BytesIO(clips.gif(noise, 0.1))) as image:
        left = image.n_frames  # type: ignore[attr-defined]
        assert image.info["duration"] == pytest.approx(4000 / left, abs=40)  # as long as before
    assert 1 <= left < 40
    assert len(clips.gif(noise, 0.1)) <= clips.MAX_BYTES


def test_the_report_shows_what_d_numbers_play(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "bench.sqlite", tmp_path / "reports"
    task = Registry().get("cartpole", ["floor=-1", "lr_rule=paper"])
    study = study_identity(task)
    gone = recorded.reading("control", paradigm="reinforcement")
    with Store(path) as store:
        store.add_study(task, prepare(task).D, ["floor=-1", "lr_rule=paper"], "episodic_return")
        of = store.study(study)
        for d in (2, 20):
            store.put(recorded.result(of, "trial", d, 0, 30.0 + d))
        recorded.fill(store, gone, [recorded.result(gone, "trial", 9, 0, 0.5)])
    report = ["report", "--store", str(path), "--out", str(out)]
    assert main(report) == 0
    assert "clips" not in (out / "difficulty.md").read_text()
    assert main([*report, "--clips"]) == 0
    assert "no clips: no task 'control'" in capsys.readouterr().err
    files = sorted(out.glob("clips/*.gif"))
    assert [file.stem.rpartition("-")[2] for file in files] == ["d2", "d20"]
    for file in files:
        assert file.stat().st_size <= clips.MAX_BYTES
        assert f"(clips/{file.name})" in (out / "difficulty.md").read_text()
    rows = json.loads((out / "difficulty.json").read_text())
    assert [[clip["d"] for clip in row.get("clips", [])] for row in rows] == [[2, 20], []]
