"""Supervised problems: what they promise about their splits, and the toy's known answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from difficulty_bench.errors import ResourceError, UsageError
from difficulty_bench.problem import SupervisedProblem, accuracy, cross_entropy
from difficulty_bench.projection import make as make_projection
from envs import catalogue, cifar10, digits, mnist, synthetic

DIGITS_LABELS = [6, 6, 6, 2, 5, 6, 6, 2]  # the first training labels: the split never moves


def counts(labels: Tensor) -> list[int]:
    return torch.bincount(labels, minlength=10).tolist()


def rows(x: Tensor) -> set[bytes]:
    return {row.numpy().tobytes() for row in x}


# The toy.


@given(st.integers(1, 300).flatmap(lambda D: st.tuples(st.just(D), st.integers(1, D))))
def test_toy_groups_share_all_parameters_evenly(pair: tuple[int, int]) -> None:
    D, constraints = pair
    x, y = synthetic.make(D=D, constraints=constraints).splits["train"]
    assert x.shape == (constraints, D)
    assert torch.equal(x.sum(0), torch.ones(D, dtype=torch.long))  # each parameter in one group
    assert int(x.sum(1).max() - x.sum(1).min()) <= 1
    assert y.flatten().tolist() == list(range(1, constraints + 1))


def test_toy_loss_is_zero_exactly_at_a_solution() -> None:
    problem = synthetic.make(D=7, constraints=3)
    x, y = problem.splits["test"]
    theta = torch.linalg.pinv(x.float()) @ y  # (7, 1)
    assert problem.score(x.float() @ theta, y) == pytest.approx(1)
    assert problem.score(x.float() @ theta + 1, y) == pytest.approx(math.exp(-3))
    assert float(problem.loss(x.float() @ theta + 1, y)) == pytest.approx(3)


@pytest.mark.parametrize("family", ["dense", "sparse", "fastfood", "hashed"])
@pytest.mark.parametrize(("D", "constraints"), [(1000, 10), (317, 7), (640, 16)])
def test_toy_needs_exactly_as_many_dimensions_as_constraints(
    family: str, D: int, constraints: int
) -> None:
    """theta_0 + P z can meet the constraints iff x P (constraints, d) has full row rank."""
    x = synthetic.make(D=D, constraints=constraints).splits["train"][0].double()
    for d in (constraints - 1, constraints, constraints + 1):
        ranks = []
        for seed in range(5):
            P = make_projection(family, D, d, seed)
            columns = torch.stack([P.project(unit) for unit in torch.eye(d)], dim=1)  # (D, d)
            ranks.append(int(torch.linalg.matrix_rank(x @ columns.double())))
        assert sorted(ranks)[2] == min(d, constraints)  # the median subspace


def test_toy_refuses_more_constraints_than_parameters() -> None:
    with pytest.raises(UsageError, match=r"problem\.constraints = 11 is above problem\.D = 10"):
        synthetic.make(D=10, constraints=11)


# Data sets.


def test_digits_splits_are_disjoint_and_fixed() -> None:
    splits = digits.make().splits
    assert [len(splits[name][0]) for name in ("train", "validation", "test")] == [1047, 250, 500]
    assert sum(len(rows(x)) for x, _ in splits.values()) == 1797  # all distinct, none shared
    assert all(min(counts(y)) > 0.07 * len(y) for _, y in splits.values())
    assert splits["train"][1][:8].tolist() == DIGITS_LABELS
    assert splits["train"][0].dtype == torch.uint8
    assert float(digits.make().prepare(splits["train"][0]).max()) == 1


@pytest.mark.parametrize("make", [mnist.make, cifar10.make])
def test_pixels_come_to_the_network_from_0_to_1(make: Callable[[], SupervisedProblem]) -> None:
    problem = make()
    white = torch.full((1, *problem.input_shape), 255, dtype=torch.uint8)
    assert float(problem.prepare(white).max()) == 1


def test_mnist_splits_are_the_published_rows(mnist_files: None) -> None:
    splits = mnist.make().splits
    train, validation, test = (splits[name] for name in ("train", "validation", "test"))
    assert [tuple(x.shape) for x, _ in (train, validation, test)] == [
        (50_000, 1, 28, 28),
        (10_000, 1, 28, 28),
        (10_000, 1, 28, 28),
    ]
    both = torch.cat([train[1], validation[1]])
    assert counts(both) == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert counts(test[1]) == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert train[1][:5].tolist() == [5, 0, 4, 1, 9]
    pixels = torch.cat([train[0], validation[0]]).double() / 255
    assert float(pixels.mean()) == pytest.approx(0.1307, abs=5e-5)
    assert float(pixels.std()) == pytest.approx(0.3081, abs=5e-5)


def test_mnist_pixels_go_through_one_permutation(mnist_files: None) -> None:
    plain, shuffled = mnist.make().splits, mnist.make(shuffled_pixels=True).splits
    again = mnist.make(shuffled_pixels=True).splits
    other = mnist.make(shuffled_pixels=True, pixel_seed=1).splits
    for name in ("train", "validation", "test"):
        x, y = (pair[:300] for pair in plain[name])
        z = shuffled[name][0][:300]
        assert torch.equal(y, shuffled[name][1][:300])
        assert torch.equal(x.flatten(1).sort(1).values, z.flatten(1).sort(1).values)
        # A pixel's values over 300 images are moved as one column: equal as sets of columns.
        assert rows(x.flatten(1).T.contiguous()) == rows(z.flatten(1).T.contiguous())
        assert not torch.equal(x, z)
        assert torch.equal(z, again[name][0][:300])
        assert not torch.equal(z, other[name][0][:300])


def test_a_split_that_is_missing_is_named() -> None:
    pair = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)
    problem = SupervisedProblem((3,), 2, lambda: {"train": pair, "test": pair})
    with pytest.raises(UsageError, match="no 'validation'; add it, or give has_validation=False"):
        problem.splits  # noqa: B018


X, Y = torch.zeros(4, 3), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ((X.numpy(), Y), "has inputs that are numpy.ndarray; give torch.as_tensor of them"),
        ((X, Y.tolist()), "has targets that are list; give torch.as_tensor"),
        (X, "is torch.Tensor; give a pair"),
        ((X, Y[:3]), "has 4 inputs and 3 targets"),
        ((X[:0], Y[:0]), "is empty"),
        ((X.repeat(1, 2), Y), "has inputs of shape (6,) and input_shape is (3,)"),
        ((X, Y + 1), "has class numbers from 1 to 2 and output_size is 2: they go from 0 to 1"),
        ((X, Y - 1), "has class numbers from -1 to 0"),
        ((X, Y.int()), "has targets of shape (4,) and torch.int32"),
        ((X, Y.float()), "has targets of shape (4,) and torch.float32"),
        ((X, Y[:, None]), "has targets of shape (4, 1) and torch.int64"),
    ],
)
@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_a_split_that_does_not_fit_is_named_with_the_mend(name: str, wrong: Any, says: str) -> None:
    splits = {**dict.fromkeys(("train", "validation", "test"), (X, Y)), name: wrong}
    with pytest.raises(UsageError) as caught:
        SupervisedProblem((3,), 2, lambda: splits).check_data()
    assert f"'{name}' {says}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_mapping_of_splits_is_refused() -> None:
    load: Any = lambda: ((X, Y), (X, Y))  # noqa: E731
    with pytest.raises(UsageError, match="returns tuple; return a dict of pairs"):
        SupervisedProblem((3,), 2, load).check_data()


@pytest.mark.parametrize("y", [Y.to(torch.uint8), torch.full((4, 2), 0.5)])
def test_whatever_cross_entropy_takes_is_a_target(y: Tensor) -> None:
    torch.nn.functional.cross_entropy(torch.zeros(4, 2), y)
    splits = dict.fromkeys(("train", "validation", "test"), (X, Y)) | {"train": (X, y)}
    SupervisedProblem((3,), 2, lambda: splits).check_data()


@pytest.mark.parametrize("name", ["validation", "test"])
@pytest.mark.parametrize("loss", [torch.nn.functional.mse_loss, cross_entropy])
def test_targets_that_are_no_class_numbers_want_a_score_of_their_own(name: str, loss: Any) -> None:
    splits = dict.fromkeys(("train", "validation", "test"), (X, Y)) | {name: (X, torch.ones(4, 2))}
    with pytest.raises(UsageError, match=f"'{name}' has targets of shape .*score=..., metric="):
        SupervisedProblem((3,), 2, lambda: splits, loss=loss).check_data()
    SupervisedProblem((3,), 2, lambda: splits, loss=loss, score=lambda *_: 1.0).check_data()


def test_a_loss_of_ones_own_takes_what_targets_it_will() -> None:
    splits = dict.fromkeys(("train", "validation", "test"), (X, Y - 1))
    SupervisedProblem((3,), 2, lambda: splits, loss=torch.nn.functional.mse_loss).check_data()


@pytest.mark.parametrize("fraction", [1.0, 0.1])
def test_memorised_labels_carry_nothing_of_the_images(mnist_files: None, fraction: float) -> None:
    problem = mnist.memorise(fraction=fraction)
    x, y = problem.splits["train"]
    true_x, true_y = mnist.make().splits["train"]
    n = round(50_000 * fraction)
    assert len(x) == len(y) == n
    assert torch.equal(x, true_x[:n])
    assert counts(y) == counts(true_y[:n])  # permuted, not drawn
    assert float((y == true_y[:n]).double().mean()) == pytest.approx(0.1, abs=0.015)
    assert torch.equal(y, mnist.memorise(fraction=fraction).splits["train"][1])
    assert problem.metric == "train_accuracy"
    assert not problem.has_validation
    assert problem.splits["test"][0] is x


def test_cifar10_splits_are_the_published_rows(cifar10_files: None) -> None:
    problem = cifar10.make()
    (x, y), (validation_x, _), (test_x, test_y) = (
        problem.splits[name] for name in ("train", "validation", "test")
    )
    assert (tuple(x.shape), tuple(test_x.shape)) == ((50_000, 3, 32, 32), (10_000, 3, 32, 32))
    assert counts(y) == [5000] * 10
    assert counts(test_y) == [1000] * 10
    assert y[:5].tolist() == [6, 9, 9, 4, 1]
    assert x.dtype == torch.uint8
    means = [float(x[:, channel].double().mean()) / 255 for channel in range(3)]
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)
    assert torch.equal(validation_x, x[45_000:])


def test_a_trial_judged_on_cifar10s_validation_rows_never_trains_on_them(
    cifar10_files: None,
) -> None:
    problem = cifar10.make()
    assert len(problem.training_pair("test")[0]) == 50_000
    kept, _ = problem.training_pair("validation")
    held_out, _ = problem.splits["validation"]
    assert len(kept) == 45_000
    assert kept.data_ptr() + kept.nbytes == held_out.data_ptr()  # the rows right behind


# Absent data.


@pytest.mark.parametrize("make", [mnist.make, mnist.memorise, cifar10.make])
def test_a_problem_is_made_without_its_data_and_says_what_is_missing(
    make: Callable[[], SupervisedProblem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(catalogue.VARIABLE, str(tmp_path))
    problem = make()
    line = problem.missing()
    assert line is not None
    assert "bench data fetch" in line
    with pytest.raises(ResourceError, match="bench data fetch"):
        _ = problem.splits


def test_the_embedded_problems_need_nothing() -> None:
    assert synthetic.make().missing() is None
    assert digits.make().missing() is None


def test_outputs_that_are_nan_have_no_accuracy() -> None:
    output = torch.tensor([[float("nan"), 1.0], [1.0, 0.0]])
    assert math.isnan(accuracy(output, torch.zeros(2)))
    assert accuracy(output[1:], torch.zeros(1)) == 1
