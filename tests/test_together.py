"""K trials in one program give, within rounding, what each gives alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from agents import captured, supervised
from difficulty_bench import together
from difficulty_bench.checkpoint import checkpoints
from difficulty_bench.context import Interrupted
from difficulty_bench.engine import InlineEngine
from difficulty_bench.environment import usable_cores
from difficulty_bench.errors import UsageError
from difficulty_bench.problem import Evaluation, SupervisedProblem
from difficulty_bench.projection import FAMILIES, Identity, Projection, Stacked, make
from difficulty_bench.registry import Registry, Task
from difficulty_bench.results import Request, TrialResult
from difficulty_bench.solution import Solution
from difficulty_bench.trial import Runtime, Trial, run_trial
from tests import tiny

TASKS = Registry([Path(__file__).parent / "tiny.yaml"])
REQUESTS = [
    Request("baseline", 0, 0),
    Request("baseline", 0, 1, 2.0),
    Request("trial", 3, 0, 4.0),
    Request("trial", 20, 0, 1.5),
    Request("trial", 20, 1, 1.5),
]
CPU = torch.device("cpu")


def task(*settings: str) -> Task:
    return TASKS.get("tiny", settings)


def trials(of: Task, requests: Sequence[Request] = tuple(REQUESTS)) -> list[Trial]:
    return [Trial(of, request) for request in requests]


def coordinates(result: TrialResult) -> np.ndarray:
    assert result.z is not None
    return np.frombuffer(result.z, dtype="<f4")


def assert_alike(one: TrialResult, other: TrialResult) -> None:
    """The same trial; rounding may move a score by one of the 256 test rows."""
    assert (one.identity, one.state, one.steps) == (other.identity, other.state, other.steps)
    assert one.score == pytest.approx(other.score, abs=1.5 / 256)
    losses = [[value for _, _, value in result.curve] for result in (one, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    if one.request.d:
        assert coordinates(one) == pytest.approx(coordinates(other), rel=1e-3, abs=1e-3)


class Convolutional(nn.Sequential):
    """Rows of 8 as images of 2 x 4; takes the general path of torch.func."""

    def __init__(self) -> None:
        super().__init__(
            nn.Unflatten(1, (1, 2, 4)), nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(9, 2)
        )


def convolutional(input_shape: tuple[int, ...], output_size: int) -> nn.Module:
    return Convolutional()


SETTINGS = {
    "adam, last batch short": ("agent.batch_size=60", "agent.schedule=cosine"),
    "l2": ("agent.l2=0.01",),
    "momentum": ("agent.optimizer=sgd", "agent.momentum=0.9", "agent.learning_rate=0.1"),
    "whole set": ("agent.batch_size=null",),
    "convolutions": ("network.entry_point=tests.test_together:convolutional",),
    "dense": ("projection=dense",),
    "fastfood": ("projection=fastfood", "agent.l2=0.01"),
}
CNN = ("network.entry_point=agents.networks:li2018_cnn", "agent.epochs=2")
REPLAYED = {  # convolutions of torch's own layers: code of others is not replayed
    **{
        name: TASKS.get("tiny", settings)
        for name, settings in SETTINGS.items()
        if name != "convolutions"
    },
    "images": Registry().get("digits", CNN),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_each_trial_is_as_alone(settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    of = task(*settings)
    alone = [run_trial(trial, Runtime()) for trial in trials(of)]
    monkeypatch.setattr(together, "run_trial", None)  # no falling back
    for one, other in zip(together.run_together(trials(of), Runtime()), alone, strict=True):
        assert one.state == "complete"
        assert_alike(one, other)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "settings", [SETTINGS["convolutions"], *((f"projection={name}",) for name in FAMILIES)]
)
def test_together_on_a_gpu_is_as_alone_on_the_cpu(
    settings: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    of = task("agent.batch_size=60", *settings)
    alone = [run_trial(trial, Runtime()) for trial in trials(of)]
    monkeypatch.setattr(together, "run_trial", None)  # no falling back
    found = together.run_together(trials(of), Runtime(device="cuda"))
    for one, other in zip(found, alone, strict=True):
        assert one.state == "complete"
        assert one.score == pytest.approx(other.score, abs=0.02)


@pytest.mark.gpu
@pytest.mark.parametrize("network", ["tests.tiny:network", "tests.test_together:convolutional"])
@pytest.mark.parametrize("projection", FAMILIES)
def test_what_a_gpu_trained_repeats_and_scores_the_same_on_a_cpu(
    projection: str, network: str
) -> None:
    of = task(f"projection={projection}", f"network.entry_point={network}")
    trial = Trial(of, Request("trial", 20, 0, 4.0))
    result, again = (run_trial(trial, Runtime(device="cuda")) for _ in range(2))
    assert result.state == "complete"
    assert (result.z, result.score) == (again.z, again.score)
    assert result.z is not None
    reloaded = Solution.stored(trial, (), result.D, result.z).network()
    found = of.problem().evaluate(reloaded, split="test", seed=trial.streams.evaluation, device=CPU)
    assert found.score == pytest.approx(result.score, abs=0.02)


@pytest.mark.gpu
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("of", REPLAYED.values(), ids=list(REPLAYED))
def test_a_replayed_training_is_a_called_one(
    of: Task, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    replays, replay = [], torch.cuda.CUDAGraph.replay
    monkeypatch.setattr(
        torch.cuda.CUDAGraph, "replay", lambda graph: (replays.append(graph), replay(graph))
    )
    found = []
    for after in (10**9, 3):
        assert not replays
        monkeypatch.setattr(captured, "AFTER", after)
        found.append(list(together.run_together(trials(of)[-k:], Runtime(device="cuda"))))
    assert replays
    for one, other in zip(*found, strict=True):
        assert one.state == other.state == "complete"
        assert one.score == pytest.approx(other.score, abs=0.02)
        np.testing.assert_allclose(coordinates(one), coordinates(other), rtol=1e-2, atol=1e-3)


def test_a_trial_that_diverges_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [REQUESTS[2], Request("trial", 20, 0, 1e60), REQUESTS[3]]
    of = task("agent.optimizer=sgd")
    alone = [run_trial(trial, Runtime()) for trial in trials(of, requests)]
    monkeypatch.setattr(together, "run_trial", None)
    found = list(together.run_together(trials(of, requests), Runtime()))
    assert [result.state for result in found] == ["complete", "failed", "complete"]
    assert (found[1].reason or "").startswith("diverged: train_loss is")
    assert_alike(found[0], alone[0])
    assert_alike(found[2], alone[2])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            ("agent.optimizer=lbfgs", "agent.batch_size=null"),
            "agent.optimizer lbfgs is for single trials",
        ),
        (("agent.evaluate_every=1",), "agent.evaluate_every is for single trials"),
        (
            ("early_stop.metric=train_loss", "early_stop.at=0", "early_stop.times=1"),
            "early_stop ends single trials",
        ),
        (("timeout_s=100",), "timeout_s is the time of a single trial"),
        (("network.entry_point=tests.test_together:normalised",), "the network has buffers"),
    ],
    ids=["lbfgs", "evaluations", "early stop", "timeout", "batch norm"],
)
def test_what_cannot_share_a_program_trains_one_by_one(
    settings: tuple[str, ...], reason: str
) -> None:
    of = task(*settings)
    said: list[str] = []
    found = list(together.run_together(trials(of), Runtime(), said.append))
    assert said == [f"tiny: trials train one by one: {reason}"]
    for one, trial in zip(found, trials(of), strict=True):
        alone = run_trial(trial, Runtime())
        assert (one.score, one.z, one.steps) == (alone.score, alone.z, alone.steps)


def normalised(input_shape: tuple[int, ...], output_size: int) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, output_size))


def test_an_error_of_one_trial_is_that_trials_alone() -> None:
    of = TASKS.get("tiny-broken")
    with pytest.warns(UserWarning, match="'tests.tiny:misbehave' trains no trials together"):
        found = list(together.run_together(trials(of), Runtime()))
    assert {result.reason for result in found} == {found[0].reason}
    assert "the learner broke" in (found[0].reason or "")


def test_a_fault_in_the_common_program_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **parameters: object) -> None:
        raise ValueError("shapes differ:\n (2, 3) and (3, 2)")

    monkeypatch.setattr(supervised, "train_together", broken)
    said: list[str] = []
    found = list(InlineEngine(2, said.append).run(trials(task()), Runtime()))
    assert [text[: text.index(".py:")] for text in said] == [
        "tiny: trials train one by one: training together failed: "
        "ValueError: shapes differ: (2, 3) and (3, 2) (test_together"
    ]
    assert [result.state for result in found] == ["complete"] * 5


@pytest.mark.parametrize("error", [UsageError("no such key"), Interrupted("stopped")])
def test_what_stops_a_study_is_no_reason_to_train_one_by_one(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object, **parameters: object) -> None:
        raise error

    monkeypatch.setattr(supervised, "train_together", stop)
    monkeypatch.setattr(together, "run_trial", None)
    with pytest.raises(type(error), match=str(error)):
        list(together.run_together(trials(task()), Runtime()))


def test_groups_share_study_and_split() -> None:
    pilot = Request("pilot", 3, 0, 2.0)
    mixed = trials(task(), [*REQUESTS, pilot]) + trials(task("agent.epochs=5"))
    found = together.groups(mixed, 3)
    assert [len(group) for group in found] == [3, 2, 1, 3, 2]
    assert [trial for group in found for trial in group] == mixed
    for group in found:
        assert len({(trial.study, trial.request.role == "pilot") for trial in group}) == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        MemoryError("Unable to allocate 1 GiB for an array"),
    ],
    ids=["cuda", "torch on a cpu", "numpy"],
)
def test_a_group_too_large_for_the_memory_is_halved(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = supervised.train_together

    def limited(problem: object, networks: Sequence[nn.Module], *rest: object, **more: object):  # type: ignore[no-untyped-def]
        sizes.append(len(networks))
        if len(networks) > 2:
            raise error
        return real(problem, networks, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(supervised, "train_together", limited)
    said: list[str] = []
    found = list(InlineEngine(8, said.append).run(trials(task()), Runtime()))
    assert sizes == [5, 2, 2]  # the last one trains alone
    assert said == ["tiny: 5 trials do not fit the memory; at most 2 train together from here on"]
    assert [result.request for result in found] == REQUESTS


def test_a_group_whose_evaluation_lacks_memory_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = SupervisedProblem.evaluate, [torch.OutOfMemoryError("CUDA out of memory.")]

    def limited(*arguments: Any, **keys: Any) -> Evaluation:
        if left:
            raise left.pop()
        return real(*arguments, **keys)

    monkeypatch.setattr(SupervisedProblem, "evaluate", limited)
    said: list[str] = []
    found = list(InlineEngine(8, said.append).run(trials(task()), Runtime()))
    assert [result.state for result in found] == ["complete"] * 5
    assert said == ["tiny: 5 trials do not fit the memory; at most 2 train together from here on"]


def test_each_trial_of_a_group_is_charged_its_own_evaluation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = SupervisedProblem.evaluate

    def slow(*arguments: Any, **keys: Any) -> Evaluation:
        time.sleep(0.2)
        return real(*arguments, **keys)

    monkeypatch.setattr(SupervisedProblem, "evaluate", slow)
    began = time.perf_counter()
    found = list(together.run_together(trials(task()), Runtime()))
    whole = time.perf_counter() - began
    assert min(result.wall_s for result in found) > 0.2
    assert sum(result.wall_s for result in found) < whole + 0.1


def test_a_group_computes_on_every_core_whatever_ran_before() -> None:
    threads = []
    for _ in range(2):
        list(together.run_together(trials(task()), Runtime()))
        threads.append(torch.get_num_threads())
        run_trial(trials(task())[0], Runtime())
    assert threads == [usable_cores()] * 2


def test_a_stop_request_ends_a_group() -> None:
    engine = InlineEngine(8)
    engine.stop()
    with pytest.raises(Interrupted):
        list(engine.run(trials(task()), Runtime()))


def test_a_group_that_is_stopped_says_of_every_trial_that_it_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = iter((False, *5 * (True,)))  # before the group begins, then after its first epoch
    monkeypatch.setattr(Runtime, "must_stop", lambda self: next(asked))
    with pytest.raises(Interrupted):
        list(together.run_together(trials(task()), Runtime(checkpoint_dir=tmp_path)))
    left = [one for _, one in checkpoints(tmp_path)]
    assert sorted(one.request for one in left if one.request) == sorted(REQUESTS)
    assert {one.state for one in left} == {None}
    assert {one.steps > 0 for one in left} == {True}


def stacked(family: str) -> tuple[list[Projection], Stacked]:
    parts = [make(family, 70, d, seed) for d, seed in ((3, 1), (9, 2), (9, 3))]
    parts[1:1] = [Identity(70), Identity(70)]
    return parts, Stacked(parts)


@pytest.mark.parametrize("family", FAMILIES)
def test_stacked_projections_are_each_alone(family: str) -> None:
    parts, P = stacked(family)
    generator = torch.Generator().manual_seed(0)
    zs = [torch.randn(part.d, generator=generator) for part in parts]
    gs = torch.randn(len(parts), 70, generator=generator)
    theta: Tensor = P.project(torch.cat(zs)).view(len(parts), 70)
    for part, z, row in zip(parts, zs, theta, strict=True):
        torch.testing.assert_close(row, part.project(z))
    pulled = torch.split(P.project_transposed(gs.reshape(-1)), P.d)
    for part, g, row in zip(parts, gs, pulled, strict=True):
        torch.testing.assert_close(row, part.project_transposed(g))


def test_neighbours_stack_into_one_pass() -> None:
    """But for native trials among the others, whose long sums a GPU would then do last."""
    sizes = [(part.d, part.D) for part in stacked("hashed")[1].parts]
    assert sizes == [(3, 70), (140, 140), (18, 140)]
    assert len(stacked("sparse")[1].parts) == 4


def test_wall_time_is_shared() -> None:
    start = time.perf_counter()
    found = list(together.run_together(trials(task()), Runtime()))
    assert 0 < sum(result.wall_s for result in found) <= time.perf_counter() - start


def test_trials_that_train_one_by_one_are_given_as_they_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next may be interrupted, and the first be a day's work."""
    begun: list[Trial] = []
    monkeypatch.setattr(together, "run_trial", lambda trial, _: begun.append(trial) or trial)
    engine = InlineEngine(8, lambda text: None)
    results = engine.run(trials(task("timeout_s=100")), Runtime())
    next(results)
    assert len(begun) == 1
    engine.stop()
    with pytest.raises(Interrupted):
        next(results)


def scaled() -> SupervisedProblem:
    problem = tiny.problem()
    problem.scale = 0.2
    return problem


def test_trials_together_see_prepared_rows() -> None:
    of = task("problem.entry_point=tests.test_together:scaled")
    alone = [run_trial(trial, Runtime()) for trial in trials(of)]
    for one, other in zip(together.run_together(trials(of), Runtime()), alone, strict=True):
        assert_alike(one, other)


def test_a_group_that_draws_from_global_generators_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    def noisy(self: SupervisedProblem, x: torch.Tensor) -> torch.Tensor:
        return x.float() + torch.randn(x.shape)

    monkeypatch.setattr(SupervisedProblem, "prepare", noisy)
    first, again = (
        [r.z for r in together.run_together(trials(task()), Runtime())] for _ in range(2)
    )
    assert first == again
