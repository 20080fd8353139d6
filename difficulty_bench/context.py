"""What an agent gets beside problem and network: optimiser, seeds, progress, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .checkpoint import Checkpoint, checkpoint_path, read_checkpoint
from .coordinates import Coordinates
from .errors import ResourceError, UsageError, did_you_mean
from .problem import Split
from .projection import Identity, Projection, make
from .seeds import Streams
from .subspace import SubspaceOptimizer

if TYPE_CHECKING:
    from .trial import Runtime, Trial

CHECKPOINT_INTERVAL_S = 60.0


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
        self._study, self._request = trial.study, trial.request
        self._projection = trial.task.projection
        self._timeout_s, self._early_stop = trial.task.timeout_s, trial.task.early_stop
        self._runtime = runtime
        self._optimizer: torch.optim.Optimizer | None = None
        self._coordinates: Coordinates | None = None
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
        natively: it is the policy whose dimension is measured.
        """
        groups: list[dict[str, Any]] = [{"params": list(parameters)}]
        if aids := list(aids):
            groups.append({"params": aids, "subspace": False})
        if self.native:
            plain = [{"params": group["params"]} for group in groups]
            options = {"lr": self.learning_rate(lr), **inner_kwargs}
            self._optimizer = inner(plain, **options)
        else:
            self._optimizer = SubspaceOptimizer(
                groups,
                inner,
                d=self.d,
                seed=self.streams.projection,
                projection=self._projection,
                lr=lr,
                lr_scale=self.lr_scale,
                **inner_kwargs,
            )
        return self._optimizer

    def coordinates(self, parameters: Iterable[nn.Parameter]) -> Coordinates:
        """What a learner without gradients searches: z, or all of `parameters` natively.

        It multiplies its own step sizes by `lr_scale`, in the subspace and natively, as a
        learning rate is: under the matched rule a step is then as long as a native one.
        """
        parameters = list(parameters)
        D = sum(p.numel() for p in parameters if p.requires_grad)
        if self.native:
            P: Projection = Identity(D)
        else:
            P = make(self._projection, D, self.d, self.streams.projection)
        self._coordinates = Coordinates(parameters, P)
        return self._coordinates

    @property
    def z(self) -> Tensor | None:
        """The solution so far, (d,); None natively."""
        if self._coordinates is not None:
            return None if self.native else self._coordinates.z
        return self._optimizer.z if isinstance(self._optimizer, SubspaceOptimizer) else None

    @property
    def projected(self) -> int:
        """How many parameters P moves: D, and more where an agent's aids lie in the subspace."""
        if isinstance(self._optimizer, SubspaceOptimizer):
            return self._optimizer.projection.D
        return self.D

    def tick(
        self, steps: int, state: Callable[[], dict[str, Any]] | None = None, **values: float
    ) -> None:
        """Note progress: `steps` done so far, and points of the curve.

        `state()` gives all that `resume` needs (tensors and plain containers); with it the trial
        checkpoints once a minute and before it stops; without it a stopped trial starts again.
        Raise Diverged for a value that is not finite, EarlyStop, TimedOut, or Interrupted; let all
        four pass.
        """
        self.steps = steps
        for name, value in values.items():
            if not math.isfinite(value):
                raise Diverged(f"{name} is {value} at step {steps}")
            self.curve.append((steps, name, float(value)))
        if self._is_solved():
            raise EarlyStop
        if self._timeout_s is not None and self.elapsed_s() > self._timeout_s:
            raise TimedOut(f"over {self._timeout_s:g} s at step {steps}")
        stopping = self._runtime.must_stop()
        due = time.perf_counter() - self._last_save > CHECKPOINT_INTERVAL_S
        if stopping or (due and state is not None):
            self._save(None if state is None else state())
        if stopping:
            raise Interrupted(f"stopped at step {steps}")

    def _is_solved(self) -> bool:
        """Read off the curve, so that a resumed trial stops where an uninterrupted one does."""
        rule = self._early_stop
        if rule is None:
            return False
        values = [value for _, name, value in self.curve if name == rule.metric][-rule.times :]
        return len(values) == rule.times and min(values) >= rule.at

    def check_early_stop(self) -> None:
        """Raise UsageError where the rule waited for a metric that was never reported."""
        names = sorted({name for _, name, _ in self.curve})
        if self._early_stop is not None and self._early_stop.metric not in names:
            raise UsageError(
                f"early_stop.metric: the agent reports no '{self._early_stop.metric}'"
                f"{did_you_mean(self._early_stop.metric, names)}; it reports "
                f"{', '.join(names) or 'nothing'}"
            )

    def resume(self) -> dict[str, Any] | None:
        """The `state` of the last checkpoint, or None for a fresh start.

        Raise ResourceError for a file that is not one.
        """
        if self._checkpoint is None or not self._checkpoint.exists():
            return None
        try:
            saved = read_checkpoint(self._checkpoint)
        except ValueError as error:
            mend = "delete it, and the trial starts again"
            raise ResourceError(f"{self._checkpoint}: {error}; {mend}") from None
        if saved.state is not None:
            self.steps, self._earlier_s, self.curve = saved.steps, saved.elapsed_s, saved.curve
        return saved.state

    def elapsed_s(self) -> float:
        """Seconds of training, those before a resumption included."""
        return self._earlier_s + time.perf_counter() - self._start

    def discard_checkpoint(self) -> None:
        if self._checkpoint is not None:
            self._checkpoint.unlink(missing_ok=True)

    def _save(self, state: dict[str, Any] | None) -> None:
        if self._checkpoint is None:
            return
        whose, elapsed_s = (self._study, self._request), self.elapsed_s()
        Checkpoint(*whose, self.steps, elapsed_s, self.curve, state).write(self._checkpoint)
        self._last_save = time.perf_counter()
