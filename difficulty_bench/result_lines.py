"""The lines of a results file: one typed model a kind, and what they stand for."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, TypeAdapter

from .bits import MAX_BITS
from .records import Reading, check_reading, check_result, environment_id
from .registry import Task
from .results import Request, Role, State, TrialResult

FORMAT = 2
Natural = Annotated[NonNegativeInt, Field(lt=2**63)]
Word = Annotated[str, Field(min_length=1)]
PerNumber = Annotated[PositiveInt, Field(le=MAX_BITS, strict=False)]  # a key of JSON is text


class Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class FormatLine(Line):
    """The first line of a file."""

    kind: Literal["results"] = "results"
    format: int = FORMAT

    def check(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format {self.format}, this program reads {FORMAT}")


class EnvironmentLine(Line):
    """What many trials were made with, under a name that is its hash."""

    kind: Literal["environment"] = "environment"
    environment: Word
    facts: dict[str, str]

    @classmethod
    def of(cls, facts: dict[str, str]) -> EnvironmentLine:
        return cls(environment=environment_id(facts), facts=dict(sorted(facts.items())))

    def check(self) -> None:
        if self.environment != environment_id(self.facts):
            raise ValueError("the environment's name is not the hash of its facts")


class StudyLine(Line):
    """One reading of a study."""

    kind: Literal["study"] = "study"
    study: Word
    D: Annotated[PositiveInt, Field(lt=2**63)]
    metric: str | None
    settings: Annotated[tuple[str, ...], Field(strict=False)]
    definition: dict[str, Any]
    task: dict[str, Any]

    @classmethod
    def of(cls, reading: Reading) -> StudyLine:
        task = reading.task.model_dump(mode="json", by_alias=True)
        own = {name: getattr(reading, name) for name in ("study", "D", "metric", "settings")}
        return cls(**own, definition=reading.definition, task=task)

    def reading(self) -> Reading:
        """Raise ValueError (pydantic's included) where its parts disagree, or where it could not
        be exported again: nested too deeply for it, or with text that UTF-8 does not hold.
        """
        dump_line(self).encode()
        task = Task.model_validate(self.task)
        if not task.name.isprintable():
            raise ValueError(f"the task's name {task.name!r} holds what no terminal shows")
        reading = Reading(self.study, task, self.definition, self.D, self.settings, self.metric)
        check_reading(reading)
        return reading


class TrialLine(Line):
    """One finished trial, without curve and solution."""

    kind: Literal["trial"] = "trial"
    identity: Word
    study: Word
    role: Role
    d: Natural
    seed: Natural
    lr_scale: float
    state: State
    score: float | None
    score_sd: float | None
    score_n: Natural | None
    reason: str | None
    D: Natural
    steps: Natural
    wall_s: float
    device: str
    environment: Word

    @classmethod
    def of(cls, result: TrialResult) -> TrialLine:
        values = {**vars(result), **vars(result.request)}
        values["environment"] = environment_id(result.environment)
        return cls(**{key: values[key] for key in cls.model_fields if key != "kind"})

    def result(self, environments: dict[str, dict[str, str]], studies: set[str]) -> TrialResult:
        """Raise ValueError where its parts disagree, or name what the file does not hold."""
        if self.study not in studies:
            raise ValueError("no study line of this file has this trial's study")
        if self.environment not in environments:
            raise ValueError("no environment line of this file has this trial's environment")
        values = self.model_dump(exclude={"kind", "role", "d", "seed", "lr_scale", "environment"})
        request = Request(self.role, self.d, self.seed, self.lr_scale)
        environment = environments[self.environment]
        result = TrialResult(**values, request=request, environment=environment)
        check_result(result)
        return result


class QuantisedLine(Line):
    """What a trial's solution scores with so many bits per number of z."""

    kind: Literal["quantised"] = "quantised"
    identity: Word
    scores: Annotated[dict[PerNumber, float | None], Field(min_length=1)]

    def check(self, solved: set[str]) -> None:
        """Raise ValueError where the file has no finished subspace trial of this identity."""
        if self.identity not in solved:
            raise ValueError("no finished subspace trial of this file has this identity")


AnyLine = FormatLine | EnvironmentLine | StudyLine | TrialLine | QuantisedLine
_LINE: TypeAdapter[AnyLine] = TypeAdapter(Annotated[AnyLine, Field(discriminator="kind")])


def dump_line(line: Line) -> str:
    """JSON in one line; numbers read back exactly."""
    return json.dumps(line.model_dump(mode="json"), ensure_ascii=False, allow_nan=False) + "\n"


def load_line(raw: bytes) -> AnyLine:
    """Raise ValueError (pydantic's included) for a line that is not one."""
    try:
        values = json.loads(raw, parse_constant=_no_constant, object_pairs_hook=_no_duplicates)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return _LINE.validate_python(values)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice")
    return found
