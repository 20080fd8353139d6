"""Atari under an explicit protocol, compared with stable-baselines3's own wrappers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.atari_wrappers import ClipRewardEnv, MaxAndSkipEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

from agents.sb3_vec_env import GymnasiumVecEnv
from difficulty_bench.context import Interrupted
from difficulty_bench.errors import UsageError
from difficulty_bench.registry import Registry
from difficulty_bench.results import Request
from difficulty_bench.trial import Runtime, Trial, run_trial
from envs import atari

CPU = torch.device("cpu")


def sb3_env() -> gym.Env[Any, Any]:
    """SB3's AtariWrapper but for resizing and stacking, where it needs OpenCV."""
    game = gym.make("PongNoFrameskip-v4", obs_type="grayscale")
    return ClipRewardEnv(MaxAndSkipEnv(Monitor(game), skip=4))


def area_average(side: int, pixels: int) -> np.ndarray:
    """(side, pixels): averages over `side` equal stretches of `pixels` pixels, as INTER_AREA."""
    edges = np.arange(side + 1) * pixels / side
    columns = np.arange(pixels)
    upper = np.minimum(edges[1:, None], columns + 1)
    lower = np.maximum(edges[:-1, None], columns)
    return np.clip(upper - lower, 0, None) * side / pixels


def shrink(frame: np.ndarray) -> np.ndarray:
    return area_average(84, 210) @ frame @ area_average(84, 160).T


def test_a_whole_game_of_pong_is_that_of_sb3s_wrappers() -> None:
    """Where the protocols agree: no sticky actions, no no-ops, no FIRE.

    The last frame is left out: the game ends within a skip, where SB3 keeps an older frame in
    its maximum. No learner reads it, since nothing is bootstrapped from a terminal state.
    """
    problem = atari.make(
        id="ALE/Pong-v5", sticky_probability=0.0, noop_max=0, fire_reset=False, stack=1
    )
    ours, theirs = GymnasiumVecEnv(problem.make_envs(1, 3)), DummyVecEnv([sb3_env])
    pairs = [(ours.reset(), theirs.reset())]
    rng = np.random.default_rng(0)
    ended = False
    while not ended:
        actions = rng.integers(6, size=1)
        observation, reward, done, info = ours.step(actions)
        expected, expected_reward, expected_done, expected_info = theirs.step(actions)
        assert (reward, done) == (expected_reward, expected_done)
        pairs.append((observation, expected))
        ended = bool(done[0])
    assert info[0]["episode"]["r"] == expected_info[0]["episode"]["r"] < -15
    # SB3's monitor counts frames, four a step but in the step that ends the game
    assert info[0]["episode"]["l"] == -(-expected_info[0]["episode"]["l"] // 4)
    assert not info[0]["TimeLimit.truncated"]
    assert not expected_info[0]["TimeLimit.truncated"]
    assert pairs[-1][0].shape == (1, 1, 84, 84)
    for image, frame in [*pairs[::10], pairs[-1]]:  # the last one begins the next game
        assert_same_picture(image[0, 0], frame[0])


def differing(image: np.ndarray, frame: np.ndarray) -> float:
    """Share of pixels that differ by more than rounding."""
    return float((np.abs(image - shrink(frame)) > 1).mean())


def assert_same_picture(image: np.ndarray, frame: np.ndarray) -> None:
    assert np.abs(image - shrink(frame)).max() <= 1  # rounding


FRAMES = 400


def sticky(seed: int) -> gym.Env[Any, Any]:
    """As `sb3_env`, with sticky actions that the emulator draws from `seed`, cut off at FRAMES."""
    keys = {"obs_type": "grayscale", "frameskip": 1, "max_num_frames_per_episode": FRAMES}
    game = gym.make("ALE/Pong-v5", **keys)  # type: ignore[arg-type]
    emulator: Any = game.unwrapped
    emulator.ale.setInt("random_seed", seed)
    emulator.load_game()
    return ClipRewardEnv(MaxAndSkipEnv(Monitor(game), skip=4))


def test_sticky_episodes_go_on_as_sb3s_through_autoreset() -> None:
    """Two games side by side, three episodes each, cut off: what a learner reads of their ends."""
    problem = atari.make(id="ALE/Pong-v5", noop_max=0, fire_reset=False, stack=1, max_frames=FRAMES)
    ours = GymnasiumVecEnv(problem.make_envs(2, 3))
    theirs = DummyVecEnv([lambda: sticky(3), lambda: sticky(4)])
    assert_same_picture(ours.reset()[0, 0], theirs.reset()[0])
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(3 * FRAMES // 4):
        actions = rng.integers(6, size=2)
        observations, rewards, dones, infos = ours.step(actions)
        expected, expected_rewards, expected_dones, expected_infos = theirs.step(actions)
        assert np.array_equal(rewards, expected_rewards)
        assert np.array_equal(dones, expected_dones)
        for i in np.flatnonzero(dones):
            info, other = infos[i], expected_infos[i]
            assert info["TimeLimit.truncated"]
            assert other["TimeLimit.truncated"]
            assert info["episode"]["r"] == other["episode"]["r"]
            assert 4 * info["episode"]["l"] == other["episode"]["l"] == FRAMES
            # On an episode's last step the two take their maximum over other frames: ball and
            # paddles are some pixels apart. Everything else is the old episode's screen.
            last = info["terminal_observation"][0]
            assert differing(last, other["terminal_observation"]) < 0.02
            assert differing(last, expected[i]) > 0.5
            assert_same_picture(observations[i, 0], expected[i])  # of the next episode
            ends += 1
    assert ends == 6


def test_every_rule_reaches_the_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    real = atari.AtariVectorEnv
    monkeypatch.setattr(atari, "AtariVectorEnv", lambda *a, **k: seen.update(k) or real(*a, **k))
    rules = {"frame_skip": 3, "noop_max": 7, "max_frames": 90, "full_action_space": True}
    atari.make(id="ALE/Breakout-v5", fire_reset=True, sticky_probability=0.1, stack=2, **rules)  # type: ignore[arg-type]
    expected = {
        **{"frameskip": 3, "noop_max": 7, "max_num_frames_per_episode": 90, "stack_num": 2},
        **{"full_action_space": True, "repeat_action_probability": 0.1, "use_fire_reset": True},
        # a life is no episode, and the statistics count the game's own score
        **{"episodic_life": False, "reward_clipping": False, "maxpool": True, "grayscale": True},
    }
    assert {key: seen[key] for key in expected} == expected


@pytest.mark.parametrize("obs", ["pixels", "ram"])
def test_the_learner_sees_clipped_rewards_and_the_score_is_the_games_own(obs: Any) -> None:
    envs = atari.make(id="ALE/Qbert-v5", obs=obs, max_frames=1200).make_envs(4, 0)
    rng = np.random.default_rng(0)
    clipped = np.zeros(4)
    info: dict[str, Any] = {}
    while "episode" not in info:
        _, rewards, _, _, info = envs.step(rng.integers(6, size=4))
        assert set(rewards) <= {0, 1}
        clipped += rewards
    i = int(np.argmax(info["_episode"]))
    assert clipped[i] > 0
    assert info["episode"]["r"][i] == 25 * clipped[i]  # a cube of Q*bert counts 25


def test_an_episode_at_the_frame_limit_is_truncated() -> None:
    envs = GymnasiumVecEnv(atari.make(id="ALE/Pong-v5", max_frames=200).make_envs(1, 0))
    envs.reset()
    for _ in range(50):
        _, _, done, info = envs.step(np.zeros(1, dtype=np.int64))
    assert done[0]
    assert info[0]["TimeLimit.truncated"]
    assert info[0]["episode"]["l"] == 50  # 200 frames, 4 a step


@pytest.mark.parametrize(("obs", "shape"), [("pixels", (4, 84, 84)), ("ram", (4, 128))])
def test_games_repeat_by_seed_and_differ_without(obs: Any, shape: tuple[int, ...]) -> None:
    problem = atari.make(id="ALE/Pong-v5", obs=obs)
    assert problem.input_shape == shape
    assert problem.output_size == 6

    def play(seed: int, threads: int) -> np.ndarray:
        torch.set_num_threads(threads)
        envs = problem.make_envs(2, seed)
        envs.reset()
        frames = [envs.step(np.full(2, 2 + t % 2))[0] for t in range(40)]
        return np.stack(frames)

    first, again, other = play(2**62, 1), play(2**62, 2), play(5, 1)
    torch.set_num_threads(1)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_images_reach_the_network_without_what_never_changes() -> None:
    problem = atari.make(id="ALE/Pong-v5", image_size=42, stack=2)
    assert problem.input_shape == (2, 42, 42)
    envs = problem.make_envs(4, seed=5)
    images, _ = envs.reset()
    for action in range(60):
        images, *_ = envs.step(np.full(4, action % 6))
    seen = problem.prepare(torch.tensor(images))
    assert seen.dtype == torch.float32
    steady = (images == images[:1]).all(axis=0)  # walls and background
    assert steady.mean() > 0.8
    assert float(seen[:, torch.tensor(steady)].abs().mean()) < 0.2
    assert float(seen.abs().max()) > 5  # the ball or a paddle
    black, white = torch.zeros(1, 2, 42, 42), torch.full((1, 2, 42, 42), 255.0)
    spans = problem.prepare(white) - problem.prepare(black)
    assert torch.allclose(spans, spans.mean())  # one scale for all pixels
    again = atari.make(id="ALE/Pong-v5", image_size=42, stack=2).prepare(torch.tensor(images))
    assert torch.equal(seen, again)


def test_what_changes_on_the_screen_has_variance_1() -> None:
    problem = atari.make(id="ALE/Pong-v5")
    envs = problem.make_envs(8, seed=5)
    envs.action_space.seed(1)
    screens = [torch.tensor(envs.step(envs.action_space.sample())[0]) for _ in range(400)]
    seen = problem.prepare(torch.stack(screens[100:]))
    assert abs(float(seen.mean())) < 0.05
    assert float(seen.square().mean()) == pytest.approx(1, rel=0.2)


def test_bytes_reach_the_network_as_ranks_and_changes() -> None:
    problem = atari.make(id="ALE/Pong-v5", obs="ram")
    envs = problem.make_envs(4, seed=5)
    envs.action_space.seed(1)
    rows = torch.cat([torch.tensor(envs.step(envs.action_space.sample())[0]) for _ in range(800)])
    seen = problem.prepare(rows)  # (3200, 4, 128)
    assert seen.dtype == torch.float32
    assert seen.shape == rows.shape
    ball, player = 49, 51  # the ball's column on the screen, the player's row
    for byte in (ball, player):
        newest, shown = rows[:, 3, byte].argsort(), seen[:, 0, byte]
        assert bool((shown[newest].diff() >= 0).all())
        assert abs(float(shown.mean())) < 0.3  # two minutes of four games
        assert abs(float(shown.std()) - 1) < 0.2
    moved = rows[:, :, ball].float().diff(dim=1)
    assert torch.equal(seen[:, 1:, ball].sign(), moved.sign())
    assert float(seen[:, 1:].abs().max()) == 3
    assert float(seen[:, 0].abs().max()) <= 3**0.5 + 1e-6
    again = atari.make(id="ALE/Pong-v5", obs="ram").prepare(rows)
    assert torch.equal(seen, again)


def test_the_emulator_of_ram_games_has_the_protocol_too() -> None:
    """Their own code sets it up, beside that of the pixels."""
    rules: dict[str, Any] = {"sticky_probability": 0.5, "frame_skip": 3, "max_frames": 99}
    rules |= {"full_action_space": True, "noop_max": 0, "fire_reset": False, "stack": 2}
    env = atari.make(id="ALE/Pong-v5", obs="ram", **rules)._ram_env(None)
    emulator: Any = env.unwrapped
    assert env.observation_space.shape == (2, 128)
    assert env.action_space == gym.spaces.Discrete(18)
    assert emulator.ale.getFloat("repeat_action_probability") == 0.5
    env.reset(seed=1)
    start = emulator.ale.getEpisodeFrameNumber()
    truncations = [env.step(0)[3] for _ in range(33)]
    assert truncations == [False] * 32 + [True]
    assert emulator.ale.getEpisodeFrameNumber() - start == 99


class Pad(gym.Env[np.ndarray, int]):
    """Notes the actions that it is given."""

    def __init__(self, *meanings: str) -> None:
        self.meanings, self.taken = meanings, list[int]()

    def get_action_meanings(self) -> tuple[str, ...]:
        return self.meanings

    def reset(self, **keys: Any) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(**keys)
        self.taken.clear()
        return np.zeros(1), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.taken.append(action)
        return np.full(1, len(self.taken)), 0.0, False, False, {}


@pytest.mark.parametrize(
    ("meanings", "fire", "end"),
    [
        (("NOOP", "UP", "FIRE"), True, [2]),
        (("NOOP", "UP", "FIRE"), False, []),
        (("NOOP",), True, []),
    ],
)
def test_an_episode_of_ram_begins_with_no_ops_and_fire(
    meanings: tuple[str, ...], fire: bool, end: list[int]
) -> None:
    pad = Pad(*meanings)
    start, begun = atari.Start(pad, 3, fire), set()
    for seed in range(40):
        observation, _ = start.reset(seed=seed)
        noops = len(pad.taken) - len(end)
        assert pad.taken == [0] * noops + end
        assert observation == len(pad.taken)
        begun.add(noops)
    assert begun == {0, 1, 2, 3}


class Still(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(torch.zeros(len(x), dtype=torch.long), 6).float()


def test_a_player_that_stands_still_loses_every_game() -> None:
    problem = atari.make(id="ALE/Pong-v5", obs="ram", eval_episodes=2, frame_skip=16)
    evaluation = problem.evaluate(Still(), split="test", seed=1, device=CPU)
    assert (evaluation.score, evaluation.n) == (-21, 2)


def test_the_protocol_names_every_choice() -> None:
    line = atari.make(id="ALE/Pong-v5").protocol
    for choice in ("sticky actions 0.25", "frame skip 4", "6 actions", "84x84", "4 stacked"):
        assert choice in line
    for choice in ("30 no-op frames, FIRE", "108,000 frames", "clipped to [-1, 1]"):
        assert choice in line
    assert "18 actions" in atari.make(id="ALE/Pong-v5", full_action_space=True).protocol


@pytest.mark.parametrize("id", ["ALE/Pongg-v5", "CartPole-v1"])
def test_what_is_no_atari_game_is_refused_in_one_line(id: str) -> None:
    with pytest.raises(UsageError, match=id):
        atari.make(id=id)


class StopAtSecondReading:
    readings = 0

    def is_set(self) -> bool:
        self.readings += 1
        return self.readings == 2


@pytest.mark.slow
@pytest.mark.parametrize("d", [0, 1000])
def test_pong_trains_stops_resumes_and_is_scored(d: int, tmp_path: Path) -> None:
    # too short for the episode that `early_stop` must have seen the return of
    settings = ["agent.total_timesteps=3072", "problem.eval_episodes=2", "problem.max_frames=4000"]
    settings += ["agent.n_envs=8", "agent.n_steps=128"]  # 1,024 steps a rollout
    trial = Trial(Registry().get("pong", [*settings, "early_stop=null"]), Request("trial", d, 0))
    with pytest.raises(Interrupted):
        run_trial(trial, Runtime(checkpoint_dir=tmp_path, stop=StopAtSecondReading()))
    result = run_trial(trial, Runtime(checkpoint_dir=tmp_path))
    assert (result.state, result.steps, result.score_n) == ("complete", 3072, 2)
    assert (2048, "environments_reset", 1.0) in result.curve
    assert result.D == 1_005_366
    assert -21 <= (result.score or 0) <= 21
