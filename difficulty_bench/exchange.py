"""Results as JSON lines: what is committed, mailed and merged. No code, no curves, no solutions.

One object a line, each with its `kind`: first `results` (the format), then `environment` (shared
by many trials, named by its hash), and for every study its `study` lines (one a reading) and its
`trial` lines. The same store gives the same bytes. Numbers are written so that they read back
exactly.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from .errors import StudyError, UsageError
from .records import Reading, check_reading, check_result, environment_id
from .registry import Task
from .results import Request, Role, TrialResult
from .store import Store

FORMAT = 1
Natural = Annotated[int, Field(ge=0, lt=2**63)]
Word = Annotated[str, Field(min_length=1)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Results(_Line):
    kind: Literal["results"] = "results"
    format: int


class _Environment(_Line):
    kind: Literal["environment"] = "environment"
    environment: Word
    facts: dict[str, str]


class _Study(_Line):
    kind: Literal["study"] = "study"
    study: Word
    D: Annotated[int, Field(ge=1)]
    metric: str | None
    settings: Annotated[tuple[str, ...], Field(strict=False)]
    definition: dict[str, Any]
    task: dict[str, Any]


class _Trial(_Line):
    kind: Literal["trial"] = "trial"
    identity: Word
    study: Word
    role: Role
    d: Natural
    seed: Natural
    lr_scale: float
    state: Literal["complete", "failed", "timed_out"]
    score: float | None
    score_sd: float | None
    score_n: Natural | None
    reason: str | None
    D: Natural
    steps: Natural
    wall_s: float
    device: str
    environment: Word


_AnyLine = Annotated[_Results | _Environment | _Study | _Trial, Field(discriminator="kind")]
_LINE: TypeAdapter[_Results | _Environment | _Study | _Trial] = TypeAdapter(_AnyLine)


def export(store: Store, file: Path, tasks: Collection[str] | None = None) -> int:
    """Write the finished trials (of `tasks` only, where given) to `file`; return their number.

    The file is replaced as a whole or not at all. Raise UsageError where it cannot be written.
    """
    lines = list(_lines(store, tasks))
    partial = file.with_name(file.name + ".partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8", newline="\n") as out:
            out.writelines(_dump(line) for line in lines)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(file)
    except OSError as error:
        raise UsageError(f"{file}: cannot write: {error.strerror}; give another path") from None
    return sum(isinstance(line, _Trial) for line in lines)


def _dump(line: _Line) -> str:
    return json.dumps(line.model_dump(mode="json"), ensure_ascii=False, allow_nan=False) + "\n"


def _lines(store: Store, tasks: Collection[str] | None) -> Iterator[_Line]:
    readings = [r for r in store.studies() if tasks is None or r.task.name in tasks]
    results = {reading.study: store.results(reading.study) for reading in readings}
    facts = [trial.environment for trials in results.values() for trial in trials]
    environments = {environment_id(fact): dict(sorted(fact.items())) for fact in facts}
    yield _Results(format=FORMAT)
    for name in sorted(environments):
        yield _Environment(environment=name, facts=environments[name])
    for reading in readings:
        yield _study_line(reading)
        yield from map(_trial_line, results.pop(reading.study, []))


def _study_line(reading: Reading) -> _Study:
    return _Study(
        study=reading.study,
        D=reading.D,
        metric=reading.metric,
        settings=reading.settings,
        definition=reading.definition,
        task=reading.task.model_dump(mode="json", by_alias=True),
    )


def _trial_line(result: TrialResult) -> _Trial:
    own = {name: getattr(result, name) for name in _Trial.model_fields if hasattr(result, name)}
    request = {name: getattr(result.request, name) for name in ("role", "d", "seed", "lr_scale")}
    return _Trial(**{**own, **request, "environment": environment_id(result.environment)})


@dataclass(frozen=True)
class Merged:
    """What an import did: trials new to the store, trials it had, and those of another end."""

    added: int
    known: int
    conflicts: tuple[str, ...]


def import_results(store: Store, file: Path) -> Merged:
    """Merge `file` into the store by identity: all of it or, where a line is wrong, nothing.

    What the store holds is kept. Raise UsageError naming file, line and mend.
    """
    readings, trials = _parse(file)
    before = {trial.identity for r in store.studies() for trial in store.results(r.study)}
    conflicts = []
    with store.transaction():
        for line, reading in readings:
            with _naming(file, line):
                store.add_reading(reading, replace=False)
        for line, trial in trials:
            with _naming(file, line):
                if warning := store.put(trial):
                    conflicts.append(f"{file}:{line}: {warning}")
    identities = {trial.identity for _, trial in trials}
    return Merged(len(identities - before), len(identities & before), tuple(conflicts))


def read(file: Path) -> Store:
    """`file` alone, as a store in memory."""
    store = Store.in_memory()
    import_results(store, file)
    return store


def merged(store: Path, file: Path) -> Store:
    """The store (its studies and trials, not curves or solutions) and `file`, in memory.

    Either may be missing; where both speak of one trial or reading, the store's word counts.
    """
    memory = Store.in_memory()
    with Store(store, read_only=True) as source, memory.transaction():
        for reading in source.studies():
            memory.add_reading(reading, replace=False)
            for result in source.results(reading.study):
                memory.put(result)
    if file.exists():
        import_results(memory, file)
    return memory


@contextmanager
def _naming(file: Path, line: int) -> Iterator[None]:
    """Turn what is wrong inside into a UsageError that names the line and the mend."""
    try:
        yield
    except ValidationError as error:
        details = error.errors()[0]
        kinds = ("results", "environment", "study", "trial")
        place = ".".join(str(part) for part in details["loc"] if part not in kinds[:1])
        why = f"{place}: {details['msg']}" if place else details["msg"]
    except StudyError as error:
        why = str(error)
    except ValueError as error:
        why = str(error).splitlines()[0]
    else:
        return
    raise UsageError(f"{file}:{line}: {why}; mend or delete this line, or export the file anew")


def _parse(file: Path) -> tuple[list[tuple[int, Reading]], list[tuple[int, TrialResult]]]:
    """Readings and trials with their line numbers, each consistent in itself."""
    try:
        text = file.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{file}: {error.strerror}; give a file of `bench results export`"
        ) from None
    lines: list[tuple[int, Any]] = []
    for number, raw in enumerate(text.split(b"\n"), 1):
        if raw.strip():
            with _naming(file, number):
                lines.append((number, _LINE.validate_python(_load(raw))))
    if not lines or not isinstance(lines[0][1], _Results):
        raise UsageError(f"{file}:1: no results file; give a file of `bench results export`")
    facts = {line.environment: line.facts for _, line in lines if isinstance(line, _Environment)}
    studies = {line.study for _, line in lines if isinstance(line, _Study)}
    readings, trials = [], []
    for number, line in lines:
        with _naming(file, number):
            match line:
                case _Results():
                    _check_format(line)
                case _Environment():
                    _check_environment(line)
                case _Study():
                    readings.append((number, _reading(line)))
                case _Trial():
                    trials.append((number, _trial(line, facts, studies)))
    return readings, trials


def _load(raw: bytes) -> Any:
    return json.loads(raw, parse_constant=_no_constant, object_pairs_hook=_no_duplicates)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _check_format(line: _Results) -> None:
    if line.format != FORMAT:
        raise ValueError(f"format {line.format}, this program reads {FORMAT}")


def _check_environment(line: _Environment) -> None:
    if line.environment != environment_id(line.facts):
        raise ValueError("the environment's name is not the hash of its facts")


def _reading(line: _Study) -> Reading:
    task = Task.model_validate(line.task)
    reading = Reading(line.study, task, line.definition, line.D, line.settings, line.metric)
    check_reading(reading)
    return reading


def _trial(line: _Trial, facts: dict[str, dict[str, str]], studies: set[str]) -> TrialResult:
    if line.study not in studies:
        raise ValueError("no study line of this file has this trial's study")
    if line.environment not in facts:
        raise ValueError("no environment line of this file has this trial's environment")
    values = line.model_dump(exclude={"kind", "role", "d", "seed", "lr_scale", "environment"})
    request = Request(line.role, line.d, line.seed, line.lr_scale)
    result = TrialResult(**values, request=request, environment=facts[line.environment])
    check_result(result)
    return result
