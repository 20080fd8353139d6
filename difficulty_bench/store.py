"""The store: one SQLite file that holds every finished trial; the only writer of results.

A *study* is what its trials share (`Task.definition()`: network, agent, data, version); a
*reading* is one way to read them (floor, thresholds, search range, reference, learning-rate rule).
Trials belong to a study, a report row to a reading, so that reading anew trains nothing anew.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .errors import ResourceError, StudyError, UsageError
from .registry import Task
from .results import Outcome, Request, TrialResult
from .seeds import canonical_json, content_hash
from .sqlite_file import WriterLock, open_reader, open_writer

FINAL_STATES = ("complete", "failed", "timed_out")
ROLE_ORDER = "CASE role WHEN 'baseline' THEN 0 WHEN 'pilot' THEN 1 ELSE 2 END"
SCHEMA = """
CREATE TABLE studies (
    study TEXT PRIMARY KEY, task TEXT NOT NULL, version INTEGER NOT NULL,
    definition TEXT NOT NULL, D INTEGER NOT NULL, metric TEXT
) STRICT;
CREATE TABLE readings (
    study TEXT NOT NULL REFERENCES studies, lr_rule TEXT NOT NULL,
    task TEXT NOT NULL, settings TEXT NOT NULL, PRIMARY KEY (study, lr_rule)
) STRICT;
CREATE TABLE environments (id TEXT PRIMARY KEY, facts TEXT NOT NULL) STRICT;
CREATE TABLE trials (
    identity TEXT PRIMARY KEY, study TEXT NOT NULL REFERENCES studies,
    role TEXT NOT NULL, d INTEGER NOT NULL, seed INTEGER NOT NULL, lr_scale REAL NOT NULL,
    state TEXT NOT NULL, score REAL, score_sd REAL, score_n INTEGER, reason TEXT,
    D INTEGER NOT NULL, steps INTEGER NOT NULL, wall_s REAL NOT NULL, device TEXT NOT NULL,
    environment TEXT NOT NULL REFERENCES environments
) STRICT;
CREATE INDEX trials_by_study ON trials (study);
CREATE TABLE curves (
    identity TEXT NOT NULL REFERENCES trials, n INTEGER NOT NULL,
    step INTEGER NOT NULL, name TEXT NOT NULL, value REAL NOT NULL, PRIMARY KEY (identity, n)
) STRICT, WITHOUT ROWID;
CREATE TABLE solutions (identity TEXT PRIMARY KEY REFERENCES trials, z BLOB NOT NULL) STRICT;
"""


@dataclass(frozen=True)
class Reading:
    """A study and how its task asks to read it: what one row of the report is made from.

    `settings` are the `--set key=value` overrides in force when it was last run, `metric` the
    name of the score. `task` is rebuilt from the record: its entry points need not be importable.
    """

    study: str
    task: Task
    definition: dict[str, Any]
    D: int
    settings: tuple[str, ...] = ()
    metric: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        return self.study, self.task.lr_rule


def trial_identity(study: str, request: Request) -> str:
    """What `trial.Trial.identity` is, without importing torch."""
    return content_hash({"study": study, "request": asdict(request)})


class Store:
    """`Store(path)` opens for writing and creates; `Store.reading(path)` never creates.

    One writer at a time: a second one is refused with ResourceError. The lock ends with its
    process, however that ends. Readers neither wait for the writer nor hold it up. Every
    ResourceError names the path and the mend. Close it, or use it in a `with` statement.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock: WriterLock | None = WriterLock(self.path)
        try:
            self._sql = open_writer(self.path, SCHEMA)
        except BaseException:
            self._lock.release()
            raise

    @classmethod
    def _of(cls, path: Path | str, connection: sqlite3.Connection) -> Store:
        store = cls.__new__(cls)
        store.path, store._lock, store._sql = Path(path), None, connection
        return store

    @classmethod
    def in_memory(cls) -> Store:
        return cls._of(":memory:", open_writer(":memory:", SCHEMA))

    @classmethod
    def reading(cls, path: Path | str) -> Store:
        """For looking only; a store that is not there yet reads as an empty one."""
        connection = open_reader(Path(path))
        return cls.in_memory() if connection is None else cls._of(path, connection)

    def close(self) -> None:
        self._sql.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of what is written inside or, on any exception, nothing; may be nested."""
        if self._sql.in_transaction:
            yield
            return
        try:
            self._sql.execute("BEGIN IMMEDIATE")
            yield
            self._sql.execute("COMMIT")
        except sqlite3.Error as error:
            self._rollback()
            raise ResourceError(
                f"{self.path}: cannot write: {error}; check the disk, or give --store another path"
            ) from None
        except BaseException:
            self._rollback()
            raise

    def _rollback(self) -> None:
        if self._sql.in_transaction:
            self._sql.execute("ROLLBACK")

    def add_study(
        self, task: Task, D: int, settings: Sequence[str] = (), metric: str | None = None
    ) -> str:
        """Record a task that is about to be measured, its latest reading, and return the study."""
        definition = task.definition()
        study = content_hash(definition)
        self.add_reading(Reading(study, task, definition, D, tuple(settings), metric))
        return study

    def add_reading(self, reading: Reading, *, replace: bool = True) -> bool:
        """Record a reading; False where one for the same study and lr_rule was there and kept.

        Raise StudyError where the study is there with another D: the task's code has changed.
        """
        task, definition = reading.task, canonical_json(reading.definition)
        record = canonical_json(task.model_dump(mode="json", by_alias=True))
        verb = "REPLACE" if replace else "IGNORE"
        with self.transaction():
            known = self._one("SELECT D FROM studies WHERE study = ?", reading.study)
            if known is not None and known[0] != reading.D:
                raise StudyError(
                    f"{task.name} v{task.version}: its network has D = {reading.D}, but earlier "
                    f"trials in {self.path} had D = {known[0]}; raise the task's version"
                )
            study = (reading.study, task.name, task.version, definition, reading.D, reading.metric)
            self._sql.execute("INSERT OR IGNORE INTO studies VALUES (?, ?, ?, ?, ?, ?)", study)
            row = (*reading.key, record, json.dumps(list(reading.settings)))
            done = self._sql.execute(f"INSERT OR {verb} INTO readings VALUES (?, ?, ?, ?)", row)
        return done.rowcount == 1

    def put(self, result: TrialResult) -> str | None:
        """Record a finished trial, durably, with its curve and solution.

        The first result of an identity is kept. Return None, or one line where the store already
        held another end of this very trial. Raise ValueError for a result that is not one.
        """
        check_result(result)
        with self.transaction():
            known = self._one("SELECT state, score FROM trials WHERE identity = ?", result.identity)
            if known is None:
                self._insert(result)
            elif tuple(known) != (result.state, result.score):
                return (
                    f"trial {result.identity[:12]} is already there as {known[0]} with score "
                    f"{known[1]}; kept, and not replaced by {result.state} with {result.score}"
                )
        return None

    def _insert(self, result: TrialResult) -> None:
        if self._one("SELECT 1 FROM studies WHERE study = ?", result.study) is None:
            raise ValueError(f"trial {result.identity[:12]} of a study that was never added")
        facts = canonical_json(result.environment)
        environment = content_hash(result.environment)[:16]
        request = result.request
        row = (
            *(result.identity, result.study),
            *(request.role, request.d, request.seed, request.lr_scale),
            *(result.state, result.score, result.score_sd, result.score_n, result.reason),
            *(result.D, result.steps, result.wall_s, result.device, environment),
        )
        sql = self._sql
        sql.execute("INSERT OR IGNORE INTO environments VALUES (?, ?)", (environment, facts))
        sql.execute(f"INSERT INTO trials VALUES ({', '.join('?' * len(row))})", row)
        curve = [(result.identity, n, *point) for n, point in enumerate(result.curve)]
        sql.executemany("INSERT INTO curves VALUES (?, ?, ?, ?, ?)", curve)
        if result.z is not None:
            sql.execute("INSERT INTO solutions VALUES (?, ?)", (result.identity, result.z))

    def studies(self) -> list[Reading]:
        """All readings, ordered by task, version, study and lr_rule."""
        rows = self._all(
            "SELECT study, readings.task, definition, D, settings, metric FROM readings"
            " JOIN studies USING (study) ORDER BY studies.task, version, study, lr_rule"
        )
        return [
            Reading(
                study,
                Task.model_validate(json.loads(task)),
                json.loads(definition),
                D,
                tuple(json.loads(settings)),
                metric,
            )
            for study, task, definition, D, settings, metric in rows
        ]

    def results(self, study: str) -> list[TrialResult]:
        """The study's finished trials by role, d, lr_scale and seed; without curves and z."""
        rows = self._all(
            "SELECT trials.*, facts FROM trials JOIN environments ON environment = id"
            f" WHERE study = ? ORDER BY {ROLE_ORDER}, d, lr_scale, seed",
            study,
        )
        return [_result(row) for row in rows]

    def outcomes(self, study: str) -> dict[Request, Outcome]:
        """What the search and the estimate ask of a study."""
        return {result.request: result.outcome for result in self.results(study)}

    def find(self, prefix: str) -> TrialResult:
        """The one trial whose identity starts with `prefix`. Raise UsageError for none or many."""
        rows = self._all(
            "SELECT trials.*, facts FROM trials JOIN environments ON environment = id"
            " WHERE substr(identity, 1, ?) = ? ORDER BY identity LIMIT 2",
            len(prefix),
            prefix,
        )
        if len(rows) != 1 or not prefix:
            number = "more than one trial" if rows else "no trial"
            raise UsageError(
                f"{self.path}: {number} with an identity that starts '{prefix}'; "
                "`bench show TASK` lists them"
            )
        return _result(rows[0])

    def curve(self, identity: str) -> tuple[tuple[int, str, float], ...]:
        """(step, name, value) of a trial, as they came."""
        rows = self._all(
            "SELECT step, name, value FROM curves WHERE identity = ? ORDER BY n", identity
        )
        return tuple(tuple(row) for row in rows)

    def solution(self, identity: str) -> bytes | None:
        """z: d float32 numbers, little-endian; None natively and where it was not kept."""
        row = self._one("SELECT z FROM solutions WHERE identity = ?", identity)
        return None if row is None else bytes(row[0])

    def _one(self, query: str, *values: object) -> Any:
        rows = self._all(query, *values)
        return rows[0] if rows else None

    def _all(self, query: str, *values: object) -> list[Any]:
        try:
            return self._sql.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise ResourceError(
                f"{self.path}: cannot read: {error}; restore it, or give --store another path"
            ) from None


def _result(row: Sequence[Any]) -> TrialResult:
    identity, study, role, d, seed, lr_scale, *rest, _, facts = row
    return TrialResult(identity, study, Request(role, d, seed, lr_scale), *rest, json.loads(facts))


def check_result(result: TrialResult) -> None:
    """Raise ValueError unless `result` is a finished trial whose parts agree."""
    scores = (result.score, result.score_sd)
    if result.identity != trial_identity(result.study, result.request):
        raise ValueError("the identity is not that of this study and request")
    if result.state not in FINAL_STATES:
        raise ValueError(f"state '{result.state}' is not one of {', '.join(FINAL_STATES)}")
    if (result.state == "complete") != (result.score is not None):
        raise ValueError(f"state '{result.state}' with score {result.score}")
    if any(value is not None and not math.isfinite(value) for value in scores):
        raise ValueError(f"score {result.score} or its sd {result.score_sd} is not finite")
    if result.state != "complete" and not result.reason:
        raise ValueError(f"state '{result.state}' without a reason")
    if not 0 <= result.request.d <= result.D:
        raise ValueError(f"d = {result.request.d} is outside 0 to D = {result.D}")
