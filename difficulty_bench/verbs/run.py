"""`bench run`: from a command to rows."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from ..checkpoint import checkpoint_folder
from ..engine import Engine, make_engine
from ..environment import default_workers
from ..errors import BenchError, ResourceError, StudyError, UsageError
from ..outputs import stdout_to_stderr
from ..progress import Progress
from ..registry import AT, Registry, Task
from ..report import row_text, rows
from ..results import Request, TrialResult, describe, enumerated
from ..search import Plan
from ..store import Store
from ..study import Prepared, choose_device, preferred, prepare, run_study
from ..tracking import Tracker
from ..trial import Runtime, study_identity
from ..tuning import relevant

DEFAULT_AGENT = "ppo"  # for --env
NOT_RECORDED = "--store", "--shard"  # options that change no trial


def run(arguments: argparse.Namespace) -> int:
    """Measure every `--task`; print one row each. See `cli` for the exit codes."""
    settings = given_settings(arguments)
    tasks = given_tasks(arguments, settings)
    prepared = [prepare(task) for task in tasks]
    devices = [preferred(arguments.device, one) for one in prepared]
    if not arguments.ray:  # whose nodes have cores and devices of their own
        devices = [choose_device(device) for device in devices]
    plan = Plan(
        arguments.precision,
        arguments.max_trials,
        arguments.grid,
        arguments.seeds,
        arguments.shard,
    )
    for one in prepared:
        plan.check(one.task, one.D)
    if arguments.dry_run:
        return _dry_run(arguments.store, prepared, plan, as_json=arguments.json)
    return _measure(arguments, list(zip(prepared, devices, strict=True)), settings, plan)


def _dry_run(path: Path, prepared: Sequence[Prepared], plan: Plan, *, as_json: bool) -> int:
    """Say what would run next after what the store holds; a missing one holds nothing."""
    with Store(path, read_only=True) as store:
        found = [_outlook(one, store, plan) for one in prepared]
    if as_json:
        print(json.dumps(found, indent=1))
        return 0
    for task in found:
        ended = f"done: {task['done']}"
        ahead = f"not done: {task['lacking']}; next: {enumerated(task['next'])}"
        what = ended if task["done"] else ahead
        print(f"{task['task']}: D = {task['D']}; {task['trials']} trials in {path}; {what}")
    return 0


def _outlook(one: Prepared, store: Store, plan: Plan) -> dict[str, Any]:
    """Why a task is done, or what it lacks and the trials of its next round."""
    outcomes = store.outcomes(study_identity(one.task))
    where = one.task, one.D, outcomes
    ahead = plan.next_round(*where)
    stop = None if ahead else plan.stop_reason(*where)
    return {
        "task": one.task.name,
        "D": one.D,
        "trials": len(relevant(one.task, one.D, outcomes)),  # a store keeps every lr rule's
        "done": stop.reason if stop else None,
        "lacking": plan.lacking(*where) if ahead else None,
        "next": [describe(request) for request in ahead],
    }


def given_settings(arguments: argparse.Namespace) -> list[str]:
    projection = [f"projection={arguments.projection}"] if arguments.projection else []
    return [*arguments.settings, *projection]


@stdout_to_stderr()
def given_tasks(arguments: argparse.Namespace, settings: Sequence[str]) -> list[Task]:
    """The tasks that `--task`, `--env` and `--agent` name, each once."""
    registry = Registry(arguments.tasks)
    if arguments.agent and not arguments.envs:  # a task's number would pass for another learner's
        raise UsageError(
            f"--agent {arguments.agent}: a task has an agent of its own; leave --agent out, or "
            "give it with --env ID"
        )
    agent = arguments.agent or DEFAULT_AGENT
    names = [*arguments.names, *(f"{agent}{AT}{id}" for id in arguments.envs)]
    if not names:
        raise UsageError("say what to measure: --task NAME (see bench list) or --env ID")
    return [registry.get(name, settings) for name in dict.fromkeys(names)]


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
    prepared: Sequence[tuple[Prepared, str]],
    settings: list[str],
    plan: Plan,
) -> int:
    """Each task on the device beside it."""
    folder, hours = checkpoint_folder(arguments.store), arguments.max_hours
    progress = Progress(folder, as_json=arguments.json, quiet=arguments.quiet)
    runtime = Runtime(
        deadline=time.time() + 3600 * hours if hours else None,
        checkpoint_dir=folder,
        command=recorded(command_line()),
        debug=arguments.debug,
    )
    workers = arguments.workers
    if workers is None and not arguments.ray:
        workers = min(default_workers(device) for _, device in prepared)
    engine = make_engine(workers or 1, arguments.batch, arguments.ray, progress.warn)
    tracker = None if arguments.wandb == "off" else Tracker(arguments.wandb, progress.warn)
    errors: list[BenchError] = []
    complete = True
    with Store(arguments.store) as store:
        try:
            with _stopping(engine) as caught:
                for one, device in prepared:
                    listener = _Listener(progress, tracker)
                    try:
                        store.add_study(one.task, one.D, settings, one.metric)
                        known = store.outcomes(study_identity(one.task))
                        if known and (why := plan.lacking(one.task, one.D, known)):
                            progress.note(f"{one.task.name}: not done: {why}")
                        there = replace(runtime, device=device)
                        stop = run_study(one, store, engine, there, plan, listener)
                    except (StudyError, UsageError) as error:  # of this task; the next may be sound
                        store.forget_empty(study_identity(one.task))
                        errors.append(error)
                        continue
                    if stop is None:
                        complete = False
                        break
                    if stop.cut_short:  # part of the result: the interval is wider than asked for
                        progress.warn(f"{one.task.name}: cut short: {stop.reason}")
                    else:
                        progress.note(f"{one.task.name}: done: {stop.reason}")
        except ResourceError:  # the last word; those before it must not be lost
            for earlier in errors:
                progress.warn(str(earlier))
            raise
        finally:
            engine.close()
            progress.close()
            if tracker is not None:
                tracker.close()
        printed = print_rows(store, [one.task for one, _ in prepared], as_json=arguments.json)
    failed = any(row["n_failed"] for row in printed)
    return _exit_code(complete, errors, caught, progress, failed=failed)


def print_rows(store: Store, tasks: Sequence[Task], *, as_json: bool) -> list[dict[str, Any]]:
    """The row of every task on standard output."""
    wanted = {(study_identity(task), task.lr_rule) for task in tasks}
    measured = rows(store, {study for study, _ in wanted})
    found = [row for row in measured if (row["study"], row["lr_rule"]) in wanted]
    if as_json:
        print(json.dumps(found, indent=1, allow_nan=False))
    else:
        for row in found:
            print(row_text(row))
    return found


def _exit_code(
    complete: bool,
    errors: Sequence[BenchError],
    caught: list[int],
    progress: Progress,
    *,
    failed: bool,
) -> int:
    """Raise the gravest of `errors` where the run went to its end.

    `failed`: whether a trial did, in this call or an earlier one.
    """
    errors = sorted(errors, key=lambda error: error.exit_code)
    for error in errors[:-1] if complete else errors:
        progress.warn(str(error))
    if complete and errors:
        raise errors[-1]
    if complete:  # a signal in the last training asked for nothing that was left
        return 1 if failed else 0
    why = "interrupted" if caught else "out of --max-hours"
    progress.warn(f"{why}; the same command resumes: {command_line()}")
    return 128 + caught[0] if caught else os.EX_TEMPFAIL  # 75, of sysexits.h: try again later


def repeated(option: str, values: Iterable[object]) -> list[str]:
    """Words of a command line: `option` before each of `values`."""
    return [word for value in values for word in (option, str(value))]


def command_line() -> str:
    """The command as a user would type it again."""
    return shlex.join(["bench", *sys.argv[1:]])


def recorded(command: str) -> str:
    """The command without `--store PATH` and `--shard I/N`.

    Where results lie, and which job of several trained them, is no part of them.
    """
    words, kept = iter(shlex.split(command)), []
    for word in words:
        if word in NOT_RECORDED:
            next(words, None)
        elif not word.startswith(tuple(f"{option}=" for option in NOT_RECORDED)):
            kept.append(word)
    return shlex.join(kept)


@contextmanager
def _stopping(engine: Engine) -> Iterator[list[int]]:
    """The first Ctrl-C or SIGTERM lets running trials checkpoint; the second ends at once."""
    caught: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt(number)
        caught.append(number)
        engine.stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
