"""What a run says while it works: a live line on a terminal, plain lines or JSON elsewhere.

All of it goes to standard error; standard output holds the result alone.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.text import Text

from .checkpoint import RESTARTS, Checkpoint, checkpoints
from .outputs import harmless
from .records import trial_identity
from .registry import Task
from .results import Request, TrialResult, describe, enumerated
from .trial import study_identity

# Seconds between two looks at the checkpoints: a live line is replaced, a log grows.
LIVE_S, LOG_S = 20.0, 600.0


class Progress:
    """One line per finished trial; of those under way, on a terminal beneath it, how far they are.

    `folder` holds their checkpoints, which a thread reads: a trial of hours is not silent, in a
    log either.
    """

    def __init__(
        self, folder: Path | None = None, *, as_json: bool = False, quiet: bool = False
    ) -> None:
        self._json, self._quiet = as_json, quiet
        self._console = Console(stderr=True, highlight=False)
        self._status: Status | None = None
        self._task, self._folder = "", folder
        self._open: dict[str, Request] = {}  # by identity
        self._far: dict[str, str] = {}
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._watch: threading.Thread | None = None
        if folder is not None and not quiet:
            self._watch = threading.Thread(target=self._look_at, args=(folder,), daemon=True)
            self._watch.start()

    def note(self, text: str) -> None:
        if self._json:
            self._event("note", text=text)
        elif not self._quiet:
            self._console.print(text, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """A warning is shown even when quiet."""
        if self._json:
            self._event("warning", text=text)
        else:
            self._console.print(f"warning: {text}", markup=False, soft_wrap=True)

    def asked(self, task: Task, requests: Sequence[Request]) -> None:
        study = study_identity(task)
        with self._lock:
            self._task, self._far = task.name, {}
            self._open = {trial_identity(study, request): request for request in requests}
            if self._json:
                self._event("asked", task=task.name, requests=[asdict(r) for r in requests])
            self._refresh()
        self._say_restarting()

    def _say_restarting(self) -> None:
        """Which of the trials asked for were stopped, and do not go on from where they were."""
        if self._folder is None:
            return
        for path, checkpoint in checkpoints(self._folder, only=self._open):
            if checkpoint.state is None:
                what = f"{self._task} {describe(self._open[path.stem])}"
                self.note(f"{what}: was stopped at step {checkpoint.steps:,}; {RESTARTS}")

    def finished(self, task: Task, result: TrialResult) -> None:
        with self._lock:
            self._open.pop(result.identity, None)
            self._far.pop(result.identity, None)
            if self._json:
                self._event(
                    "finished",
                    task=task.name,
                    **asdict(result.request),
                    state=result.state,
                    score=result.score,
                    reason=result.reason,
                    wall_s=result.wall_s,
                )
            else:
                end = f"{result.score:.4g}" if result.score is not None else ""
                end = end or f"{result.state}: {result.reason}"
                self._line(task.name, result.request, f"{end} ({result.wall_s:.1f} s)")
            self._refresh()

    def close(self) -> None:
        self._closed.set()
        if self._watch is not None:
            self._watch.join()
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _look_at(self, folder: Path) -> None:
        while not self._closed.wait(LIVE_S if self._is_live() else LOG_S):
            with self._lock:
                asked = list(self._open)
            for path, checkpoint in checkpoints(folder, only=asked):
                with self._lock:
                    if path.stem in self._open:
                        self._under_way(path.stem, checkpoint)

    def _under_way(self, identity: str, checkpoint: Checkpoint) -> None:
        request = self._open[identity]
        if self._json:
            self._event("under_way", task=self._task, **asdict(request), **checkpoint.facts())
            return
        far = harmless(checkpoint.progress())  # of a file that may be another's
        if self._is_live():
            self._far[identity] = far
            self._refresh()
        else:
            self._line(self._task, request, far)

    def _is_live(self) -> bool:
        return self._console.is_terminal and not self._json and not self._quiet

    def _line(self, task: str, request: Request, text: str) -> None:
        if not self._quiet:
            line = f"{task} {describe(request)}: {text}"
            self._console.print(line, markup=False, soft_wrap=True)

    def _refresh(self) -> None:
        if not self._is_live():
            return
        names = [describe(request) for request in self._open.values()]
        text = f"{self._task}: waiting for {enumerated(names)}" if names else self._task
        for identity, far in self._far.items():
            text += f"\n  {describe(self._open[identity])}: {far}"
        if self._status is None:
            self._status = self._console.status("")
            self._status.start()
        self._status.update(Text(text))  # brackets in a task's name are no markup

    def _event(self, event: str, **fields: object) -> None:
        if event == "warning" or not self._quiet:
            print(json.dumps({"event": event, **fields}), file=sys.stderr, flush=True)
