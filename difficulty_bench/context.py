"""What an agent gets beside problem and network: optimiser, seeds, progress, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .checkpoint import DELETE, Checkpoint, checkpoint_path, read_checkpoint
from .coordinates import Coordinates
from .errors import ResourceError, UsageError, described, did_you_mean
from .outputs import warn
from .problem import Split
from .projection import Identity, Projection, make
from .seeds import Streams
from .subspace import SubspaceOptimizer

if TYPE_CHECKING:
    from .trial import Runtime, Trial

CHECKPOINT_INTERVAL_S = 60.0
ENOUGH_TICKS = 100  # with values, by which the metric of `early_stop` must have been among them


class Diverged(Exception):
    """Training left the finite numbers; the trial is failed, hence not solved."""


class TimedOut(Exception):
    """The trial ran past its task's `timeout_s`; it is not solved."""


class EarlyStop(Exception):
    """The task's `early_stop` rule ends the training; the network is evaluated as it stands."""


class Interrupted(Exception):
    """The run was asked to stop; the trial stays waiting and resumes from its checkpoint."""


class TrialContext:
    """Handed to `agent(problem, network, context, **parameters)`, which trains in place.

    An agent asks `optimizer` for its optimiser (one without gradients `coordinates` for what to
    search), so that native and subspace training differ in nothing else, draws its randomness
    from `streams`, and calls `tick` at least every few seconds.
    """

    def __init__(self, trial: Trial, D: int, runtime: Runtime) -> None:
        self.streams: Streams = trial.streams
        self.device = torch.device(runtime.device)
        self.split: Split = "validation" if trial.request.role == "pilot" else "test"
        self.D, self.d = D, trial.request.d
        self.lr_scale = trial.request.lr_scale
        self.curve: list[tuple[int, str, float]] = []
        self.steps = 0
        self._ticks = 0
        self._study, self._request = trial.study, trial.request
        self._projection = trial.task.projection
        self._timeout_s, self._early_stop = trial.task.timeout_s, trial.task.early_stop
        self._runtime = runtime
        self._trained: torch.optim.Optimizer | Coordinates | None = None
        self._restoring = False
        self._earlier_s = 0.0
        self._start = self._last_save = time.perf_counter()
        folder = runtime.checkpoint_dir
        self._checkpoint = checkpoint_path(folder, trial.identity) if folder else None

    @property
    def native(self) -> bool:
        """Whether all D parameters are trained (d = 0 in the request)."""
        return self.d == 0

    @property
    def device_name(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return "cpu"

    def learning_rate(self, lr: float) -> float:
        """The value for every param group's `lr`, where the task's own learning rate is `lr`.

        Natively the request's multiplier is in it. In the subspace it is not: the optimiser
        applies it to z alone, so that a native critic beside keeps `lr`.
        """
        return lr * self.lr_scale if self.native else lr

    def optimizer(
        self,
        parameters: Iterable[nn.Parameter],
        inner: type[torch.optim.Optimizer] = torch.optim.Adam,
        *,
        lr: float,
        aids: Iterable[nn.Parameter] = (),
        **inner_kwargs: Any,
    ) -> torch.optim.Optimizer:
        """An optimiser of the class `inner` over z, or over `parameters` natively.

        `aids` are training aids (a critic, an exploration noise) that are always trained
        natively: it is the policy whose dimension is measured. Raise UsageError unless this is
        the first call and `parameters` holds all of the network's.
        """
        groups: list[dict[str, Any]] = [{"params": self._checked(parameters)}]
        if aids := list(aids):
            groups.append({"params": aids, "subspace": False})
        if self.native:
            plain = [{"params": group["params"]} for group in groups]
            options = {"lr": self.learning_rate(lr), **inner_kwargs}
            self._trained = inner(plain, **options)
        else:
            self._trained = SubspaceOptimizer(
                groups,
                inner,
                d=self.d,
                seed=self.streams.projection,
                projection=self._projection,
                lr=lr,
                lr_scale=self.lr_scale,
                **inner_kwargs,
            )
        return self._trained

    def coordinates(self, parameters: Iterable[nn.Parameter]) -> Coordinates:
        """What a learner without gradients searches: z, or all of `parameters` natively.

        It multiplies its own step sizes by `lr_scale`, in the subspace and natively, as a
        learning rate is: under the matched rule a step is then as long as a native one. Raise
        UsageError as `optimizer` does.
        """
        parameters = self._checked(parameters)
        D = sum(p.numel() for p in parameters if p.requires_grad)
        if self.native:
            P: Projection = Identity(D)
        else:
            P = make(self._projection, D, self.d, self.streams.projection)
        self._trained = Coordinates(parameters, P)
        return self._trained

    def _checked(self, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        if self._trained is not None:
            raise UsageError(
                "the agent called context.optimizer or context.coordinates twice, which would be "
                "two subspaces; call one of them once, with all of network.parameters()"
            )
        items = list(parameters)
        given = sum(p.numel() for p in {id(p): p for p in items if p.requires_grad}.values())
        if given < self.D:
            raise UsageError(
                f"the agent trains {given:,} of the network's {self.D:,} parameters; give "
                "context.optimizer or context.coordinates all of network.parameters()"
            )
        return items

    def check_trained(self) -> None:
        """Raise UsageError where the agent asked for nothing, so that it trained something else."""
        if self._trained is None:
            raise UsageError(
                "the agent called neither context.optimizer nor context.coordinates; what it "
                "trains must come from one of them"
            )

    @property
    def subspace(self) -> SubspaceOptimizer | Coordinates | None:
        """What moves the parameters on theta_0 + P z; None natively and before it was asked for."""
        if self.native or not isinstance(self._trained, SubspaceOptimizer | Coordinates):
            return None
        return self._trained

    @property
    def z(self) -> Tensor | None:
        """The solution so far, (d,); None where `subspace` is."""
        return None if self.subspace is None else self.subspace.z

    @property
    def projected(self) -> int:
        """How many parameters P moves: D, and more where an agent's aids lie in the subspace."""
        return self.D if self.subspace is None else self.subspace.projection.D

    def tick(
        self, steps: int, state: Callable[[], dict[str, Any] | None] | None = None, **values: float
    ) -> None:
        """Note progress: `steps` done so far, and points of the curve.

        `state()` gives all that `resume` needs (tensors and plain containers), or None where that
        is too much to save; with it the trial checkpoints once a minute and before it stops.
        Without one a stopped trial goes on from its last, or starts again.
        Raise Diverged for a value that is not finite, EarlyStop, TimedOut, or Interrupted; let all
        four pass. Raise UsageError for steps below 0, and where the metric that `early_stop` waits
        for is none of the values.
        """
        if steps < 0:
            raise UsageError(f"the agent calls context.tick with steps = {steps}; count from 0")
        self.steps, self._restoring = int(steps), False  # numpy's integers have no place in a file
        for name, value in values.items():
            if not math.isfinite(value):
                raise Diverged(f"{name} is {value} at step {steps}")
            self.curve.append((self.steps, name, float(value)))
        if self._ends_early():
            raise EarlyStop
        self._ticks += bool(values)
        if self._ticks == ENOUGH_TICKS:
            self.check_early_stop()
        if self._timeout_s is not None and self.elapsed_s() > self._timeout_s:
            raise TimedOut(f"over timeout_s = {self._timeout_s:g} at step {steps}")
        if self._runtime.must_stop():
            self._save(None if state is None else state())
            raise Interrupted(f"stopped at step {steps}")
        due = time.perf_counter() - self._last_save > CHECKPOINT_INTERVAL_S
        if due and state is not None:
            try:
                self._save(state())
            except ResourceError as error:  # the training itself is sound
                warn(f"{error}; it trains on, and tries again in {CHECKPOINT_INTERVAL_S:g} s")

    def _ends_early(self) -> bool:
        """Read off the curve, so that a resumed trial stops where an uninterrupted one does."""
        rule = self._early_stop
        if rule is None:
            return False
        values = [value for _, name, value in self.curve if name == rule.metric][-rule.times :]
        return len(values) == rule.times and min(values) >= rule.at

    def check_early_stop(self) -> None:
        """Raise UsageError where the rule waits for a metric that was not reported so far."""
        rule, names = self._early_stop, sorted({name for _, name, _ in self.curve})
        if rule is None or rule.metric in names:
            return
        reported = did_you_mean(rule.metric, names) or "; it reports nothing"
        raise UsageError(f"early_stop.metric: the agent reports no '{rule.metric}'{reported}")

    def resume(self) -> dict[str, Any] | None:
        """The `state` of the last checkpoint, or None for a fresh start.

        An agent that has loaded it calls `tick`: what fails before is the checkpoint's fault.
        Raise ResourceError for a file that is not one.
        """
        if self._checkpoint is None or not self._checkpoint.exists():
            return None
        try:
            saved = read_checkpoint(self._checkpoint)
        except ValueError as error:
            raise ResourceError(f"{self._checkpoint}: {error}; {DELETE}") from None
        if saved.state is not None:
            self.steps, self._earlier_s, self.curve = saved.steps, saved.elapsed_s, saved.curve
            self._restoring = True
        return saved.state

    def check_restored(self, error: BaseException) -> None:
        """Raise ResourceError where `error` came between `resume` and the first `tick` after it.

        It is then the checkpoint that does not fit, of another version perhaps, not the learner
        that failed.
        """
        if self._restoring:
            raise ResourceError(
                f"{self._checkpoint}: cannot go on from it: {described(error)}; {DELETE}"
            ) from error

    def elapsed_s(self) -> float:
        """Seconds of training, those before a resumption included."""
        return self._earlier_s + time.perf_counter() - self._start

    def _save(self, state: dict[str, Any] | None) -> None:
        self._last_save = time.perf_counter()
        if self._checkpoint is None or (state is None and self._can_resume()):
            return
        whose, elapsed_s = (self._study, self._request), self.elapsed_s()
        Checkpoint(*whose, self.steps, elapsed_s, self.curve, state).write(self._checkpoint)

    def _can_resume(self) -> bool:
        """Whether there is a checkpoint with a state: better than to start again."""
        assert self._checkpoint is not None
        try:
            return read_checkpoint(self._checkpoint, mapped=True).state is not None
        except (OSError, ValueError):
            return False
