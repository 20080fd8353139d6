"""Supervised training: the plain torch loop, natively and in a subspace, and its resumption."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from agents import supervised
from agents.networks import channels_last
from difficulty_bench.context import Diverged, Interrupted, TrialContext
from difficulty_bench.errors import UsageError
from difficulty_bench.generators import get_states, put_states
from difficulty_bench.problem import Problem, SupervisedProblem, count_parameters
from difficulty_bench.registry import Registry, Task
from difficulty_bench.results import Request
from difficulty_bench.subspace import SubspaceOptimizer
from difficulty_bench.trial import Runtime, Trial, parameter_vector, run_trial

from .tiny import StopAfter, request

ROWS, SIZE = 40, 6
CPU = torch.device("cpu")


def make_problem(**changes: Any) -> SupervisedProblem:
    """Two classes in R^6; 40 rows to train on."""

    def load() -> dict[str, tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(60, SIZE, generator=generator)
        y = (x[:, 0] > 0).long()
        train = x[:ROWS], y[:ROWS]
        return {"train": train, "validation": (x[40:50], y[40:50]), "test": (x[50:], y[50:])}

    return dataclasses.replace(SupervisedProblem((SIZE,), 2, load), **changes)


def make_network() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(SIZE, 5), nn.Tanh(), nn.Linear(5, 2))


def make_difficult_network() -> nn.Sequential:
    """With everything that a checkpoint can forget: buffers and random numbers."""
    torch.manual_seed(5)
    hidden = nn.Sequential(nn.Linear(SIZE, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))
    return nn.Sequential(hidden, nn.Linear(8, 2))


def make_context(
    network: nn.Module, d: int = 0, lr_scale: float = 1.0, role: Any = None, **runtime: Any
) -> TrialContext:
    task = Task.model_validate(
        {
            "name": "t",
            "version": 1,
            "paradigm": "supervised",
            "description": "",
            "problem": {"entry_point": "tests.tiny:problem"},
            "network": {"entry_point": "tests.tiny:network"},
            "agent": {"entry_point": "agents.supervised:train"},
            "floor": 0.0,
            "search": {"d_max": 10},
        }
    )
    asked = request(d, lr_scale=lr_scale)
    trial = Trial(task, replace(asked, role=role or asked.role))
    return TrialContext(trial, count_parameters(network), Runtime(**runtime))


def train(network: nn.Module, context: TrialContext | None = None, **keys: Any) -> TrialContext:
    problem = keys.pop("problem", None) or make_problem()
    context = context or make_context(network)
    supervised.train(problem, network, context, **keys)
    return context


# Against a loop written out.


def test_native_training_is_the_plain_torch_loop() -> None:
    network, reference = make_network(), make_network()
    context = train(network, epochs=3, batch_size=16, learning_rate=0.01, betas=(0.8, 0.95))
    x, y = make_problem().splits["train"]
    optimizer = torch.optim.Adam(reference.parameters(), lr=0.01, betas=(0.8, 0.95))
    generator = torch.Generator().manual_seed(context.streams.data)
    for _ in range(3):
        for index in torch.split(torch.randperm(ROWS, generator=generator), 16):
            optimizer.zero_grad()
            nn.functional.cross_entropy(reference(x[index]), y[index]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    torch.testing.assert_close(
        parameter_vector(network), parameter_vector(reference), atol=1e-6, rtol=1e-5
    )
    assert context.steps == 9


def test_l2_without_kernels_that_are_trained_is_none() -> None:
    networks = [make_network(), make_network()]
    for network, l2 in zip(networks, (0.05, 0.0), strict=True):
        for kernel in (p for p in network.parameters() if p.ndim > 1):
            kernel.requires_grad_(False)
        train(network, l2=l2)
    assert torch.equal(*map(parameter_vector, networks))


@pytest.mark.parametrize("d", [0, 7])
def test_l2_is_on_the_kernels_of_theta_and_on_nothing_else(d: int) -> None:
    """One SGD step on everything against autograd of loss + l2 * sum(w^2)."""
    network, reference = make_network(), make_network()
    context = make_context(network, d)
    keys = {"optimizer": "sgd", "learning_rate": 0.3, "batch_size": None, "epochs": 2}
    train(network, context, l2=0.05, **keys)

    x, y = make_problem().splits["train"]
    z = torch.zeros(d)
    theta_0, P = parameter_vector(reference), None
    for _ in range(2):
        kernels = [p for p in reference.parameters() if p.ndim > 1]
        loss = nn.functional.cross_entropy(reference(x), y)
        loss = loss + 0.05 * sum(w.square().sum() for w in kernels)
        gradient = torch.cat(
            [g.flatten() for g in torch.autograd.grad(loss, list(reference.parameters()))]
        )
        if d:
            optimizer = context._trained
            assert isinstance(optimizer, SubspaceOptimizer)
            P = optimizer.projection
            z -= 0.3 * P.project_transposed(gradient)
            theta = theta_0 + P.project(z)
        else:
            theta = parameter_vector(reference) - 0.3 * gradient
        nn.utils.vector_to_parameters(theta, reference.parameters())
    torch.testing.assert_close(
        parameter_vector(network), parameter_vector(reference), atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("schedule", "shares"), [("constant", 20.0), ("cosine", 10.5), ("linear", 10.5)]
)
@pytest.mark.parametrize("lr_scale", [1.0, 0.5])
def test_schedules_act_at_every_step(schedule: str, shares: float, lr_scale: float) -> None:
    """A constant gradient of 1 moves a weight by -lr times the sum of the shares of 20 steps."""

    def total(output: Tensor, target: Tensor) -> Tensor:
        return output.sum() / len(output)

    network = nn.Linear(SIZE, 2)
    before = network.bias.detach().clone()
    keys = {"optimizer": "sgd", "schedule": schedule, "epochs": 5, "batch_size": 10}
    context = make_context(network, 0, lr_scale)
    train(network, context, problem=make_problem(loss=total), learning_rate=0.01, **keys)
    torch.testing.assert_close(
        before - network.bias.detach(), torch.full((2,), 0.01 * shares * lr_scale)
    )


# What training sees.


@pytest.mark.parametrize(("batch_size", "steps"), [(16, 3), (40, 1), (None, 1), (0, 1), (99, 1)])
def test_an_epoch_sees_every_training_row_once_and_no_other(
    batch_size: int | None, steps: int
) -> None:
    seen: list[Tensor] = []

    class Spy(SupervisedProblem):
        def prepare(self, x: Tensor) -> Tensor:
            seen.append(x)
            return super().prepare(x)

    base = make_problem()
    problem = Spy((SIZE,), 2, base.load)
    context = train(make_network(), problem=problem, epochs=2, batch_size=batch_size)
    assert context.steps == 2 * steps
    ordered = base.splits["train"][0].sort(0).values
    for epoch in (seen[:steps], seen[steps:]):
        assert torch.equal(torch.cat(epoch).sort(0).values, ordered)
    if steps > 1:
        assert not torch.equal(seen[0], seen[steps])  # another order


@pytest.mark.parametrize("role", ["trial", "pilot"])
def test_training_never_opens_the_held_out_splits(role: str) -> None:
    class OnlyTrain(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            assert key == "train", f"training looked at {key}"
            return super().__getitem__(key)

    problem = make_problem(load=lambda: OnlyTrain(make_problem().load()))
    network = make_network()
    train(network, make_context(network, role=role), problem=problem, epochs=2)


def test_a_pilot_trains_without_the_validation_rows_inside_train() -> None:
    def load() -> Mapping[str, tuple[Tensor, Tensor]]:
        x, y = make_problem().splits["train"]
        poisoned = x.clone()
        poisoned[-8:] = float("nan")
        return {"train": (poisoned, y), "validation": (poisoned[-8:], y[-8:]), "test": (x, y)}

    problem = make_problem(load=load, validation_in_train=True)
    network = make_network()
    train(network, make_context(network, role="pilot"), problem=problem)
    assert parameter_vector(network).isfinite().all()
    with pytest.raises(Diverged):
        train(make_network(), problem=problem)


def test_the_curve_holds_the_mean_loss_and_on_request_the_score() -> None:
    problem = make_problem()
    network = make_network()
    x, y = problem.splits["train"]
    first = float(nn.functional.cross_entropy(network(x), y).detach())
    context = train(network, epochs=4, batch_size=16, learning_rate=1e-9, evaluate_every=2)
    losses = [point for point in context.curve if point[1] == "train_loss"]
    assert [step for step, _, _ in losses] == [3, 6, 9, 12]
    assert [value for _, _, value in losses] == pytest.approx([first] * 4, rel=1e-5)
    scores = [point for point in context.curve if point[1] == "test_accuracy"]
    score = problem.evaluate(network, split="test", seed=0, device=CPU).score
    assert scores == [(6, "test_accuracy", score), (12, "test_accuracy", score)]


def test_the_same_request_gives_the_same_bits_and_leaves_global_random_numbers_alone() -> None:
    results: list[Tensor] = []
    for _ in range(2):
        network = make_difficult_network()
        torch.manual_seed(len(results))
        before = torch.get_rng_state()
        train(network, make_context(network, 9), epochs=3, batch_size=16)
        assert torch.equal(before, torch.get_rng_state())
        results.append(parameter_vector(network))
    assert torch.equal(*results)


# Interruption.


SETTINGS: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": "adam", "batch_size": 16, "l2": 1e-3, "schedule": "cosine"},
    "momentum": {"optimizer": "sgd", "momentum": 0.9, "batch_size": 16, "learning_rate": 0.1},
    "full-batch": {"optimizer": "adam", "batch_size": None},
    "lbfgs": {"optimizer": "lbfgs", "batch_size": None, "learning_rate": 1.0},
}


@pytest.mark.parametrize("d", [0, 9])
@pytest.mark.parametrize("name", SETTINGS)
def test_interrupted_and_resumed_is_uninterrupted_to_the_bit(
    name: str, d: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tick follows every step here, so that it stops within epochs as well as between."""
    monkeypatch.setattr(supervised, "TICK_INTERVAL_S", 0.0)
    make = make_network if name == "lbfgs" else make_difficult_network
    keys: dict[str, Any] = {**SETTINGS[name], "epochs": 3, "evaluate_every": 1}

    whole = make()
    expected = train(whole, make_context(whole, d), **keys)
    interruptions = 0
    while True:
        network = make()
        stop = StopAfter(interruptions % 2)  # at the first tick, then at the second
        context = make_context(network, d, checkpoint_dir=tmp_path, stop=stop)
        try:
            train(network, context, **keys)
            break
        except Interrupted:
            interruptions += 1
    assert interruptions > 2
    for key, value in whole.state_dict().items():
        assert torch.equal(value, network.state_dict()[key]), key
    assert context.curve == expected.curve
    assert context.steps == expected.steps


# Mistakes, and the whole of it.


@pytest.mark.parametrize("keys", [{"batch_size": 16}, {"batch_size": None, "l2": 0.1}])
def test_lbfgs_with_batches_or_l2_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="needs batch_size null and l2 0"):
        train(make_network(), optimizer="lbfgs", **keys)


def test_a_problem_without_data_is_refused() -> None:
    network = make_network()
    with pytest.raises(UsageError, match="learns from data sets"):
        supervised.train(cast(Problem, object()), network, make_context(network))


def test_a_loss_that_is_not_finite_is_a_divergence() -> None:
    with pytest.raises(Diverged, match="train_loss is"):
        train(make_network(), optimizer="sgd", learning_rate=1e38, epochs=5)


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("agent.epochs=0", "greater than 0"),
        ("agent.learning_rate=0", "greater than 0"),
        ("agent.betas=[0.9, 1.0]", "less than 1"),
        ("agent.schedule=cosin", "'cosine'"),
        ("agent.batch=3", "did you mean 'batch_size'"),
        ("problem.constraints=0", "greater than 0"),
    ],
)
def test_wrong_values_are_refused_with_their_key(setting: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as caught:
        Registry().get("toy", [setting])
    assert setting.partition("=")[0] in str(caught.value)


@pytest.mark.parametrize("family", ["dense", "sparse", "fastfood", "hashed"])
def test_the_toy_is_solved_at_its_dimension_and_not_below(family: str) -> None:
    task = Registry().get("toy", [f"projection={family}"])

    def solved(d: int) -> int:
        trials = [Trial(task, Request("trial", d, seed)) for seed in range(5)]
        results = [run_trial(trial, Runtime()) for trial in trials]
        assert {result.state for result in results} == {"complete"}
        return sum((result.score or 0) > 0.9 for result in results)

    assert solved(9) <= 1  # a subspace passes near the solutions by chance
    assert solved(10) == 5
    assert solved(0) == 5


def test_digits_are_learned_natively_and_in_a_large_subspace_only() -> None:
    task = Registry().get("digits", ["agent.epochs=8"])

    def score(d: int, lr_scale: float) -> float:
        result = run_trial(Trial(task, Request("trial", d, 0, lr_scale)), Runtime())
        assert result.state == "complete", result.reason
        assert result.score is not None
        return result.score

    assert score(0, 4.0) > 0.9
    assert score(300, 40.0) > 0.85
    assert score(2, 100.0) < 0.5


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_changes_the_layout_only(channels: int) -> None:
    x = torch.randn(2, channels, 4, 5)
    laid_out = channels_last(x)
    assert torch.equal(x, laid_out)
    assert laid_out.stride() == (20 * channels, 1, 5 * channels, channels)
    vectors = torch.randn(2, 3)
    assert channels_last(vectors) is vectors


def test_generators_go_on_from_a_checkpoint_of_a_machine_without_a_gpu() -> None:
    kept = torch.get_rng_state()
    put_states(torch.device("cuda"), get_states(torch.device("cpu")))
    assert torch.equal(torch.get_rng_state(), kept)


def test_schedules_are_what_they_are_called() -> None:
    at = (0.0, 0.25, 0.5, 1.0)
    expected = {
        "constant": [1, 1, 1, 1],
        "cosine": [1, 0.8536, 0.5, 0],
        "linear": [1, 0.75, 0.5, 0],
    }
    found = {k: [round(f(p), 4) for p in at] for k, f in supervised.SCHEDULES.items()}
    assert found == expected


def test_the_network_is_judged_on_prepared_rows() -> None:
    def load() -> dict[str, tuple[Tensor, Tensor]]:
        pair = torch.full((1, 1), 3.0), torch.ones(1, dtype=torch.long)
        return {"train": pair, "validation": pair, "test": pair}

    network = nn.Linear(1, 2)
    network.weight.data, network.bias.data = torch.tensor([[1.0], [0.0]]), torch.tensor([0.0, 1.0])
    for scale, score in ((1.0, 0.0), (0.1, 1.0)):  # the label is 1: 3 > 1, .3 < 1
        problem = SupervisedProblem((1,), 2, load, scale=scale)
        assert problem.evaluate(network, split="test", seed=0, device=CPU).score == score
