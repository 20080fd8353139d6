"""`bench list`, `bench status` and `bench show`: look, change nothing."""

from __future__ import annotations

import argparse
import json
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..checkpoint import RESTARTS, Checkpoint, checkpoint_folder, checkpoints
from ..cli import DEFAULT_STORE
from ..errors import BenchError, ResourceError
from ..outputs import harmless, warn
from ..problem import count_parameters
from ..registry import Registry
from ..report import d_int90_text, rows
from ..result_lines import TrialLine
from ..results import describe
from ..sqlite_file import WriterLock
from ..store import Store
from ..trial import build_network, study_identity
from .run import given_settings, repeated


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
    listed = _listed(Registry(arguments.tasks), _measured(arguments))
    if arguments.json:
        _print_json(list(listed))
        return 0
    _print_task("task", "paradigm", "network", "D", "data", "last d_int90 [95%]")
    for one in listed:
        if one["unusable"]:
            print(f"{one['task']:28} unusable: {one['unusable']}")
            continue
        name = harmless(" ".join([one["task"], *one["settings"]]))
        last = d_int90_text(one["last"]) if one["last"] else "-"
        data = one["data"] or "-"
        _print_task(name, one["paradigm"], one["network"], f"{one['D']:,}", data, last)
    return 0


def _print_task(name: str, paradigm: str, network: str, D: str, data: str, last: str) -> None:
    print(f"{name:28} {paradigm:14} {network:12} {D:>9}  {data:8} {last}")


def _key(row: dict[str, Any]) -> tuple[str, str]:
    return row["study"], row["lr_rule"]


def _measured(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    with Store(store_to_read(arguments), read_only=True) as store:
        return rows(store)


def _listed(registry: Registry, measured: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One by one: to build them all takes seconds."""
    left = {_key(row): row for row in measured}
    for name in registry.names():
        yield (one := _registered(registry, name, left))
        if one["last"]:
            del left[_key(one["last"])]
    for row in left.values():
        yield {
            **{key: row[key] for key in ("task", "settings", "paradigm", "D")},
            "network": row["network"].partition("(")[0].rpartition(".")[2],
            "data": None,
            "unusable": None,
            "last": row,
        }


def _registered(
    registry: Registry, name: str, last: dict[tuple[str, str], dict[str, Any]]
) -> dict[str, Any]:
    """`data` is `present` or `missing`; `last` the row of what was measured, None without one."""
    one: dict[str, Any] = dict.fromkeys(
        ("task", "settings", "paradigm", "network", "D", "data", "unusable", "last")
    )
    one |= {"task": name, "settings": []}
    try:
        task = registry.get(name)
        problem = task.problem()
        D = count_parameters(build_network(task, problem, seed=0))
        missing = task.problem.missing(problem)
    except BenchError as error:
        return one | {"unusable": str(error)}
    return one | {
        "paradigm": task.paradigm,
        "network": task.network.entry_point.partition(":")[2],
        "D": D,
        "data": "present" if missing is None else "missing",
        "last": last.get((study_identity(task), task.lr_rule)),
    }


def status(arguments: argparse.Namespace) -> int:
    """Per row of the report: its trials by state, those begun, cost, what is known."""
    with Store(store_to_read(arguments), read_only=True) as store:
        measured, begun = rows(store), _begun(store)
        held = WriterLock.is_held(store.path)
    if arguments.json:
        of = {study: [_begun_facts(one) for one in ones] for study, ones in begun.items()}
        _print_json(
            [{**row, "begun": of.get(row["study"], []), "under_way": held} for row in measured]
        )
        return 0
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
            print(f"  {'under way' if held else 'interrupted'}: {_begun_text(one)}")
        print(f"  d_int90 {d_int90_text(row)}")
    return 0


def _begun(store: Store) -> dict[str, list[Checkpoint]]:
    """By study, the checkpoints of trials without an end."""
    found: dict[str, list[Checkpoint]] = defaultdict(list)
    for _, one in checkpoints(checkpoint_folder(store.path), warn):
        if not store.find(one.identity):
            found[one.study].append(one)
    return found


def _begun_text(one: Checkpoint) -> str:
    """How far, how long, how good."""
    again = "" if one.state is not None else f"; {RESTARTS}"
    return harmless(f"{describe(one.request)}, {one.progress()}{again}")


def _begun_facts(one: Checkpoint) -> dict[str, Any]:
    return {**asdict(one.request), **one.facts(), "starts_again": one.state is None}


def show(arguments: argparse.Namespace) -> int:
    """The task as it would run, every default filled in, then its trials and d_int90."""
    task = Registry(arguments.tasks).get(arguments.task, given_settings(arguments))
    study = study_identity(task)
    content = task.model_dump(mode="json", by_alias=True, exclude_none=True) | task.definition()
    with Store(store_to_read(arguments), read_only=True) as store:
        results, measured = store.results(study), rows(store, [study])
        if arguments.json:
            trials = [
                {**TrialLine.of(one).model_dump(mode="json"), "curve": store.curve(one.identity)}
                for one in results
            ]
            _print_json({"task": content, "study": study, "trials": trials, "rows": measured})
            return 0
        others = [
            reading
            for reading in store.studies()
            if reading.task.name == task.name and reading.study != study
        ]
    print(json.dumps(content, indent=1))
    for result in results:
        end = f"{result.score:.6g}" if result.score is not None else harmless(f"{result.reason}")
        rate = f"lr x{result.request.lr_scale:g}"  # trials of every lr rule are here
        what = f"{describe(result.request):32} {rate:12} {result.state:10} {end}"
        print(f"{result.identity[:12]}  {what}")
    for row in measured:
        print(f"d_int90 with lr rule {row['lr_rule']}: {d_int90_text(row)}")
    for reading in others:
        if reading.task.version == task.version:
            words = ["bench", "show", task.name, *repeated("--set", reading.settings)]
            words += [*repeated("--tasks", arguments.tasks), "--store", str(arguments.store)]
            print(f"also here: {harmless(shlex.join(words))}")
        else:
            settings = f", {' '.join(reading.settings)}" if reading.settings else ""
            print(harmless(f"also here, of another version: {reading.task.version}{settings}"))
    return 0


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=1, allow_nan=False))
