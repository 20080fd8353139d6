"""`bench list`, `bench status` and `bench show`: look, change nothing."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from ..checkpoint import checkpoint_folder, checkpoints
from ..cli import DEFAULT_STORE
from ..errors import BenchError, ResourceError
from ..outputs import harmless
from ..problem import count_parameters
from ..registry import Registry, Task
from ..report import d_int90_text, rows
from ..results import describe
from ..sqlite_file import WriterLock
from ..store import Store
from ..trial import build_network, study_identity
from .run import given_settings


def store_to_read(arguments: argparse.Namespace) -> Path:
    """`--store`. Raise ResourceError where one was named and is not there.

    The default one may be missing: it is then one without trials.
    """
    path: Path = arguments.store
    if path != DEFAULT_STORE and not path.exists():
        raise ResourceError(f"{path}: no such file; give --store the path of a store")
    return path


def list_tasks(arguments: argparse.Namespace) -> int:
    """One line a task; a task that cannot run says why in place of its data.

    After the registry's come those that only the store knows: derived ones, those of files that
    are not given now, and whatever was measured with other settings.
    """
    registry = Registry(arguments.tasks)
    measured = _measured(arguments)
    last = {(row["study"], row["lr_rule"]): d_int90_text(row) for row in measured}
    listed = set[tuple[str, str]]()
    _print_task("task", "paradigm", "network", "D", "data", "last d_int90 [95%]")
    for name in registry.names():
        try:
            task = registry.get(name)
            size, data = _size_and_data(task)
        except BenchError as error:
            print(f"{name:28} unusable: {error}")
            continue
        network = task.network.entry_point.partition(":")[2]
        listed.add(key := (study_identity(task), task.lr_rule))
        _print_task(name, task.paradigm, network, size, data, last.get(key, "-"))
    for row in measured:
        if (row["study"], row["lr_rule"]) not in listed:
            network = row["network"].partition("(")[0].rpartition(".")[2]
            size, name = f"{row['D']:,}", harmless(" ".join([row["task"], *row["settings"]]))
            _print_task(name, row["paradigm"], network, size, "-", d_int90_text(row))
    return 0


def _print_task(name: str, paradigm: str, network: str, D: str, data: str, last: str) -> None:
    print(f"{name:28} {paradigm:14} {network:12} {D:>9}  {data:8} {last}")


def _size_and_data(task: Task) -> tuple[str, str]:
    problem = task.problem()
    D = count_parameters(build_network(task, problem, seed=0))
    return f"{D:,}", "present" if task.problem.missing(problem) is None else "missing"


def _measured(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    with Store(store_to_read(arguments), read_only=True) as store:
        return rows(store)


def status(arguments: argparse.Namespace) -> int:
    """Per row of the report: its trials by state, those begun, cost, what is known."""
    with Store(store_to_read(arguments), read_only=True) as store:
        measured, begun = rows(store), _begun(store)
        how = "under way" if WriterLock.is_held(store.path) else "interrupted"
        if not measured:
            print(f"{arguments.store}: nothing measured yet")
        for row in measured:
            states = Counter(complete=row["n_trials"] - row["n_failed"])
            for failure in row["failures"]:
                states[failure["state"]] += failure["n"]
            counts = ", ".join(f"{n} {state}" for state, n in sorted(states.items()) if n)
            settings = harmless(" ".join(row["settings"]))
            print(f"{row['task']} {settings}".rstrip())
            print(f"  {counts or 'no trials yet'}; {row['compute_s']:.0f} s in all")
            for one in begun.get(row["study"], ()):
                print(f"  {how}: {harmless(one)}")
            print(f"  d_int90 {d_int90_text(row)}")
    return 0


def _begun(store: Store) -> dict[str, list[str]]:
    """By study, the trials without an end that have a checkpoint: how far, how long, how good."""
    found: dict[str, list[str]] = defaultdict(list)
    for _, one in checkpoints(checkpoint_folder(store.path), _warn):
        if one.study and one.request and one.identity and not store.find(one.identity):
            again = (
                "" if one.state is not None else "; nothing saved to go on from, so it starts again"
            )
            found[one.study].append(f"{describe(one.request)}, {one.progress()}{again}")
    return found


def _warn(line: str) -> None:
    print(f"bench: warning: {harmless(line)}", file=sys.stderr)


def show(arguments: argparse.Namespace) -> int:
    """The task as it would run, every default filled in, then its trials and d_int90."""
    task = Registry(arguments.tasks).get(arguments.task, given_settings(arguments))
    study = study_identity(task)
    content = task.model_dump(mode="json", by_alias=True, exclude_none=True)
    print(json.dumps(content | task.definition(), indent=1))
    with Store(store_to_read(arguments), read_only=True) as store:
        for result in store.results(study):
            end = (
                f"{result.score:.6g}" if result.score is not None else harmless(f"{result.reason}")
            )
            rate = f"lr x{result.request.lr_scale:g}"  # trials of every lr rule are here
            what = f"{describe(result.request):32} {rate:12} {result.state:10} {end}"
            print(f"{result.identity[:12]}  {what}")
        for row in rows(store, [study]):
            print(f"d_int90 with lr rule {row['lr_rule']}: {d_int90_text(row)}")
        for reading in store.studies():
            if reading.task.name == task.name and reading.study != study:
                words = ["bench", "show", task.name]
                words += [word for setting in reading.settings for word in ("--set", setting)]
                print(
                    f"also here, of version {reading.task.version}: {harmless(shlex.join(words))}"
                )
    return 0
