"""Supervised training of K trials in one program; `agents.supervised` says what it must equal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import vmap

from difficulty_bench.context import Diverged, Interrupted, TimedOut, TrialContext
from difficulty_bench.problem import SupervisedProblem
from difficulty_bench.projection import Stacked
from difficulty_bench.together import NotTogether

from .captured import CapturedStep, repeats, set_rates
from .stacked import StackedNetwork


class Networks:
    """K networks of one architecture, each with its own theta_0, P, coordinates and step size.

    All parameters are one tensor theta (K, D), all coordinates one vector z. The optimiser steps
    y, with z = lr_scale_k y for trial k: steps of Adam and SGD are proportional to their lr, so
    one lr steps every z by its own.
    """

    def __init__(
        self,
        problem: SupervisedProblem,
        networks: Sequence[nn.Module],
        contexts: Sequence[TrialContext],
        l2: float,
    ) -> None:
        self.problem, device = problem, contexts[0].device
        self.coordinates = [
            context.coordinates(network.parameters())
            for context, network in zip(contexts, networks, strict=True)
        ]
        self.theta_0 = torch.stack([own.theta_0 for own in self.coordinates])  # (K, D)
        self.P = Stacked([own.projection for own in self.coordinates])
        scales = torch.tensor([context.lr_scale for context in contexts], device=device)  # (K,)
        self.scale = scales.repeat_interleave(torch.tensor(self.P.d, device=device))  # (sum of d,)
        self.y = nn.Parameter(torch.zeros_like(self.scale))
        self.theta = self.theta_0.clone().requires_grad_()
        self.network = StackedNetwork(networks[0].train())
        kernels = [torch.full_like(p, p.ndim > 1).view(-1) for p in networks[0].parameters()]
        self.decay = 2 * l2 * torch.cat(kernels) if l2 else None  # (D,)
        self.losses = vmap(problem.loss)

    def backward(self, x: Tensor, y: Tensor) -> Tensor:
        """Gradients of each trial's loss on its own rows x (K, B, ...), y (K, B); losses (K,)."""
        inputs = self.problem.prepare(x.flatten(0, 1)).view(x.shape)
        losses: Tensor = self.losses(self.network.bind(self.theta)(inputs), y)  # (K,)
        (g,) = torch.autograd.grad(losses.sum(), self.theta)  # (K, D)
        if self.decay is not None:
            g = torch.addcmul(g, self.theta.detach(), self.decay)
        self.y.grad = self.P.project_transposed(g.reshape(-1))
        return losses.detach()

    @torch.no_grad()
    def write(self) -> None:
        """theta = theta_0 + P z for every trial."""
        shift = self.P.project(self.y * self.scale).view_as(self.theta)  # (K, D)
        torch.add(self.theta_0, shift, out=self.theta)

    @torch.no_grad()
    def finish(self) -> None:
        """Put every network at its own theta."""
        coordinates = torch.split(self.y * self.scale, self.P.d)
        for own, z in zip(self.coordinates, coordinates, strict=True):
            own.set_z(z)


def train_together(
    problem: SupervisedProblem,
    networks: Sequence[nn.Module],
    contexts: Sequence[TrialContext],
    *,
    inner: Callable[..., torch.optim.Optimizer],
    rates: Sequence[float],
    batch_size: int | None,
    epochs: int,
    l2: float,
) -> list[Diverged | TimedOut | None]:
    """Train every network in place; `rates` holds the learning rate of each step.

    `inner` makes the optimiser. Return for each trial why it ended, or None.
    """
    x, y = (part.to(contexts[0].device) for part in problem.training_pair(contexts[0].split))
    size = len(x)
    rows = min(batch_size or size, size)
    together = Networks(problem, networks, contexts, l2)
    optimizer = inner([together.y], lr=rates[0])
    index = torch.empty(len(contexts), rows, dtype=torch.int64, device=x.device)  # of a full batch
    loss_sums = torch.zeros(len(contexts), device=x.device)

    def learn(index: Tensor) -> None:
        loss_sums.add_(together.backward(x[index], y[index]), alpha=index.shape[1])
        optimizer.step()
        together.write()

    captures = repeats(problem, networks[0], x.device)
    full_step = CapturedStep(lambda: learn(index), optimizer, captures=captures)
    orders = [torch.Generator().manual_seed(context.streams.data) for context in contexts]
    ends: list[Diverged | TimedOut | None] = [None] * len(contexts)
    remaining = iter(rates)
    for epoch in range(1, epochs + 1):
        order = torch.stack([epoch_order(generator, rows, size) for generator in orders])  # (K, N)
        loss_sums.zero_()
        for batch in torch.split(order.to(x.device), rows, dim=1):  # (K, B)
            set_rates(optimizer, next(remaining), x.device)
            if batch.shape == index.shape:
                index.copy_(batch)
                full_step()
            else:
                learn(batch)
        tick(contexts, ends, epoch * math.ceil(size / rows), (loss_sums / size).tolist())
    together.finish()
    return ends


def epoch_order(generator: torch.Generator, rows: int, size: int) -> Tensor:
    """The order (N,) in which `agents.supervised` goes through the rows in its next epoch."""
    return torch.arange(size) if rows == size else torch.randperm(size, generator=generator)


def tick(
    contexts: Sequence[TrialContext],
    ends: list[Diverged | TimedOut | None],
    steps: int,
    losses: Sequence[float],
) -> None:
    """Note the epoch for every trial that still counts; one that ends leaves the others alone.

    Raise Interrupted, once every trial has noted how far it was.
    """
    stopped: Interrupted | None = None
    for k, context in enumerate(contexts):
        if ends[k] is None:
            try:
                context.tick(steps, train_loss=losses[k])
            except (Diverged, TimedOut) as end:
                ends[k] = end
            except Interrupted as stop:
                stopped = stop
    if stopped is not None:
        raise stopped


def refuse(network: nn.Module) -> None:
    """Raise NotTogether for one with state that K copies in one program would share."""
    if next(network.buffers(), None) is not None:
        raise NotTogether("the network has buffers")
    if not all(p.requires_grad for p in network.parameters()):
        raise NotTogether("the network has frozen parameters")
