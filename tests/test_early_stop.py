"""The rule that ends a training once it is solved: part of the task, the same at every d."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from difficulty_bench.context import Interrupted, TrialContext
from difficulty_bench.errors import UsageError
from difficulty_bench.problem import Problem
from difficulty_bench.registry import Registry, Task
from difficulty_bench.results import Request, TrialResult
from difficulty_bench.trial import Runtime, Trial, run_trial, study_identity

RETURNS = [1.0, 5.0, 2.0, 5.0, 6.0, 7.0]
FILE = """
climb:
  version: 1
  paradigm: synthetic
  description: reports a known sequence of values
  problem: {entry_point: "tests.tiny:problem"}
  network: {entry_point: "tests.tiny:network"}
  agent: {entry_point: "tests.test_early_stop:climb"}
  floor: 0
  search: {d_max: 10}
"""


def climb(problem: Problem, network: nn.Module, context: TrialContext, *, pause: int = 0) -> None:
    """Reports RETURNS one by one; interrupted before the report number `pause`, the first time."""
    context.optimizer(network.parameters(), lr=0.1)
    resumed = context.resume()
    for step in range(context.steps + 1, len(RETURNS) + 1):
        if step == pause and not resumed:
            raise Interrupted
        context._last_save = 0.0  # a checkpoint at every report
        context.tick(step, lambda: {"any": 1}, episodic_return=RETURNS[step - 1])


def task(tmp_path: Path, *settings: str) -> Task:
    file = tmp_path / "climb.yaml"
    file.write_text(FILE)
    return Registry([file]).get("climb", settings)


def run(task: Task, d: int = 0, runtime: Runtime = Runtime()) -> TrialResult:  # noqa: B008
    return run_trial(Trial(task, Request("trial" if d else "baseline", d, 0)), runtime)


@pytest.mark.parametrize("d", [0, 5], ids=["native", "subspace"])
@pytest.mark.parametrize(
    ("times", "at", "steps"), [(1, 5, 2), (2, 5, 5), (3, 5, 6), (4, 5, 6), (1, 8, 6)]
)
def test_stops_after_so_many_reports_in_a_row(
    tmp_path: Path, d: int, times: int, at: float, steps: int
) -> None:
    rule = (f"early_stop.at={at}", f"early_stop.times={times}", "early_stop.metric=episodic_return")
    result = run(task(tmp_path, *rule), d)
    assert (result.state, result.steps) == ("complete", steps)
    assert result.score is not None


def test_a_resumed_trial_stops_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    rule = ("early_stop.metric=episodic_return", "early_stop.at=5", "agent.pause=5")
    interrupted, runtime = task(tmp_path, *rule), Runtime(checkpoint_dir=tmp_path)
    with pytest.raises(Interrupted):
        run(interrupted, runtime=runtime)
    result = run(interrupted, runtime=runtime)
    assert [value for _, _, value in result.curve] == RETURNS[:5]


def test_the_rule_is_part_of_the_trial_and_its_absence_changes_nothing(tmp_path: Path) -> None:
    without = task(tmp_path)
    rule = task(tmp_path, "early_stop.metric=episodic_return", "early_stop.at=5")
    assert "early_stop" not in without.definition()
    assert study_identity(rule) != study_identity(without)


def test_a_metric_that_no_agent_reports_is_an_error(tmp_path: Path) -> None:
    rule = task(tmp_path, "early_stop.metric=episodic_retrun", "early_stop.at=5")
    with pytest.raises(UsageError, match="did you mean 'episodic_return'"):
        run(rule)


def test_such_a_metric_ends_a_long_training_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("difficulty_bench.context.ENOUGH_TICKS", 3)
    rule = task(tmp_path, "early_stop.metric=episodic_retrun", "early_stop.at=5", "agent.pause=5")
    with pytest.raises(UsageError, match="did you mean 'episodic_return'"):
        run(rule, runtime=Runtime())  # and not Interrupted, before the fifth report


def test_without_a_value_the_entry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"climb\.early_stop\.at: missing"):
        task(tmp_path, "early_stop.metric=episodic_return")
