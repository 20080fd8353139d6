"""Weights & Biases: an outgoing side channel that can never change or stop a run.

Finished trials are queued and sent by a thread of the main process, so no trial waits for it, and
one that trains in a worker shares nothing with it. Whatever goes wrong there becomes one warning.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from .errors import first_line
from .registry import Task
from .results import TrialResult

FLUSH_S = 60.0  # how long the end of a run waits for W&B
PROJECT = "difficulty-bench"


class Tracker:
    """Sends each finished trial as one W&B run; `mode` is `offline` or `online`."""

    def __init__(self, mode: str, warn: Callable[[str], None]) -> None:
        self._mode, self._warn = mode, warn
        self._queue: queue.Queue[tuple[Task, TrialResult] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._send_all, daemon=True)
        self._thread.start()

    def log(self, task: Task, result: TrialResult) -> None:
        self._queue.put((task, result))

    def close(self) -> None:
        """Wait for what is queued, but no longer than FLUSH_S."""
        self._queue.put(None)
        self._thread.join(FLUSH_S)
        if self._thread.is_alive():
            self._warn(f"W&B did not take everything within {FLUSH_S:g} s; the store has it all")

    def _send_all(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                _send(*item, self._mode)
            except BaseException as error:  # wandb raises SystemExit and its own base errors too
                self._warn(f"W&B is off for the rest of this run: {first_line(error)}")
                return


def _send(task: Task, result: TrialResult, mode: str) -> None:
    """One trial as one run: its curve by step, its end in the summary."""
    # Before the import: it takes our package `agents` for another and advertises.
    os.environ.setdefault("WANDB_SILENT", "true")
    if not os.environ.get("WANDB_MODE"):  # an empty one, which it refuses, means none
        os.environ.pop("WANDB_MODE", None)
    import wandb

    request = result.request
    run = wandb.init(
        project=PROJECT,
        id=result.identity[:32],
        name=f"{task.name}-{request.role}-d{request.d or 'native'}-s{request.seed}",
        group=f"{task.name}-{result.study[:8]}",
        job_type=request.role,
        config=trial_config(task, result),
        mode="offline" if mode == "offline" else "online",
        reinit="create_new",
        settings=wandb.Settings(silent=True, console="off", init_timeout=30),
    )
    for step, name, value in result.curve:
        run.log({name: value, "step": step})
    run.summary.update(
        {
            "state": result.state,
            "score": result.score,
            "score_sd": result.score_sd,
            "score_n": result.score_n,
            "reason": result.reason,
            "steps": result.steps,
            "wall_s": result.wall_s,
        }
    )
    run.finish(exit_code=0 if result.state == "complete" else 1)


def trial_config(task: Task, result: TrialResult) -> dict[str, Any]:
    """The whole task and trial, as W&B's `config`."""
    return {
        "task": task.model_dump(mode="json"),
        "definition": task.definition(),
        "trial": {"identity": result.identity, "study": result.study, **asdict(result.request)},
        "D": result.D,
        "device": result.device,
        "environment": result.environment,
    }
