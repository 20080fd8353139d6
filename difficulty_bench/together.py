"""Several trials of one task trained in one program: what fills a GPU that one trial cannot."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence

import torch

from .context import Diverged, Interrupted, TimedOut
from .cpu import keep_freed_memory, share_cores
from .errors import BenchError, described
from .generators import seeded
from .outputs import stdout_to_stderr
from .problem import Problem
from .results import TrialResult
from .trial import Runtime, Training, Trial, lacks_memory, run_trial

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


def companion(trial: Trial) -> Together:
    """How the trial's agent trains several at once. Raise NotTogether where it cannot."""
    if trial.task.early_stop is not None:
        raise NotTogether("early_stop ends single trials")
    if trial.task.timeout_s is not None:
        raise NotTogether("timeout_s is the time of a single trial")
    if (together := trial.task.agent.companion("together")) is None:
        raise NotTogether(f"agent '{trial.task.agent.entry_point}' trains no trials together")
    return together


def run_together(
    trials: Sequence[Trial], runtime: Runtime, warn: Callable[[str], None] = warnings.warn
) -> Iterator[TrialResult]:
    """One result a trial, within rounding those of `run_trial`, in the order given.

    A group that is stopped starts again: its checkpoints say how far each trial was, and hold
    nothing to go on from. Trials train one by one, and `warn` hears why, where the agent
    raises NotTogether and where the group fails for a reason that may be a single trial's: each
    result then comes as soon as it is there. Raise MemoryError, before any result, for a group that
    the device's memory does not hold, and Interrupted as `run_trial` does.
    """
    if len(trials) > 1:
        if runtime.must_stop():
            raise Interrupted("stopped")
        try:
            yield from _in_one_program(trials, runtime)
            return
        except Interrupted:
            raise
        except BenchError as error:
            if error.__cause__ is not None and lacks_memory(error.__cause__):  # in an evaluation
                raise MemoryError(str(error)) from None
            raise
        except NotTogether as error:
            reason = str(error)
        except (Exception, SystemExit) as error:
            if lacks_memory(error):
                raise MemoryError(str(error)) from None
            reason = "training together failed: " + described(error)
        warn(f"{trials[0].task.name}: trials train one by one: {reason}")
    for trial in trials:
        if runtime.must_stop():
            raise Interrupted("stopped")
        yield run_trial(trial, runtime)


@stdout_to_stderr()
def _in_one_program(trials: Sequence[Trial], runtime: Runtime) -> list[TrialResult]:
    share_cores(1)  # a lone trial before may have left it one
    keep_freed_memory(torch.device(runtime.device))
    together = companion(trials[0])
    problem: Problem = trials[0].task.problem()
    trainings = [Training(trial, runtime, problem) for trial in trials]
    networks = [training.network for training in trainings]
    contexts = [training.context for training in trainings]
    with seeded(contexts[0].streams.agent, contexts[0].device):  # once for all of the group
        ends = together(problem, networks, contexts)
    each_s = contexts[0].elapsed_s() / len(trials)
    pairs = zip(trainings, ends, strict=True)
    return [training.result(_raising(end), shared_s=each_s) for training, end in pairs]


def _raising(end: Exception | None) -> Callable[[], None]:
    def conclude() -> None:
        if end is not None:
            raise end

    return conclude
