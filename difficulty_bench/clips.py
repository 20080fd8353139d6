"""Small moving pictures for the report: what d numbers can play, for a few d of a study."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from .errors import UsageError, user_code
from .play import play, steps_per_s
from .problem import EnvironmentProblem
from .registry import Registry
from .report.study import StudyReport
from .results import TrialResult
from .seeds import Streams, content_hash
from .solution import Solution
from .store import Store

MAX_BYTES = 300_000
MAX_FRAMES = 100
FPS = 10.0
WIDTH = 160  # pixels; an Atari screen has as many
COLOURS = 32
BANNER = 14  # pixels for the line above the picture


def study_clips(
    store: Store, registry: Registry, report: StudyReport, d_int90: float | None
) -> Iterator[tuple[int, bytes]]:
    """(d, GIF) for the smallest d, the one nearest to d_int90 and the largest one of a study.

    A clip is the start of a fresh episode of the trial with the median score at its d. Raise
    BenchError where the task is not the one that was trained, or cannot be drawn here.
    """
    reading, source = report.reading, str(store.path)
    for result in chosen(report.of_role("trial"), d_int90):
        z = store.solution(result.identity)
        if z is not None:
            solution = Solution.of(reading, result, z, registry, source)
            with user_code(f"{reading.task.name}: problem '{reading.task.problem.entry_point}'"):
                picture = clip(solution)
            yield result.request.d, picture


def chosen(trials: Sequence[TrialResult], d_int90: float | None) -> list[TrialResult]:
    """The median trial at the smallest, the middle and the largest d; the lower of two medians."""
    scored = [(t.request.d, t.score, t.request.seed, t) for t in trials if t.score is not None]
    dims = sorted({d for d, *_ in scored})
    if not dims:
        return []
    centre = d_int90 or dims[len(dims) // 2]
    middle = min(dims, key=lambda d: abs(np.log(d / centre)))
    medians = []
    for wanted in sorted({dims[0], middle, dims[-1]}):
        ranked = sorted((s, seed, t.identity, t) for d, s, seed, t in scored if d == wanted)
        medians.append(ranked[(len(ranked) - 1) // 2][-1])
    return medians


def clip(solution: Solution) -> bytes:
    """A GIF of at most MAX_BYTES: one episode, its return written above."""
    problem = solution.trial.task.problem()
    if not isinstance(problem, EnvironmentProblem):
        raise UsageError(f"{solution.trial.task.name}: no environment to be drawn")
    seed = Streams.of(content_hash([solution.trial.identity, "clip"])).evaluation
    envs = problem.rendered_envs(seed)
    every = max(1, round(steps_per_s(envs) / FPS))
    frames: list[Image.Image] = []
    count = 0

    def show(picture: np.ndarray) -> None:
        nonlocal count
        if count % every == 0 and len(frames) < MAX_FRAMES:
            frames.append(_shrunk(picture))
        count += 1

    try:
        network, cpu = solution.network(), torch.device("cpu")
        episodic_return, _ = play(problem, envs, network, cpu, show)
        text = f"d = {solution.trial.request.d:,}: return {episodic_return:.4g}"
        return gif([_titled(frame, text) for frame in frames], every / steps_per_s(envs))
    finally:
        envs.close()


def _shrunk(picture: np.ndarray) -> Image.Image:
    image = Image.fromarray(picture)
    height = round(image.height * WIDTH / image.width)
    return image.resize((WIDTH, height), Image.Resampling.LANCZOS)


def _titled(frame: Image.Image, text: str) -> Image.Image:
    image = Image.new("RGB", (frame.width, frame.height + BANNER), "white")
    image.paste(frame, (0, BANNER))
    ImageDraw.Draw(image).text((2, 1), text, fill="black")
    return image


def gif(frames: Sequence[Image.Image], seconds: float) -> bytes:
    """`frames`, each shown for `seconds`; every other one only, until MAX_BYTES are enough."""
    palette = _joined(frames).quantize(COLOURS)
    plain: list[Any] = [f.quantize(palette=palette, dither=Image.Dither.NONE) for f in frames]
    while True:
        out = io.BytesIO()
        duration = round(1000 * seconds)
        plain[0].save(out, "GIF", save_all=True, append_images=plain[1:], duration=duration, loop=0)
        if out.tell() <= MAX_BYTES or len(plain) == 1:
            return out.getvalue()
        plain, seconds = plain[::2], 2 * seconds


def _joined(frames: Sequence[Image.Image]) -> Image.Image:
    """A few of the frames side by side, so that one palette is good for all."""
    some = frames[:: max(1, len(frames) // 8)]
    image = Image.new("RGB", (some[0].width * len(some), some[0].height))
    for n, frame in enumerate(some):
        image.paste(frame, (n * frame.width, 0))
    return image
