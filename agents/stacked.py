"""One architecture under many parameter vectors: K networks in one batched forward pass."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

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
    """The named layers, in the order of use, of a fully connected network; else None.

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
    return type(layer) in (nn.Linear, nn.Tanh, nn.ReLU)


def chained(layers: Layers, parameters: Stack, inputs: Tensor) -> Tensor:
    """`vmapped` for such layers, 7 times faster: 45 us for 12 policies of 4-64-64-2, not 300."""
    x = inputs  # (K, E, ...)
    for name, layer in layers:
        if isinstance(layer, nn.Linear):
            weight = parameters[f"{name}.weight"].mT  # (K, in, out)
            bias = parameters.get(f"{name}.bias")  # (K, out)
            rows = x.flatten(1, -2)  # (K, E * ..., in)
            rows = rows @ weight if bias is None else torch.baddbmm(bias[:, None], rows, weight)
            x = rows.reshape(*x.shape[:-1], -1)
        else:
            x = x.flatten(2) if isinstance(layer, nn.Flatten) else layer(x)
    return x  # (K, E, n)
