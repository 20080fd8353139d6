"""What a run says while it works: a live line on a terminal, plain lines or JSON elsewhere.

All of it goes to standard error; standard output holds the result alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.status import Status
from rich.text import Text

from .registry import Task
from .results import Request, TrialResult, describe, enumerated


class Progress:
    """One line per finished trial, and what is running beneath it on a terminal."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self._json, self._quiet = as_json, quiet
        self._console = Console(stderr=True, highlight=False)
        self._status: Status | None = None
        self._open: list[str] = []

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
        self._open = [describe(request) for request in requests]
        if self._json:
            self._event("asked", task=task.name, requests=[asdict(r) for r in requests])
        self._refresh(task)

    def finished(self, task: Task, result: TrialResult) -> None:
        name = describe(result.request)
        self._open = [other for other in self._open if other != name]
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
        elif not self._quiet:
            end = f"{result.score:.4g}" if result.score is not None else ""
            end = end or f"{result.state}: {result.reason}"
            self._console.print(
                f"{task.name} {name}: {end} ({result.wall_s:.1f} s)", markup=False, soft_wrap=True
            )
        self._refresh(task)

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def _refresh(self, task: Task) -> None:
        if self._json or self._quiet or not self._console.is_terminal:
            return
        text = f"{task.name}: running {enumerated(self._open)}" if self._open else task.name
        if self._status is None:
            self._status = self._console.status("")
            self._status.start()
        self._status.update(Text(text))  # brackets in a task's name are no markup

    def _event(self, event: str, **fields: object) -> None:
        if event == "warning" or not self._quiet:
            print(json.dumps({"event": event, **fields}), file=sys.stderr, flush=True)
