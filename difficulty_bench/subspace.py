"""Training in a random subspace by any torch optimiser (without gradients: `coordinates.py`).

    optimizer = SubspaceOptimizer(network.parameters(), d=300, seed=1, lr=1e-3)

replaces `torch.optim.Adam(network.parameters(), lr=1e-3)`; the rest of a training loop stays. The
parameters move on theta = theta_0 + P z (Li et al. 2018): a step gathers the native gradient g,
gives z the gradient P^T g, lets an ordinary torch optimiser step z in R^d, and writes theta_0 + P z
into the parameters. P is linear, so this is exactly training of z by the chain rule.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from .errors import UsageError
from .flat import FlatParameters, Group, as_groups
from .projection import make

_HOW = ("fused", "foreach", "capturable", "differentiable")  # torch's options on how, not what


class SubspaceOptimizer(Optimizer):
    """Any torch optimiser, moving the parameters inside a random subspace only.

    `params` is what torch optimisers take: parameters or groups. Parameters without
    `requires_grad` are left alone. Exactly one group lies in the subspace, all its tensors under
    one P; groups with `subspace: False` (the critic of an actor-critic method) are stepped
    natively by the same optimiser class. A group's `lr_scale` (default: the argument for the
    subspace, 1 for the others) is a factor on its `lr`, so that a schedule that writes one lr into
    all groups still steps z by another: sqrt(D/d) makes a step in z as long as a native one.

    On CUDA, an inner optimiser that has the options `fused` and `capturable` gets both (unless the
    caller sets one): a step is then a few kernels, waits for nothing, and can be captured in a
    CUDA graph after one step outside. A graph replays the lr it was captured with, unless lr is a
    tensor, which schedules then write in place.

    `inner_kwargs` (eps, betas, momentum, ...) go to `inner`. Its state lives in R^d; so does what
    it does to its parameters: weight_decay here decays z, not theta.

    A parameter frozen later (`requires_grad_(False)`) still moves with P z. Weights written in
    place from outside become the new theta_0 while z is 0; later they are an error, since they
    would leave the subspace, unless `load_state_dict` of this optimiser follows. (Writes through
    `parameter.data` cannot be seen, and the next step overwrites them.)

    Raises UsageError for d outside 1..D, an unknown projection, no or several subspace groups.
    """

    def __init__(
        self,
        params: Iterable[Any],
        inner: type[Optimizer] = torch.optim.Adam,
        *,
        d: int,
        seed: int,
        projection: str = "hashed",
        lr_scale: float = 1.0,
        **inner_kwargs: Any,
    ) -> None:
        groups = as_groups(params, lr_scale)
        inside = [group for group in groups if group["subspace"]]
        if len(inside) != 1:
            raise UsageError(
                f"{len(inside)} parameter groups in the subspace, where one z has one group: join "
                "them, or mark groups that train natively with the option subspace=False"
            )
        self._flat = FlatParameters(inside[0]["params"])
        self._theta_0 = self._flat.values.clone()  # (D,)
        self.projection = make(projection, len(self._theta_0), d, seed)
        self.projection.to(self._theta_0.device, self._theta_0.dtype)
        self._z = nn.Parameter(self._theta_0.new_zeros(self.projection.d))  # (d,)
        options = {**_fast_options(inner, groups, inner_kwargs), **inner_kwargs}
        self.inner = inner([self._inner_group(group) for group in groups], **options)
        super().__init__(groups, dict(self.inner.defaults))
        self.state = self.inner.state

    @property
    def z(self) -> Tensor:
        """The trained coordinates (d,), a view without gradient: write with `set_z`."""
        return self._z.detach()

    @property
    def theta_0(self) -> Tensor:
        """The point (D,) where training started, in the order of the parameters."""
        self._settle()
        return self._theta_0

    @torch.no_grad()
    def set_z(self, z: Tensor) -> None:
        """Put the parameters at theta_0 + P z, for z of shape (d,)."""
        if z.shape != self._z.shape:
            raise UsageError(f"z has shape {tuple(z.shape)}, not {tuple(self._z.shape)}")
        self._settle()
        self._z.copy_(z)
        self._write()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the inner optimiser in z, then theta = theta_0 + P z.

        `closure`, where the inner optimiser needs one (LBFGS), sees the parameters at
        theta_0 + P z for every z that the inner optimiser tries.
        """
        self._settle()
        self._pass_on_options()
        if closure is None:
            self._pull_gradient()
            loss = self._step_inner()
        else:
            loss = self._step_inner(lambda: self._evaluate(closure))
        self._write()
        return loss

    def add_param_group(self, param_group: Group) -> None:
        """Add a native group later; the subspace is fixed when the optimiser is built."""
        if len(self.param_groups) == len(self.inner.param_groups):
            (param_group,) = as_groups([param_group], 1.0)
            if param_group["subspace"]:
                raise UsageError("a subspace takes no further parameters; use subspace=False")
            self.inner.add_param_group(self._inner_group(param_group))
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only, so that `torch.load(weights_only=True)` reads it."""
        self._settle()
        self._pass_on_options()
        packed = self.inner.state_dict()
        for own, group in zip(self.param_groups, packed["param_groups"], strict=True):
            group.update(lr=own["lr"])
        points = {"z": self.z, "theta_0": self._theta_0}
        return {**packed, "subspace": {**self.projection.identity, **points}}

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore z, theta_0, moments and options, and put the parameters at theta_0 + P z.

        How a step is computed (fused, ...) stays as here: the state may come from another device.
        Raises UsageError, and changes nothing, where the state is of another subspace.
        """
        saved = _subspace_of(state_dict, self.projection.identity)
        groups = [
            {**group, **{key: own[key] for key in _HOW if key in own}}
            for group, own in zip(state_dict["param_groups"], self.param_groups, strict=False)
        ]
        self.inner.load_state_dict({"state": state_dict["state"], "param_groups": groups})
        for own, group in zip(self.param_groups, self.inner.param_groups, strict=True):
            own.update(group, params=own["params"])
        if self._flat.touched():
            self._follow(self._flat.gather())
        self.state = self.inner.state
        self._z.copy_(saved["z"])
        self._theta_0.copy_(saved["theta_0"])
        self._write()

    def _inner_group(self, group: Group) -> Group:
        return {**group, "params": [self._z] if group["subspace"] else group["params"]}

    def _pass_on_options(self) -> None:
        """Give the inner groups what schedulers and users wrote into the outer ones."""
        for own, group in zip(self.param_groups, self.inner.param_groups, strict=True):
            group.update(own, params=group["params"], lr=own["lr"] * own["lr_scale"])

    def _step_inner(self, closure: Callable[[], Any] | None = None) -> Any:
        """The inner step without torch's wrapper for hooks and profiling.

        Hooks run once, on this object; and a wrapper costs 2% of a step of a small network.
        """
        step = type(self.inner).step
        if getattr(step, "hooked", False):  # so marked by Optimizer.__init__
            step = getattr(step, "__wrapped__", step)
        return step(self.inner, closure)

    def _pull_gradient(self) -> None:
        parts = self._flat.gradients()
        self._z.grad = None if parts is None else self.projection.pull(parts)

    def _write(self) -> None:
        self.projection.shift(self._theta_0, self._z, out=self._flat.values)
        self._flat.written()

    @torch.no_grad()
    def _evaluate(self, closure: Callable[[], Any]) -> Any:
        self._write()
        with torch.enable_grad():
            loss = closure()
        self._pull_gradient()
        return loss

    @torch.no_grad()
    def _settle(self) -> None:
        """Follow parameters that were moved; take or refuse values that were written."""
        if not self._flat.touched():
            return
        current = self._flat.gather()  # (D,)
        # as `_write` computes them: beside a sum near 0, other roundings are no longer close
        expected = self.projection.shift(self._theta_0, self._z, torch.empty_like(self._theta_0))
        written = not torch.allclose(current, expected.to(current), equal_nan=True)
        if written and self._z.any():
            raise UsageError(
                "parameters in the subspace were overwritten from outside during training: load "
                "this optimiser's state_dict with the weights, or build a new SubspaceOptimizer"
            )
        self._follow(current)
        if written:
            self._theta_0.copy_(current)
        self._write()

    def _follow(self, current: Tensor) -> None:
        """Move theta_0, z, P and moments to the device and dtype of `current` (D,), and rebind."""
        self._theta_0 = self._theta_0.to(current, copy=True)
        self.projection.to(current.device, current.dtype)
        self._z.grad = None
        self._z.data = self._z.data.to(current)
        if not current.is_cuda:  # elsewhere torch refuses what `_fast_options` asked for
            for group in (*self.param_groups, *self.inner.param_groups):
                if "capturable" in group:
                    group["capturable"] = False
        self.inner.load_state_dict(self.inner.state_dict())  # casts moments to their parameter
        self.state = self.inner.state
        self._flat.bind(current)

    def __getstate__(self) -> dict[str, Any]:
        own = ("inner", "projection", "_flat", "_theta_0", "_z")
        return {**super().__getstate__(), **{key: self.__dict__[key] for key in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._flat.forget()


def _fast_options(
    inner: type[Optimizer], groups: list[Group], given: Mapping[str, Any]
) -> dict[str, bool]:
    """One kernel a step, and no step counter on the host, where all parameters are on CUDA."""
    if any(key in given for key in _HOW) or not all(p.is_cuda for g in groups for p in g["params"]):
        return {}
    known = inspect.signature(inner).parameters
    return {key: True for key in ("fused", "capturable") if key in known}


def _subspace_of(state_dict: Mapping[str, Any], identity: Mapping[str, Any]) -> Mapping[str, Any]:
    saved: Mapping[str, Any] | None = state_dict.get("subspace")
    if saved is None:
        raise UsageError("this optimiser state was not saved by a SubspaceOptimizer")
    wrong = [f"{k} = {saved.get(k)}, not {v}" for k, v in identity.items() if saved.get(k) != v]
    if wrong:
        raise UsageError(f"this optimiser state is of another subspace: {'; '.join(wrong)}")
    return saved
