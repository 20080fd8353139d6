"""One conformance suite over every engine: results do not depend on where a trial runs."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, patch

import pytest
import torch

from difficulty_bench import context, cpu, environment
from difficulty_bench.context import Interrupted
from difficulty_bench.cpu import share_cores
from difficulty_bench.engine import Engine, InlineEngine, ProcessEngine
from difficulty_bench.errors import ResourceError
from difficulty_bench.ray_engine import LOCAL, RayEngine
from difficulty_bench.registry import Registry
from difficulty_bench.results import Request, TrialResult
from difficulty_bench.trial import Runtime, Trial, run_trial

TINY = Path(__file__).parent / "tiny.yaml"
TASKS = Registry([TINY])
REQUESTS = [Request("trial", d, seed) for d in (0, 3, 20) for seed in (0, 1)]


ENGINES: dict[str, Callable[[], Engine]] = {
    "inline": InlineEngine,
    "processes": lambda: ProcessEngine(2),
    "ray": lambda: RayEngine(LOCAL),
}


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    made = ENGINES[request.param]()
    yield made
    made.close()


def run(engine: Engine, task: str, *settings: str, n: int = 6) -> dict[Request, TrialResult]:
    trials = [Trial(TASKS.get(task, settings), request) for request in REQUESTS[:n]]
    return {result.request: result for result in engine.run(trials, Runtime())}


def test_every_trial_gives_one_result_and_the_same_on_every_engine(engine: Engine) -> None:
    results = run(engine, "tiny")
    assert set(results) == set(REQUESTS)
    reference = run(InlineEngine(), "tiny")
    for request, result in results.items():
        assert result.state == "complete"
        assert (result.score, result.z) == (reference[request].score, reference[request].z)


def test_results_say_what_they_were_made_of(engine: Engine) -> None:
    result = run(engine, "tiny")[REQUESTS[2]]
    assert result.identity == Trial(TASKS.get("tiny"), REQUESTS[2]).identity
    assert result.D == 46
    assert result.z is not None
    assert len(result.z) == 4 * 3
    assert result.steps > 0
    assert result.wall_s > 0
    assert result.environment["torch"].startswith("2.")


@pytest.mark.parametrize(
    ("how", "state", "reason"),
    [
        ("raise", "failed", "RuntimeError: the learner broke (tiny.py:"),
        ("diverge", "failed", "diverged: train_loss is nan at step 1"),
        ("poison", "failed", "diverged: a parameter is not finite"),
    ],
)
def test_a_failure_is_a_result_with_its_reason(
    engine: Engine, how: str, state: str, reason: str
) -> None:
    results = run(engine, "tiny-broken", f"agent.how={how}", n=2)
    assert len(results) == 2
    for result in results.values():
        assert (result.state, result.score) == (state, None)
        assert result.reason is not None
        assert result.reason.startswith(reason)


def test_a_trial_past_its_time_limit_is_timed_out(engine: Engine) -> None:
    result = run(engine, "tiny-broken", "agent.how=hang", "timeout_s=0.1", n=1)[REQUESTS[0]]
    assert (result.state, result.score) == ("timed_out", None)


def test_the_deadline_interrupts_and_leaves_no_result(engine: Engine) -> None:
    trial = Trial(TASKS.get("tiny-broken", ["agent.how=hang"]), REQUESTS[0])
    with pytest.raises(Interrupted):
        list(engine.run([trial], Runtime(deadline=time.time() + 0.2)))


@pytest.mark.parametrize("engine", ["processes", "ray"], indirect=True)
def test_a_process_that_dies_is_no_result_and_spares_the_others(engine: Engine) -> None:
    """It may well be the system that killed it: what it was training is not failed."""
    trials = [Trial(TASKS.get("tiny"), request) for request in REQUESTS]
    killer = Trial(TASKS.get("tiny-broken", ["agent.how=die"]), REQUESTS[2])
    results = list[TrialResult]()
    with pytest.raises(
        ResourceError, match=r"^tiny-broken: trial d=3 seed 0: its process"
    ) as caught:
        results.extend(engine.run([*trials[:3], killer, *trials[3:]], Runtime()))
    assert {one.identity for one in results} == {trial.identity for trial in trials}
    assert "fewer --workers" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_trial_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    """Stopped at its first tick, then run again: the same z as without the stop."""
    trial = Trial(TASKS.get("tiny"), REQUESTS[2])
    whole = next(InlineEngine().run([trial], Runtime()))
    stopped = Runtime(checkpoint_dir=tmp_path, deadline=time.time() - 1)
    with pytest.raises(Interrupted):
        run_trial(trial, stopped)
    assert [path.suffix for path in tmp_path.iterdir()] == [".pt"]
    resumed = next(InlineEngine().run([trial], replace(stopped, deadline=None)))
    assert (resumed.z, resumed.score, resumed.curve) == (whole.z, whole.score, whole.curve)


def handed_on(trials: list[Trial], runtime: Runtime) -> Generator[Trial, None, list[Trial]]:
    yield from trials
    return []


def test_what_came_in_beside_a_dead_worker_is_kept() -> None:
    """A dead worker breaks every future that is not done; those that are count, in any order."""
    engine = ProcessEngine(2)
    trials = [Trial(TASKS.get("tiny"), request) for request in REQUESTS]
    ended = [Future[Any]() for _ in trials]
    result = run_trial(trials[0], Runtime())
    for trial, future in zip(trials, ended, strict=True):
        future.set_result(replace(result, identity=trial.identity))
    ended[0] = Future()
    ended[0].set_exception(BrokenProcessPool())
    with (
        patch.object(engine, "_open") as pool,
        patch.object(engine, "_alone", handed_on),
    ):
        pool.return_value.submit.side_effect = ended
        found = list(engine.run(trials, Runtime()))
    assert found[0].identity == trials[1].identity
    assert found[1] is trials[0]
    assert {one.identity for one in found} == {trial.identity for trial in trials}
    assert len(found) == len(trials)


def test_a_checkpoint_that_cannot_be_written_fails_no_trial(tmp_path: Path) -> None:
    (tmp_path / "full").write_text("a file where the folder would be")
    trial = Trial(TASKS.get("tiny"), REQUESTS[2])
    runtime = Runtime(checkpoint_dir=tmp_path / "full", deadline=time.time() - 1)
    with pytest.raises(
        ResourceError, match=r"cannot write: .*; free or mend the disk, and the same command"
    ):
        run_trial(trial, runtime)


def test_a_checkpoint_that_cannot_be_written_in_passing_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").write_text("a file where the folder would be")
    monkeypatch.setattr(context, "CHECKPOINT_INTERVAL_S", 0.0)
    trial = Trial(TASKS.get("tiny"), REQUESTS[2])
    result = run_trial(trial, Runtime(checkpoint_dir=tmp_path / "full"))
    assert result.state == "complete"
    said = capsys.readouterr().err
    assert "cannot write: " in said
    assert "it trains on, and tries again in" in said


@pytest.mark.parametrize(("processes", "threads"), [(1, 16), (6, 2), (32, 1)])
def test_processes_side_by_side_share_the_cores(
    processes: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "usable_cores", lambda: 16)
    chosen = Mock()
    monkeypatch.setattr(torch, "set_num_threads", chosen)
    share_cores(processes)
    chosen.assert_called_once_with(threads)


@pytest.mark.parametrize(("gib", "workers"), [(1, 1), (5, 2), (80, 16)])
def test_a_gpu_has_no_more_workers_than_its_memory_holds(
    gib: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "usable_cores", lambda: 16)
    memory = SimpleNamespace(total_memory=gib * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: memory)
    assert environment.default_workers("cuda") == workers
    assert environment.default_workers("cpu") == 16


@pytest.mark.parametrize(
    ("own", "file"),
    [
        ("0::/", "memory.max"),  # v2, as a container sees its own
        ("0::/jobs/mine", "jobs/mine/memory.max"),
        ("0::/jobs/mine", "jobs/memory.max"),  # a group keeps to the limits of those above it
        ("0::/somewhere/on/the/host", "memory.max"),
        ("4:memory:/mine", "memory/mine/memory.limit_in_bytes"),  # v1
    ],
)
def test_the_limit_of_a_control_group_is_the_memory_there_is(
    own: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "CGROUPS", tmp_path)
    monkeypatch.setattr(environment, "OWN_CGROUPS", tmp_path / "cgroup")
    machine = environment.usable_memory()
    assert machine > 2**20
    (tmp_path / "cgroup").write_text(f"9:cpuset:/\n{own}\n")
    limit = tmp_path / file
    limit.parent.mkdir(parents=True, exist_ok=True)
    for text, memory in (("1048576\n", 2**20), ("max\n", machine), (f"{2**63 - 4096}\n", machine)):
        limit.write_text(text)
        assert environment.usable_memory() == memory


def test_versions_of_all_that_decides_a_result_are_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Simulators and the compiler of kernels, too; they are extras, and may be absent."""
    version = importlib.metadata.version

    def installed(name: str) -> str:
        if name == "box2d":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", installed)
    facts = environment._machine.__wrapped__()
    assert facts["box2d"] == "not installed"
    assert facts["triton"] == version("triton")
