"""The store: one SQLite file that holds every finished trial; the only writer of results.

Trials belong to a study, a report row to a reading of one (see `records.Reading`).
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .errors import ResourceError, StudyError, first_line
from .records import Reading, check_reading, check_result, environment_id
from .registry import Task
from .results import Outcome, Request, Scores, TrialResult
from .schema import BY_REQUEST, READINGS, SCHEMA, TRIALS
from .seeds import canonical_json, content_hash
from .sqlite_file import WriterLock, open_reader, open_writer

IN_MEMORY = ":memory:"


class Store:
    """`Store(path)` writes and creates; with `read_only` it does neither, and a missing file reads
    as an empty one.

    One writer at a time: a second is refused. Its lock ends with its process, however that ends.
    Readers neither wait for the writer nor hold it up. Raise ResourceError, naming path and mend,
    for a file that cannot be used. Close it, or use it in a `with` statement.
    """

    def __init__(self, path: Path | str, *, read_only: bool = False) -> None:
        self.path = Path(path)
        self._lock = WriterLock(self.path) if not (read_only or path == IN_MEMORY) else None
        try:
            # A file of that very name is a file: only `in_memory` means what SQLite does by it.
            where = path if path == IN_MEMORY else self.path.absolute()
            connection = open_reader(self.path) if read_only else open_writer(where, SCHEMA)
            self._sql = connection or open_writer(IN_MEMORY, SCHEMA)
        except BaseException:
            self._release()
            raise

    @classmethod
    def in_memory(cls) -> Store:
        return cls(IN_MEMORY)

    def close(self) -> None:
        self._sql.close()
        self._release()

    def _release(self) -> None:
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
            raise ResourceError(
                f"{self.path}: cannot write: {error}; check the disk, or give --store another path"
            ) from None
        finally:
            self._rollback()

    def _rollback(self) -> None:
        if self._sql.in_transaction:
            self._sql.execute("ROLLBACK")

    def add_study(
        self, task: Task, D: int, settings: Sequence[str] = (), metric: str | None = None
    ) -> str:
        """Record a task that is about to be measured and return its study.

        Of floor, thresholds, search range and reference the last record is in force.
        """
        definition = json.loads(canonical_json(task.definition()))
        reading = Reading(content_hash(definition), task, definition, D, tuple(settings), metric)
        self.add_reading(reading)
        return reading.study

    def add_reading(self, reading: Reading, *, replace: bool = True) -> None:
        """Record a reading, in the place of one of the same key only where `replace` says so.

        Raise StudyError where the study is there with another D, ValueError where its parts
        disagree.
        """
        check_reading(reading)
        task, verb = reading.task, "REPLACE" if replace else "IGNORE"
        record = canonical_json(task.model_dump(mode="json", by_alias=True))
        definition = canonical_json(reading.definition)
        with self.transaction():
            known = self._all("SELECT parameters FROM studies WHERE study = ?", reading.study)
            if known and known[0][0] != reading.D:
                raise StudyError(
                    f"{task.name} v{task.version}: its network has D = {reading.D}, but earlier "
                    f"trials in {self.path} had D = {known[0][0]}; raise the task's version"
                )
            study = (reading.study, task.name, task.version, definition, reading.D, reading.metric)
            self._sql.execute("INSERT OR IGNORE INTO studies VALUES (?, ?, ?, ?, ?, ?)", study)
            row = (*reading.key, record, json.dumps(list(reading.settings)))
            self._sql.execute(f"INSERT OR {verb} INTO readings VALUES (?, ?, ?, ?)", row)

    def forget_empty(self, study: str) -> None:
        """Forget a study without trials, as of a task that turned out not to be measurable."""
        with self.transaction():
            if not self._all("SELECT 1 FROM trials WHERE study = ? LIMIT 1", study):
                self._sql.execute("DELETE FROM readings WHERE study = ?", (study,))
                self._sql.execute("DELETE FROM studies WHERE study = ?", (study,))

    def put(self, result: TrialResult) -> str | None:
        """Record a finished trial, durably, with its curve and solution.

        The first result of an identity is kept; curve and solution are added where it came without,
        as from a results file. Return None, or one line where the store already held another end of
        this very trial. Raise ValueError for a result that is not one.
        """
        check_result(result)
        identity, ours = result.identity, (result.state, result.score)
        with self.transaction():
            known = self._all("SELECT state, score FROM trials WHERE identity = ?", identity)
            if not known:
                self._insert(result)
            if not known or known[0] == ours:
                self._insert_bulk(result)
        if not known or known[0] == ours:
            return None
        there, other = (f"{state} ({score})" for state, score in (known[0], ours))
        return f"trial {identity[:12]} is there as {there}; kept, not replaced by {other}"

    def _insert(self, result: TrialResult) -> None:
        if not self._all("SELECT 1 FROM studies WHERE study = ?", result.study):
            raise ValueError(f"trial {result.identity[:12]} is of a study that was never added")
        request, facts = result.request, {k: _text(v) for k, v in result.environment.items()}
        environment, reason = environment_id(facts), result.reason and _text(result.reason)
        row = (
            *(result.identity, result.study),
            *(request.role, request.d, request.seed, request.lr_scale),
            *(result.state, result.score, result.score_sd, result.score_n, reason),
            *(result.D, result.steps, result.wall_s, result.device, environment),
        )
        sql = self._sql
        record = (environment, canonical_json(facts))
        sql.execute("INSERT OR IGNORE INTO environments VALUES (?, ?)", record)
        sql.execute(f"INSERT INTO trials VALUES ({', '.join('?' * len(row))})", row)

    def _insert_bulk(self, result: TrialResult) -> None:
        """The curve and z of a trial, unless they are there."""
        identity, sql = result.identity, self._sql
        if not self._all("SELECT 1 FROM curves WHERE identity = ? LIMIT 1", identity):
            curve = [(identity, n, *point) for n, point in enumerate(result.curve)]
            sql.executemany("INSERT INTO curves VALUES (?, ?, ?, ?, ?)", curve)
        if result.z is not None:
            sql.execute("INSERT OR IGNORE INTO solutions VALUES (?, ?)", (identity, result.z))

    def put_quantised(self, identity: str, scores: Scores) -> None:
        """Record what a trial of this store scores with so many bits per number of z.

        The first score is kept. Raise ValueError for a trial that has no solution to quantise, or
        a score that is not finite (None is: not solved).
        """
        query = "SELECT 1 FROM trials WHERE identity = ? AND score IS NOT NULL AND d > 0"
        if not self._all(query, identity):
            raise ValueError(f"trial {identity[:12]} is no finished subspace trial of this store")
        if not all(score is None or math.isfinite(score) for score in scores.values()):
            raise ValueError(f"trial {identity[:12]}: not all of {dict(scores)} are finite")
        rows = [(identity, bits, score) for bits, score in scores.items()]
        sql = "INSERT INTO quantised VALUES (?, ?, ?) ON CONFLICT (identity, bits) DO NOTHING"
        with self.transaction():
            self._sql.executemany(sql, rows)

    def studies(self) -> list[Reading]:
        """All readings, by task name, version, study and lr_rule."""
        return self._readings("")

    def study(self, study: str) -> Reading:
        """One reading of a study that is there; all have the same definition, D and metric."""
        return self._readings(study)[0]

    def _readings(self, study: str) -> list[Reading]:
        rows = self._all(READINGS, study)
        try:
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
        except (ValidationError, ValueError) as error:
            raise ResourceError(
                f"{self.path}: a task recorded here does not fit this program: "
                f"{first_line(error)}; use the version that wrote it"
            ) from None

    def results(self, study: str) -> list[TrialResult]:
        """The study's finished trials by role, d, lr_scale and seed; without curves and z."""
        return [
            self._result(row) for row in self._all(f"{TRIALS} WHERE study = ? {BY_REQUEST}", study)
        ]

    def outcomes(self, study: str) -> dict[Request, Outcome]:
        """What the search and the estimate ask of a study."""
        return {result.request: result.outcome for result in self.results(study)}

    def find(self, prefix: str) -> list[TrialResult]:
        """The trials, without curve and z, whose identity starts with `prefix`."""
        query = f"{TRIALS} WHERE substr(identity, 1, ?) = ? ORDER BY identity"
        return [self._result(row) for row in self._all(query, len(prefix), prefix)]

    def curve(self, identity: str) -> tuple[tuple[int, str, float], ...]:
        """(step, name, value) of a trial, as they came."""
        query = "SELECT step, name, value FROM curves WHERE identity = ? ORDER BY n"
        return tuple(self._all(query, identity))

    def solution(self, identity: str) -> bytes | None:
        """z: d float32 numbers, little-endian; None natively and where it was not kept."""
        rows = self._all("SELECT z FROM solutions WHERE identity = ?", identity)
        return rows[0][0] if rows else None

    def quantised(self, study: str) -> dict[str, dict[int, float | None]]:
        """By the identity of a trial: bits per number -> score of its quantised solution."""
        query = """SELECT identity, bits, quantised.score FROM quantised JOIN trials
        USING (identity) WHERE study = ? ORDER BY identity, bits"""
        found: dict[str, dict[int, float | None]] = {}
        for identity, bits, score in self._all(query, study):
            found.setdefault(identity, {})[bits] = score
        return found

    def _result(self, row: Sequence[Any]) -> TrialResult:
        identity, study, role, d, seed, lr_scale, state, score, sd, n, reason, *rest = row
        D, steps, wall_s, device, facts = rest
        request = Request(role, d, seed, lr_scale)
        try:
            result = TrialResult(
                *(identity, study, request, state, score, sd, n, reason),
                *(D, steps, wall_s, device, json.loads(facts)),
            )
            check_result(result)
        except (TypeError, ValueError) as error:
            raise ResourceError(
                f"{self.path}: trial {str(identity)[:12]} is damaged: {error}; restore the file, "
                "or delete that trial and measure it again"
            ) from None
        return result

    def _all(self, query: str, *values: object) -> list[Any]:
        try:
            return self._sql.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise ResourceError(
                f"{self.path}: cannot read: {error}; restore it, or give --store another path"
            ) from None


def _text(text: str) -> str:
    """`text` without what UTF-8 cannot hold: undecodable bytes of a file name or an argument."""
    return text.encode("utf-8", "backslashreplace").decode()
