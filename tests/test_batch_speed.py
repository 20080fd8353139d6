"""The benchmark of many trials at once names a time after nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from difficulty_bench.registry import Registry

from .test_study import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import batch_speed


@pytest.mark.parametrize("together", [True, False])
def test_a_group_that_did_not_train_together_has_no_time(
    together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [] if together else ["agent.evaluate_every=1"]
    task = Registry([Path(__file__).parent / "tiny.yaml"]).get("tiny", settings)
    chosen = [way for way in batch_speed.ways([2], "cpu") if way[0] in ("alone", "together 2")]
    monkeypatch.setattr(batch_speed, "ways", lambda sizes, device: chosen)
    monkeypatch.setattr(batch_speed, "D", 3)
    alone, group = batch_speed.measure(task, [2], "cpu")
    assert alone["times_alone"] == 1
    page = batch_speed.page([alone, group], {"command": "here"})
    if together:
        assert group["s_per_trial"] > 0
        assert "missing" not in page
    else:
        assert "agent.evaluate_every is for single trials" in group["apart"]
        assert "| tiny | together 2 | - | - | - |" in page
        assert "together 2 is missing: " in page
