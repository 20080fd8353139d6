"""What the search asks for and what comes back: the two records that pure code speaks in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Role = Literal["pilot", "baseline", "trial"]
Scores = Mapping[int, float | None]  # of a quantised solution, by bits per number; None: not solved
State = Literal["complete", "failed", "timed_out"]
MAX_NAMED = 8


@dataclass(frozen=True, order=True)
class Request:
    """One training that the search wants.

    `d` is the subspace dimension, or 0 for native training (d = D without a projection).
    `lr_scale` multiplies the task's own learning rate. Seeds count from 0 within (role, d,
    lr_scale); every trial's random streams are derived from all four fields, so none is shared.
    Pilots are judged on the validation split, all others on the test split.
    """

    role: Role
    d: int
    seed: int
    lr_scale: float = 1.0


def describe(request: Request) -> str:
    """`trial d=100 seed 3`, as a person reads it."""
    where = f"d={request.d}" if request.d else "native"
    rate = f" lr x{request.lr_scale:g}" if request.role == "pilot" else ""
    return f"{request.role} {where}{rate} seed {request.seed}"


def enumerated(names: Sequence[str]) -> str:
    """The first few, and how many more there are: a grid may have hundreds."""
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more:,} more" if more > 0 else "")


@dataclass(frozen=True)
class Outcome:
    """A finished training: its final score, or None where it failed, diverged or timed out."""

    score: float | None


@dataclass(frozen=True)
class TrialResult:
    """A finished trial, as the store keeps it and `bench results export` writes it.

    `identity` hashes everything that defines the trial, `study` the same without the request.
    `score` is None unless `state` is `complete`; then `score_sd` and `score_n` describe the
    held-out evaluation. `D` counts the parameters that P moves. `curve` holds (step, name, value);
    `z` the solution's d float32 numbers, little-endian, or None for native training.
    """

    identity: str
    study: str
    request: Request
    state: State
    score: float | None
    score_sd: float | None
    score_n: int | None
    reason: str | None
    D: int
    steps: int
    wall_s: float
    device: str
    environment: dict[str, str]
    curve: tuple[tuple[int, str, float], ...] = ()
    z: bytes | None = None

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.score)
