"""SubspaceOptimizer: exactly the chain rule through theta_0 + P z, in unchanged training code."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3 import A2C, DQN, PPO
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import lr_scheduler

from difficulty_bench.errors import UsageError
from difficulty_bench.projection import NAMES, Projection, make
from difficulty_bench.subspace import SubspaceOptimizer
from difficulty_bench.trial import parameter_vector as flat

families = pytest.mark.parametrize("name", NAMES)
pytestmark = pytest.mark.usefixtures("seeded")
X, Y = torch.randn(32, 6, generator=torch.Generator().manual_seed(1)), torch.arange(32) % 3


def network() -> nn.Sequential:
    """D = 6 x 8 + 8 + 8 x 3 + 3 = 83."""
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def matrix(P: Projection) -> Tensor:
    dtype = next(t.dtype for t in P.tensors().values() if t.is_floating_point())
    return torch.stack([P.project(e) for e in torch.eye(P.d, dtype=dtype)], dim=1)  # (D, d)


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1) -> list[float]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(X), Y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def train_explicitly(
    net: nn.Module, A: Tensor, make_optimizer: Callable[[list[Tensor]], Any], steps: int
) -> Iterator[Tensor]:
    """Autograd through theta_0 + A z with an ordinary optimiser on the leaf z; yields each z."""
    theta_0 = flat(net)
    z = torch.zeros(A.shape[1], requires_grad=True)
    optimizer = make_optimizer([z])
    shapes = {key: p.shape for key, p in net.named_parameters()}
    for _ in range(steps):
        parts = (theta_0 + A @ z).split([s.numel() for s in shapes.values()])
        weights = {k: v.view(s) for (k, s), v in zip(shapes.items(), parts, strict=True)}
        optimizer.zero_grad()
        nn.functional.cross_entropy(functional_call(net, weights, (X,)), Y).backward()
        optimizer.step()
        yield z.detach().clone()


def distance_to_span(theta: Tensor, theta_0: Tensor, A: Tensor) -> float:
    """Length of the part of theta - theta_0 outside span(A), relative to max(1, length)."""
    moved = (theta - theta_0).double()
    inside = A.double() @ torch.linalg.lstsq(A.double(), moved[:, None]).solution[:, 0]
    return float((moved - inside).norm() / max(1.0, float(moved.norm())))


# --- exactness ------------------------------------------------------------------------------


INNER = {
    "adam": (torch.optim.Adam, {"lr": 0.05, "betas": (0.9, 0.99), "eps": 1e-5}),
    "sgd": (torch.optim.SGD, {"lr": 0.5, "momentum": 0.9, "nesterov": True}),
    "decay": (torch.optim.AdamW, {"lr": 0.05, "weight_decay": 0.1}),
}


@families
@pytest.mark.parametrize("kind", INNER)
@pytest.mark.parametrize("d", [1, 10, 83])
def test_same_trajectory_as_autograd_through_the_projection(name: str, kind: str, d: int) -> None:
    cls, options = INNER[kind]
    net = network()
    reference = copy.deepcopy(net)
    optimizer = SubspaceOptimizer(net.parameters(), cls, d=d, seed=3, projection=name, **options)
    A = matrix(make(name, 83, d, seed=3))
    for z in train_explicitly(reference, A, lambda p: cls(p, **options), steps=15):
        train(net, optimizer)
        torch.testing.assert_close(optimizer.z, z, atol=2e-4, rtol=2e-3)
        torch.testing.assert_close(flat(net), flat(reference) + A @ z, atol=2e-4, rtol=2e-3)
    assert float(optimizer.z.norm()) > 0.01  # one random direction may be nearly level


@families
def test_lbfgs_evaluates_its_closure_at_every_tried_z(name: str) -> None:
    options: dict[str, Any] = {"lr": 1.0, "max_iter": 5, "line_search_fn": "strong_wolfe"}
    net = network()
    theta_0, A = flat(net), matrix(make(name, 83, 20, seed=3))
    optimizer = SubspaceOptimizer(
        net.parameters(), torch.optim.LBFGS, d=20, seed=3, projection=name, **options
    )
    seen = []

    def closure() -> Tensor:
        assert torch.is_grad_enabled()
        expected = theta_0 + A @ optimizer.z
        torch.testing.assert_close(flat(net), expected, atol=1e-5, rtol=1e-4)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(X), Y)
        loss.backward()
        seen.append(optimizer.z.clone())
        return loss

    first = optimizer.step(closure).item()
    assert len({tuple(z.tolist()) for z in seen}) > 2
    for _ in range(3):
        last = optimizer.step(closure).item()
    assert last < 0.7 * first
    torch.testing.assert_close(flat(net), theta_0 + A @ optimizer.z, atol=1e-5, rtol=1e-4)


def test_a_closure_is_also_for_optimisers_that_need_none() -> None:
    net, other = network(), network()
    other.load_state_dict(net.state_dict())
    one = SubspaceOptimizer(net.parameters(), d=10, seed=0)
    two = SubspaceOptimizer(other.parameters(), d=10, seed=0)
    losses = train(net, one, 3)

    def closure() -> Tensor:
        two.zero_grad()
        loss = nn.functional.cross_entropy(other(X), Y)
        loss.backward()
        return loss

    assert [two.step(closure).item() for _ in range(3)] == losses
    assert torch.equal(one.z, two.z)


@families
def test_theta_stays_in_the_span(name: str) -> None:
    net = network()
    theta_0 = flat(net)
    optimizer = SubspaceOptimizer(net.parameters(), d=7, seed=1, projection=name, lr=0.1)
    train(net, optimizer, 30)
    assert distance_to_span(flat(net), theta_0, matrix(optimizer.projection)) < 1e-6
    assert torch.equal(optimizer.theta_0, theta_0)


# --- unchanged training code ----------------------------------------------------------------


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=5),
    "one-cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=10),  # sets betas too
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.5**step),
}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_schedulers_reach_the_inner_optimiser(kind: str) -> None:
    net = network()
    reference = copy.deepcopy(net)
    optimizer = SubspaceOptimizer(net.parameters(), d=10, seed=3, lr=0.05)
    scheduler = SCHEDULERS[kind](optimizer)
    other: list[Any] = []

    def make_optimizer(params: list[Tensor]) -> torch.optim.Optimizer:
        explicit = torch.optim.Adam(params, lr=0.05)
        other.append(SCHEDULERS[kind](explicit))
        return explicit

    for z in train_explicitly(reference, matrix(optimizer.projection), make_optimizer, steps=8):
        train(net, optimizer)
        torch.testing.assert_close(optimizer.z, z, atol=1e-4, rtol=1e-3)
        scheduler.step()
        other[0].step()
    assert scheduler.get_last_lr() == other[0].get_last_lr() != [0.05]


def test_zero_grad_keeps_or_drops_gradients() -> None:
    for set_to_none in (True, False):
        net = network()
        optimizer = SubspaceOptimizer(net.parameters(), d=10, seed=3)
        train(net, optimizer)
        optimizer.zero_grad(set_to_none=set_to_none)
        assert all((p.grad is None) == set_to_none for p in net.parameters())
        before = optimizer.z.clone()
        net.zero_grad()
        optimizer.step()  # no gradient at all: no step, as in torch
        assert torch.equal(optimizer.z, before)


def test_missing_gradients_count_as_zero() -> None:
    net = network()
    optimizer = SubspaceOptimizer(net.parameters(), torch.optim.SGD, d=83, seed=3, lr=1.0)
    train(net, optimizer)  # leaves old values in every buffer
    before = optimizer.z.clone()
    optimizer.zero_grad()
    net[2].bias.square().sum().backward()
    g = torch.cat([torch.zeros(80), 2 * net[2].bias.detach()])  # (D,)
    optimizer.step()
    expected = before - optimizer.projection.project_transposed(g)
    torch.testing.assert_close(optimizer.z, expected)


def test_gradient_clipping_acts_on_the_native_gradient() -> None:
    net = network()
    optimizer = SubspaceOptimizer(net.parameters(), torch.optim.SGD, d=83, seed=3, lr=1.0)
    nn.functional.cross_entropy(net(X), Y).backward()
    nn.utils.clip_grad_norm_(net.parameters(), 0.01)
    optimizer.step()  # P is orthogonal at d = D, so lengths are kept
    assert float(optimizer.z.norm()) == pytest.approx(0.01, rel=1e-4)


class Tied(nn.Module):
    """One weight used twice, a frozen one, and batch-norm buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(6, 6, bias=False)
        self.norm = nn.BatchNorm1d(6)
        self.decode = nn.Linear(6, 6, bias=False)
        self.decode.weight = self.encode.weight
        self.frozen = nn.Parameter(torch.ones(6), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.decode(self.norm(self.encode(x))) * self.frozen
        return y


def test_tied_frozen_and_buffers() -> None:
    net = Tied()
    both = [*net.encode.parameters(), *net.decode.parameters(), *net.norm.parameters(), net.frozen]
    optimizer = SubspaceOptimizer(both, d=10, seed=0, lr=0.1)
    assert optimizer.projection.D == 36 + 12
    net(X).square().mean().backward()
    optimizer.step()
    assert net.decode.weight is net.encode.weight
    assert torch.equal(net.frozen, torch.ones(6))
    assert float(net.norm.running_mean.abs().sum()) > 0  # type: ignore[union-attr]
    net.eval()
    assert not net.norm.training
    moved = torch.cat([net.encode.weight.detach().flatten(), net.norm.weight, net.norm.bias])
    torch.testing.assert_close(moved, optimizer.theta_0 + optimizer.projection.project(optimizer.z))


def test_one_projection_for_the_whole_network() -> None:
    """Tensors share z in proportion to their size; no tensor has coordinates of its own."""
    net = network()
    optimizer = SubspaceOptimizer(net.parameters(), d=4, seed=0)
    A = matrix(optimizer.projection)
    rows = A.split([p.numel() for p in net.parameters()])
    assert all((rows[i].abs().sum(0) > 0).all() for i in (0, 2))
    assert A.shape == (83, 4)


def test_parameters_are_views_and_stale_graphs_are_refused() -> None:
    net = network()
    optimizer = SubspaceOptimizer(net.parameters(), d=10, seed=3)
    storages = {p.untyped_storage().data_ptr() for p in net.parameters()}
    assert len(storages) == 1
    loss = nn.functional.cross_entropy(net(X), Y)
    loss.backward(retain_graph=True)
    optimizer.step()
    assert {p.untyped_storage().data_ptr() for p in net.parameters()} == storages
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()  # as after a native step


def test_state_lives_in_the_subspace() -> None:
    net = nn.Linear(50, 40)
    D, d = 2040, 9
    optimizer = SubspaceOptimizer(net.parameters(), d=d, seed=3, amsgrad=True)
    net(torch.randn(3, 50)).sum().backward()
    optimizer.step()
    large = [t for t in tensors_in(vars(optimizer)) if t.numel() > 10 * d]
    P = optimizer.projection.tensors().values()
    own = (optimizer._theta_0, optimizer._flat.values, *P)
    known = {t.untyped_storage().data_ptr() for t in (*own, *(p.grad for p in net.parameters()))}
    assert {t.untyped_storage().data_ptr() for t in large} <= known
    moments = [t for t in tensors_in(optimizer.inner.state) if t.numel() > 1]
    assert {t.numel() for t in moments} == {d}
    assert len(moments) >= 4
    assert D == optimizer.projection.D


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors below `value`, through containers, gradients and objects of this package."""
    if isinstance(value, Tensor):
        grad = [value.grad] if value.is_leaf and value.grad is not None else []
        return [value.detach(), *grad]
    if isinstance(value, dict):
        return [t for pair in value.items() for part in pair for t in tensors_in(part)]
    if isinstance(value, list | tuple):
        return [t for part in value for t in tensors_in(part)]
    if hasattr(value, "__dict__") and not callable(value):
        return tensors_in({k: v for k, v in vars(value).items() if not k.startswith("__")})
    return []


# --- groups ---------------------------------------------------------------------------------


def test_native_groups_are_stepped_natively() -> None:
    net = network()
    actor, critic = net[0], net[2]
    reference = copy.deepcopy(net)
    groups = [{"params": actor.parameters()}, {"params": critic.parameters(), "subspace": False}]
    optimizer = SubspaceOptimizer(groups, d=5, seed=0, lr=0.01, lr_scale=4.0)
    assert optimizer.projection.D == 56
    native = torch.optim.Adam(reference.parameters(), lr=0.01)
    A, z = matrix(optimizer.projection), torch.zeros(5, requires_grad=True)
    inside = torch.optim.Adam([z], lr=0.04)
    theta_0 = flat(actor)
    for step in range(10):
        for group in (*optimizer.param_groups, *native.param_groups):
            group["lr"] = 0.01 / (step + 1)  # as stable-baselines3 does
        inside.param_groups[0]["lr"] = 0.04 / (step + 1)
        train(net, optimizer)
        native.zero_grad()
        nn.functional.cross_entropy(reference(X), Y).backward()
        grads = [p.grad for p in reference[0].parameters() if p.grad is not None]
        z.grad = A.t() @ torch.cat([g.flatten() for g in grads])
        for p in reference[0].parameters():
            p.grad = None
        native.step()
        inside.step()
        with torch.no_grad():
            nn.utils.vector_to_parameters(theta_0 + A @ z, reference[0].parameters())
        torch.testing.assert_close(flat(critic), flat(reference[2]), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(optimizer.z, z.detach(), atol=1e-5, rtol=1e-4)


def test_a_native_group_may_come_later() -> None:
    net, extra = network(), nn.Linear(6, 3)
    optimizer = SubspaceOptimizer(net.parameters(), d=5, seed=0, lr=0.01)
    optimizer.add_param_group({"params": extra.parameters(), "subspace": False})
    before = flat(extra)
    (net(X) + extra(X)).square().mean().backward()
    optimizer.step()
    torch.testing.assert_close(
        (flat(extra) - before).abs(), torch.full((21,), 0.01), rtol=1e-2, atol=0
    )
    with pytest.raises(UsageError, match="no further parameters"):
        optimizer.add_param_group({"params": nn.Linear(2, 2).parameters()})


def test_named_parameters_are_taken() -> None:
    net = network()
    assert SubspaceOptimizer(net.named_parameters(), d=5, seed=0).projection.D == 83


def test_bad_use_is_refused() -> None:
    net = network()
    with pytest.raises(UsageError, match="d = 84 does not fit"):
        SubspaceOptimizer(net.parameters(), d=84, seed=0)
    with pytest.raises(UsageError, match="did you mean 'hashed'"):
        SubspaceOptimizer(net.parameters(), d=4, seed=0, projection="hashd")
    groups = [{"params": net[0].parameters()}, {"params": net[2].parameters()}]
    with pytest.raises(UsageError, match="2 parameter groups in the subspace"):
        SubspaceOptimizer(groups, d=4, seed=0)
    with pytest.raises(UsageError, match="0 parameter groups"):
        SubspaceOptimizer([{**group, "subspace": False} for group in groups], d=4, seed=0)
    net[2].double()
    with pytest.raises(UsageError, match=r"torch\.float32 on cpu, torch\.float64 on cpu"):
        SubspaceOptimizer(net.parameters(), d=4, seed=0)
    with pytest.raises(TypeError, match="momentum"):
        SubspaceOptimizer(network().parameters(), d=4, seed=0, momentum=0.9)


# --- moved, written and copied parameters -----------------------------------------------------


def test_dtype_move_before_and_during_training() -> None:
    net = network()
    reference = copy.deepcopy(net).double()
    optimizer = SubspaceOptimizer(net.parameters(), d=10, seed=3, lr=0.05)
    other = SubspaceOptimizer(reference.parameters(), d=10, seed=3, lr=0.05)
    train(net, optimizer, 3)
    net.double()

    def steps(module: nn.Module, opt: SubspaceOptimizer, n: int) -> None:
        for _ in range(n):
            opt.zero_grad()
            nn.functional.cross_entropy(module(X.double()), Y).backward()
            opt.step()

    steps(reference, other, 6)
    steps(net, optimizer, 3)
    assert optimizer.z.dtype == torch.float64
    assert {t.dtype for t in tensors_in(optimizer.inner.state) if t.numel() == 10} == {
        torch.float64
    }
    torch.testing.assert_close(optimizer.z, other.z, atol=1e-4, rtol=1e-3)
    A = matrix(optimizer.projection)
    assert distance_to_span(flat(net), optimizer.theta_0, A) < 1e-12


@pytest.mark.gpu
def test_device_move_before_and_during_training() -> None:
    net = network()
    optimizer = SubspaceOptimizer(net.parameters(), d=10, seed=3, lr=0.05)
    reference = copy.deepcopy(net)
    other = SubspaceOptimizer(reference.parameters(), d=10, seed=3, lr=0.05)
    train(reference, other, 6)
    train(net, optimizer, 3)
    net.cuda()
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(X.cuda()), Y.cuda()).backward()
        optimizer.step()
    assert optimizer.z.is_cuda
    torch.testing.assert_close(optimizer.z.cpu(), other.z, atol=1e-4, rtol=1e-3)


def test_weights_written_before_training_become_theta_0() -> None:
    net, pretrained = network(), network()
    optimizer = SubspaceOptimizer(net.parameters(), d=10, seed=3, lr=0.05)
    net.load_state_dict(pretrained.state_dict())
    train(net, optimizer, 5)
    A = matrix(optimizer.projection)
    torch.testing.assert_close(optimizer.theta_0, flat(pretrained))
    assert distance_to_span(flat(net), flat(pretrained), A) < 1e-6


def test_weights_written_during_training_are_an_error() -> None:
    net = network()
    optimizer = SubspaceOptimizer(net.parameters(), d=10, seed=3, lr=0.05)
    train(net, optimizer, 2)
    saved = copy.deepcopy(net.state_dict())
    net.load_state_dict(saved)  # the same values: nothing has happened
    train(net, optimizer)
    net.load_state_dict(network().state_dict())
    with pytest.raises(UsageError, match="overwritten from outside"):
        optimizer.step()
    with pytest.raises(UsageError, match="overwritten from outside"):
        optimizer.state_dict()


def test_replaced_data_is_noticed() -> None:
    net = network()
    optimizer = SubspaceOptimizer(net.parameters(), d=10, seed=3, lr=0.05)
    train(net, optimizer, 2)
    nn.utils.vector_to_parameters(flat(net), net.parameters())  # equal values, other memory
    train(net, optimizer)
    torch.testing.assert_close(
        flat(net), optimizer.theta_0 + optimizer.projection.project(optimizer.z)
    )
    nn.utils.vector_to_parameters(torch.zeros(83), net.parameters())
    with pytest.raises(UsageError, match="overwritten from outside"):
        optimizer.step()


def test_set_z_writes_theta() -> None:
    net = network()
    optimizer = SubspaceOptimizer(net.parameters(), d=10, seed=3)
    theta_0, z = flat(net), torch.randn(10)
    optimizer.set_z(z)
    torch.testing.assert_close(flat(net), theta_0 + matrix(optimizer.projection) @ z)
    assert torch.equal(optimizer.z, z)
    with pytest.raises(UsageError, match=r"shape \(9,\), not \(10,\)"):
        optimizer.set_z(torch.zeros(9))


@families
def test_deepcopy_goes_on_alone(name: str) -> None:
    net = nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 3))  # wide: some sums near 0
    optimizer = SubspaceOptimizer(net.parameters(), d=100, seed=3, projection=name, lr=0.05)
    for _ in range(12):
        train(net, optimizer)
        net_copy, optimizer_copy = copy.deepcopy((net, optimizer))
        before = flat(net)
        train(net_copy, optimizer_copy)
        assert torch.equal(flat(net), before)
    train(net, optimizer)
    assert torch.equal(flat(net), flat(net_copy))
    optimizer.__setstate__(optimizer.__getstate__())  # as unpickled: old addresses mean nothing
    assert optimizer._flat.touched()
    train(net, optimizer)
    assert not optimizer._flat.touched()


# --- saved state ------------------------------------------------------------------------------


def through_a_file(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@families
@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_saved_and_loaded_training_is_the_same_training(name: str, kind: str) -> None:
    cls, options = INNER[kind]

    def fresh() -> tuple[nn.Module, SubspaceOptimizer, Any]:
        net = network()
        groups = [
            {"params": net[0].parameters()},
            {"params": net[2].parameters(), "subspace": False},
        ]
        optimizer = SubspaceOptimizer(groups, cls, d=10, seed=3, projection=name, **options)
        return net, optimizer, lr_scheduler.LinearLR(optimizer, total_iters=5)

    net, optimizer, scheduler = fresh()
    for _ in range(3):
        train(net, optimizer)
        scheduler.step()
    saved = through_a_file([net.state_dict(), optimizer.state_dict(), scheduler.state_dict()])
    again, optimizer_again, scheduler_again = fresh()  # another theta_0
    for target, state in zip((again, optimizer_again, scheduler_again), saved, strict=True):
        target.load_state_dict(state)
    assert torch.equal(flat(net), flat(again))
    for _ in range(3):
        assert train(net, optimizer) == train(again, optimizer_again)
        scheduler.step()
        scheduler_again.step()
    assert torch.equal(flat(net), flat(again))
    assert torch.equal(optimizer.z, optimizer_again.z)


def test_lbfgs_state_is_saved() -> None:
    net = network()
    optimizer = SubspaceOptimizer(net.parameters(), torch.optim.LBFGS, d=10, seed=3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(X), Y)
        loss.backward()
        return loss

    optimizer.step(closure)
    saved = through_a_file(optimizer.state_dict())
    assert {t.numel() for t in tensors_in(saved["state"])} <= {1, 10}
    optimizer.load_state_dict(saved)


def test_state_of_another_subspace_is_refused() -> None:
    def state(**changes: Any) -> dict[str, Any]:
        options: dict[str, Any] = {"d": 10, "seed": 3, "projection": "hashed", **changes}
        return SubspaceOptimizer(network().parameters(), **options).state_dict()

    net = network()
    optimizer = SubspaceOptimizer(net.parameters(), d=10, seed=3)
    train(net, optimizer)
    before = flat(net)
    for changes, message in (
        ({"d": 11}, "d = 11, not 10"),
        ({"seed": 4}, "seed = 4, not 3"),
        ({"projection": "sparse"}, "projection = sparse, not hashed"),
    ):
        with pytest.raises(UsageError, match=message):
            optimizer.load_state_dict(state(**changes))
    with pytest.raises(UsageError, match="not saved by a SubspaceOptimizer"):
        optimizer.load_state_dict(torch.optim.Adam(net.parameters()).state_dict())
    assert torch.equal(flat(net), before)


# --- stable-baselines3, unmodified ------------------------------------------------------------

ALGORITHMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ppo": (PPO, {"n_steps": 32, "batch_size": 16, "n_epochs": 2}),
    "a2c": (A2C, {"n_steps": 8}),
    "dqn": (DQN, {"learning_starts": 16, "train_freq": 4, "target_update_interval": 20}),
}


def sb3_model(key: str, **changes: Any) -> Any:
    cls, options = ALGORITHMS[key]
    policy = {
        "optimizer_class": SubspaceOptimizer,
        "optimizer_kwargs": {"d": 20, "seed": 5, "lr_scale": 3.0, **changes},
        "net_arch": [16],
    }
    return cls(
        "MlpPolicy", "CartPole-v1", policy_kwargs=policy, seed=0, device="cpu", verbose=0, **options
    )


def trained_weights(key: str, model: Any) -> list[nn.Module]:
    return [model.q_net, model.q_net_target] if key == "dqn" else [model.policy]


@pytest.mark.parametrize("key", ALGORITHMS)
def test_sb3_trains_in_the_subspace(key: str) -> None:
    model = sb3_model(key)
    optimizer = model.policy.optimizer
    theta_0 = flat(trained_weights(key, model)[0])
    model.learn(100)
    A = matrix(optimizer.projection)
    for module in trained_weights(key, model):
        theta = flat(module)
        assert float((theta - theta_0).norm()) > 1e-3
        assert distance_to_span(theta, theta_0, A) < 1e-6
    assert torch.equal(optimizer.theta_0, theta_0)


@pytest.mark.parametrize("key", ALGORITHMS)
def test_sb3_loads_and_goes_on(key: str, tmp_path: Path) -> None:
    model = sb3_model(key)
    model.learn(100)
    model.save(tmp_path / "model.zip")
    loaded = type(model).load(tmp_path / "model.zip", env=model.env, device="cpu")
    one, two = model.policy.optimizer, loaded.policy.optimizer
    assert torch.equal(flat(model.policy), flat(loaded.policy))
    assert torch.equal(one.theta_0, two.theta_0)
    assert torch.equal(one.z, two.z)
    moments = [tensors_in(optimizer.state_dict()["state"]) for optimizer in (one, two)]
    assert len(moments[0]) >= 2
    for mine, its in zip(*moments, strict=True):
        assert torch.equal(mine, its)
    gradients = [torch.randn_like(p) for p in trained_weights(key, model)[0].parameters()]
    for m in (model, loaded):
        weights = trained_weights(key, m)[0].parameters()
        for p, g in zip(weights, gradients, strict=True):
            p.grad = g.clone()
        m.policy.optimizer.step()
    assert torch.equal(one.z, two.z)
    assert torch.equal(flat(model.policy), flat(loaded.policy))


def test_sb3_native_critic_is_scheduled_and_saved(tmp_path: Path) -> None:
    """The optimiser that an agent builds: actor in the subspace, critic in its native space."""
    model = sb3_model("ppo")
    policy = model.policy
    critic = {*policy.mlp_extractor.value_net.parameters(), *policy.value_net.parameters()}
    actor = [p for p in policy.parameters() if p not in critic]
    groups = [{"params": actor}, {"params": list(critic), "subspace": False}]
    policy.optimizer = SubspaceOptimizer(groups, d=20, seed=5, lr=1e-3, eps=1e-5)
    theta_0 = torch.cat([p.detach().flatten() for p in actor])
    before = torch.cat([p.detach().flatten() for p in critic])
    model.learn(64)
    theta = torch.cat([p.detach().flatten() for p in actor])
    after = torch.cat([p.detach().flatten() for p in critic])
    A = matrix(policy.optimizer.projection)
    assert distance_to_span(theta, theta_0, A) < 1e-6
    assert int((after != before).sum()) == len(before)
    assert [g["lr"] for g in policy.optimizer.param_groups] == [3e-4, 3e-4]
    assert len(through_a_file(policy.optimizer.state_dict())["state"]) == 1 + len(critic)


def test_a_saved_rate_is_the_task_s_own() -> None:
    """Not multiplied by lr_scale, which `load_state_dict` would apply to it a second time."""
    net = network()
    optimizer = SubspaceOptimizer(net.parameters(), d=5, seed=0, lr=0.01, lr_scale=3.0)
    train(net, optimizer)
    assert optimizer.inner.param_groups[0]["lr"] == pytest.approx(0.03)
    assert optimizer.state_dict()["param_groups"][0]["lr"] == 0.01
