"""W&B: everything is sent, and whatever goes wrong there changes nothing."""

from __future__ import annotations

import sys
import time
import types
from pathlib import Path
from typing import Any

import pytest

from difficulty_bench import tracking
from difficulty_bench.engine import InlineEngine
from difficulty_bench.registry import Registry
from difficulty_bench.results import Request, TrialResult
from difficulty_bench.trial import Runtime, Trial

TASK = Registry([Path(__file__).parent / "tiny.yaml"]).get("tiny")


@pytest.fixture(scope="module")
def result() -> TrialResult:
    return next(InlineEngine().run([Trial(TASK, Request("trial", 3, 0, 2.0))], Runtime()))


def test_offline_runs_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: TrialResult
) -> None:
    """The real wandb, offline: the run's file appears and no warning is given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "")
    warnings: list[str] = []
    tracker = tracking.Tracker("offline", warnings.append)
    tracker.log(TASK, result)
    tracker.close()
    assert warnings == []
    (file,) = (tmp_path / "wandb").glob(f"offline-run-*/run-{result.identity[:32]}.wandb")
    deadline = time.monotonic() + 30  # W&B's own process writes it when it comes to it
    while b"tiny" not in file.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert b"tiny" in file.read_bytes()


class Run:
    def __init__(self, sent: dict[str, Any]) -> None:
        self.sent, self.summary = sent, sent.setdefault("summary", {})
        sent["curve"] = []

    def log(self, point: dict[str, Any]) -> None:
        self.sent["curve"].append(point)

    def finish(self, **options: Any) -> None:
        self.sent["finish"] = options


def recorder(sent: dict[str, Any]) -> types.ModuleType:
    module = types.ModuleType("wandb")

    def init(**options: Any) -> Run:
        sent.update(options)
        return Run(sent)

    module.init, module.Settings = init, dict  # type: ignore[attr-defined]
    return module


def test_a_run_holds_the_whole_task_and_trial(
    monkeypatch: pytest.MonkeyPatch, result: TrialResult
) -> None:
    sent: dict[str, Any] = {}
    monkeypatch.setitem(sys.modules, "wandb", recorder(sent))
    tracker = tracking.Tracker("online", pytest.fail)
    tracker.log(TASK, result)
    tracker.close()
    assert sent["group"] == f"tiny-{result.study[:8]}"
    assert sent["job_type"] == "trial"
    assert sent["config"]["definition"] == TASK.definition()
    assert sent["config"]["trial"]["d"] == 3
    assert sent["summary"]["score"] == result.score
    assert len(sent["curve"]) == len(result.curve) > 0


@pytest.mark.parametrize("error", [RuntimeError("no route"), SystemExit(3), KeyboardInterrupt()])
def test_a_broken_wandb_becomes_one_warning(
    monkeypatch: pytest.MonkeyPatch, result: TrialResult, error: BaseException
) -> None:
    module = recorder({})

    def init(**options: Any) -> Run:
        raise error

    monkeypatch.setattr(module, "init", init)
    monkeypatch.setitem(sys.modules, "wandb", module)
    warnings: list[str] = []
    tracker = tracking.Tracker("online", warnings.append)
    for _ in range(3):
        tracker.log(TASK, result)
    tracker.close()
    assert len(warnings) == 1
    assert warnings[0].startswith("W&B is off for the rest of this run")


def test_a_hanging_wandb_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch, result: TrialResult
) -> None:
    module = recorder({})
    monkeypatch.setattr(module, "init", lambda **options: time.sleep(5))
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(tracking, "FLUSH_S", 0.2)
    warnings: list[str] = []
    tracker = tracking.Tracker("online", warnings.append)
    tracker.log(TASK, result)
    start = time.monotonic()
    tracker.close()
    assert time.monotonic() - start < 2
    assert "the store has it all" in warnings[0]
