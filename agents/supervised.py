"""Supervised training on tensors that live on the device."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from difficulty_bench.context import Diverged, TimedOut, TrialContext
from difficulty_bench.errors import UsageError
from difficulty_bench.generators import get_states, put_states, seeded
from difficulty_bench.problem import Pair, Problem, SupervisedProblem
from difficulty_bench.together import NotTogether

from . import supervised_together
from .captured import CapturedStep, repeats, set_rates
from .networks import channels_last

Share = Annotated[float, Field(ge=0, lt=1)]

TICK_INTERVAL_S = 2.0


def train(
    problem: Problem,
    network: nn.Module,
    context: TrialContext,
    *,
    optimizer: Literal["adam", "sgd", "lbfgs"] = "adam",
    learning_rate: PositiveFloat = 1e-3,
    betas: Annotated[tuple[Share, Share], Field(strict=False)] = (0.9, 0.99),
    momentum: Share = 0.0,
    batch_size: NonNegativeInt | None = 128,
    epochs: PositiveInt = 3,
    l2: NonNegativeFloat = 0.0,
    schedule: Literal["constant", "cosine", "linear"] = "constant",
    evaluate_every: NonNegativeInt = 0,
) -> None:
    """Train `network` in place for `epochs` passes over the training pair.

    `batch_size` null or 0 is the whole training set. `l2` adds l2 * sum(w^2) over the kernels w
    of theta_0 + P z, not over biases, not over z (Li et al. 2018). `schedule` is the share of
    `learning_rate` at each step. `betas` are Adam's, `momentum` is SGD's; `lbfgs` (strong Wolfe
    line search) takes an epoch as one step of at most 20 iterations and needs the whole set.
    Every `evaluate_every` epochs the held-out score goes into the curve, for the reader only.

    Raise UsageError for a problem without data sets, and for `lbfgs` with batches or `l2`.
    """
    data = train_check(problem, optimizer=optimizer, batch_size=batch_size, l2=l2)
    x, y = (tensor.to(context.device) for tensor in data.training_pair(context.split))
    rows = min(batch_size or len(x), len(x))
    inner, options = OPTIMIZERS[optimizer](betas, momentum)
    stepper = context.optimizer(network.parameters(), inner, lr=learning_rate, **options)
    captures = optimizer != "lbfgs" and repeats(data, network, context.device)
    run = _Run(data, network, context, stepper, (x, y), rows, l2, captures)
    total = epochs * run.steps_per_epoch
    with seeded(context.streams.agent, context.device):
        run.resume()
        while run.epoch < epochs:
            for index in run.batches():
                run.step(index, learning_rate * SCHEDULES[schedule](run.steps / total))
            run.finish_epoch(evaluate_every)


def train_check(
    problem: Problem, *, optimizer: str, batch_size: int | None, l2: float, **others: Any
) -> SupervisedProblem:
    """Raise UsageError for a problem without data sets, and for `lbfgs` with batches or `l2`."""
    if not isinstance(problem, SupervisedProblem):
        raise UsageError(
            "agent 'agents.supervised:train' learns from data sets (SupervisedProblem), not "
            f"{type(problem).__name__}; use an agent that acts, such as 'agents.sb3:ppo'"
        )
    if optimizer == "lbfgs" and (batch_size or l2):
        raise UsageError("agent.optimizer 'lbfgs' needs batch_size null and l2 0; set both")
    return problem


def train_together(
    problem: Problem,
    networks: Sequence[nn.Module],
    contexts: Sequence[TrialContext],
    *,
    optimizer: str,
    learning_rate: float,
    betas: tuple[float, float],
    momentum: float,
    batch_size: int | None,
    epochs: int,
    l2: float,
    schedule: str,
    evaluate_every: int,
) -> list[Diverged | TimedOut | None]:
    """`train` for several trials at once; parameters as there, all of them.

    Return for each trial why it ended, or None. Raise NotTogether for what needs single trials.
    """
    if not isinstance(problem, SupervisedProblem):
        raise NotTogether("the problem has no data sets")
    if optimizer == "lbfgs" or evaluate_every:
        key = "agent.optimizer lbfgs" if optimizer == "lbfgs" else "agent.evaluate_every"
        raise NotTogether(f"{key} is for single trials")
    supervised_together.refuse(networks[0])
    size = len(problem.training_pair(contexts[0].split)[0])
    total = epochs * math.ceil(size / min(batch_size or size, size))
    inner, options = OPTIMIZERS[optimizer](betas, momentum)
    return supervised_together.train_together(
        problem,
        networks,
        contexts,
        inner=functools.partial(inner, **options),
        rates=[learning_rate * SCHEDULES[schedule](step / total) for step in range(total)],
        batch_size=batch_size,
        epochs=epochs,
        l2=l2,
    )


OPTIMIZERS: dict[str, Callable[..., tuple[type[torch.optim.Optimizer], dict[str, Any]]]] = {
    # Fused: LeNet's native Adam step on one core takes .09 ms instead of .35, the FC net's .14
    # instead of .49.
    "adam": lambda betas, momentum: (torch.optim.Adam, {"betas": betas, "fused": True}),
    "sgd": lambda betas, momentum: (torch.optim.SGD, {"momentum": momentum, "fused": True}),
    "lbfgs": lambda betas, momentum: (torch.optim.LBFGS, {"line_search_fn": "strong_wolfe"}),
}
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
}


class _Run:
    """A training under way, and all that a checkpoint needs to continue it to the same bits."""

    def __init__(
        self,
        problem: SupervisedProblem,
        network: nn.Module,
        context: TrialContext,
        stepper: torch.optim.Optimizer,
        data: Pair,
        rows: int,
        l2: float,
        captures: bool,
    ) -> None:
        self.problem, self.network, self.context = problem, network.train(), context
        self.stepper, self.rows, self.l2 = stepper, rows, l2
        self.x, self.y = data
        self.size = len(self.x)
        self.steps_per_epoch = math.ceil(self.size / rows)
        # What the next full batch is, at one place: a captured step reads it there.
        self.index: Tensor | slice = slice(None)
        if rows < self.size:
            self.index = torch.empty(rows, dtype=torch.int64, device=context.device)
        self.full_step = CapturedStep(lambda: self.learn(self.index), stepper, captures=captures)
        self.kernels = [p for p in network.parameters() if p.ndim > 1]
        # On the CPU, so that every device sees the same order.
        self.generator = torch.Generator().manual_seed(context.streams.data)
        self.order_state = self.generator.get_state()  # before this epoch's permutation
        self.epoch, self.steps = 0, 0
        self.loss_sum = torch.zeros((), device=context.device)
        self.last_tick = time.perf_counter()

    def batches(self) -> Iterator[Tensor | slice]:
        """Indices of the batches of this epoch that are still to do."""
        done = self.steps - self.epoch * self.steps_per_epoch
        if self.rows == self.size:
            yield from [slice(None)][done:]
            return
        self.order_state = self.generator.get_state()
        order = torch.randperm(self.size, generator=self.generator).to(self.context.device)
        yield from torch.split(order, self.rows)[done:]

    def step(self, index: Tensor | slice, learning_rate: float) -> None:
        """One optimiser step on the stored rows `index`."""
        set_rates(self.stepper, self.context.learning_rate(learning_rate), self.context.device)
        if isinstance(index, Tensor) and len(index) < self.rows:
            self.learn(index)
        else:
            if isinstance(self.index, Tensor) and isinstance(index, Tensor):
                self.index.copy_(index)
            self.full_step()
        self.steps += 1
        if time.perf_counter() - self.last_tick > TICK_INTERVAL_S:
            self.tick()

    def learn(self, index: Tensor | slice) -> None:
        """What a step does on the device."""
        x, y = self.x[index], self.y[index]
        inputs = channels_last(self.problem.prepare(x))

        def objective() -> Any:
            self.stepper.zero_grad()
            loss = self.problem.loss(self.network(inputs), y)
            loss.backward()  # type: ignore[no-untyped-call]
            if self.l2:
                self.add_l2()
            return loss

        loss: Any = self.stepper.step(objective)
        self.loss_sum += loss.detach() * len(x)

    def add_l2(self) -> None:
        """The gradient of l2 * sum(w^2), added to those of the kernels w that are trained."""
        pairs = [(p.grad, p.detach()) for p in self.kernels if p.grad is not None]
        if pairs:
            gradients, kernels = map(list, zip(*pairs, strict=True))
            torch._foreach_add_(gradients, kernels, alpha=2 * self.l2)

    def finish_epoch(self, evaluate_every: int) -> None:
        values = {"train_loss": float(self.loss_sum) / self.size}
        self.epoch += 1
        if evaluate_every and self.epoch % evaluate_every == 0:
            context = self.context
            values[self.problem.metric] = self.problem.evaluate(
                self.network,
                split=context.split,
                seed=context.streams.evaluation,
                device=context.device,
            ).score
        self.loss_sum.zero_()
        self.order_state = self.generator.get_state()
        self.tick(**values)

    def tick(self, **values: float) -> None:
        self.context.tick(self.steps, self.state, **values)
        self.last_tick = time.perf_counter()

    def state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "steps": self.steps,
            "loss_sum": self.loss_sum,
            "order": self.order_state,
            "random": get_states(self.context.device),
            "network": self.network.state_dict(),
            "optimizer": self.stepper.state_dict(),
        }

    def resume(self) -> None:
        """Continue from the last checkpoint, if there is one."""
        state = self.context.resume()
        if state is None:
            return
        self.epoch, self.steps = state["epoch"], state["steps"]
        self.loss_sum.copy_(state["loss_sum"])
        self.order_state = state["order"]
        self.generator.set_state(self.order_state)
        self.network.load_state_dict(state["network"])
        self.stepper.load_state_dict(state["optimizer"])
        put_states(self.context.device, state["random"])
        self.tick()
