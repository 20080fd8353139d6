"""Whole studies on a tiny problem: resumption, identity, refusals."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec, patch

import pytest
import torch
from rich.console import Console

from difficulty_bench import context
from difficulty_bench import environment as environment_module
from difficulty_bench import progress as progress_module
from difficulty_bench.checkpoint import Checkpoint, checkpoint_folder, checkpoint_path
from difficulty_bench.cli import main
from difficulty_bench.engine import Engine, InlineEngine, ProcessEngine
from difficulty_bench.errors import BenchError, ResourceError, StudyError, UsageError
from difficulty_bench.problem import Problem, SupervisedProblem
from difficulty_bench.progress import Progress
from difficulty_bench.registry import Registry, Task
from difficulty_bench.results import Request, TrialResult, enumerated
from difficulty_bench.search import Plan
from difficulty_bench.store import Store
from difficulty_bench.study import Listener, choose_device, preferred, prepare, run_study
from difficulty_bench.trial import Runtime, Trial, study_identity
from difficulty_bench.verbs import run
from difficulty_bench.verbs.run import recorded

TINY = Path(__file__).parent / "tiny.yaml"
ROOT = TINY.parent.parent


def bench(*arguments: str, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment(), capture_output=True, text=True, **options
    )


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "difficulty_bench", *arguments]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def measure(cwd: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return bench("run", "--tasks", str(TINY), "--task", "tiny", "--json", *more, cwd=cwd)


def table(finished: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert finished.returncode == 0, finished.stderr
    rows: list[dict[str, Any]] = json.loads(finished.stdout)
    # Seconds differ from run to run, and the command is the one that was typed.
    return [{k: v for k, v in row.items() if k not in ("compute_s", "command")} for row in rows]


def trained(finished: subprocess.CompletedProcess[str]) -> int:
    return finished.stderr.count('"event": "finished"')


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return table(measure(tmp_path_factory.mktemp("whole"), "--workers", "1"))


DESIGN_FIELDS = """task version paradigm network D agent projection lr_rule floor baseline_mean
    baseline_sd baseline_n threshold_local threshold_global d_int90 ci_low ci_high censored
    d_int90_global ci_low_global ci_high_global censored_global paper_rule_d paper_rule_d_global
    reference_d_int90 bits n_trials n_failed compute_s""".split()  # noqa: SIM905


def test_the_row_has_every_field_in_order(tmp_path: Path) -> None:
    (row,) = json.loads(measure(tmp_path, "--max-trials", "4").stdout)
    assert list(row)[: len(DESIGN_FIELDS)] == DESIGN_FIELDS


def test_the_same_command_twice_trains_nothing_twice(
    tmp_path: Path, uninterrupted: list[dict[str, Any]]
) -> None:
    first, second = measure(tmp_path), measure(tmp_path)
    assert table(first) == table(second) == uninterrupted  # two workers, then none, then one
    assert trained(first) > 0
    assert trained(second) == 0


@pytest.mark.parametrize("after", [1, 7])
def test_killed_and_run_again_gives_the_uninterrupted_table(
    tmp_path: Path, after: int, uninterrupted: list[dict[str, Any]]
) -> None:
    """SIGKILL once `after` trials are in the store."""
    arguments = ("run", "--tasks", str(TINY), "--task", "tiny", "--json", "--workers", "1")
    process = subprocess.Popen(
        command(*arguments), cwd=tmp_path, env=environment(), stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    seen = 0
    for line in process.stderr:
        seen += '"event": "finished"' in line
        if seen == after:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stderr.close()
    again = measure(tmp_path, "--workers", "1")
    assert table(again) == uninterrupted
    assert trained(again) <= uninterrupted[0]["n_trials"] - after


def test_a_search_cut_short_says_so_even_when_quiet(tmp_path: Path) -> None:
    quiet = ["run", "--tasks", str(TINY), "--task", "tiny", "--workers", "1", "--quiet"]
    finished = bench(*quiet, "--max-trials", "3", cwd=tmp_path)
    assert finished.returncode == 0
    assert finished.stderr == (
        "warning: tiny: cut short: max_trials = 3 reached; a larger --max-trials goes on from here\n"
    )
    assert bench(*quiet, "--d", "3", "--seeds", "1", cwd=tmp_path).stderr == ""


def test_max_trials_in_two_steps_equals_one(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert len(table(measure(tmp_path / "a", "--max-trials", "5"))) == 1
    stepwise = table(measure(tmp_path / "a", "--max-trials", "12"))
    assert stepwise == table(measure(tmp_path / "b", "--max-trials", "12"))


def test_interrupt_stops_cleanly_and_says_how_to_resume(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("run", "--tasks", str(TINY), "--task", "tiny", "--set", "agent.epochs=100000"),
        cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.time() + 30
    while not (tmp_path / "bench.sqlite").exists() and time.time() < deadline:
        time.sleep(0.1)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "the same command resumes: bench run" in err.replace("\n", " ")
    assert "tiny" in out


def test_sigterm_twice_ends_at_once_and_is_told_from_ctrl_c(tmp_path: Path) -> None:
    hang = ["--task", "tiny-broken", "--set", "agent.entry_point=tests.tiny:deaf"]
    hang += ["--set", f"agent.marker={tmp_path / 'running'}", "--workers", "1"]
    process = subprocess.Popen(
        command("run", "--tasks", str(TINY), *hang),
        cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.time() + 60
    while not (tmp_path / "running").exists() and time.time() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err.splitlines()[-1].startswith("bench: interrupted; no finished trial is lost")


def test_a_signal_in_the_last_training_leaves_a_run_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finished(progress: Progress, task: Task, result: TrialResult) -> None:
        if result.request == Request("trial", 2, 0, result.request.lr_scale):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Progress, "finished", finished)
    whole = ["run", "--tasks", str(TINY), "--task", "tiny", "--d", "2", "--seeds", "1"]
    assert main([*whole, "--workers", "1", "--store", str(tmp_path / "bench.sqlite")]) == 0


def test_a_user_grid_runs_exactly_its_dimensions(tmp_path: Path) -> None:
    finished = measure(tmp_path, "--d", "2,8", "--seeds", "2")
    events = [json.loads(line) for line in finished.stderr.splitlines()]
    trials = [e for e in events if e["event"] == "finished" and e["role"] == "trial"]
    assert sorted((e["d"], e["seed"]) for e in trials) == [(2, 0), (2, 1), (8, 0), (8, 1)]


def test_the_shards_of_a_grid_are_merged_into_it(tmp_path: Path) -> None:
    words = ["--tasks", str(TINY), "--task", "tiny", "--d", "2,8", "--seeds", "1"]
    lines = ""
    for part in "123":
        store = ["--store", f"{part}.sqlite"]
        bench("run", *words, *store, "--shard", f"{part}/3", "--workers", "1", cwd=tmp_path)
        bench("results", "export", "part.jsonl", *store, cwd=tmp_path)
        lines += (tmp_path / "part.jsonl").read_text()
    (tmp_path / "all.jsonl").write_text(lines)  # as `cat` would
    bench("results", "import", "all.jsonl", cwd=tmp_path)
    outlook = bench("run", *words, "--dry-run", "--json", cwd=tmp_path)
    (found,) = json.loads(outlook.stdout)
    assert (found["trials"], found["done"]) == (5, "the grid has all its trials")


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/2/3", "-1/2"])
def test_a_shard_is_one_of_so_many(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "--task", "toy", "--d", "10", f"--shard={text}"])
    assert ended.value.code == 2
    assert f"'{text}': give I/N, like 3/10" in capsys.readouterr().err


def test_one_task_without_a_number_leaves_the_next_ones_theirs(tmp_path: Path) -> None:
    tasks = ["--task", "tiny-broken", "--task", "tiny", "--set", "search.max_trials=10"]
    finished = bench("run", "--tasks", str(TINY), *tasks, "--json", cwd=tmp_path)
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1].startswith("bench: tiny-broken: ")
    found = {row["task"]: row for row in json.loads(finished.stdout)}
    assert found["tiny-broken"]["error"]
    assert (found["tiny"]["error"], found["tiny"]["n_trials"]) == (None, 10)


def test_a_baseline_out_of_time_names_the_limit(tmp_path: Path) -> None:
    limit = [*["--set", "agent.how=hang"], *["--set", "timeout_s=0.1"], "--workers", "1"]
    words = ["run", "--tasks", str(TINY), "--task", "tiny-broken", *limit, "--d", "2"]
    *events, last = bench(*words, cwd=tmp_path).stderr.splitlines()
    assert "timed_out: over timeout_s = 0.1 at step" in events[0]
    assert "or a longer timeout_s than 0.1 where they ran out of it" in last


def test_a_task_that_cannot_be_measured_leaves_the_next_ones_theirs(tmp_path: Path) -> None:
    """What is wrong with it shows in its first trial; it exits with 2 and leaves no empty study."""
    refuse = "tiny-refuse: {extends: tiny-broken, agent: {how: refuse}}"
    (tmp_path / "mine.yaml").write_text(TINY.read_text() + refuse)
    tasks = ["--task", "tiny-refuse", "--task", "tiny", "--d", "2", "--seeds", "1"]
    finished = bench("run", "--tasks", "mine.yaml", *tasks, "--json", cwd=tmp_path)
    assert finished.returncode == 2
    assert finished.stderr.splitlines()[-1] == "bench: tiny-refuse: not here"
    assert [row["task"] for row in json.loads(finished.stdout)] == ["tiny"]
    assert "tiny-refuse" not in bench("status", cwd=tmp_path).stdout


def test_a_failed_trial_exits_with_1_and_stays_in_the_table(tmp_path: Path) -> None:
    finished = bench("run", "--tasks", str(TINY), "--task", "tiny-broken", "--json", cwd=tmp_path)
    assert finished.returncode == 1
    assert "the learner broke" in finished.stderr
    assert "Traceback" not in finished.stderr
    again = bench("run", "--tasks", str(TINY), "--task", "tiny-broken", cwd=tmp_path)
    assert again.returncode == 1  # a script that repeats a command must hear of it at the end
    assert "the learner broke" not in again.stderr


def test_debug_shows_where_a_trial_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--tasks", str(TINY), "--task", "tiny-broken", "--d", "2", "--workers", "1"]
    with pytest.raises(StudyError, match="5 of 5 baseline trials failed"):
        main([*words, "--debug", "--store", str(tmp_path / "bench.sqlite")])
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "in misbehave" in said
    assert "RuntimeError: the learner broke" in said


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--task", "tinny"], 2, "no task 'tinny'; did you mean 'tiny'?"),
        (["--task", "tiny", "--set", "agent.epoch=1"], 2, "did you mean 'epochs'?"),
        (["--task", "tiny", "--d", "500"], 2, "500"),
        (["--task", "tiny", "--d", "0"], 2, "every d must be at least 1"),
        (["--task", "tiny", "--set", "search.d_max=47"], 2, "within [1, D = 46]"),
        (["--task", "tiny", "--precision", "0.9"], 2, "precision"),
        (["--task", "tiny", "--set", "threshold_global=1.5"], 2, "above the ceiling 1"),
        (["--task", "tiny", "--projection", "hash"], 2, "did you mean 'hashed'?"),
        (["--task", "tiny", "--device", "cuda"], 3, "no CUDA device"),
        (["--task", "tiny", "--set", "network.entry_point=tests.tiny:bad_network"], 2, "outputs of shape (3,)"),
        (["--task", "tiny", "--set", "lr_rule=tuned"], 2, "needs the key `tuning`"),
        (["--task", "tiny", "--set", "lr_rule=tuned", "--set", "tuning={grid: [1], d: [3]}",
          "--set", "problem.entry_point=tests.tiny:without_validation"], 2, "needs a validation split"),
        (["--task", "tiny", "--d", "3", "--seeds", "10001"], 2, "within [1, 10,000]"),
        (["--task", "tiny", "--max-hours", "-1"], 2, "not above 0"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line_and_writes_nothing(
    tmp_path: Path, arguments: Sequence[str], code: int, expected: str
) -> None:
    finished = bench("run", "--tasks", str(TINY), *arguments, cwd=tmp_path)
    assert finished.returncode == code, finished.stderr
    message = finished.stderr.splitlines()[-1]
    assert expected in message
    assert "Traceback" not in finished.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("part", "how", "expected"),
    [
        ("problem.entry_point=tests.tiny:bad_problem", "raise", "problem 'tests.tiny:bad_problem': ValueError: boom more (tiny.py:"),
        ("problem.entry_point=tests.tiny:bad_problem", "exit", "SystemExit: 5"),
        ("problem.entry_point=tests.tiny:bad_problem", "none", "returns NoneType; return a SupervisedProblem"),
        ("problem.entry_point=tests.tiny:bad_problem", "lack", "bad_problem': missing() fails: ZeroDivisionError: "),
        ("problem.entry_point=tests.tiny:bad_problem", "load", "bad_problem': its data cannot be read: ZeroDivisionError: "),
        ("network.entry_point=tests.tiny:broken_network", "raise", "network 'tests.tiny:broken_network' fails on inputs of shape (8,): KeyError: 'k' (tiny.py:"),
        ("network.entry_point=tests.tiny:broken_network", "assert", "fails on inputs of shape (8,): AssertionError (tiny.py:"),
        ("network.entry_point=tests.tiny:broken_network", "none", "returns NoneType; return a torch.nn.Module"),
        ("network.entry_point=tests.tiny:broken_network", "tuple", "gives outputs that are tuple; give one tensor"),
        ("network.entry_point=tests.tiny:broken_network", "frozen", "has no trainable parameters"),
    ],
)  # fmt: skip
def test_a_broken_factory_is_refused_in_one_line(part: str, how: str, expected: str) -> None:
    key = part.partition(".")[0]
    task = Registry([TINY]).get("tiny", [part, f"{key}.how={how}"])
    with pytest.raises(UsageError) as caught:
        prepare(task)
    assert str(caught.value).startswith(f"tiny: {key} '")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_is_kept_until_its_result_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "CHECKPOINT_INTERVAL_S", 0.0)
    prepared, listener = prepare(Registry([TINY]).get("tiny")), create_autospec(Listener)
    runtime, plan = Runtime(checkpoint_dir=tmp_path / "kept"), Plan(grid=(3,), seeds=1)
    full = ResourceError("no space left on the disk")
    with Store(tmp_path / "bench.sqlite") as store:
        store.add_study(prepared.task, prepared.D, [], prepared.metric)
        with patch.object(Store, "put", side_effect=full), pytest.raises(ResourceError):
            run_study(prepared, store, InlineEngine(), runtime, plan, listener)
        assert len(list((tmp_path / "kept").iterdir())) == 1
        assert run_study(prepared, store, InlineEngine(), runtime, plan, listener)
        assert not list((tmp_path / "kept").iterdir())
        done = store.results(study_identity(prepared.task))[0].identity
        checkpoint_path(tmp_path / "kept", done).touch()  # as if that run had been killed then
        assert run_study(prepared, store, InlineEngine(), runtime, plan, listener)
        assert not list((tmp_path / "kept").iterdir())


def test_checkpoints_lie_beside_the_store_by_whatever_link_it_is_reached(tmp_path: Path) -> None:
    store, link = tmp_path / "bench.sqlite", tmp_path / "links" / "mine.sqlite"
    link.parent.mkdir()
    link.symlink_to(store)
    assert checkpoint_folder(link) == checkpoint_folder(store) == Path(f"{store}.checkpoints")


@pytest.mark.parametrize("engine", [InlineEngine(), ProcessEngine(1)], ids=["inline", "process"])
def test_what_only_a_training_finds_out_names_the_task(tmp_path: Path, engine: Engine) -> None:
    task = Registry([TINY]).get("tiny-broken", ["agent.how=refuse"])
    prepared, listener = prepare(task), create_autospec(Listener)
    with Store(tmp_path / "bench.sqlite") as store:
        store.add_study(task, prepared.D, [], prepared.metric)
        with pytest.raises(UsageError, match=r"^tiny-broken: not here$"):
            run_study(prepared, store, engine, Runtime(), Plan(), listener)
    engine.close()


@pytest.mark.parametrize("more", [["--json"], []])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_run_goes_on_without_its_stderr(tmp_path: Path, workers: str, more: list[str]) -> None:
    """As after the death of a `tee`: the reader of the pipe is gone from the start."""
    reader, writer = os.pipe()
    os.close(reader)
    task = ["--tasks", str(TINY), "--task", "tiny", "--d", "2", "--seeds", "1", *more]
    finished = subprocess.run(
        command("run", *task, "--workers", workers), cwd=tmp_path, env=environment(),
        stdout=subprocess.PIPE, stderr=writer, check=False,
    )  # fmt: skip
    os.close(writer)
    assert finished.returncode == 0
    assert b"tiny" in finished.stdout


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_a_learner_prints_is_no_result(tmp_path: Path, workers: str) -> None:
    talks = ["--task", "tiny-broken", "--set", "agent.how=print"]
    grid = ["--d", "2", "--seeds", "1", "--workers", workers, "--json"]
    finished = bench("run", "--tasks", str(TINY), *talks, *grid, cwd=tmp_path)
    json.loads(finished.stdout)
    assert "a learner that talks" in finished.stderr


def test_missing_data_is_refused_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFICULTY_BENCH_DATA", str(tmp_path))
    with pytest.raises(BenchError, match="bench data fetch") as caught:
        prepare(Registry().get("mnist-fc"))
    assert caught.value.exit_code == 3


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    finished = bench("run", "--tasks", str(TINY), "--task", "tiny", "--dry-run", cwd=tmp_path)
    assert finished.returncode == 0
    said = "0 trials in bench.sqlite; not done: baseline has 0 of 3 native trials; next: baseline"
    assert f"{said} native seed 0" in finished.stdout
    assert not list(tmp_path.iterdir())


def test_dry_run_goes_on_from_what_the_store_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "bench.sqlite"
    begun = ["run", "--tasks", str(TINY), "--task", "tiny", "--workers", "1", "--d", "2"]
    begun += ["--store", str(store), "--seeds"]
    assert main([*begun, "1"]) == 0
    capsys.readouterr()
    assert main([*begun, "2", "--dry-run"]) == 0
    assert "4 trials in" in (said := capsys.readouterr().out)
    assert "; next: trial d=2 seed 1\n" in said
    assert main([*begun, "1", "--dry-run"]) == 0
    assert "; done: the grid has all its trials" in capsys.readouterr().out
    assert main([*begun, "1", "--max-trials", "2", "--dry-run"]) == 0
    assert "; done: the grid has all its trials" in capsys.readouterr().out
    expected = {"done": None, "lacking": "trials of the grid are missing", "trials": 4}
    assert main([*begun, "2", "--dry-run", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found == {"task": "tiny", "D": 46, "next": ["trial d=2 seed 1"], **expected}
    other_rule = ["--set", "lr_rule=paper", "--dry-run"]
    assert main([*begun, "1", *other_rule]) == 0
    assert "; 3 trials in" in capsys.readouterr().out  # as the report counts: without the other's
    (tmp_path / "notes").write_text("these are my notes, not a data base\n" * 50)
    begun[begun.index(str(store))] = str(tmp_path / "notes")
    assert main([*begun, "1", "--dry-run"]) == 3


@pytest.mark.parametrize("dry", [["--dry-run"], []])
@pytest.mark.parametrize(
    ("task", "settings", "says"),
    [
        ("tiny", ["problem.entry_point=tests.tiny:bad_problem", "problem.how=labels"],
         "tiny: load() of the problem: 'train' has class numbers from 0 to 1 and output_size is 1"),
        ("pendulum", [], "pendulum: Pendulum-v1: DQN chooses among discrete actions"),
        ("tiny", ["agent={entry_point: agents.sb3:ppo, total_timesteps: 1}"],
         "tiny: agent 'ppo' needs environments"),
        ("pendulum", ["agent={entry_point: agents.supervised:train}"],
         "pendulum: agent 'agents.supervised:train' learns from data sets"),
        ("pendulum", ["agent={entry_point: agents.sb3:ppo, total_timesteps: 1, batch_size: 60}"],
         "pendulum: agent.batch_size = 60 does not divide"),
    ],
)  # fmt: skip
def test_what_no_training_could_do_with_is_refused_before_it(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    task: str,
    settings: list[str],
    says: str,
    dry: list[str],
) -> None:
    file, store = tmp_path / "mine.yaml", tmp_path / "bench.sqlite"
    file.write_text("""
pendulum:
  extends: cartpole
  problem: {id: Pendulum-v1}
  agent: {entry_point: "agents.sb3:dqn", total_timesteps: 1}
""")
    sets = [word for setting in settings for word in ("--set", setting)]
    files = ["--tasks", str(TINY), "--tasks", str(file)]
    assert main(["run", *files, "--task", task, *sets, *dry, "--store", str(store)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"bench: {says}")
    assert said.count("\n") == 1
    assert not store.exists()


@pytest.mark.parametrize(
    "local", ["--store 'a b/c.sqlite' ", "--store=c.sqlite ", "--shard 1/2 --store c ", ""]
)
def test_the_recorded_command_does_not_say_where_trials_lie_or_which_job_ran(local: str) -> None:
    assert recorded(f"bench run {local}--task tiny") == "bench run --task tiny"


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, difficulty_bench.cli as c; c.build_parser(); print(len(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert int(loaded.stdout) < 250


def test_brackets_in_a_name_are_no_markup_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    progress = Progress()
    progress._console = Console(file=terminal, force_terminal=True)
    task = Registry([TINY]).get("tiny").model_copy(update={"name": "my[/bad] x"})
    progress.asked(task, [Request("trial", 3, 0)])
    progress.close()
    assert "my[/bad] x: waiting for trial d=3 seed 0" in terminal.getvalue()


def begun(folder: Path, seed: int, state: dict[str, Any] | None) -> Request:
    """A checkpoint of `tiny`, as a trial leaves one every minute."""
    request = Request("trial", 3, seed)
    study = study_identity(Registry([TINY]).get("tiny"))
    curve = [
        (500, "episodic_return", -20.0),
        (1234, "episodic_return", -19.5),
        (1234, "\x1b[2J", 1.0),
    ]
    checkpoint = Checkpoint(study, request, 1234, 61.5, curve, state)
    assert checkpoint.identity is not None
    checkpoint.write(checkpoint_path(folder, checkpoint.identity))
    return request


def until(said: Callable[[], str], expected: str) -> None:
    for _ in range(1000):
        if expected in said():
            return
        time.sleep(0.01)
    raise AssertionError(f"{expected!r} not in {said()[-300:]!r}")


@pytest.mark.parametrize("kind", ["terminal", "log", "json"])
def test_a_trial_of_hours_is_not_silent(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "LIVE_S" if kind == "terminal" else "LOG_S", 0.01)
    task, out = Registry([TINY]).get("tiny"), io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    request = begun(tmp_path, seed=0, state={})
    begun(tmp_path, seed=1, state={})  # nobody asks for it now
    if kind == "terminal":
        monkeypatch.setenv("FORCE_COLOR", "1")
    progress = Progress(tmp_path, as_json=kind == "json")
    try:
        progress.asked(task, [request, Request("trial", 9, 0)])
        where = "trial d=3 seed 0: step 1,234 after 62 s, episodic_return -19.5, \\x1b[2J 1"
        expected = {
            "terminal": f"tiny: waiting for trial d=3 seed 0, trial d=9 seed 0\n  {where}",
            "log": f"tiny {where}\n",
            "json": '"steps": 1234, "elapsed_s": 61.5, "values": {"episodic_return": -19.5, ',
        }
        until(out.getvalue, expected[kind])
    finally:
        progress.close()
    assert not re.search('seed"?:? 1', out.getvalue())
    assert "\x1b[2J" not in out.getvalue()


def test_a_trial_that_starts_again_is_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Registry([TINY]).get("tiny")
    requests = [begun(tmp_path, seed=0, state=None), begun(tmp_path, seed=1, state={})]
    begun(tmp_path, seed=2, state=None)  # nobody asks for it now
    progress = Progress(tmp_path)
    progress.asked(task, requests)
    progress.close()
    assert capsys.readouterr().err == (
        "tiny trial d=3 seed 0: was stopped at step 1,234; nothing saved to go on from, so "
        "it starts again\n"
    )


def test_a_run_looks_at_its_own_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress_module, "LOG_S", 0.01)
    monkeypatch.setattr(context, "CHECKPOINT_INTERVAL_S", 0.0)
    store = ["--store", str(tmp_path / "x.sqlite"), "--workers", "1", "--set", "agent.epochs=40"]
    assert (
        main(["run", "--tasks", str(TINY), "--task", "tiny", "--d", "3", "--seeds", "1", *store])
        == 0
    )
    assert re.search(r"tiny baseline native seed \d: step [\d,]+ after ", capsys.readouterr().err)


def test_the_commit_is_that_of_this_checkout_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of the project of a user in whose folder the package is installed."""
    module = tmp_path / "venv" / "difficulty_bench" / "environment.py"
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        who = ["-c", "user.name=me", "-c", "user.email=me@here"]
        subprocess.run(["git", *who, *command], cwd=tmp_path, check=True)
    module.parent.mkdir(parents=True)
    monkeypatch.setattr(environment_module, "__file__", str(module))
    assert environment_module._commit() == "unknown"


def test_a_task_is_shown_as_it_would_be_run(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["show", "tiny", "--tasks", str(TINY), "--projection", "dense", "--set", "floor=0.4"]
    assert main(words) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["projection"], shown["floor"]) == ("dense", 0.4)


def test_a_long_list_of_trials_is_cut_short() -> None:
    names = [f"trial d={d} seed 0" for d in range(1, 12)]
    assert enumerated(names[:8]) == ", ".join(names[:8])
    assert enumerated(names) == ", ".join(names[:8]) + " and 3 more"


def test_no_error_is_lost_to_the_one_that_ends_the_run(tmp_path: Path) -> None:
    faulty = "tiny-faulty: {extends: tiny-broken, agent: {how: disk}}"
    (tmp_path / "mine.yaml").write_text(TINY.read_text() + faulty)
    tasks = ["--task", "tiny", "--task", "tiny-faulty"]
    tasks += ["--set", "floor=1", "--set", "threshold_global=null"]
    finished = bench("run", "--tasks", "mine.yaml", *tasks, "--workers", "1", cwd=tmp_path)
    assert finished.returncode == 3
    assert "no better than the floor" in finished.stderr
    assert "Too many open files" in finished.stderr.splitlines()[-1]


def test_a_trial_whose_process_died_is_tried_again_by_a_later_run(tmp_path: Path) -> None:
    settings = ["agent.entry_point=tests.tiny:mortal", "agent.marker=mended"]  # where it runs
    grid = ["--d", "3,20", "--seeds", "1", "--workers", "2"]
    words = [*grid, *(word for setting in settings for word in ("--set", setting))]
    finished = measure(tmp_path, *words)
    assert (finished.returncode, trained(finished)) == (3, 4)
    last = finished.stderr.splitlines()[-1]
    assert last.startswith("bench: tiny: trial d=3 seed 0: its process died twice")
    assert "fewer --workers" in last
    (tmp_path / "mended").touch()
    finished = measure(tmp_path, *words)
    (row,) = table(finished)
    assert (trained(finished), row["n_trials"], row["n_failed"]) == (1, 5, 0)


def test_a_learner_at_chance_is_said_to_be(tmp_path: Path) -> None:
    """A floor of 0, as the paper has it, lets it have a threshold."""
    settings = ["problem.separation=0.0", "floor=0", "threshold_global=null"]
    words = [*["--d", "2", "--seeds", "1"], *(w for s in settings for w in ("--set", s))]
    (row,) = table(measure(tmp_path, *words, "--workers", "1"))
    assert (row["chance"], row["at_chance"]) == (0.5, True)
    (row,) = table(measure(tmp_path, "--d", "2", "--seeds", "1", "--workers", "1"))
    assert (row["chance"], row["at_chance"]) == (0.5, False)


def test_the_largest_class_is_chance() -> None:
    x, y = torch.zeros(10, 3), torch.tensor([0, 1, 1, 1, 2, 1, 0, 1, 1, 2])
    made = SupervisedProblem(
        (3,), 3, lambda: dict.fromkeys(("train", "validation", "test"), (x, y))
    )
    assert made.chance() == 0.6
    made = replace(made, score=lambda output, target: 0.0)
    assert made.chance() is None


def test_an_agent_that_cannot_be_called_is_refused_before_it_fails_a_trial() -> None:
    task = Registry([TINY]).get("tiny", ["agent.entry_point=os:system"])
    with pytest.raises(UsageError, match=r"^tiny: entry_point 'os:system': too many positional"):
        prepare(task)


def test_what_an_agent_cannot_train_with_is_refused_before_it_trains() -> None:
    with pytest.raises(UsageError, match=r"^tiny: agent.optimizer 'lbfgs' needs batch_size null"):
        prepare(Registry([TINY]).get("tiny", ["agent.optimizer=lbfgs"]))


def test_the_held_out_score_of_a_data_set_ends_no_training() -> None:
    rule = [f"early_stop={{metric: {name}, at: 1, times: 1}}" for name in ("test_accuracy", "x")]
    with pytest.raises(
        UsageError, match=r"^tiny: early_stop\.metric: 'test_accuracy' is the score"
    ):
        prepare(Registry([TINY]).get("tiny", rule[:1]))
    prepare(Registry([TINY]).get("tiny", rule[1:]))


def test_the_list_has_what_was_measured_with_other_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ["--store", str(tmp_path / "bench.sqlite"), "--tasks", str(TINY)]
    run = ["run", "--task", "tiny", "--d", "2", "--seeds", "1", "--workers", "1", "--quiet"]
    assert main([*run, *store, "--set", "agent.epochs=2"]) == 0
    capsys.readouterr()
    assert main(["list", *store]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tiny ")]
    assert main(["list", *store, "--json"]) == 0
    plain, other = [t for t in json.loads(capsys.readouterr().out) if t["task"] == "tiny"]
    assert (plain["settings"], plain["data"], plain["last"]) == ([], "present", None)
    assert (other["settings"], other["last"]["n_trials"]) == (["agent.epochs=2"], 4)
    assert [line.rstrip().endswith(" -") for line in lines] == [True, False]
    assert lines[1].startswith("tiny agent.epochs=2 ")
    assert main(["show", "tiny", *store]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    also, _, command = last.partition(": ")
    assert also == "also here"
    assert main(shlex.split(command)[1:]) == 0
    assert "bench show" not in capsys.readouterr().out
    newer = ["--set", "version=2"]
    assert main(["show", "tiny", *store, *newer]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last == "also here, of another version: 1, agent.epochs=2"
    assert main(["show", "tiny", *store, "--set", "agent.epochs=2"]) == 0
    assert "also here" not in capsys.readouterr().out
    assert main(["show", "tiny", *store, "--set", "agent.epochs=2", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["task"]["agent"]["epochs"], shown["rows"]) == (2, [other["last"]])
    assert [trial["d"] for trial in shown["trials"]] == [0, 0, 0, 2]
    assert shown["study"] == other["last"]["study"]


@pytest.mark.parametrize(
    ("name", "device"),
    [("digits", "cuda"), ("pong", "cuda"), ("pong-ram", "cpu"), ("cartpole", "cpu")],
)
def test_auto_is_a_gpu_only_where_it_is_faster(
    name: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    problem: Problem = Registry().get(name).problem()
    assert choose_device(preferred("auto", problem)) == device
    assert choose_device(preferred("cuda", problem)) == "cuda"


def test_each_task_of_a_run_has_the_device_that_suits_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, devices = tmp_path / "tasks.yaml", {}
    tasks.write_text(
        "cartpole-short:\n  extends: cartpole\n  agent: {total_timesteps: 2048}\n", encoding="utf-8"
    )

    class Recorded(InlineEngine):
        def run(self, trials: Sequence[Trial], runtime: Runtime) -> Iterator[TrialResult]:
            devices[trials[0].task.name] = runtime.device
            return super().run(trials, replace(runtime, device="cpu"))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(run, "make_engine", lambda *_: Recorded())
    names = ["--task", "digits", "--task", "cartpole-short", "--tasks", str(tasks)]
    few = ["--d", "2", "--seeds", "1", "--max-trials", "1", "--workers", "1"]
    assert main(["run", *names, *few, "--store", str(tmp_path / "s.sqlite")]) == 0
    assert devices == {"digits": "cuda", "cartpole-short": "cpu"}
