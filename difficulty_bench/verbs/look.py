"""`bench list`, `bench status` and `bench show`: look, change nothing."""

from __future__ import annotations

import argparse
import json

from ..errors import BenchError
from ..problem import count_parameters
from ..progress import describe
from ..registry import Registry, Task
from ..report import d_int90_text, rows
from ..store import Store
from ..trial import build_network, study_identity


def list_tasks(arguments: argparse.Namespace) -> int:
    """One line a task; a task that cannot run says why in place of its data."""
    registry = Registry(arguments.tasks)
    measured = _last_results(arguments)
    print(f"{'task':28} {'paradigm':14} {'network':12} {'D':>9}  {'data':8} last d_int90 [95%]")
    for name in registry.names():
        try:
            task = registry.get(name)
            size, data = _size_and_data(task)
        except BenchError as error:
            print(f"{name:28} unusable: {error}")
            continue
        network = task.network.entry_point.partition(":")[2]
        last = measured.get(study_identity(task), "-")
        print(f"{name:28} {task.paradigm:14} {network:12} {size:>9}  {data:8} {last}")
    return 0


def _size_and_data(task: Task) -> tuple[str, str]:
    problem = task.problem()
    D = count_parameters(build_network(task, problem, seed=0))
    return f"{D:,}", "present" if problem.missing() is None else "missing"


def _last_results(arguments: argparse.Namespace) -> dict[str, str]:
    if not arguments.store.exists():
        return {}
    with Store(arguments.store, read_only=True) as store:
        return {row["study"]: d_int90_text(row) for row in rows(store)}


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
