"""How engines end, and clusters that are not there: each test has an engine of its own."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch

from difficulty_bench import ray_engine
from difficulty_bench.cli import main
from difficulty_bench.context import Interrupted
from difficulty_bench.engine import GRACE_S, Engine, ProcessEngine, make_engine
from difficulty_bench.errors import ResourceError, UsageError, described
from difficulty_bench.ray_engine import LOCAL
from difficulty_bench.results import Request, TrialResult
from difficulty_bench.trial import Runtime, Trial, run_trial

from .test_engine import ENGINES, REQUESTS, TASKS, TINY


@pytest.mark.parametrize("name", ENGINES)
def test_stop_ends_what_runs_and_what_waits(name: str, tmp_path: Path) -> None:
    """The running trial, which would go on for 100 s, hears of it and leaves its checkpoint."""
    engine, marker, folder = ENGINES[name](), tmp_path / "running", tmp_path / "checkpoints"
    task = TASKS.get("tiny-broken", ["agent.entry_point=tests.tiny:hang", f"agent.marker={marker}"])
    trials = [Trial(task, request) for request in REQUESTS[:4]]
    asked = stopped_once_it_runs(engine, marker)
    with pytest.raises(Interrupted):
        list(engine.run(trials, Runtime(checkpoint_dir=folder)))
    assert time.monotonic() - asked[0] < GRACE_S / 2
    engine.close()
    assert list(folder.glob("*.pt"))


@pytest.mark.parametrize("name", ["processes", "ray"])
def test_a_sigterm_to_a_worker_fails_no_trial(name: str, tmp_path: Path) -> None:
    """Schedulers signal every process of a job: each trial leaves its checkpoint, none is failed.

    Where only a node of a cluster goes down, its trial is tried again.
    """
    engine, marker, folder = ENGINES[name](), tmp_path / "running", tmp_path / "checkpoints"
    task = TASKS.get("tiny-broken", ["agent.entry_point=tests.tiny:hang", f"agent.marker={marker}"])
    pids = list[int]()

    def signal_it() -> None:
        for _ in range(2 if name == "ray" else 1):
            while not (marker.exists() and marker.read_text()):
                time.sleep(0.05)
            pids.append(int(marker.read_text()))
            marker.unlink()
            os.kill(pids[-1], signal.SIGTERM)

    threading.Thread(target=signal_it, daemon=True).start()
    expected = ResourceError if name == "ray" else Interrupted
    with pytest.raises(expected):
        list(engine.run([Trial(task, REQUESTS[0])], Runtime(checkpoint_dir=folder)))
    engine.close()
    assert len(set(pids)) == (2 if name == "ray" else 1)
    assert list(folder.glob("*.pt"))


def test_what_breaks_while_it_is_stopped_is_not_failed() -> None:
    """The stop may have reached the learner's own processes first."""
    trial = Trial(TASKS.get("tiny-broken"), REQUESTS[0])
    with pytest.raises(Interrupted, match="the learner broke"):
        run_trial(trial, Runtime(deadline=time.time() - 1))


def test_a_fault_of_the_machine_lets_the_other_trials_checkpoint(tmp_path: Path) -> None:
    marker, folder = tmp_path / "running", tmp_path / "checkpoints"
    hang = ["agent.entry_point=tests.tiny:hang", f"agent.marker={marker}"]
    faulty = ["agent.entry_point=tests.tiny:fault", f"agent.marker={marker}"]
    trials = [Trial(TASKS.get("tiny-broken", own), REQUESTS[0]) for own in (hang, faulty)]
    engine = ProcessEngine(2)
    with pytest.raises(ResourceError, match="No space left"):
        list(engine.run(trials, Runtime(checkpoint_dir=folder)))
    engine.close()
    assert [path.stem for path in folder.glob("*.pt")] == [trials[0].identity]


def test_one_dead_worker_leaves_the_others_trials_side_by_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only what the workers had in hand is tried one by one."""
    alone = list[int]()
    engine = ProcessEngine(2)
    whole = engine._alone

    def counted(trials: list[Trial], runtime: Runtime) -> Any:
        alone.append(len(trials))
        return whole(trials, runtime)

    monkeypatch.setattr(engine, "_alone", counted)
    trials = [Trial(TASKS.get("tiny"), Request("trial", 3, seed)) for seed in range(8)]
    killer = Trial(TASKS.get("tiny-broken", ["agent.how=die"]), REQUESTS[2])
    results = list[TrialResult]()
    with pytest.raises(ResourceError, match="died twice"):
        results.extend(engine.run([killer, *trials], Runtime()))
    engine.close()
    assert {one.identity for one in results} == {trial.identity for trial in trials}
    assert sum(alone) <= 2


def test_a_trial_that_hears_no_deadline_is_ended_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("difficulty_bench.engine.LATE_S", 0.5)
    engine, marker = ProcessEngine(2), tmp_path / "running"
    task = TASKS.get("tiny-broken", ["agent.entry_point=tests.tiny:deaf", f"agent.marker={marker}"])
    list(engine.run([Trial(TASKS.get("tiny"), REQUESTS[0])], Runtime()))  # workers have begun
    deadline = time.time() + 3
    with pytest.raises(Interrupted):
        list(engine.run([Trial(task, REQUESTS[0])], Runtime(deadline=deadline)))
    assert marker.exists()
    assert time.time() < deadline + 60
    engine.close()


def stopped_once_it_runs(engine: Engine, marker: Path) -> list[float]:
    """Stop `engine` when there is a file `marker`; the time of it, once it has come."""
    asked: list[float] = []

    def stop() -> None:
        while not marker.exists():
            time.sleep(0.05)
        engine.stop()
        asked.append(time.monotonic())

    threading.Thread(target=stop, daemon=True).start()
    return asked


def test_a_worker_that_hears_nothing_is_killed_once_its_time_of_grace_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would go on for 100 s, and no longer belong to anybody."""
    monkeypatch.setattr("difficulty_bench.engine.GRACE_S", 0.5)
    engine, marker, others = ProcessEngine(2), tmp_path / "running", set(active_children())
    task = TASKS.get("tiny-broken", ["agent.entry_point=tests.tiny:deaf", f"agent.marker={marker}"])
    asked = stopped_once_it_runs(engine, marker)
    with pytest.raises(Interrupted):
        list(engine.run([Trial(task, REQUESTS[0])], Runtime()))
    assert 0.5 < time.monotonic() - asked[0] < 50
    deadline = time.monotonic() + 20  # for the system to end what was killed
    while (left := set(active_children()) - others) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left
    engine.close()


def test_a_deadline_ends_trials_that_no_node_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """They end of themselves: nobody waits until their time of grace is over."""
    monkeypatch.setattr(ray_engine, "LATE_S", 1e6)
    engine = ENGINES["ray"]()
    task = TASKS.get("tiny-broken", ["agent.how=hang"])
    with pytest.raises(Interrupted):
        list(engine.run([Trial(task, REQUESTS[0])], Runtime(deadline=time.time() - 1)))
    engine.close()


@pytest.mark.parametrize("name", ["processes", "ray"])
def test_an_error_does_not_wait_for_the_other_trials(name: str) -> None:
    """One trial finds that the task cannot run here; those of the next task need not wait for the
    others, which would go on for 100 s.
    """
    engine = ENGINES[name]()
    refused = Trial(TASKS.get("tiny-broken", ["agent.how=refuse"]), REQUESTS[0])
    hanging = [Trial(TASKS.get("tiny-broken", ["agent.how=hang"]), r) for r in REQUESTS[:4]]
    with pytest.raises(UsageError, match="not here"):
        list(engine.run([refused, *hanging], Runtime()))
    start = time.monotonic()
    sound = Trial(TASKS.get("tiny"), REQUESTS[0])
    assert [result.state for result in engine.run([sound], Runtime())] == ["complete"]
    engine.close()
    assert time.monotonic() - start < 60


def test_a_reason_is_one_short_line() -> None:
    for text, says in (
        ("\nfirst\n  second", ": first second"),
        ("x" * 9999, ": " + "x" * 300 + "…"),
        ("", ""),
    ):
        with pytest.raises(RuntimeError) as caught:
            raise RuntimeError(text)
        assert described(caught.value).startswith(f"RuntimeError{says} (test_engine_end.py:")


def test_a_reason_names_the_line_of_the_user_s_code_that_led_to_it() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.nn.Linear(3, 2)(torch.ones(1, 4))
    places = r"\(test_engine_end\.py:\d+, in linear\.py:\d+\)$"
    assert re.search(places, described(caught.value))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense"])
def test_a_cluster_that_is_not_there_is_one_line(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "--tasks", str(TINY), "--task", "tiny", "--store", str(tmp_path / "s.sqlite")]
    assert main([*command, "--ray", address]) == 3
    text = capsys.readouterr().err
    assert text.startswith(f"bench: --ray {address}: ")
    assert text.endswith("or auto; or local\n")
    assert text.count("\n") == 1


def test_ray_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "difficulty_bench.ray_engine", None)
    with pytest.raises(ResourceError, match=r"pip install 'difficulty-bench\[ray\]'"):
        make_engine(1, None, LOCAL, print)
