"""Networks, at theta_0: `f(input_shape, output_size, *, keys) -> nn.Module`.

Every network takes float rows (B, *input_shape) and gives (B, output_size); its keyword-only
parameters are the keys of `network:` in tasks.yaml. Weights are drawn from torch's global
generator, which the caller seeds.

Batch norm is off by default: its running statistics are buffers, not parameters, so they lie
outside theta, a solution (seed, z) does not hold them, and such a one is refused.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn

from difficulty_bench.errors import UsageError

Init = Literal["he_normal", "orthogonal", "torch"]

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


def mlp(
    input_shape: tuple[int, ...],
    output_size: int,
    *,
    width: PositiveInt = 200,
    depth: NonNegativeInt = 2,
    activation: Literal["relu", "tanh"] = "relu",
    init: Init = "he_normal",
) -> nn.Module:
    """Fully connected, `depth` hidden layers of `width` units; images are flattened."""
    sizes = [math.prod(input_shape), *[width] * depth]
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[activation]()]
    return initialise(nn.Sequential(*layers, nn.Linear(sizes[-1], output_size)), init)


def linear(
    input_shape: tuple[int, ...], output_size: int, *, init: Init = "he_normal"
) -> nn.Module:
    """One linear map without bias: D = inputs * outputs exactly."""
    layer = nn.Linear(math.prod(input_shape), output_size, bias=False)
    return initialise(nn.Sequential(nn.Flatten(), layer), init)


def lenet(input_shape: tuple[int, ...], output_size: int, *, init: Init = "he_normal") -> nn.Module:
    """conv 5x5x6 valid, max-pool 2, conv 5x5x16, max-pool 2, FC 120, 84 (LeCun et al. 1998).

    Raise UsageError unless the input is an image of at least 16 x 16.
    """
    channels, height, width = _image(input_shape, "lenet", smallest=16)
    rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, width))
    network = nn.Sequential(
        *(nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        *(nn.Linear(16 * rows * columns, 120), nn.ReLU()),
        *(nn.Linear(120, 84), nn.ReLU()),
        nn.Linear(84, output_size),
    )
    return initialise(network, init)


def nature_cnn(
    input_shape: tuple[int, ...], output_size: int, *, init: Init = "orthogonal"
) -> nn.Module:
    """conv 32 8x8/4, 64 4x4/2, 64 3x3/1, all valid, FC 512 (Mnih et al. 2015)."""
    channels, height, width = _image(input_shape, "nature_cnn", smallest=36)
    rows, columns = (((side - 4) // 4 - 2) // 2 - 2 for side in (height, width))
    network = nn.Sequential(
        *(nn.Conv2d(channels, 32, 8, stride=4), nn.ReLU()),
        *(nn.Conv2d(32, 64, 4, stride=2), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3), nn.ReLU()),
        nn.Flatten(),
        *(nn.Linear(64 * rows * columns, 512), nn.ReLU()),
        nn.Linear(512, output_size),
    )
    return initialise(network, init)


def li2018_cnn(
    input_shape: tuple[int, ...],
    output_size: int,
    *,
    batch_norm: bool = False,
    init: Init = "he_normal",
) -> nn.Module:
    """conv 16 8x8/4, conv 32 4x4/2, both padded `same`, FC 256: Li et al.'s network for Pong.

    With `batch_norm` after each hidden layer, as published, D = 1,005,974 for 4 x 84 x 84 and 6
    outputs (see the module's docstring for what batch norm costs); without, 1,005,366.
    """
    channels, height, width = _image(input_shape, "li2018_cnn", smallest=1)
    first = math.ceil(height / 4), math.ceil(width / 4)
    rows, columns = (math.ceil(side / 2) for side in first)
    norm2d, norm1d = (nn.BatchNorm2d, nn.BatchNorm1d) if batch_norm else (None, None)
    network = nn.Sequential(
        *same_conv((height, width), channels, 16, kernel=8, stride=4),
        *([norm2d(16)] if norm2d else []),
        *(nn.ReLU(), *same_conv(first, 16, 32, kernel=4, stride=2)),
        *([norm2d(32)] if norm2d else []),
        *(nn.ReLU(), nn.Flatten(), nn.Linear(32 * rows * columns, 256)),
        *([norm1d(256)] if norm1d else []),
        *(nn.ReLU(), nn.Linear(256, output_size)),
    )
    return initialise(network, init)


def same_conv(
    sides: tuple[int, int], channels: int, filters: int, *, kernel: int, stride: int
) -> list[nn.Module]:
    """Layers for images of `sides` (H, W), padded so that each side gives ceil(side / stride).

    An odd number of zeros puts the larger half below and to the right, as TensorFlow does;
    torch's own `padding="same"` refuses strides. The convolution itself pads what is even: a
    padded copy of 256 frames costs as much as the convolution.
    """
    totals = [max((math.ceil(s / stride) - 1) * stride + kernel - s, 0) for s in sides]
    below, right = (total % 2 for total in totals)
    padding = (totals[0] // 2, totals[1] // 2)
    convolution = nn.Conv2d(channels, filters, kernel, stride=stride, padding=padding)
    return [*([nn.ZeroPad2d((0, right, 0, below))] if below or right else []), convolution]


def initialise(network: nn.Module, init: Init) -> nn.Module:
    """Draw kernels in place, zero the biases; return `network`.

    `he_normal`: N(0, 2 / fan_in) (He et al. 2015). `orthogonal`: gain sqrt(2), and 0.01 on the
    output layer, so that a policy starts near uniform (PPO's usual choice). `torch`: leave
    torch's default U(-1, 1) / sqrt(fan_in), biases too.
    """
    if init == "torch":
        return network
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    with torch.no_grad():
        for layer in layers:
            if init == "he_normal":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            else:
                gain = 0.01 if layer is layers[-1] else math.sqrt(2)
                nn.init.orthogonal_(layer.weight, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


def _image(shape: tuple[int, ...], network: str, smallest: int) -> tuple[int, int, int]:
    """(C, H, W), or UsageError where `shape` is no image or one too small for the network."""
    if len(shape) != 3:
        raise UsageError(
            f"network '{network}' takes images (channels, height, width), not inputs of shape "
            f"{shape}; use 'agents.networks:mlp'"
        )
    channels, height, width = shape
    if min(height, width) < smallest:
        raise UsageError(
            f"network '{network}' needs images of at least {smallest} x {smallest}, not "
            f"{height} x {width}; use 'agents.networks:mlp'"
        )
    return channels, height, width


def channels_last(x: Tensor) -> Tensor:
    """Images (B, C, H, W) laid out as B, H, W, C, the faster one for convolutions; else `x`.

    `contiguous(memory_format=...)` would leave one channel as it is, and with it every
    activation behind it (LeNet on MNIST, one core: 7.9 -> 7.5 ms a step; CIFAR-10: 14.9 -> 14.1).
    """
    if x.ndim != 4:
        return x
    batch, channels, height, width = x.shape
    laid_out = x.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)
    return laid_out.copy_(x)
