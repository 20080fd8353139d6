"""`bench list`, `bench status` and `bench show`: look, change nothing."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..errors import BenchError
from ..problem import count_parameters
from ..progress import describe
from ..registry import Registry, Task
from ..report import d_int90_text, rows
from ..store import Store
from ..trial import build_network, study_identity


def list_tasks(arguments: argparse.Namespace) -> int:
    """One line a task; a task that cannot run says why in place of its data.

    After the registry's come tasks that only the store knows: derived ones, and those of files
    that are not given now.
    """
    registry = Registry(arguments.tasks)
    measured = _measured(arguments)
    last = {row["study"]: d_int90_text(row) for row in measured}
    _print_task("task", "paradigm", "network", "D", "data", "last d_int90 [95%]")
    for name in registry.names():
        try:
            task = registry.get(name)
            size, data = _size_and_data(task)
        except BenchError as error:
            print(f"{name:28} unusable: {error}")
            continue
        network = task.network.entry_point.partition(":")[2]
        _print_task(name, task.paradigm, network, size, data, last.get(study_identity(task), "-"))
    for row in measured:
        if row["task"] not in registry.names():
            network = row["network"].partition("(")[0].rpartition(".")[2]
            size, name = f"{row['D']:,}", " ".join([row["task"], *row["settings"]])
            _print_task(name, row["paradigm"], network, size, "-", d_int90_text(row))
    return 0


def _print_task(name: str, paradigm: str, network: str, D: str, data: str, last: str) -> None:
    print(f"{name:28} {paradigm:14} {network:12} {D:>9}  {data:8} {last}")


def _size_and_data(task: Task) -> tuple[str, str]:
    problem = task.problem()
    D = count_parameters(build_network(task, problem, seed=0))
    return f"{D:,}", "present" if problem.missing() is None else "missing"


def _measured(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    if not arguments.store.exists():
        return []
    with Store(arguments.store, read_only=True) as store:
        return rows(store)


def status(arguments: argparse.Namespace) -> int:
    """Per study: trials by state, cost, what is known."""
    with Store(arguments.store, read_only=True) as store:
        for row in rows(store):
            states = [result.state for result in store.results(row["study"])]
            counts = ", ".join(f"{states.count(s)} {s}" for s in sorted(set(states)))
            settings = " ".join(row["settings"])
            print(f"{row['task']} {settings}".rstrip())
            print(f"  {counts or 'no trials yet'}; {row['compute_s']:.0f} s of training")
            print(f"  d_int90 {d_int90_text(row)}")
    return 0


def show(arguments: argparse.Namespace) -> int:
    """The task as it would run, every default filled in, then its trials."""
    task = Registry(arguments.tasks).get(arguments.task, arguments.settings)
    content = task.model_dump(mode="json", by_alias=True, exclude_none=True)
    print(json.dumps(content | task.definition(), indent=1))
    if not arguments.store.exists():
        return 0
    with Store(arguments.store, read_only=True) as store:
        for result in store.results(study_identity(task)):
            end = f"{result.score:.6g}" if result.score is not None else f"{result.reason}"
            print(f"{result.identity[:12]}  {describe(result.request):32} {result.state:10} {end}")
    return 0
