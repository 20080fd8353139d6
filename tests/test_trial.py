"""What a trial refuses to score, and how a score that is none ends."""

from __future__ import annotations

import os
import platform
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector
from triton.runtime.errors import OutOfResources, PTXASError

from difficulty_bench.checkpoint import Checkpoint, checkpoint_path, read_checkpoint
from difficulty_bench.context import Interrupted, TimedOut, TrialContext
from difficulty_bench.errors import ResourceError, UsageError
from difficulty_bench.generators import reseed
from difficulty_bench.problem import Evaluation, Problem, SupervisedProblem
from difficulty_bench.registry import Registry, Task
from difficulty_bench.results import Request, Role, TrialResult
from difficulty_bench.solution import Solution
from difficulty_bench.trial import (
    Runtime,
    Trial,
    build_network,
    is_the_machines,
    lacks_memory,
    run_trial,
)
from tests import tiny

FILE = """
odd:
  version: 1
  paradigm: synthetic
  description: an agent, network or problem that breaks a promise
  problem: {entry_point: "tests.tiny:problem"}
  network: {entry_point: "tests.tiny:network"}
  agent: {entry_point: "tests.test_trial:train"}
  floor: 0
  search: {d_max: 10}
"""


def train(
    problem: Problem, network: nn.Module, context: TrialContext, *, how: str = "well"
) -> None:
    """One step on a loss of the parameters, in the way `how` names."""
    parameters = list(network.parameters())
    optimizers = {
        "well": lambda: [context.optimizer(parameters, lr=0.1)],
        "outside": lambda: [torch.optim.Adam(parameters, lr=0.1)],
        "in part": lambda: [context.optimizer(parameters[:2], lr=0.1)],
        "backwards": lambda: [context.optimizer(parameters[::-1], lr=0.1)],
        "twice": lambda: [context.optimizer(parameters, lr=0.1) for _ in range(2)],
        "both": lambda: [context.coordinates(parameters), context.optimizer(parameters, lr=0.1)],
    }
    *_, optimizer = optimizers.get(how, optimizers["well"])()
    if how == "at random":
        parameters[0].register_hook(lambda gradient: gradient * random.choice([1, -1, 2]))
        parameters[1].register_hook(lambda gradient: gradient * np.random.rand())
        parameters[2].register_hook(lambda gradient: gradient * torch.rand(()))
    if how == "start anew":
        nn.init.zeros_(parameters[0])
    torch.stack([p.square().sum() for p in parameters if p.requires_grad]).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()  # type: ignore[union-attr]
    if how == "after":
        with torch.no_grad():
            parameters[0].add_(1)
    context.tick(1)


def network(input_shape: tuple[int, ...], output_size: int, *, kind: str) -> nn.Module:
    net = nn.Sequential(nn.Linear(*input_shape, 4), nn.Tanh(), nn.Linear(4, output_size))
    if kind == "frozen":
        net[0].requires_grad_(False)
    if kind == "changing":
        network.calls += 1  # type: ignore[attr-defined]
        net[2].bias.data.fill_(network.calls)  # type: ignore[attr-defined, operator]
    return net


network.calls = 0  # type: ignore[attr-defined]


def problem(*, score: str) -> SupervisedProblem:
    scores = {"nan": float("nan"), "inf": float("inf"), "tensor": torch.tensor(0.5), "95": 95.0}
    scores["all"] = 1.0

    def judge(output: Tensor, target: Tensor) -> Any:
        return np.random.rand() if score == "random" else scores.get(score)

    return SupervisedProblem((8,), 2, lambda: tiny.problem().splits, score=judge)


def run(tmp_path: Path, d: int, *settings: str) -> TrialResult:
    file = tmp_path / "odd.yaml"
    file.write_text(FILE)
    task: Task = Registry([file]).get("odd", settings)
    return run_trial(Trial(task, Request("trial" if d else "baseline", d, 0)), Runtime())


@pytest.mark.parametrize("d", [0, 3])
@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("outside", "neither context.optimizer nor context.coordinates"),
        ("in part", "trains 36 of the network's 46 parameters"),
        ("twice", "twice"),
        ("both", "twice"),
    ],
)
def test_an_agent_that_trains_something_else_is_refused(
    tmp_path: Path, how: str, says: str, d: int
) -> None:
    with pytest.raises(UsageError, match=says):
        run(tmp_path, d, f"agent.how={how}")


@pytest.mark.parametrize("how", ["after", "backwards", "start anew"])
def test_what_is_scored_is_what_seed_and_z_give(tmp_path: Path, how: str) -> None:
    with pytest.raises(UsageError, match=r"not theta_0 \+ P z|overwritten from outside"):
        run(tmp_path, 3, f"agent.how={how}")
    assert run(tmp_path, 0, f"agent.how={how}").state == "complete"  # natively all may change


def test_what_draws_from_global_generators_repeats_and_leaves_them_alone(tmp_path: Path) -> None:
    def drawn() -> TrialResult:
        judge = "problem={entry_point: 'tests.test_trial:problem', score: random}"
        return run(tmp_path, 3, "agent.how=at random", judge)

    reseed(0)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    reseed(0)
    first = drawn()
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    again = drawn()
    assert first.score is not None
    assert (first.score, first.z) == (again.score, again.z)


def test_a_network_that_differs_from_call_to_call_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the same each time"):
        run(tmp_path, 3, "network={entry_point: 'tests.test_trial:network', kind: changing}")


def test_frozen_parameters_stay_as_they_are(tmp_path: Path) -> None:
    frozen = "network={entry_point: 'tests.test_trial:network', kind: frozen}"
    result = run(tmp_path, 3, frozen)
    assert (result.state, result.D) == ("complete", 10)
    trial = Trial(Registry([tmp_path / "odd.yaml"]).get("odd", [frozen]), result.request)
    assert result.z is not None
    rebuilt = Solution.stored(trial, (), result.D, result.z).network()
    fresh = build_network(trial.task, trial.task.problem(), trial.streams.theta_0)
    moved = [
        not torch.equal(*p) for p in zip(rebuilt.parameters(), fresh.parameters(), strict=True)
    ]
    assert moved == [False, False, True, True]


@pytest.mark.parametrize(
    ("score", "state", "reason"),
    [
        ("nan", "failed", "diverged: the evaluation gave a score of nan"),
        ("inf", "failed", "diverged: the evaluation gave a score of inf"),
        ("none", "failed", "TypeError"),
        ("tensor", "complete", None),
    ],
)
def test_a_score_that_is_no_number_fails_its_trial(
    tmp_path: Path, score: str, state: str, reason: str | None
) -> None:
    result = run(
        tmp_path, 3, f"problem={{entry_point: 'tests.test_trial:problem', score: '{score}'}}"
    )
    assert result.state == state
    assert (result.reason or "").startswith(reason) if reason else result.reason is None
    assert result.score == (0.5 if state == "complete" else None)


def test_a_score_above_the_ceiling_is_refused(tmp_path: Path) -> None:
    best = run(tmp_path, 3, "problem={entry_point: 'tests.test_trial:problem', score: 'all'}")
    assert best.score == 1.0
    with pytest.raises(UsageError, match="above the ceiling 1 "):
        run(tmp_path, 3, "problem={entry_point: 'tests.test_trial:problem', score: '95'}")


@pytest.mark.parametrize("how", tiny.FAULTS)
def test_what_the_machine_does_is_no_failure_of_the_learner(how: str) -> None:
    task = Registry([Path(__file__).parent / "tiny.yaml"]).get("tiny-broken", [f"agent.how={how}"])
    with pytest.raises(ResourceError, match=r"^tiny-broken: trial d=3 seed 0: .* goes on$"):
        run_trial(Trial(task, Request("trial", 3, 0)), Runtime())


@pytest.mark.parametrize("how", tiny.FAULTS)
def test_the_machines_fault_is_not_the_checkpoints(how: str, tmp_path: Path) -> None:
    """To delete it would throw away hours of training."""
    registry = Registry([Path(__file__).parent / "tiny.yaml"])
    task = registry.get("tiny-broken", [f"agent.how={how}"])
    trial = Trial(task, Request("trial", 3, 0))
    file = checkpoint_path(tmp_path, trial.identity)
    Checkpoint(trial.study, trial.request, 5, 1.0, [], {}).write(file)
    with pytest.raises(ResourceError, match=r"the same command goes on$"):
        run_trial(trial, Runtime(checkpoint_dir=tmp_path))
    assert file.exists()


def test_a_checkpoint_that_does_not_fit_fails_no_trial(tmp_path: Path) -> None:
    task = Registry([Path(__file__).parent / "tiny.yaml"]).get("tiny")
    trial = Trial(task, Request("trial", 3, 0))
    file = checkpoint_path(tmp_path, trial.identity)
    Checkpoint(trial.study, trial.request, 5, 1.0, [], {"of": "another version"}).write(file)
    with pytest.raises(ResourceError, match=r"cannot go on from it: KeyError: .* starts again"):
        run_trial(trial, Runtime(checkpoint_dir=tmp_path))
    assert file.exists()


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    """They come from users' agents, and neither a checkpoint nor SQLite takes them."""
    task = Registry([Path(__file__).parent / "tiny.yaml"]).get("tiny")
    trial = Trial(task, Request("trial", 3, 0))
    context = TrialContext(trial, 46, Runtime(checkpoint_dir=tmp_path, deadline=0.0))
    with pytest.raises(Interrupted):
        context.tick(np.int64(7), lambda: {}, loss=np.float32(0.5))  # type: ignore[arg-type]
    saved = read_checkpoint(checkpoint_path(tmp_path, trial.identity))
    assert (saved.steps, saved.curve) == (7, [(7, "loss", 0.5)])


def tiny_trial(*settings: str, role: Role = "trial") -> Trial:
    registry = Registry([Path(__file__).parent / "tiny.yaml"])
    return Trial(registry.get("tiny", settings), Request(role, 3, 0))


@pytest.mark.parametrize(("role", "split"), [("pilot", "validation"), ("trial", "test")])
def test_pilots_are_judged_on_the_validation_split_and_all_others_on_the_test_split(
    role: Role, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []

    def evaluate(self: Problem, network: nn.Module, **keys: Any) -> Evaluation:
        seen.append(keys)
        return Evaluation(0.5, 1)

    monkeypatch.setattr(SupervisedProblem, "evaluate", evaluate)
    trial = tiny_trial(role=role)
    assert run_trial(trial, Runtime()).score == 0.5
    (keys,) = seen
    assert (keys["split"], keys["seed"]) == (split, trial.streams.evaluation)


def test_a_trial_on_a_cpu_has_one_thread_whatever_there_was() -> None:
    """The order of a sum depends on their number."""
    torch.set_num_threads(2)
    try:
        run_trial(tiny_trial(), Runtime())
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(1)


COUNT_FAULTS = """
import resource, torch
from difficulty_bench.trial import Runtime, run_trial
from tests.test_trial import tiny_trial

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
run_trial(tiny_trial(), Runtime())
faults()  # the heap grows once
print(before, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc hands blocks back")
def test_in_a_trial_on_a_cpu_what_a_tensor_frees_is_there_for_the_next() -> None:
    """Faults of 20 tensors of 40 MB, in pages, or huge ones where the kernel gives those.

    Of tensors below 32 MB glibc itself may keep some.
    """
    command = [sys.executable, "-c", COUNT_FAULTS]
    done = subprocess.run(command, capture_output=True, check=True, cwd=Path(__file__).parents[1])
    before, after = map(int, done.stdout.split())
    assert before >= 20
    assert after < before / 10


def test_a_network_is_made_without_a_trace() -> None:
    task = tiny_trial("network.batch_norm=true").task
    before = torch.get_rng_state()
    made, again, other = (build_network(task, task.problem(), seed) for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert made.training
    assert int(made[1].num_batches_tracked) == 0  # type: ignore[index]
    weights = [parameters_to_vector(net.parameters()) for net in (made, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("error", "machine"),
    [
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 4 GB"), True),
        (MemoryError(), True),
        (RuntimeError("the size of tensor a (3) must match"), False),
    ],
)
def test_a_lack_of_memory_is_known_by_its_words(error: Exception, machine: bool) -> None:
    assert lacks_memory(error) is machine
    assert is_the_machines(error) is machine


@pytest.mark.parametrize(
    ("error", "machine"),
    [
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate`"),
            True,
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("Triton Error [CUDA]: misaligned address"), True),
        (OSError(28, "No space left on device"), True),
        (OutOfResources(131_072, 101_376, "shared memory"), True),
        (PTXASError("ptxas does not know this chip"), True),
        (RuntimeError("expected a CUDA error: found none"), False),
    ],
)
def test_what_the_device_does_wrong_is_no_failure_to_learn(error: Exception, machine: bool) -> None:
    assert is_the_machines(error) is machine


class Raising(gym.Env[int, int]):
    observation_space = action_space = gym.spaces.Discrete(2)

    def __init__(self, error: Exception) -> None:
        self.error = error

    def step(self, action: int) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "machine"),
    [
        (FileNotFoundError(2, "No such file or directory", "mesh.xml"), False),
        (PermissionError(13, "Permission denied", "mesh.xml"), False),
        (OSError("no licence"), False),
        (OSError(5, "Input/output error", "mesh.xml"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (OSError(24, "Too many open files", "mesh.xml"), True),
        (OSError(28, "No space left on device", "log.txt"), True),
        (BrokenPipeError(32, "Broken pipe"), True),  # to a simulator that was killed
    ],
)
def test_a_path_that_an_environment_asks_for_in_vain_is_its_own_fault(
    error: OSError, machine: bool
) -> None:
    """And outside of an environment the machine's, as ever: a cache that cannot be written, say."""
    assert is_the_machines(error)
    envs = SyncVectorEnv([lambda: Raising(error)])
    with pytest.raises(OSError, match=re.escape(str(error))) as caught:
        envs.step(envs.action_space.sample())
    assert is_the_machines(caught.value) is machine


def test_no_setting_from_outside_makes_a_gpu_round_or_add_otherwise() -> None:
    """The variable is set in some containers, and gives products operands of 10 bits."""
    ask = """
import torch
before = torch.backends.cuda.matmul.allow_tf32
import difficulty_bench.trial
print(before, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32,
      torch.backends.cudnn.deterministic)
"""
    done = subprocess.run(
        [sys.executable, "-c", ask],
        env=os.environ | {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["True", "False", "False", "True"]


@pytest.mark.parametrize("machine", [True, False])
def test_a_gpu_that_others_fill_ends_a_trial_before_its_training(
    machine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def to(*_: Any) -> None:
        raise RuntimeError("CUDA error: out of memory" if machine else "no such luck")

    monkeypatch.setattr(nn.Module, "to", to)
    expected = "^tiny: trial d=3 seed 0: .*mend it" if machine else "^no such luck$"
    with pytest.raises(ResourceError if machine else RuntimeError, match=expected):
        run_trial(tiny_trial(), Runtime())


def test_the_time_before_a_resumption_counts(tmp_path: Path) -> None:
    trial = tiny_trial("timeout_s=50")
    file = checkpoint_path(tmp_path, trial.identity)
    point = (5, "loss", 0.5)
    Checkpoint(trial.study, trial.request, 5, 60.0, [point], {"a": 1}).write(file)
    context = TrialContext(trial, 46, Runtime(checkpoint_dir=tmp_path))
    assert context.elapsed_s() < 10
    assert context.resume() == {"a": 1}
    assert (context.steps, context.curve) == (5, [point])
    assert 60 <= context.elapsed_s() < 70
    with pytest.raises(TimedOut, match="over timeout_s = 50 at step 6"):
        context.tick(6)


def test_a_trial_checkpoints_once_a_minute_and_keeps_what_it_can_resume_from(
    tmp_path: Path,
) -> None:
    trial = tiny_trial()
    file = checkpoint_path(tmp_path, trial.identity)
    context = TrialContext(trial, 46, Runtime(checkpoint_dir=tmp_path))

    def tick(steps: int, late_s: float, state: bool = True) -> None:
        context._last_save -= late_s
        context.tick(steps, (lambda: {"n": steps}) if state else None)

    tick(1, 50)
    assert not file.exists()
    tick(2, 11)
    tick(3, 50)  # anew since the last one
    assert read_checkpoint(file).state == {"n": 2}
    tick(4, 11)
    tick(5, 61, state=False)
    assert read_checkpoint(file).state == {"n": 4}
    stopped = TrialContext(trial, 46, Runtime(checkpoint_dir=tmp_path, deadline=0.0))
    with pytest.raises(Interrupted):
        stopped.tick(6)  # without a state, which is no reason to lose the one that there is
    with pytest.raises(Interrupted):
        stopped.tick(6, lambda: None)  # too much to save by now
    assert read_checkpoint(file).state == {"n": 4}
    with pytest.raises(Interrupted):
        stopped.tick(7, lambda: {"n": 7})
    assert read_checkpoint(file).state == {"n": 7}


def test_a_learner_that_exits_has_failed() -> None:
    result = run_trial(
        tiny_trial("agent.entry_point=tests.tiny:misbehave", "agent.how=exit"), Runtime()
    )
    assert result.state == "failed"
    assert (result.reason or "").startswith("SystemExit: 0 (tiny.py:")


def test_a_spread_that_is_not_finite_is_the_problems_fault() -> None:
    trial = tiny_trial("problem.entry_point=tests.tiny:unsure")
    with pytest.raises(
        UsageError, match=r"^tiny: the evaluation gave .* sd = nan; let the problem"
    ):
        run_trial(trial, Runtime())
