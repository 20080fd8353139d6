"""The benchmark of training steps compares what it says it compares."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from .test_study import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import measuring
import step_speed
from step_speed import Workload


class Counted:
    """A clock of which every step of `before` takes 1, every one of `after` 3 seconds."""

    device, cuda = "cpu", False

    def __init__(self) -> None:
        self.now = 0.0

    def step(self, seconds: float) -> Callable[[], None]:
        def step() -> None:
            self.now += seconds

        return step

    def once(self, product: Callable[[], Any]) -> float:
        start = self.now
        product()
        return self.now - start


def test_a_ratio_is_after_over_before_and_a_time_that_of_one_step() -> None:
    clock: Any = Counted()
    row = step_speed.compare(clock.step(1.0), clock.step(3.0), clock, turns=5)
    assert row["before_ms"] == 1000
    assert row["after_ms"] == 3000
    assert row["ratio"] == 3
    assert row["ratio_quartiles"] == [3, 3]


def test_steps_train_a_network_each_the_native_one_and_one_in_the_subspace() -> None:
    work = Workload("mnist-lenet", "cpu")
    assert (work.D, work.batch, tuple(work.x.shape)) == (44_426, 128, (128, 1, 28, 28))
    theta_0 = [p.clone() for p in work.network.parameters()]
    trained: list[torch.nn.Module] = []

    def seen(network: torch.nn.Module) -> torch.nn.Module:
        trained.append(network)
        return network

    native = work.native(forward=seen)
    native()
    (network,) = trained
    assert any(not torch.equal(p, q) for p, q in zip(network.parameters(), theta_0, strict=True))
    work.subspace("hashed", 10)()
    for p, q in zip(work.network.parameters(), theta_0, strict=True):
        assert torch.equal(p, q)


def test_what_a_graph_works_on_lives_as_long_as_its_replay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The graph itself keeps none of it: its memory would be given to the next tensors."""

    class Stream:
        def wait_stream(self, other: object) -> None: ...

    graphs: list[Any] = []
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(
        torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: graphs.append(1))
    )
    tensor = torch.zeros(3)
    there = weakref.ref(tensor)
    replay = step_speed.captured(lambda tensor=tensor: tensor.add_(1))
    del tensor
    gc.collect()
    assert there() is not None
    replay()
    assert graphs == [1]
    del replay
    gc.collect()
    assert there() is None


def test_it_writes_a_page_and_says_which_goal_was_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, mode: network)  # takes half a minute
    options = argparse.Namespace(out=tmp_path / "new", device="cuda")
    measuring.write(options, "step_speed", "a page", {"rows": []})  # a GPU's page leaves the CPU's
    assert {file.name for file in options.out.iterdir()} == {
        "step_speed_cuda.json",
        "step_speed_cuda.md",
    }
    monkeypatch.setitem(step_speed.GOALS, "cpu", {("mnist-lenet", "hashed"): 0.0})
    arguments = ["--task", "mnist-lenet", "--projection", "hashed", "dense", "--turns", "2"]
    monkeypatch.setattr(sys, "argv", ["step_speed.py", *arguments, "--out", str(tmp_path)])
    assert step_speed.main() == 1
    assert "missed: mnist-lenet hashed d = 10:" in capsys.readouterr().out
    found = json.loads((tmp_path / "step_speed.json").read_text())
    rows = found["rows"]
    assert [(row.get("projection"), row.get("d")) for row in rows] == [
        *(("hashed", d) for d in (10, 100, 1000, 10_000)),
        *(("dense", d) for d in (10, 100, 1000)),  # 10,000 columns would hold 1.8 GB
        (None, None),
    ]
    assert [row["met"] for row in rows[:4]] == [False] * 4
    assert rows[-1]["way"] == "compiled"
    assert found["about"]["command"].endswith(" ".join([*arguments, "--out", str(tmp_path)]))
    lines = (tmp_path / "step_speed.md").read_text().splitlines()
    tables = [line for line in lines if line.startswith("| mnist-lenet")]
    assert [line.count("|") for line in tables] == [12, 12, 7]
    assert "|  |" in tables[1]  # the dense one of d = 10,000
