"""A step in the subspace on a device: nothing waits for it, and a CUDA graph can hold it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from difficulty_bench.projection import NAMES
from difficulty_bench.subspace import SubspaceOptimizer

families = pytest.mark.parametrize("name", NAMES)
pytestmark = pytest.mark.usefixtures("seeded")
X, Y = torch.randn(32, 6, generator=torch.Generator().manual_seed(1)), torch.arange(32) % 3


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def step(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> Tensor:
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
    return loss.detach()


class Waits(TorchDispatchMode):
    """Collects the operations that bring a device's number to the host, or need one there."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in (
            "_local_scalar_dense",
            "equal",
            "nonzero",
            "is_nonzero",
        ):
            self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@families
@pytest.mark.parametrize("lr", [0.05, torch.tensor(0.05)])
def test_a_step_reads_no_number_back(name: str, lr: Any) -> None:
    """With the options that CUDA gets by default; the CPU has fused optimisers too."""
    net = network()
    optimizer = SubspaceOptimizer(
        net.parameters(), d=10, seed=3, projection=name, lr=lr, fused=True, lr_scale=2.0
    )
    step(net, optimizer, X, Y)  # the first may prepare
    with Waits() as waits:
        step(net, optimizer, X, Y)
    assert waits.seen == []
    with Waits() as waits:
        float(optimizer.z.sum())
    assert waits.seen == ["aten._local_scalar_dense.default"]


def test_a_tensor_lr_is_a_schedule_that_a_graph_sees() -> None:
    def trained(lr: Any) -> Tensor:
        torch.manual_seed(0)
        net = network()
        optimizer = SubspaceOptimizer(net.parameters(), d=10, seed=3, lr=lr, fused=True, lr_scale=3)
        for _ in range(4):
            step(net, optimizer, X, Y)
            for group in optimizer.param_groups:
                group["lr"] *= 0.5  # in place where it is a tensor
        return optimizer.z

    torch.testing.assert_close(trained(0.05), trained(torch.tensor(0.05)))


def test_saved_state_does_not_bring_its_device_along() -> None:
    """As from a GPU, whose fused optimiser keeps its step counter there."""
    net, other = network(), network()
    one = SubspaceOptimizer(net.parameters(), d=10, seed=3, lr=0.05, fused=True)
    for _ in range(3):
        step(net, one, X, Y)
    two = SubspaceOptimizer(other.parameters(), d=10, seed=3, lr=0.01)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    assert two.param_groups[0]["fused"] is None
    assert two.param_groups[0]["lr"] == 0.05
    step(net, one, X, Y)
    step(other, two, X, Y)
    torch.testing.assert_close(one.z, two.z)


def test_on_a_cpu_torch_chooses_how_to_step() -> None:
    assert SubspaceOptimizer(network().parameters(), d=10, seed=3).inner.defaults["fused"] is None


def test_half_precision_in_the_network_leaves_z_in_float32() -> None:
    """bf16 by autocast: gradients, P^T g, Adam and P z stay float32, and training goes as well."""
    losses = []
    for enabled in (False, True):
        torch.manual_seed(0)
        net = network()
        optimizer = SubspaceOptimizer(net.parameters(), d=40, seed=3, lr=0.05)
        for _ in range(60):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(net(X).float(), Y)
            loss.backward()
            optimizer.step()
        assert optimizer.z.dtype == torch.float32
        losses.append(float(loss.detach()))
    assert losses[0] < 0.8
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


# --- on a GPU ---------------------------------------------------------------------------------


@pytest.mark.gpu
@families
def test_a_step_on_cuda_does_not_synchronise(name: str) -> None:
    net = network().cuda()
    x, y = X.cuda(), Y.cuda()
    optimizer = SubspaceOptimizer(net.parameters(), d=10, seed=3, projection=name, lr=0.05)
    assert optimizer.inner.defaults["fused"]
    assert optimizer.inner.defaults["capturable"]
    step(net, optimizer, x, y)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(net, optimizer, x, y)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@families
@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_captured_step_replays_with_equal_results(name: str, as_tensor: bool) -> None:
    x, y = X.cuda(), Y.cuda()

    def fresh() -> tuple[nn.Module, SubspaceOptimizer]:
        torch.manual_seed(0)
        net = network().cuda()
        lr = torch.tensor(0.05, device="cuda") if as_tensor else 0.05
        return net, SubspaceOptimizer(net.parameters(), d=10, seed=3, projection=name, lr=lr)

    net, optimizer = fresh()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # as torch's documentation asks before a capture
        for _ in range(3):
            step(net, optimizer, x, y)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(net, optimizer, x, y)
    other, eager = fresh()
    for _ in range(3):
        step(other, eager, x, y)
    for k in range(5):
        if as_tensor and k == 2:
            optimizer.param_groups[0]["lr"].mul_(0.1)
            eager.param_groups[0]["lr"].mul_(0.1)
        graph.replay()
        step(other, eager, x, y)
        torch.testing.assert_close(optimizer.z, eager.z, atol=1e-6, rtol=1e-5)
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-5)
    optimizer.step()  # the host's bookkeeping still fits what the graph has done
    assert optimizer.state_dict()["subspace"]["z"].isfinite().all()
