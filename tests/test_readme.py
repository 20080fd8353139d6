"""The documentation's commands and problems, as a reader would paste them; figures as measured."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from difficulty_bench.cli import build_parser
from difficulty_bench.context import Interrupted
from difficulty_bench.crossing import ABOVE, BELOW
from difficulty_bench.estimate import estimate
from difficulty_bench.registry import Registry
from difficulty_bench.report import row_text, rows
from difficulty_bench.report.text import count
from difficulty_bench.results import Request
from difficulty_bench.search import Plan
from difficulty_bench.trial import Runtime, Trial, run_trial
from difficulty_bench.tuning import relevant

from . import recorded, tiny
from .test_study import ROOT, bench

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of what stands between fences."""
    return re.findall(r"^ *```(\w*)\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    shell = [text.replace("\\\n", "") for page in PAGES for _, text in blocks(page)]
    lines = [line.partition("#")[0] for text in shell for line in text.splitlines()]
    return [found.strip() for line in lines for found in re.findall(r"\bbench [a-z][^;&|]*", line)]


@pytest.mark.parametrize("command", commands())
def test_every_command_is_one(command: str) -> None:
    build_parser().parse_args(shlex.split(command.replace("$I", "1"))[1:])


def test_commands_are_found_in_every_way_they_are_written() -> None:
    found = commands()
    assert len(found) > 25
    for part in ("--max-hours 1", "--shard $I/21   --store shard-$I.sqlite", "--store $store"):
        assert any(part in command for command in found), part


def paste(folder: Path) -> None:
    found = blocks(ROOT / "docs" / "own-problems.md")
    yaml = [text for language, text in found if language == "yaml"]
    python = [text for language, text in found if language == "python"]
    (folder / "mine.yaml").write_text("".join(yaml))
    (folder / "mine.py").write_text("".join(python))


def test_an_own_data_set_is_measured(tmp_path: Path) -> None:
    beside = tmp_path / "beside"
    beside.mkdir()
    paste(beside)  # mine.py is found beside mine.yaml, by the workers too
    own = ("--tasks", "beside/mine.yaml", "--task", "my-data", "--workers", "2")
    finished = bench("run", *own, "--d", "10,200", "--seeds", "2", "--json", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    (row,) = json.loads(finished.stdout)
    assert row["D"] == 17 * 32 + 33 * 2
    assert row["n_trials"] == 9
    assert row["baseline_mean"] > 0.8


def test_an_own_learner_goes_on_where_it_was(tmp_path: Path) -> None:
    paste(tmp_path)
    learner = "agent={entry_point: 'mine:learner', steps: 300, learning_rate: 1}"
    task = Registry([tmp_path / "mine.yaml"]).get("my-data", [learner])
    trial = Trial(task, Request("trial", 20, 0))
    whole = run_trial(trial, Runtime())
    assert (whole.state, whole.steps) == ("complete", 300)
    with pytest.raises(Interrupted, match="step 100"):
        run_trial(trial, Runtime(checkpoint_dir=tmp_path, stop=tiny.StopAfter(99)))
    resumed = run_trial(trial, Runtime(checkpoint_dir=tmp_path))
    assert (resumed.score, resumed.z) == (whole.score, whole.z)


def test_own_environments_are_accepted(tmp_path: Path) -> None:
    paste(tmp_path)
    for name, D in (("my-pole", 4610), ("my-acrobot", 4803)):
        own = ("--tasks", "mine.yaml", "--task", name)
        finished = bench("run", *own, "--dry-run", cwd=tmp_path)
        assert finished.returncode == 0, finished.stderr
        assert f"D = {D}" in finished.stdout


@pytest.fixture(scope="module")
def measured() -> list[dict[str, Any]]:
    """The rows of the committed results, estimated anew."""
    with recorded.read(ROOT / "reports" / "results.jsonl") as source:
        return rows(source)


def test_the_readme_shows_a_row_as_it_is_printed(measured: list[dict[str, Any]]) -> None:
    texts = [text.strip() for _, text in blocks(ROOT / "README.md")]
    (shown,) = [text for text in texts if text.startswith("mnist-lenet")]
    printed = [row_text(row) for row in measured]
    assert shown in [text for text in printed if text.splitlines()[0] == shown.splitlines()[0]]


def test_a_published_number_asks_for_no_more_trials() -> None:
    """Whatever the search was when its trials were asked for."""
    settled = 0
    with recorded.read(ROOT / "reports" / "results.jsonl") as source:
        for reading in source.studies():
            task, outcomes = reading.task, source.outcomes(reading.study)
            found = estimate(task, reading.D, outcomes)
            crossings = [c for c in (found.local, found.global_) if c is not None]
            baselines = [r for r in relevant(task, reading.D, outcomes) if r.role == "baseline"]
            enough = len(baselines) >= task.baseline_seeds and all(
                crossing.censored in (ABOVE, BELOW)
                or max(crossing.factors()) <= task.search.precision
                for crossing in crossings
            )
            settled += enough
            if enough:
                assert not Plan().next_round(task, reading.D, outcomes), (
                    task.name,
                    reading.settings,
                )
    assert settled > 30


def test_every_interval_of_the_readme_is_a_measured_one(measured: list[dict[str, Any]]) -> None:
    measures = {"d_int90": "ci", "bits": "bits_ci"}
    known = {
        tuple(count(row[key + suffix]) for key in (value, f"{interval}_low", f"{interval}_high"))
        for value, interval in measures.items()
        for suffix in ("", "_global")
        for row in measured
    }
    cited = re.findall(r"([\d,]+)\s+\[([\d,]+),\s+([\d,]+|–)\]", README)
    assert len(cited) > 10
    assert set(cited) <= known
