"""`bench study`: an unfinished study, moved to another machine."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from ..checkpoint import RESTARTS
from ..errors import UsageError
from ..outputs import harmless, warn
from ..records import Reading
from ..registry import AT, Registry
from ..results import describe
from ..store import Store
from ..study_file import export_study, import_study, opened_study
from ..trial import study_identity
from .look import store_to_read
from .run import given_settings, given_tasks, repeated

PLAN = "--d", "--seeds", "--precision", "--max-trials"  # what `bench run` may be given of `Plan`


def study(arguments: argparse.Namespace) -> int:
    """Write the study of `--task`, or read a file into the store."""
    return _export(arguments) if arguments.action == "export" else _import(arguments)


def _export(arguments: argparse.Namespace) -> int:
    tasks = given_tasks(arguments, given_settings(arguments))
    if len(tasks) != 1:
        raise UsageError(f"a file holds one study, not {len(tasks)}; give one --task")
    file: Path = arguments.file
    with Store(store_to_read(arguments), read_only=True) as store:
        done = export_study(store, study_identity(tasks[0]), file)
    size = file.stat().st_size / 1e6
    print(
        f"{file}: {tasks[0].name}, {done.trials} finished trials, "
        f"{len(done.checkpoints)} checkpoints, {size:.1f} MB"
    )
    for one in done.restarting:
        print(f"{describe(one.request)}: stopped at step {one.steps:,}; {RESTARTS}")
    for line in done.corrupt:
        warn(line)
    return 0


def _import(arguments: argparse.Namespace) -> int:
    given = arguments.names or arguments.envs or arguments.agent or given_settings(arguments)
    if given:
        raise UsageError("bench study import takes the study that the file holds: give FILE alone")
    # in this order: a file that is refused leaves no store
    with opened_study(arguments.file) as content, Store(arguments.store) as store:
        done = import_study(store, content)
        plans = {plan_of(t.environment.get("command", "")) for _, t in content.parsed.trials}
    for conflict in done.merged.conflicts:
        warn(conflict)
    reading = done.reading
    kept = f", {done.older} older than what is here" if done.older else ""
    print(
        f"{arguments.store}: {reading.task.name}, {done.merged.added} trials added, "
        f"{done.merged.known} were there already; {done.checkpoints} checkpoints added{kept}"
    )
    for plan in sorted(plans) or [()]:  # trials may have been asked for by several commands
        command = _resuming(reading, plan, arguments.tasks, arguments.store)
        print(f"it goes on with: {harmless(command)}")
    return 0


def plan_of(command: str) -> tuple[str, ...]:
    """How far `command`, which comes from elsewhere, was asked to measure: `--d 3,5 --seeds 2`."""
    try:
        words = iter(shlex.split(command))
    except ValueError:
        return ()
    kept = []
    for word in words:
        key, equals, value = word.partition("=")
        if key in PLAN and re.fullmatch(r"[\d.,]+", value := value if equals else next(words, "")):
            kept += [key, value]
    return tuple(kept)


def _resuming(reading: Reading, plan: Sequence[str], tasks: Sequence[Path], store: Path) -> str:
    """The command that goes on; a task of one's own needs the file that holds it."""
    name, registry = reading.task.name, Registry(tasks)
    template, at, _ = name.partition(AT)
    known = name in registry.names() or (at and template in registry.templates())
    files = [*tasks, *([] if known else ["FILE"])]
    words = [*repeated("--tasks", files), "--task", name, *repeated("--set", reading.settings)]
    where = "" if known else f" (FILE: the one with the task '{name}')"
    return shlex.join(["bench", "run", *words, *plan, "--store", str(store)]) + where
