"""Results as JSON lines: what is committed, mailed and merged. No code, no curves, no solutions.

First the format, then environments, and for every study its readings and its trials: see
`result_lines`. The same store gives the same bytes.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .errors import StudyError, UsageError, did_you_mean, first_line
from .records import Reading
from .result_lines import (
    AnyLine,
    EnvironmentLine,
    FormatLine,
    Line,
    QuantisedLine,
    StudyLine,
    TrialLine,
    dump_line,
    load_line,
)
from .results import TrialResult
from .store import Store
from .whole_file import whole_file

# Keys of a task. Not `chance`: undeclared, it is measured of the data, which the study fixes.
_FIGURES = {"floor", "threshold_global", "baseline_seeds", "search", "tuning"}


@dataclass(frozen=True)
class Parsed:
    """What a file says, each with its line number: readings, trials, scores of quantised z."""

    readings: Sequence[tuple[int, Reading]]
    trials: Sequence[tuple[int, TrialResult]]
    quantised: Sequence[tuple[int, QuantisedLine]]


@dataclass(frozen=True)
class Merged:
    """What an import did: trials new to the store, trials it had, and where it contradicts.

    `conflicts` are lines for the user: a trial of another end, a reading with other thresholds.
    """

    added: int
    known: int
    conflicts: tuple[str, ...]


def export(store: Store, file: Path, tasks: Collection[str] | None = None) -> int:
    """Write the finished trials (of `tasks` only, where given) to `file`; return their number.

    The file is replaced as a whole or not at all. Raise UsageError where it cannot be written, and
    where there is nothing to write: an empty file would take the place of a good one.
    """
    readings = store.studies()
    known = {reading.task.name for reading in readings}
    for name in tasks or ():
        if name not in known:
            raise UsageError(f"{store.path}: no task '{name}' in it{did_you_mean(name, known)}")
    readings = [r for r in readings if tasks is None or r.task.name in tasks]
    lines = list(lines_of(store, readings))
    count = sum(isinstance(line, TrialLine) for line in lines)
    if not count:
        raise UsageError(f"{store.path}: no finished trials to export; bench run measures them")
    with whole_file(file) as out:
        out.writelines(dump_line(line).encode() for line in lines)
    return count


def lines_of(store: Store, readings: Sequence[Reading]) -> Iterator[Line]:
    """A whole file's lines: `readings` and the trials of their studies."""
    results = {reading.study: store.results(reading.study) for reading in readings}
    quantised = {study: store.quantised(study) for study in results}
    facts = [trial.environment for trials in results.values() for trial in trials]
    environments = {line.environment: line for line in map(EnvironmentLine.of, facts)}
    yield FormatLine()
    yield from (environments[name] for name in sorted(environments))
    for reading in readings:
        yield StudyLine.of(reading)
        yield from map(TrialLine.of, results.pop(reading.study, []))
        for identity, scores in quantised.pop(reading.study, {}).items():
            yield QuantisedLine(identity=identity, scores=scores)


def import_results(store: Store, file: Path) -> Merged:
    """Merge `file` into the store by identity: all of it or, where a line is wrong, nothing.

    What the store holds is kept. Raise UsageError naming file, line and mend.
    """
    return merge(store, file, load(file))


def load(file: Path) -> Parsed:
    """What `file` says. Raise UsageError as `parse` does, and where it cannot be read."""
    return parse(file, _content(file))


def merge(store: Store, file: Path, parsed: Parsed) -> Merged:
    """Merge what `parse` gave; `file` is for messages."""
    readings = {reading.key: reading for reading in store.studies()}
    before = {trial.identity for r in readings.values() for trial in store.results(r.study)}
    conflicts = []
    others = set[str]()  # trials that the store holds with another end, hence another z
    with store.transaction():
        for line, reading in parsed.readings:
            with _naming(file, line):
                store.add_reading(reading, replace=False)
            if differing := _differing(readings.get(reading.key, reading), reading):
                conflicts.append(
                    f"{file}:{line}: {reading.task.name}: {', '.join(differing)}; the store's is "
                    "kept (its next `bench run` of the task takes that of tasks.yaml)"
                )
        for line, trial in parsed.trials:
            with _naming(file, line):
                if warning := store.put(trial):
                    conflicts.append(f"{file}:{line}: {warning}")
                    others.add(trial.identity)
        for line, one in parsed.quantised:
            if one.identity not in others:
                with _naming(file, line):
                    store.put_quantised(one.identity, one.scores)
    identities = {trial.identity for _, trial in parsed.trials}
    return Merged(len(identities - before), len(identities & before), tuple(conflicts))


def merged(store: Path, file: Path, warn: Callable[[str], None] = warnings.warn) -> Store:
    """The store (its studies and trials, not curves or solutions) and `file`, in memory.

    Either may be missing. Where both speak of one trial or reading, the store's word counts, and
    `warn` hears of every contradiction.
    """
    memory = Store.in_memory()
    with Store(store, read_only=True) as source, memory.transaction():
        for reading in source.studies():
            memory.add_reading(reading, replace=False)
            for result in source.results(reading.study):
                memory.put(result)
            for identity, scores in source.quantised(reading.study).items():
                memory.put_quantised(identity, scores)
    if file.exists():
        for conflict in import_results(memory, file).conflicts:
            warn(conflict)
    return memory


def parse(file: Path, content: bytes) -> Parsed:
    """What its lines say, each consistent in itself.

    `file` is for messages: raise UsageError naming file, line and mend.
    """
    lines = _load(file, content)
    environments = {x.environment: x.facts for _, x in lines if isinstance(x, EnvironmentLine)}
    studies = {line.study for _, line in lines if isinstance(line, StudyLine)}
    finished = [x for _, x in lines if isinstance(x, TrialLine) and x.score is not None]
    solved = {trial.identity for trial in finished if trial.d}
    readings: list[tuple[int, Reading]] = []
    trials: list[tuple[int, TrialResult]] = []
    quantised: list[tuple[int, QuantisedLine]] = []
    for number, line in lines:
        with _naming(file, number):
            if isinstance(line, StudyLine):
                readings.append((number, line.reading()))
            elif isinstance(line, TrialLine):
                trials.append((number, line.result(environments, studies)))
            elif isinstance(line, QuantisedLine):
                line.check(solved)
                quantised.append((number, line))
            else:
                line.check()
    return Parsed(readings, trials, quantised)


def _differing(kept: Reading, other: Reading) -> list[str]:
    """Where the two read the same trials differently, a key each."""
    ours, theirs = _figures(kept), _figures(other)
    return [
        f"{key} is {json.dumps(theirs.get(key))} here and {json.dumps(ours.get(key))} in the store"
        for key in ours | theirs
        if ours.get(key) != theirs.get(key)
    ]


def _figures(reading: Reading) -> dict[str, Any]:
    """What a row is computed by beside its trials, by dotted key."""
    figures: dict[str, Any] = {}
    for key, value in reading.task.model_dump(mode="json", include=_FIGURES).items():
        parts = value.items() if isinstance(value, dict) else [(None, value)]
        figures |= {f"{key}.{part}" if part else key: item for part, item in parts}
    return figures


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{file}: {error.strerror}; give a file of `bench results export`"
        ) from None


def _load(file: Path, content: bytes) -> list[tuple[int, AnyLine]]:
    lines: list[tuple[int, AnyLine]] = []
    for number, raw in enumerate(content.split(b"\n"), 1):
        if raw.strip():
            with _naming(file, number):
                lines.append((number, load_line(raw)))
    if not lines or not isinstance(lines[0][1], FormatLine):
        raise UsageError(f"{file}:1: not a results file; give a file of `bench results export`")
    return lines


@contextmanager
def _naming(file: Path, line: int) -> Iterator[None]:
    """Turn what is wrong inside into a UsageError that names the line and the mend."""
    try:
        yield
    except (ValueError, StudyError) as error:
        why = _explain(error)
        raise UsageError(
            f"{file}:{line}: {why}; mend or delete this line, or export the file anew"
        ) from None


def _explain(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return first_line(error)
    details = error.errors()[0]
    place = ".".join(str(part) for part in details["loc"])
    return f"{place}: {details['msg']}" if place else details["msg"]
