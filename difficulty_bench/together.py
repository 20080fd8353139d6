"""Several trials of one task trained in one program: what fills a GPU that one trial cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .context import Diverged, Interrupted, TimedOut
from .errors import BenchError
from .problem import Problem
from .results import TrialResult
from .trial import Runtime, Training, Trial, run_trial

# problem, networks, contexts -> for each trial why it ended early, or None
Together = Callable[..., Sequence[Diverged | TimedOut | None]]


class NotTogether(Exception):
    """An agent's reason why these trials cannot share a program; they then train one by one."""


def groups(trials: Sequence[Trial], size: int) -> list[list[Trial]]:
    """Trials that may share a program, at most `size` each: of one study, judged on one split."""
    kinds: dict[tuple[str, bool], list[Trial]] = {}
    for trial in trials:
        kinds.setdefault((trial.study, trial.request.role == "pilot"), []).append(trial)
    return [kind[i : i + size] for kind in kinds.values() for i in range(0, len(kind), size)]


def companion(trial: Trial) -> Together | None:
    """How the trial's agent trains several at once; None where it cannot.

    A rule that ends single trials early needs them trained one by one.
    """
    return None if trial.task.early_stop is not None else trial.task.agent.together()


def run_together(trials: Sequence[Trial], runtime: Runtime) -> list[TrialResult]:
    """One result a trial, within rounding those of `run_trial`, in the order given.

    A group leaves no checkpoint. Trials train one by one where the agent has no companion, where
    it raises NotTogether, and where the group fails for a reason that may be a single trial's.
    """
    together = companion(trials[0])
    if together is None or len(trials) == 1:
        return [run_trial(trial, runtime) for trial in trials]
    problem: Problem = trials[0].task.problem()
    trainings = [Training(trial, runtime, problem) for trial in trials]
    networks = [training.network for training in trainings]
    contexts = [training.context for training in trainings]
    try:
        ends = together(problem, networks, contexts)
    except (BenchError, Interrupted):
        raise
    except Exception as error:
        if "out of memory" in str(error).lower():
            raise MemoryError(str(error)) from None
        return [run_trial(trial, runtime) for trial in trials]
    pairs = zip(trainings, ends, strict=True)
    return [training.result(_raising(end), share=len(trials)) for training, end in pairs]


def _raising(end: Exception | None) -> Callable[[], None]:
    def conclude() -> None:
        if end is not None:
            raise end

    return conclude
