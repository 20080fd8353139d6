"""Episodes to look at: a policy acting in its environment, one picture a step, and a video file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import nn

from .cpu import use_one_thread
from .errors import ResourceError, UsageError, first_line
from .problem import EnvironmentProblem, act, check_length

Show = Callable[[np.ndarray], None]
FPS = 30.0  # of environments that do not say theirs
INSTALL = "pip install 'difficulty-bench[video]'"


def play(
    problem: EnvironmentProblem,
    envs: gym.vector.VectorEnv,
    network: nn.Module,
    device: torch.device,
    show: Show,
) -> tuple[float, int]:
    """Return and length of one episode of the deterministic policy, each step shown.

    `envs` are the problem's `rendered_envs`. The network is in evaluation mode afterwards. Raise
    UsageError for an episode without an end.
    """
    use_one_thread(device)
    network.eval()
    observations, _ = envs.reset()
    steps, ended = 0, False
    while not ended:
        pictures = envs.render()
        assert pictures is not None
        show(np.asarray(pictures[0]))  # (H, W, 3)
        inputs = problem.prepare(torch.as_tensor(observations, device=device))
        actions = act(network, inputs, problem.action_space)
        observations, _, terminated, truncated, info = envs.step(actions)
        steps, ended = steps + 1, bool(terminated[0] or truncated[0])
        if not ended:
            check_length(steps, problem.id)
    return float(info["episode"]["r"][0]), steps


def steps_per_s(envs: gym.vector.VectorEnv) -> float:
    return float(envs.metadata.get("render_fps") or FPS)


@contextmanager
def video(path: Path, fps: float) -> Iterator[Show]:
    """A function that adds pictures to the file `path`, which appears when all went well.

    Raise UsageError for an unknown kind of file or one that cannot be written (so does the
    function), ResourceError where the encoder is missing.
    """
    check_encoder(path)
    import imageio.v2 as imageio

    options: dict[str, Any] = {"format": "GIF", "duration": 1000 / fps, "loop": 0}
    if path.suffix == ".mp4":
        options = {"format": "FFMPEG", "fps": fps, "codec": "libx264", "macro_block_size": 2}
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    writer: Any

    def show(picture: np.ndarray) -> None:
        with _writing(path):
            writer.append_data(picture)

    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with imageio.get_writer(partial, mode="I", **options) as writer:
                yield show
            partial.replace(path)
    finally:
        if partial.exists():
            partial.unlink()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path}: cannot write: {first_line(error)}; give another path") from None


def check_encoder(path: Path) -> None:
    """Raise as `video` does where it could not write such a file."""
    if path.suffix not in (".mp4", ".gif"):
        raise UsageError(f"{path}: no encoder for '{path.suffix}' files; use .mp4 or .gif")
    try:
        import imageio  # noqa: F401

        if path.suffix == ".mp4":
            import imageio_ffmpeg

            imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise ResourceError(f"{path}: no encoder: {error}; {INSTALL}") from None
