"""Networks: D to the last parameter, shapes, and the statistics of theta_0."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from agents import networks
from difficulty_bench.errors import UsageError
from difficulty_bench.problem import count_parameters

SIZES = [
    (networks.mlp, (1, 28, 28), 10, {}, 199_210),
    (networks.lenet, (1, 28, 28), 10, {}, 44_426),
    (networks.mlp, (3, 32, 32), 10, {}, 656_810),
    (networks.lenet, (3, 32, 32), 10, {}, 62_006),
    (networks.mlp, (1, 28, 28), 10, {"width": 400, "depth": 5}, 959_610),
    (networks.mlp, (4,), 2, {"width": 64, "activation": "tanh"}, 4_610),
    (networks.mlp, (4,), 2, {"width": 20}, 562),
    (networks.mlp, (4,), 2, {"depth": 0}, 10),
    (networks.linear, (1000,), 1, {}, 1000),
    (networks.li2018_cnn, (4, 84, 84), 6, {"batch_norm": True}, 1_005_974),
    (networks.li2018_cnn, (4, 84, 84), 6, {}, 1_005_366),
    (networks.nature_cnn, (4, 84, 84), 6, {"init": "torch"}, 1_687_206),
]


@pytest.mark.parametrize(("make", "shape", "outputs", "keys", "expected"), SIZES)
def test_d_and_output_shape(
    make: Callable[..., nn.Module],
    shape: tuple[int, ...],
    outputs: int,
    keys: dict[str, Any],
    expected: int,
) -> None:
    network = make(shape, outputs, **keys)
    assert count_parameters(network) == expected
    assert network.eval()(torch.zeros(3, *shape)).shape == (3, outputs)


@pytest.mark.parametrize(("make", "shape", "outputs", "keys", "_"), SIZES)
def test_seed_decides_the_weights_and_only_batch_norm_has_buffers(
    make: Callable[..., nn.Module],
    shape: tuple[int, ...],
    outputs: int,
    keys: dict[str, Any],
    _: int,
) -> None:
    torch.manual_seed(3)
    one = make(shape, outputs, **keys)
    torch.manual_seed(3)
    two = make(shape, outputs, **keys)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert bool(list(one.buffers())) == keys.get("batch_norm", False)


@pytest.mark.parametrize("make", [networks.lenet, networks.nature_cnn, networks.li2018_cnn])
def test_convolutional_networks_refuse_what_is_no_image(make: Callable[..., nn.Module]) -> None:
    with pytest.raises(UsageError, match=r"takes images.*\(64,\)"):
        make((64,), 10)


def test_lenet_refuses_a_small_image() -> None:
    with pytest.raises(UsageError, match="at least 16 x 16, not 8 x 8"):
        networks.lenet((1, 8, 8), 10)
    assert networks.lenet((1, 16, 16), 10)(torch.zeros(2, 1, 16, 16)).shape == (2, 10)


def _layers(network: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    return [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]


def test_he_normal_has_variance_two_over_fan_in_and_zero_biases() -> None:
    torch.manual_seed(0)
    for network in (networks.mlp((1, 28, 28), 200), networks.lenet((3, 32, 32), 200)):
        for layer in _layers(network):
            n, fan_in = layer.weight.numel(), layer.weight[0].numel()
            ratio = float(layer.weight.detach().square().mean()) * fan_in / 2
            assert abs(ratio - 1) < 5 * math.sqrt(2 / n)  # a chi-squared mean, five deviations
            assert layer.bias is not None
            assert not layer.bias.any()


def test_orthogonal_layers_have_gain_sqrt_2_and_a_small_output() -> None:
    *hidden, last = _layers(networks.mlp((64,), 6, width=64, init="orthogonal"))
    for layer in hidden:
        product = layer.weight @ layer.weight.T
        torch.testing.assert_close(product, 2 * torch.eye(len(product)), atol=1e-5, rtol=0)
    product = last.weight @ last.weight.T
    torch.testing.assert_close(product, 1e-4 * torch.eye(6), atol=1e-9, rtol=0)


def test_torch_init_is_torchs_own() -> None:
    torch.manual_seed(0)
    network = networks.linear((30,), 4, init="torch")
    torch.manual_seed(0)
    assert torch.equal(_layers(network)[0].weight, nn.Linear(30, 4, bias=False).weight)


def test_the_output_is_linear_and_hidden_units_are_not() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 7)
    shallow, deep = networks.mlp((7,), 3, depth=0), networks.mlp((7,), 3, depth=1)
    torch.testing.assert_close(shallow(-x), -shallow(x))  # biases are zero
    assert not torch.allclose(deep(-x), -deep(x))


@pytest.mark.parametrize(("kernel", "stride"), [(8, 4), (4, 2), (3, 3), (2, 3)])
@pytest.mark.parametrize("sides", [(84, 84), (21, 21), (7, 8), (22, 23)])
def test_same_conv_pads_as_tensorflow_does(
    sides: tuple[int, int], kernel: int, stride: int
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, *sides)
    layers = networks.same_conv(sides, 3, 5, kernel=kernel, stride=stride)
    outputs = nn.Sequential(*layers)(x)
    assert outputs.shape[2:] == tuple(math.ceil(side / stride) for side in sides)

    pads: list[int] = []
    for side, count in zip(reversed(sides), reversed(outputs.shape[2:]), strict=True):
        total = max((count - 1) * stride + kernel - side, 0)
        pads += [total // 2, total - total // 2]  # an odd one more after than before
    convolution = layers[-1]
    assert isinstance(convolution, nn.Conv2d)
    expected = nn.functional.conv2d(
        nn.functional.pad(x, pads), convolution.weight, convolution.bias, stride=stride
    )
    torch.testing.assert_close(outputs, expected)
