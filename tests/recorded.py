"""Made-up finished studies: what the store, its files and the report are tested on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from difficulty_bench.exchange import import_results
from difficulty_bench.records import Reading, trial_identity
from difficulty_bench.registry import Task
from difficulty_bench.results import Request, Role, TrialResult
from difficulty_bench.seeds import content_hash
from difficulty_bench.store import Store

ENVIRONMENT = {
    "python": "3.11.7",
    "torch": "2.13.0",
    "commit": "0123456789ab",
    "processor": "A Processor",
    "cores": "2",
    "command": "bench run --task known",
}


def read(file: Path) -> Store:
    """A results file alone, as a store in memory."""
    store = Store.in_memory()
    import_results(store, file)
    return store


def reading(name: str = "known", D: int = 10_000, settings: Any = (), **fields: Any) -> Reading:
    """A study of a problem whose code is not installed anywhere."""
    definition: dict[str, Any] = {
        key: {"entry_point": f"nowhere.{key}:make", "size": 3, "rate": 1e-3}
        for key in ("problem", "network", "agent")
    }
    given: dict[str, Any] = {
        "name": name,
        "version": 1,
        "paradigm": "supervised",
        "description": "made up",
        "floor": 0.0,
        "threshold_global": 0.9,
        "lr_rule": "paper",
        "search": {"d_min": 10, "d_max": 5000, "model": "score"},
    }
    task = Task.model_validate({**given, **definition, **fields})
    definition |= task.own_definition()
    if settings:
        definition["agent"]["settings"] = list(settings)
    study = content_hash(definition)
    return Reading(study, task, definition, D, tuple(settings), "test_accuracy")


def result(
    of: Reading, role: Role, d: int, seed: int, score: float | None, lr_scale: float = 1.0
) -> TrialResult:
    """A finished trial, failed where `score` is None."""
    request = Request(role, d, seed, lr_scale)
    return TrialResult(
        identity=trial_identity(of.study, request),
        study=of.study,
        request=request,
        state="failed" if score is None else "complete",
        score=score,
        score_sd=None,
        score_n=None if score is None else 1000,
        reason="diverged: train_loss is nan at step 7" if score is None else None,
        D=of.D,
        steps=100,
        wall_s=1.5 + d / 7,
        device="cpu",
        environment=ENVIRONMENT,
        curve=((50, "train_loss", 1.0 / 3.0), (100, "train_loss", 0.1)),
        z=None if d == 0 else np.arange(d, dtype="<f4").tobytes(),
    )


def curve(d: float, crossing: float, top: float = 0.98) -> float:
    """A score that rises with log d and passes 0.9 of `top` at the crossing."""
    return top / (1.0 + math.exp(-1.4 * math.log(d / crossing) - math.log(9.0)))


def known_study(crossing: float = 300.0, noise: float = 0.008, **fields: Any) -> list[TrialResult]:
    """Seven d around the crossing with five seeds each, and a baseline."""
    of, rng = reading(**fields), np.random.default_rng(0)
    results = [
        result(of, "baseline", 0, seed, 0.98 + 0.002 * float(rng.standard_normal()))
        for seed in range(5)
    ]
    for factor in (0.1, 0.4, 0.7, 0.9, 1.15, 1.6, 4.0):
        for seed in range(5):
            d = round(crossing * factor)
            score = curve(d, crossing) + noise * float(rng.standard_normal())
            results.append(result(of, "trial", d, seed, score))
    return results


def fill(store: Store, of: Reading, results: list[TrialResult]) -> Store:
    store.add_reading(of)
    with store.transaction():
        for one in results:
            assert store.put(one) is None
    return store


def gallery() -> Store:
    """One study of every kind that a report must show."""
    store = Store.in_memory()
    of = reading(reference={"source": "someone 2018", "local": 150, "global": 290})
    fill(store, of, known_study(reference=of.task.reference.model_dump(by_alias=True)))  # type: ignore[union-attr]
    dense: dict[str, Any] = {"settings": ("projection=dense",), "projection": "dense"}
    fill(store, reading(**dense), known_study(crossing=340.0, **dense))
    never: dict[str, Any] = {"name": "never", "search": {"d_min": 10, "d_max": 2100}}
    fill(store, reading(**never), known_study(crossing=3000.0, **never)[:-20])
    rl: dict[str, Any] = {
        "name": "control",
        "D": 4610,
        "paradigm": "reinforcement",
        "threshold_global": 475.0,
        "search": {"d_min": 1, "d_max": 400, "model": "pass"},
        "notes": "sticky actions; 100 episodes | fresh",
    }
    fill(store, reading(**rl), _control(reading(**rl)))
    easy: dict[str, Any] = {"name": "easy", "paradigm": "synthetic", "D": 1000}
    easy["threshold_global"] = None
    fill(store, reading(**easy), known_study(crossing=15.0, noise=0.02, **easy))
    bad = reading(name="bad-baseline", floor=0.5)
    fill(store, bad, [result(bad, "baseline", 0, s, 0.5 + 0.01 * (s % 2)) for s in range(5)])
    begun = reading(name="begun")
    fill(store, begun, [r for r in known_study(name="begun") if r.request.d < 250][:-3])
    fill(store, reading(name="waiting"), [])
    return store


def _control(of: Reading) -> list[TrialResult]:
    """Returns that are 500 or far less, with failures among them."""
    rng = np.random.default_rng(1)
    results = [result(of, "baseline", 0, seed, 500.0 - seed) for seed in range(5)]
    for d in (2, 4, 8, 12, 16, 24, 48, 100):
        for seed in range(6):
            solved = rng.random() < 1.0 / (1.0 + (14.0 / d) ** 2.5)
            score = 500.0 - 3.0 * rng.random() if solved else 30.0 + 380.0 * rng.random()
            results.append(result(of, "trial", d, seed, float(score)))
    broken = {(2, 0), (2, 1), (16, 3), (100, 2)}
    return [
        replace(r, state="failed", score=None, score_n=None, reason="diverged: loss is nan")
        if (r.request.d, r.request.seed) in broken
        else r
        for r in results
    ]
