"""Whole trials on pretended CUDA: no tensor on the wrong device, and the numbers of the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from agents import captured
from difficulty_bench import together
from difficulty_bench.context import Interrupted
from difficulty_bench.projection import NAMES, kernels
from difficulty_bench.registry import Registry, Task
from difficulty_bench.results import Request, TrialResult
from difficulty_bench.subspace import SubspaceOptimizer
from difficulty_bench.trial import Runtime, Trial, run_trial

from .pretend_cuda import Graph, PretendCuda
from .tiny import StopAfter

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU needs no pretending")

TINY, SUITE = Registry([Path(__file__).parent / "tiny.yaml"]), Registry()
SHORT_PPO = ("agent.total_timesteps=64", "agent.n_envs=2", "agent.n_steps=16", "agent.batch_size=16",
             "agent.n_epochs=1", "problem.eval_episodes=1")  # fmt: skip
SHORT_DQN = ("agent.total_timesteps=96", "agent.learning_starts=32", "agent.n_envs=2",
             "agent.gradient_steps=2", "problem.eval_episodes=1")  # fmt: skip
SHORT_ES = ("agent.total_timesteps=60", "agent.population=4", "agent.weight_decay=0.01",
            "problem.eval_episodes=1", "early_stop=null")  # fmt: skip
CASES = {
    "adam": ("tiny", ("agent.l2=0.01", "agent.evaluate_every=1")),
    "sgd": ("tiny", ("agent.optimizer=sgd", "agent.momentum=0.9")),
    "cosine": ("tiny", ("agent.schedule=cosine",)),
    "lbfgs": ("tiny", ("agent.optimizer=lbfgs", "agent.batch_size=null", "agent.epochs=1")),
    "batch norm": ("tiny", ("network.batch_norm=true",)),
    "images": ("digits", ("network.entry_point=agents.networks:li2018_cnn", "agent.epochs=1")),
    "ppo": ("cartpole", (*SHORT_PPO, "problem.observations=standardised")),
    "ppo, critic inside": ("cartpole", (*SHORT_PPO, "agent.critic=subspace")),
    "ppo, continuous": ("ppo@Pendulum-v1", ("agent.total_timesteps=64", "agent.n_steps=32",
                                            "agent.batch_size=32", "agent.n_epochs=1",
                                            "problem.eval_episodes=1", "problem.observations=unit")),
    "dqn": ("cartpole-dqn", SHORT_DQN),
    "cma-es": ("cartpole-es", SHORT_ES),
    "openai-es": ("cartpole-es", (*SHORT_ES, "agent.cma_max_d=0")),
}  # fmt: skip


@pytest.fixture
def cuda() -> Iterator[PretendCuda]:
    with PretendCuda() as device:
        yield device


def task(name: str, *settings: str) -> Task:
    return (TINY if name == "tiny" else SUITE).get(name, settings)


def alike(trial: Trial, checkpoint_dir: Path | None = None) -> tuple[TrialResult, TrialResult]:
    """Both ways to the end, to the same score: rounding alone may differ, and here does not."""
    on_cpu = run_trial(trial, Runtime())
    with PretendCuda() as device:
        on_cuda = run_trial(trial, Runtime(device="cuda", checkpoint_dir=checkpoint_dir))
    assert "index on the CPU" not in device.waits  # which CUDA allows, and copies in every step
    assert (on_cuda.state, on_cuda.reason) == ("complete", None)
    assert on_cuda.device == "pretended"
    assert on_cuda.score == pytest.approx(on_cpu.score, rel=1e-3, abs=1e-2)
    return on_cpu, on_cuda


@pytest.mark.parametrize(
    ("case", "d"), [*((case, 3) for case in CASES), ("adam", 0), ("ppo", 0), ("openai-es", 0)]
)
def test_a_trial_needs_no_tensor_from_elsewhere(
    case: str, d: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "enabled", False)  # interpreted, they take most of the time
    name, settings = CASES[case]
    alike(Trial(task(name, *settings), Request("trial" if d else "baseline", d, 0, 2.0)))


@pytest.mark.parametrize(
    ("case", "d"),
    [("adam", 0), ("adam", 3), ("sgd", 3), ("cosine", 0), ("cosine", 3), ("images", 3)],
)
def test_a_trial_goes_on_from_a_graph(
    case: str, d: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short last batches between replays, a schedule and a resumption included."""
    replays = count_replays(monkeypatch)
    name, settings = CASES[case]
    trial = Trial(task(name, *settings), Request("trial" if d else "baseline", d, 0, 2.0))
    on_cpu, on_cuda = alike(trial)
    assert len(replays) > 10
    if on_cpu.z is not None and on_cuda.z is not None:
        z, there = (np.frombuffer(z, dtype="<f4") for z in (on_cpu.z, on_cuda.z))
        np.testing.assert_allclose(there, z, rtol=1e-2, atol=1e-3)
    with pytest.raises(Interrupted), PretendCuda():
        run_trial(trial, Runtime(device="cuda", checkpoint_dir=tmp_path, stop=StopAfter(0)))
    alike(trial, checkpoint_dir=tmp_path)


def test_a_graph_reads_each_rate_where_it_was_captured(cuda: PretendCuda) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1, device="cuda"))], lr=1.0)
    captured.set_rates(optimizer, 0.5, torch.device("cuda"))  # without a number, as --device has it
    (before,) = [group["lr"] for group in optimizer.param_groups]
    captured.set_rates(optimizer, 0.25, torch.device("cuda"))
    assert optimizer.param_groups[0]["lr"] is before
    assert float(before) == 0.25


def count_replays(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """From the fourth step on there is a graph; what is given grows with every replay."""
    replays: list[None] = []
    replay = Graph.replay
    monkeypatch.setattr(captured, "AFTER", 3)
    monkeypatch.setattr(kernels, "enabled", False)
    monkeypatch.setattr(Graph, "replay", lambda graph: (replays.append(None), replay(graph)))
    return replays


@pytest.mark.parametrize("case", ["adam", "sgd", "images"])
def test_trials_together_go_on_from_a_graph(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    replays = count_replays(monkeypatch)
    name, settings = CASES[case]
    of = task(name, *settings, "agent.evaluate_every=0")
    trials = [Trial(of, Request("trial", d, 0, 2.0)) for d in (3, 5)]
    alone = [run_trial(trial, Runtime()) for trial in trials]
    monkeypatch.setattr(together, "run_trial", None)  # no falling back
    with PretendCuda():
        found = list(together.run_together(trials, Runtime(device="cuda")))
    assert len(replays) > 10
    assert [r.score for r in found] == pytest.approx([r.score for r in alone], abs=0.02)


class Waits(nn.Linear):
    """A layer that asks the device for a number, as data-dependent code does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * (1.0 if float(x.detach().sum()) > -1e9 else 0.0)


Waits.__module__ = "torch.nn.pretended"  # so that it is tried


def waiting(input_shape: tuple[int, ...], output_size: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), Waits(input_shape[0], output_size))


def test_a_step_that_cannot_be_captured_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    replays = count_replays(monkeypatch)
    entry = "network={entry_point: tests.test_pretend_cuda:waiting}"
    alike(Trial(task("tiny", entry), Request("trial", 3, 0, 2.0)))
    assert not replays


@pytest.mark.parametrize("on_kernels", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_projection_is_where_its_network_is(
    name: str, on_kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "enabled", kernels.enabled and on_kernels)
    alike(Trial(task("tiny", f"projection={name}", "agent.epochs=1"), Request("trial", 3, 0, 2.0)))


@pytest.mark.parametrize("projection", ["hashed", "sparse"])
def test_trials_together_share_one_device(projection: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of = task("tiny", f"projection={projection}", "agent.l2=0.01", "agent.epochs=2")
    requests = [Request("baseline", 0, 0), Request("trial", 3, 0, 2.0), Request("trial", 5, 0, 2.0)]
    alone = [run_trial(Trial(of, request), Runtime()) for request in requests]
    monkeypatch.setattr(together, "run_trial", None)  # no falling back
    with PretendCuda() as device:
        of_all = [Trial(of, r) for r in requests]
        found = list(together.run_together(of_all, Runtime(device="cuda")))
    assert "index on the CPU" not in device.waits
    assert [r.score for r in found] == pytest.approx([r.score for r in alone], abs=0.02)


@pytest.mark.parametrize(
    ("name", "devices"),
    [
        ("adam", ("cuda", "cuda")),
        ("adam", ("cuda", "cpu")),
        ("ppo", ("cpu", "cuda")),
        ("openai-es", ("cpu", "cuda")),
    ],
)
def test_checkpoints_go_from_device_to_device(
    name: str, devices: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "enabled", False)
    of, settings = CASES[name]
    trial = Trial(task(of, *settings), Request("trial", 3, 0, 2.0))

    def run(device: str, stop: StopAfter | None) -> Any:
        runtime = Runtime(device=device, checkpoint_dir=tmp_path, stop=stop)
        if device == "cpu":
            return run_trial(trial, runtime)
        with PretendCuda():
            return run_trial(trial, runtime)

    with pytest.raises(Interrupted):
        run(devices[0], StopAfter(0))
    assert run(devices[1], None).state == "complete"


def test_a_step_waits_for_nothing_and_replays_from_a_graph(cuda: PretendCuda) -> None:
    def fresh() -> tuple[nn.Module, SubspaceOptimizer]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to("cuda")
        return net, SubspaceOptimizer(net.parameters(), d=10, seed=3, lr=0.05)

    def step(net: nn.Module, optimizer: SubspaceOptimizer) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    x, y = torch.randn(32, 6, device="cuda"), torch.arange(32, device="cuda") % 3
    (net, optimizer), (other, eager) = fresh(), fresh()
    step(net, optimizer)
    step(other, eager)
    cuda.waits.clear()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(net, optimizer)
    assert cuda.waits == []
    for _ in range(3):
        graph.replay()
        step(other, eager)
        torch.testing.assert_close(optimizer.z, eager.z)


def test_pretended_cuda_refuses_what_cuda_refuses(cuda: PretendCuda) -> None:
    here, there = torch.ones(3), torch.ones(3, device="cuda", requires_grad=True)
    assert (here.is_cuda, there.is_cuda, there[1:].device.type) == (False, True, "cuda")
    with pytest.raises(RuntimeError, match="one device"):
        there + here
    with pytest.raises(RuntimeError, match="one device"):
        here[torch.zeros(1, dtype=torch.int64, device="cuda")]
    with pytest.raises(TypeError, match="numpy"):
        there.detach().numpy()
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(3, device="cuda", generator=torch.Generator())
    (there * torch.tensor(2.0) + there[torch.tensor([0])]).sum().backward()
    assert there.grad is not None
    assert there.grad.is_cuda
    assert set(cuda.waits) == {"index on the CPU"}
    assert float(there.detach().sum()) == 3.0
    assert cuda.waits[-1] == "_local_scalar_dense"
    if kernels.enabled:
        from difficulty_bench.projection.kernels import segments

        with pytest.raises(ValueError, match="cannot be accessed"):
            segments.gather(there.detach(), torch.zeros(3, dtype=torch.int32))
