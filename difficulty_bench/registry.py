"""tasks.yaml -> Task: typed, versioned, frozen; every mistake named with file, line and key."""

from __future__ import annotations

import copy
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from .entry_point import EntryPoint, ProblemEntryPoint, search_folder
from .errors import UsageError, did_you_mean, user_code
from .seeds import canonical_json
from .yaml_lines import (
    ENTRY_POINT,
    Document,
    KeyPath,
    assign,
    load_yaml,
    merge,
    sets_entry_point,
)

LrRule = Literal["paper", "matched", "tuned"]
E = typing.TypeVar("E", bound=EntryPoint)
AT = "@"  # `ppo@CartPole-v1`: the template `ppo@`, and what it derives a task for
ENTRIES = "problem", "network", "agent"  # keys of a task that name code
MAX_EXTENDED = 100  # tasks, each by the next
MAX_TRIALS = 10_000  # of one kind, asked for by name; they are listed in memory
Count = Annotated[PositiveInt, Field(le=2**31 - 1)]  # SQLite holds no more than 64 bits
Few = Annotated[PositiveInt, Field(le=MAX_TRIALS)]
Multipliers = Annotated[tuple[PositiveFloat, ...], Field(strict=False, min_length=1)]


class Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Tuning(Entry):
    """The `tuned` rule: learning-rate multipliers tried on the validation split.

    A multiplier c of `grid` stands for the step size c * lr * sqrt(D / d); one of `native` (where
    it is None, of `grid`) for c * lr in native training. A single multiplier needs no pilots.
    """

    grid: Multipliers
    native: Multipliers | None = None
    d: Annotated[tuple[Count, ...], Field(strict=False, min_length=1)]
    seeds: Few = 2


class Search(Entry):
    """Where and how closely d is searched. `batch` trials are asked for at a time."""

    d_min: Count = 1
    d_max: Count
    seeds: Few = 5
    precision: Annotated[float, Field(gt=1)] = 1.25
    max_trials: Count = 100
    batch: Few = 4
    model: Literal["score", "pass"] = "score"

    @model_validator(mode="after")
    def _bracket(self) -> Search:
        if self.d_min > self.d_max:
            raise ValueError(f"d_min = {self.d_min} is above d_max = {self.d_max}")
        return self


class EarlyStop(Entry):
    """End a training once `metric`, as the agent reports it, was at `at` or above `times` in a row.

    Part of what a trial is, native or not, and the same for both.
    """

    metric: str
    at: float
    times: Count = 2


class Recorded(Entry):
    """What the curve behind a published value gives: the smallest recorded d whose mean score is
    above 0.9 of that curve's own baseline (`local`), and above the task's constant (`global`).
    """

    local: Count | None = None
    global_: Annotated[Count | None, Field(alias="global")] = None


class Reference(Entry):
    """A published d_int90, for comparison only; `recorded` where its curve gives another one."""

    source: str
    local: Count | None = None
    global_: Annotated[Count | None, Field(alias="global")] = None
    recorded: Recorded | None = None


class Task(Entry):
    """One entry of the registry; see tasks.yaml for what each key means."""

    name: str
    version: Count
    paradigm: Literal["synthetic", "supervised", "reinforcement"]
    description: str
    problem: ProblemEntryPoint
    network: EntryPoint
    agent: EntryPoint
    projection: str = "hashed"
    floor: float
    chance: float | None = None
    threshold_global: float | None = None
    lr_rule: LrRule = "matched"
    tuning: Tuning | None = None
    baseline_seeds: Annotated[int, Field(ge=3, le=MAX_TRIALS)] = 5
    timeout_s: PositiveFloat | None = None
    early_stop: EarlyStop | None = None
    search: Search
    reference: Reference | None = None
    notes: str | None = None

    @model_validator(mode="after")
    def _tuned_needs_a_grid(self) -> Task:
        if self.lr_rule == "tuned" and self.tuning is None:
            raise ValueError("lr_rule 'tuned' needs the key `tuning` (grid, d, seeds)")
        return self

    def definition(self) -> dict[str, Any]:
        """Everything that decides what one training does, defaults included; JSON-ready.

        Left out: what only says which trainings to run and how to read them (floor, chance,
        thresholds, search range, tuning grid, reference), so that reading anew trains nothing anew.
        """
        entries: dict[str, EntryPoint] = {key: getattr(self, key) for key in ENTRIES}
        return self.own_definition() | {
            key: {"entry_point": entry.entry_point, **entry.parameters()}
            for key, entry in entries.items()
        }

    def own_definition(self) -> dict[str, Any]:
        """The part of `definition` that needs no entry point."""
        found: dict[str, Any] = {
            "task": self.name,
            "version": self.version,
            "projection": self.projection,
            "timeout_s": self.timeout_s,
        }
        if self.early_stop is not None:  # absent otherwise, as before the key existed
            found["early_stop"] = self.early_stop.model_dump()
        return found


def default_file() -> Path:
    """The suite's own registry: inside an installed package, or at the top of a checkout."""
    here = Path(__file__).resolve().parent
    packaged = here / "tasks.yaml"
    return packaged if packaged.exists() else here.parent / "tasks.yaml"


class Registry:
    """The tasks of the suite and of the user's own files (`--tasks FILE`), by name.

    A file's entry points may name modules beside it.
    """

    def __init__(self, files: Sequence[Path] = ()) -> None:
        self._documents: dict[str, Document] = {}
        for file in (default_file(), *files):
            document = load_yaml(file)
            for name in document.data:
                if not name.strip():
                    raise UsageError(f"{document.where((name,))}: a task needs a name")
                if name in self._documents:
                    raise UsageError(
                        f"{document.where((name,))}: {name}: duplicate task, first given at "
                        f"{self._documents[name].where((name,))}"
                    )
                self._documents[name] = document
        for folder in (Path.cwd(), *(file.parent for file in files)):
            search_folder(folder)

    def names(self) -> list[str]:
        """The tasks that are written out; those that a template derives are without number."""
        return [name for name in self._documents if not name.endswith(AT)]

    def templates(self) -> list[str]:
        """What may stand before the `@`."""
        return [name.removesuffix(AT) for name in self._documents if name.endswith(AT)]

    def entry_points(self) -> set[str]:
        """All that the files name, of whatever task."""
        documents = [document.data for document in self._documents.values()]
        return {value for data in documents for value in _entry_points(data)}

    def registered(self) -> list[Task]:
        """Every task of `names` as it is written.

        No entry point is checked, so none imported but those of a template.
        """
        return [_validate(self._measured(self._flatten(name), name), name) for name in self.names()]

    def get(self, name: str, settings: Sequence[str] = ()) -> Task:
        """The task `name` with `--set` overrides applied and every entry point checked.

        `TEMPLATE@SUBJECT` is derived: the entry `TEMPLATE@` laid on what its `derive` function
        finds out about SUBJECT, then, overrides applied, on what its `measure` function finds out
        about the problem. Raise UsageError naming place and key for an unknown task or key,
        or a wrong value; ResourceError where SUBJECT needs a package that is not installed.
        """
        document = self._document(name)
        for setting in sorted(settings, key=lambda s: not sets_entry_point(s)):  # before its keys
            assign(document, (name,), setting)
        task = _validate(self._measured(document, name), name)
        for key in ENTRIES:
            _check_entry_point(getattr(task, key), document, (name, key))
        return task

    def _document(self, name: str) -> Document:
        return self._flatten(name) if name in self.names() else self._derived(name)

    def _derived(self, name: str, seen: tuple[str, ...] = ()) -> Document:
        kind, at, subject = name.partition(AT)
        if not at:
            known = did_you_mean(name, self.names())
            raise UsageError(f"no task '{name}'{known} (one of your own needs --tasks FILE)")
        if kind not in self.templates():
            known = did_you_mean(kind, self.templates())
            raise UsageError(f"no task '{name}', as there is no template '{kind}@'{known}")
        if not subject:
            raise UsageError(f"'{name}' is a template: give what it is for, like {name}CartPole-v1")
        return self._derive(kind + AT, subject, seen)

    def _derive(self, template: str, subject: str, seen: tuple[str, ...]) -> Document:
        document = self._flatten(template, seen)
        entry, name = document.data[template], template + subject
        derive = _entry_point(EntryPoint, document, (template, "derive"))
        del entry["derive"]
        with user_code(f"{name}: cannot be derived"):  # it may well run the subject
            found = derive(subject)
        marks = {(name, *key[1:]): mark for key, mark in document.marks.items()}
        return Document({name: merge(found, entry)}, marks, document.name)

    def _measured(self, document: Document, name: str) -> Document:
        """The entry laid on what its `measure` function finds out about its problem.

        Not before everything that changes the problem was laid on it.
        """
        entry = document.data[name]
        if "measure" not in entry:
            return document
        measure = _entry_point(EntryPoint, document, (name, "measure"))
        problem = _entry_point(ProblemEntryPoint, document, (name, "problem"))
        del entry["measure"]
        place = f"{document.where((name,))}: " if name in self._documents else ""
        try:
            with user_code("cannot be measured"):  # it may well run the problem
                found = measure(problem(), entry.keys())
        except UsageError as error:
            raise UsageError(f"{place}{name}: {error}") from error
        return Document({name: merge(found, entry)}, document.marks, document.name)

    def _flatten(self, name: str, seen: tuple[str, ...] = ()) -> Document:
        """A copy of the entry with what it `extends` laid beneath it."""
        source = self._documents[name]
        entry = source.data[name]
        if not isinstance(entry, dict):
            raise UsageError(f"{source.where((name,))}: {name}: expected a mapping of keys")
        entry = copy.deepcopy(entry)
        marks = {key: mark for key, mark in source.marks.items() if key[0] == name}
        parent = entry.pop("extends", None)
        if parent is not None:
            if not isinstance(parent, str):
                place = source.where((name, "extends"))
                raise UsageError(f"{place}: {name}.extends: should be one name, not {parent!r}")
            below = self._below(parent, source, (*seen, name))
            entry = merge(below.data[parent], entry)
            marks = {(name, *key[1:]): mark for key, mark in below.marks.items()} | marks
        return Document({name: entry}, marks, source.name)

    def _below(self, parent: str, source: Document, seen: tuple[str, ...]) -> Document:
        """The entry that `seen[-1]` extends, itself flattened or derived."""
        where = f"{source.where((seen[-1], 'extends'))}: {seen[-1]}.extends"
        in_a_file = parent in self._documents
        derived = AT in parent.rstrip(AT) and (
            not in_a_file or parent == seen[-1]  # `ppo@x: {extends: ppo@x}` changes what it was
        )
        template = parent.partition(AT)[0] + AT
        if (template if derived else parent) in seen:
            raise UsageError(
                f"{where}: a task cannot extend itself: {' -> '.join(seen)} -> {parent}"
            )
        if len(seen) > MAX_EXTENDED:
            raise UsageError(
                f"{where}: more than {MAX_EXTENDED} tasks, each extending the next; let it extend "
                "one that is nearer"
            )
        if derived:
            try:
                return self._derived(parent, seen)
            except UsageError as error:
                raise UsageError(f"{where}: {error}") from error
        if in_a_file:
            return self._flatten(parent, seen)
        known = did_you_mean(parent, self._documents)
        raise UsageError(f"{where}: no task '{parent}' to extend{known}")


def _entry_points(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (str(item) for key, item in value.items() if key == ENTRY_POINT)
        for item in value.values():
            yield from _entry_points(item)


def _entry_point(kind: type[E], document: Document, path: KeyPath) -> E:
    name, key = path
    try:
        entry = kind.model_validate(document.data[name].get(key, {}))
    except ValidationError as error:
        raise _usage_error(error, kind, document, path) from None
    _check_entry_point(entry, document, path)
    return entry


def _validate(document: Document, name: str) -> Task:
    if "name" in document.data[name]:
        raise UsageError(
            f"{document.where((name, 'name'))}: {name}.name: unknown key; the entry's own key, "
            f"'{name}', is the task's name"
        )
    try:
        return Task.model_validate({**document.data[name], "name": name})
    except ValidationError as error:
        raise _usage_error(error, Task, document, (name,)) from None


def _check_entry_point(entry: EntryPoint, document: Document, path: KeyPath) -> None:
    try:
        parameters = entry.parameters()
    except ValidationError as error:
        raise _usage_error(error, entry.schema_model, document, path) from None
    except UsageError as error:
        raise UsageError(f"{document.where((*path, 'entry_point'))}: {error}") from None
    for key, value in parameters.items():  # given or a default, of whatever type
        try:
            canonical_json(value)  # what identifies a trial is stored so
        except (TypeError, ValueError):
            raise UsageError(
                f"{document.where((*path, key))}: {'.'.join(map(str, (*path, key)))}: should be "
                f"of finite numbers, words, true, false, null, lists and mappings, not {value!r}"
            ) from None


def _usage_error(
    error: ValidationError, model: type[BaseModel], document: Document, root: KeyPath
) -> UsageError:
    """One mistake as one line: place, key, what is wrong, the mend.

    A misspelled key comes before the key that is missing for it.
    """
    details = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    path = (*root, *details["loc"])
    dotted = ".".join(map(str, path))
    return UsageError(f"{document.where(path)}: {dotted}: {_explain(details, model)}")


def _explain(details: ErrorDetails, model: type[BaseModel]) -> str:
    location = details["loc"]
    if details["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        return f"unknown key{did_you_mean(str(location[-1]), known)}"
    if details["type"] == "missing":
        return "missing; add this key"
    value = details["input"]
    if details["type"] == "string_pattern_mismatch":
        return f"should be of the form module:function, not {value!r}"
    if details["type"] == "too_short":
        return "should not be empty"
    shown = "" if isinstance(value, Mapping) else f", not {value!r}"
    return details["msg"].removeprefix("Value error, ").removeprefix("Input ") + shown


def _known_keys(model: type[BaseModel], location: KeyPath) -> list[str]:
    """The keys of the model at `location`; none where it lies in a list or is no such model."""
    for part in location:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        nested = [a for a in (annotation, *typing.get_args(annotation)) if isinstance(a, type)]
        models = [a for a in nested if issubclass(a, BaseModel)]
        if not models:
            return []
        model = models[0]
    return [field.alias or name for name, field in model.model_fields.items() if name != "name"]
