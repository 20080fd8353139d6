"""The benchmark's clock: every second belongs to one part, and all parts make up the whole."""

from __future__ import annotations

import sys
import time

import pytest

from .test_study import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import rl_speed


def test_while_one_part_calls_another_only_the_inner_clock_runs() -> None:
    watch = rl_speed.Stopwatch("cpu")
    inner = watch.timed("projection", lambda: time.sleep(0.02))

    def outer() -> None:
        time.sleep(0.01)
        inner()

    start = time.perf_counter()
    with watch.running("rest"):
        watch.timed("optimiser", outer)()
    whole = time.perf_counter() - start
    assert sum(watch.seconds.values()) == pytest.approx(whole, abs=0.005)
    assert watch.seconds["projection"] >= 0.02
    assert watch.seconds["optimiser"] >= 0.01
    assert watch.seconds["emulator"] == 0


def test_a_short_run_gives_every_part_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    job = rl_speed.Job("cartpole", 2048, 0, "hashed", "cpu")
    before = time.perf_counter()
    done = rl_speed.learn(job)
    assert done["steps"] == 2048
    assert all(done["parts"][part] > 0 for part in rl_speed.PARTS)
    assert done["seconds"] < time.perf_counter() - before
    monkeypatch.setattr(rl_speed, "fleet", lambda jobs: [done for _ in jobs])
    row = rl_speed.measure("cartpole", 3, 0.1, "hashed", "cpu")
    assert sum(row["shares"].values()) == pytest.approx(1)
    assert row["fleet_over_alone"] == pytest.approx(3)
    text = rl_speed.markdown([row], rl_speed.machine("cpu"))
    (table,) = [line for line in text.splitlines() if line.startswith("| cartpole")]
    assert table.count("|") == 13
