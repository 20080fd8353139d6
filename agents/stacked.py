"""One architecture under many parameter vectors: K networks in one batched forward pass."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

Stack = dict[str, Tensor]  # parameters by name, each with the networks as leading index (K, ...)
Forward = Callable[[Stack, Tensor], Tensor]
Layers = list[tuple[str, nn.Module]]


class StackedNetwork:
    """`network` as it is now, in training or evaluation mode, but for its trainable parameters."""

    def __init__(self, network: nn.Module) -> None:
        self.shapes = {n: p.shape for n, p in network.named_parameters() if p.requires_grad}
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        layers = chain(network)
        self._forward = vmapped(network) if layers is None else partial(chained, layers)

    def bind(self, thetas: Tensor) -> Callable[[Tensor], Tensor]:
        """For thetas (K, D), in the network's order: inputs (K, B, ...) -> outputs (K, B, n)."""
        parts = torch.split(thetas, self.sizes, dim=1)
        named = zip(self.shapes.items(), parts, strict=True)
        parameters = {name: part.reshape(-1, *shape) for (name, shape), part in named}
        return partial(self._forward, parameters)


def vmapped(network: nn.Module) -> Forward:
    """The batched forward pass of any network."""
    network = copy.deepcopy(network)  # one that uses a module twice does not get its tensors back

    def forward(parameters: Stack, inputs: Tensor) -> Tensor:
        output: Tensor = functional_call(network, parameters, (inputs,))
        return output

    return vmap(forward)


def chain(network: nn.Module) -> Layers | None:
    """The named layers, in the order of use, of a network of plain ones in a row; else None.

    All its parameters train, none is another's, and every layer does what torch's class of that
    name does.
    """
    if type(network) is not nn.Sequential or not all(map(is_plain, network)):
        return None
    layers = list(network._modules.items())  # `named_children` names a layer used twice once
    own = [p for layer in network for p in layer.parameters()]
    apart = len(own) == len(list(network.parameters()))
    return layers if apart and all(p.requires_grad for p in own) else None


def is_plain(layer: nn.Module) -> bool:
    if layer._forward_hooks or layer._forward_pre_hooks:
        return False
    if type(layer) is nn.Flatten:
        return (layer.start_dim, layer.end_dim) == (1, -1)
    if type(layer) is nn.Conv2d:
        plain = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return plain and layer.groups == 1 and layer.dilation == (1, 1)
    return type(layer) in (nn.Linear, nn.MaxPool2d, nn.Tanh, nn.ReLU)


def chained(layers: Layers, parameters: Stack, inputs: Tensor) -> Tensor:
    """`vmapped` for such layers, 7 times faster: 45 us for 12 policies of 4-64-64-2, not 300."""
    x = inputs  # (K, E, ...)
    for name, layer in layers:
        bias = parameters.get(f"{name}.bias")  # (K, out)
        if isinstance(layer, nn.Linear):
            weight = parameters[f"{name}.weight"]  # (K, out, in)
            x = affine(x.flatten(1, -2), weight, bias).reshape(*x.shape[:-1], -1)
        elif isinstance(layer, nn.Conv2d):
            weight = parameters[f"{name}.weight"]  # (K, out, in, rows, columns)
            x = (by_patches if x.is_cuda else by_groups)(layer, x, weight, bias)
        elif isinstance(layer, nn.MaxPool2d):
            x = layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        else:
            x = x.flatten(2) if isinstance(layer, nn.Flatten) else layer(x)
    return x  # (K, E, n)


def affine(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """rows (K, R, in), weight (K, out, in), bias (K, out) or None -> (K, R, out)."""
    return rows @ weight.mT if bias is None else torch.baddbmm(bias[:, None], rows, weight.mT)


def by_groups(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve x (K, E, C, H, W) as images of K * C channels in K groups."""
    K = len(x)
    images = x.transpose(0, 1).flatten(1, 2)  # (E, K * C, H, W)
    outputs = F.conv2d(
        images,
        weight.flatten(0, 1),
        None if bias is None else bias.flatten(),
        stride=layer.stride,
        padding=layer.padding,
        groups=K,
    )
    return outputs.view(len(images), K, -1, *outputs.shape[2:]).transpose(0, 1)


def by_patches(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same as one matrix product a network, over what the kernel covers at each place.

    Faster on a GPU, which many groups leave idle, and slower on a CPU, which they do not.
    """
    below, beside = map(int, layer.padding)
    patches = F.pad(x, (beside, beside, below, below)) if below or beside else x
    for axis in (0, 1):
        patches = patches.unfold(3 + axis, layer.kernel_size[axis], layer.stride[axis])
    K, E, _, H, W = patches.shape[:5]
    # In parts, or the kernels' gradient would be one long sum a network, which fills no GPU.
    parts = math.gcd(E, 16)
    inputs = patches.permute(0, 1, 3, 4, 2, 5, 6).reshape(K, parts, E // parts * H * W, -1)
    kernels = weight.flatten(2).mT[:, None]  # (K, 1, C * rows * columns, out)
    outputs = (inputs @ kernels).view(K, E, H, W, -1)
    if bias is not None:
        outputs = outputs + bias[:, None, None, None]
    return outputs.permute(0, 1, 4, 2, 3)
