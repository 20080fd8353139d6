"""Parameters as views of one flat buffer, and parameter groups in one form."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .errors import UsageError

Group = dict[str, Any]


class FlatParameters:
    """Parameters that are views of one flat buffer `values` (D,), in the order given."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        """Raise UsageError unless all parameters share one device and floating-point dtype."""
        self.params = params
        self.bind(self.gather())

    def gather(self) -> Tensor:
        """The parameters' present values, wherever they are, as a new (D,) tensor."""
        kinds = sorted({f"{p.dtype} on {p.device}" for p in self.params})
        if len(kinds) != 1 or not self.params[0].is_floating_point():
            raise UsageError(
                f"parameters in a subspace must share one floating-point dtype and one device, "
                f"not {', '.join(kinds)}; mark others with the group option subspace=False"
            )
        return torch.cat([p.detach().reshape(-1) for p in self.params])

    def bind(self, values: Tensor) -> None:
        """Make every parameter a view of `values` (D,)."""
        self.values = values
        sizes = [p.numel() for p in self.params]
        for p, part in zip(self.params, torch.split(values, sizes), strict=True):
            p.data = part.view(p.shape)
        self.written()

    def written(self) -> None:
        """Note that `values` changed: as after any in-place write, older graphs are void."""
        torch.autograd.graph.increment_version(self.params)
        self._marks = [(p.data_ptr(), p._version) for p in self.params]

    def touched(self) -> bool:
        """Whether anyone else moved (`module.to`) or wrote (`load_state_dict`) a parameter.

        Compares addresses and version counters only: no device is waited for.
        """
        return self._marks != [(p.data_ptr(), p._version) for p in self.params]

    def forget(self) -> None:
        """Distrust the addresses: after a copy or in another process they mean nothing."""
        self._marks = []

    def gradients(self) -> list[Tensor] | None:
        """Flat gradients whose concatenation is (D,), a missing one as zeros; None if all miss."""
        if all(p.grad is None for p in self.params):
            return None
        return [
            torch.zeros_like(p).view(-1) if p.grad is None else p.grad.reshape(-1)
            for p in self.params
        ]


def as_groups(params: Iterable[Any], lr_scale: float) -> list[Group]:
    """Own copies of the groups, with options `subspace` and `lr_scale`, trainable tensors once."""
    items = list(params)
    groups = items if items and isinstance(items[0], dict) else [{"params": items}]
    return [_as_group(group, lr_scale) for group in groups]


def _as_group(group: Group, lr_scale: float) -> Group:
    tensors = [group["params"]] if isinstance(group["params"], Tensor) else group["params"]
    tensors = [item[1] if isinstance(item, tuple) else item for item in tensors]
    trainable = list({id(p): p for p in tensors if p.requires_grad}.values())
    subspace = bool(group.get("subspace", True))
    scale = lr_scale if subspace else 1.0
    return {"lr_scale": scale, **group, "params": trainable, "subspace": subspace}
