"""`bench run`: from a command to rows."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from ..engine import Engine, make_engine
from ..environment import usable_cores
from ..errors import UsageError
from ..progress import Progress, describe
from ..registry import Registry, Task
from ..report import row_text, rows
from ..results import Request, TrialResult
from ..search import next_round
from ..store import Store
from ..study import Plan, choose_device, prepare, run_study
from ..tracking import Tracker
from ..trial import Runtime, study_identity


def run(arguments: argparse.Namespace) -> int:
    """Measure every `--task`; print one row each. See `cli` for the exit codes."""
    registry = Registry(arguments.tasks)
    settings = list(arguments.settings)
    if arguments.projection:
        settings.append(f"projection={arguments.projection}")
    tasks = [registry.get(name, settings) for name in dict.fromkeys(arguments.names)]
    device = choose_device(arguments.device)
    sizes = {task.name: prepare(task) for task in tasks}
    plan = Plan(arguments.precision, arguments.max_trials, arguments.grid, arguments.seeds)
    for task in tasks:
        next_round_of(task, sizes[task.name], plan, {})  # refuses a plan that does not fit
    if arguments.dry_run:
        return _dry_run(tasks, sizes, plan)
    return _measure(arguments, tasks, settings, sizes, plan, device)


def next_round_of(task: Task, D: int, plan: Plan, outcomes: dict[Request, object]) -> list[Request]:
    return next_round(task, D, {}, precision=plan.precision, max_trials=plan.max_trials,
                      grid=plan.grid, seeds=plan.seeds)  # fmt: skip


def _dry_run(tasks: Sequence[Task], sizes: dict[str, int], plan: Plan) -> int:
    for task in tasks:
        requests = next_round_of(task, sizes[task.name], plan, {})
        first = ", ".join(describe(request) for request in requests)
        print(f"{task.name}: D = {sizes[task.name]}; on an empty store the first round is {first}")
    return 0


class _Listener:
    """Progress and tracking, told alike."""

    def __init__(self, progress: Progress, tracker: Tracker | None) -> None:
        self._progress, self._tracker = progress, tracker

    def asked(self, task: Task, requests: Sequence[Request]) -> None:
        self._progress.asked(task, requests)

    def finished(self, task: Task, result: TrialResult) -> None:
        self._progress.finished(task, result)
        if self._tracker is not None:
            self._tracker.log(task, result)


def _measure(
    arguments: argparse.Namespace,
    tasks: Sequence[Task],
    settings: list[str],
    sizes: dict[str, int],
    plan: Plan,
    device: str,
) -> int:
    progress = Progress(as_json=arguments.json, quiet=arguments.quiet)
    hours = arguments.max_hours
    runtime = Runtime(
        device=device,
        deadline=time.time() + 3600 * hours if hours else None,
        checkpoint_dir=arguments.store.with_suffix(".checkpoints"),
        command=command_line(),
    )
    engine = make_engine(arguments.workers or usable_cores())
    tracker = None if arguments.wandb == "off" else Tracker(arguments.wandb, progress.warn)
    complete = True
    with Store(arguments.store) as store:
        try:
            with _stopping(engine) as caught:
                for task in tasks:
                    store.add_study(task, sizes[task.name], settings)
                    listener = _Listener(progress, tracker)
                    complete &= run_study(
                        task, sizes[task.name], store, engine, runtime, plan, listener
                    )
                    if not complete:
                        break
        finally:
            engine.close()
            progress.close()
            if tracker is not None:
                tracker.close()
        studies = {study_identity(task) for task in tasks}
        _print_rows(store, studies, as_json=arguments.json)
    return _exit_code(complete, caught, progress)


def _print_rows(store: Store, studies: set[str], *, as_json: bool) -> None:
    found = rows(store, studies)
    if as_json:
        print(json.dumps(found, indent=1, allow_nan=False))
    else:
        for row in found:
            print(row_text(row))


def _exit_code(complete: bool, caught: list[int], progress: Progress) -> int:
    if not complete:
        why = "interrupted" if caught else "out of --max-hours"
        progress.warn(f"{why}; the same command resumes: {command_line()}")
    if caught:
        return 128 + caught[0]
    return 1 if progress.failed else 0


def command_line() -> str:
    """The command as a user would type it again."""
    return shlex.join(["bench", *sys.argv[1:]])


@contextmanager
def _stopping(engine: Engine) -> Iterator[list[int]]:
    """The first Ctrl-C or SIGTERM lets running trials checkpoint; the second ends at once."""
    caught: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)
        engine.stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = ["UsageError", "run"]
