"""One training: what defines it, how it is run, what it gives back."""

from __future__ import annotations

import math
import re
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from .context import Diverged, EarlyStop, Interrupted, TimedOut, TrialContext
from .cpu import keep_freed_memory, use_one_thread
from .environment import describe_environment
from .errors import BenchError, ResourceError, UsageError, described, user_code
from .generators import seeded
from .outputs import stdout_to_stderr
from .problem import Evaluation, Problem, count_parameters, seeded_evaluation
from .records import trial_identity
from .registry import Task
from .results import Request, State, TrialResult, describe
from .seeds import Streams, content_hash

# torch's words on CUDA, on a CPU, and cuBLAS's
LACK_OF_MEMORY = "out of memory", "can't allocate memory", "status_alloc_failed"
# How RuntimeErrors of cuBLAS, cuDNN and Triton begin; only CUDA's own are AcceleratorErrors, and
# Triton's compiler has classes of its own.
OF_THE_DEVICE = "cuda error:", "cudnn error:", "cudnn frontend error:", "triton error [cuda]:"
OF_A_PROCESS = re.compile("dataloader worker .* (is killed by|exited unexpectedly)", re.IGNORECASE)
OF_A_PATH = (
    *(FileNotFoundError, FileExistsError, PermissionError),
    *(NotADirectoryError, IsADirectoryError),
)

# On CUDA torch may round the operands of convolutions to 10 bits, those of products where an
# environment variable says so, and sum gradients in any order. Here, because whatever trains or
# judges a network imports this, in every process.
torch.backends.cudnn.allow_tf32 = False
torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cudnn.deterministic = True


@dataclass(frozen=True)
class Trial:
    """A task and one requested training of it; the identity hashes both."""

    task: Task
    request: Request

    @cached_property
    def study(self) -> str:
        return study_identity(self.task)

    @cached_property
    def identity(self) -> str:
        return trial_identity(self.study, self.request)

    @cached_property
    def streams(self) -> Streams:
        return Streams.of(self.identity)


@dataclass(frozen=True)
class Runtime:
    """Where and how long a trial may run; never part of what it is."""

    device: str = "cpu"
    deadline: float | None = None  # time.time() at which to checkpoint and stop
    checkpoint_dir: Path | None = None
    command: str = ""
    debug: bool = False  # print the traceback of whatever fails in learning
    stop: Any = field(default=None, compare=False)  # a threading or multiprocessing Event

    def must_stop(self) -> bool:
        """Whether the deadline has passed or a stop was asked for."""
        late = self.deadline is not None and time.time() > self.deadline
        return late or (self.stop is not None and bool(self.stop.is_set()))


def study_identity(task: Task) -> str:
    """Hash of what all trials of one measurement share."""
    return content_hash(task.definition())


def build_network(task: Task, problem: Problem, seed: int) -> nn.Module:
    """The network at theta_0, drawn on the CPU from `seed` without touching the global RNG.

    Raise UsageError where the factory fails or gives something else, or where the network's output
    does not fit the problem.
    """
    what, shape = f"{task.name}: network '{task.network.entry_point}'", problem.input_shape
    with torch.random.fork_rng(devices=[]), user_code(f"{what} fails on inputs of shape {shape}"):
        torch.default_generator.manual_seed(seed)  # torch's own also seeds every GPU
        network = task.network(shape, problem.output_size)
        if not isinstance(network, nn.Module):
            raise UsageError(f"{what} returns {type(network).__name__}; return a torch.nn.Module")
        output = network.eval()(torch.zeros(2, *shape))
    if not isinstance(output, Tensor):
        raise UsageError(f"{what} gives outputs that are {type(output).__name__}; give one tensor")
    if tuple(output.shape) != (2, problem.output_size):
        raise UsageError(
            f"{what} gives outputs of shape {tuple(output.shape[1:])}, the problem needs "
            f"({problem.output_size},)"
        )
    return network.train()


def parameter_vector(network: nn.Module) -> Tensor:
    """The D parameters that are trained, a copy (D,) in the network's order."""
    trainable = [p for p in network.parameters() if p.requires_grad]
    return parameters_to_vector(trainable).detach().clone()


class Training:
    """A trial under way: its problem, its network at theta_0, its context."""

    def __init__(self, trial: Trial, runtime: Runtime, problem: Problem) -> None:
        self.trial, self.runtime, self.problem = trial, runtime, problem
        network = build_network(trial.task, problem, trial.streams.theta_0)
        # imports torch's compiler, which takes 1 to 15 s that are no training: before the clock
        torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
        self.context = TrialContext(trial, count_parameters(network), runtime)
        self.network = network.to(self.context.device)
        describe_environment()  # which asks git once: now, before a commit of the next hours

    def result(self, train: Callable[[], None], shared_s: float | None = None) -> TrialResult:
        """Call `train`, evaluate, and say what came of it.

        `shared_s` is this trial's part, in seconds, of what several took together before. Whatever
        goes wrong in learning is a result (failed or timed out, with its reason). Raise
        ResourceError for what is the machine's fault: it would pass for an unsolved trial.
        """
        before_s = 0.0 if shared_s is None else shared_s - self.context.elapsed_s()
        state: State = "complete"
        reason: str | None = None
        evaluation: Evaluation | None = None
        try:
            train()
            evaluation = self._evaluation()
        except TimedOut as error:
            state, reason = "timed_out", str(error)
        except Diverged as error:
            state, reason = "failed", f"diverged: {error}"
        except (BenchError, Interrupted):
            raise
        except (Exception, SystemExit) as error:  # a learner that exits has not trained
            if self.runtime.must_stop():  # a stop may reach the learner's own processes first
                raise Interrupted(f"stopped in {described(error)}") from error
            check_machine(self.trial, error)
            self.context.check_restored(error)
            if self.runtime.debug:
                traceback.print_exception(error)
            state, reason = "failed", described(error)
        wall_s = before_s + self.context.elapsed_s()
        return self._result(state, reason, evaluation, wall_s)

    def _evaluation(self) -> Evaluation:
        """Judge the network as it stands. Raise Diverged for numbers that are not finite, and
        UsageError where it is not the network that seed and z give, or the score is none.
        """
        if not all(bool(torch.isfinite(p).all()) for p in self.network.parameters()):
            raise Diverged("a parameter is not finite at the end of training")
        self._check_solution()
        context, problem = self.context, self.problem
        seed, device = context.streams.evaluation, context.device
        found = seeded_evaluation(
            problem, self.network, split=context.split, seed=seed, device=device
        )
        score, sd = float(found.score), None if found.sd is None else float(found.sd)
        if not math.isfinite(score):
            raise Diverged(f"the evaluation gave a score of {score}")
        if sd is not None and not math.isfinite(sd):
            raise UsageError(
                f"{self.trial.task.name}: the evaluation gave a score of {score:g} with sd = {sd}; "
                "let the problem's `evaluate` give a finite one, or None"
            )
        if problem.ceiling is not None and score > problem.ceiling:
            raise UsageError(
                f"{self.trial.task.name}: a score of {score:g} is above the ceiling "
                f"{problem.ceiling:g} of {problem.metric}; give the problem its true one, or None"
            )
        return Evaluation(score, int(found.n), sd)

    def _check_solution(self) -> None:
        """Whatever network and agent do of their own: what is scored must be theta_0 + P z."""
        self.context.check_trained()
        if (subspace := self.context.subspace) is None:
            return
        trial = self.trial
        fresh = build_network(trial.task, self.problem, trial.streams.theta_0)
        theta_0, theta = parameter_vector(fresh), parameter_vector(self.network)
        moved = subspace.theta_0 + subspace.projection.project(subspace.z)
        if not (_near(theta_0, subspace.theta_0) and _near(theta, moved)):
            raise UsageError(
                f"{trial.task.name}: what agent '{trial.task.agent.entry_point}' trained is not "
                "theta_0 + P z of its network: a network must be the same each time it is made "
                "from one seed, and only what context gives may change its parameters"
            )

    def _result(
        self, state: State, reason: str | None, evaluation: Evaluation | None, wall_s: float
    ) -> TrialResult:
        context = self.context
        return TrialResult(
            identity=self.trial.identity,
            study=self.trial.study,
            request=self.trial.request,
            state=state,
            score=evaluation.score if evaluation else None,
            score_sd=evaluation.sd if evaluation else None,
            score_n=evaluation.n if evaluation else None,
            reason=reason,
            D=context.projected,
            steps=context.steps,
            wall_s=round(wall_s, 3),
            device=context.device_name,
            environment=describe_environment(self.runtime.command),
            curve=tuple(context.curve),
            z=_to_bytes(context.z),
        )


@stdout_to_stderr()
def run_trial(trial: Trial, runtime: Runtime) -> TrialResult:
    """Train and evaluate once.

    Raise Interrupted where the deadline or a stop request came first (a checkpoint is left), and
    BenchError where the task cannot run on this machine at all.
    """
    device = torch.device(runtime.device)
    use_one_thread(device)
    keep_freed_memory(device)
    try:
        training = Training(trial, runtime, trial.task.problem())
    except Exception as error:  # a GPU that others fill, before there is a training
        check_machine(trial, error)
        raise
    return training.result(lambda: _train(training))


def _train(training: Training) -> None:
    context = training.context
    with seeded(context.streams.agent, context.device):
        try:
            training.trial.task.agent(training.problem, training.network, context)
        except EarlyStop:
            return
    context.check_early_stop()


def _near(own: Tensor, expected: Tensor) -> bool:
    """Whether the network's parameters (D,) are the first of `expected`, a critic's may follow.

    Not bit for bit: a resumed trial may have begun on another processor.
    """
    if len(own) > len(expected):
        return False
    gap = (own.to(expected) - expected[: len(own)]).abs().max()
    return bool(gap <= 1e-3 * (1 + expected.abs().max()))


def check_machine(trial: Trial, error: BaseException) -> None:
    """Raise ResourceError where `error`, met in `trial`, is the machine's fault."""
    if is_the_machines(error):
        raise ResourceError(
            f"{trial.task.name}: {describe(trial.request)}: {described(error)}; "
            "this says nothing of the task; mend it, and the same command goes on"
        ) from error


def is_the_machines(error: BaseException) -> bool:
    of_the_system = isinstance(error, OSError) and not _is_an_environments(error)
    known = of_the_system or isinstance(error, torch.AcceleratorError) or lacks_memory(error)
    # the pipe of a process that was killed (an AsyncVectorEnv's), or torch's words for one
    known = known or isinstance(error, EOFError) or bool(OF_A_PROCESS.match(str(error)))
    by_triton = any(kind.__module__.startswith("triton.") for kind in type(error).__mro__)
    return known or by_triton or str(error).lower().startswith(OF_THE_DEVICE)


def _is_an_environments(error: OSError) -> bool:
    """Whether an environment asked for a path in vain, or raised it in words of its own.

    The system's errors have numbers; those that speak of no path tell of a disk, of memory or of
    another process, in an environment, too.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    inside = any(
        isinstance(frame.f_locals.get("self"), gym.Env | gym.vector.VectorEnv) for frame in frames
    )
    return inside and (error.errno is None or isinstance(error, OF_A_PATH))


def lacks_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in LACK_OF_MEMORY)


def process_died(trial: Trial, why: str) -> ResourceError:
    """For a trial whose process was killed: by the system more often than by the learner."""
    return ResourceError(
        f"{trial.task.name}: {describe(trial.request)}: {why}; this says nothing of the task, and "
        "nothing is stored of it; free memory or give fewer --workers (or mend the task's code, "
        "where that ends its process), and the same command goes on"
    )


def _to_bytes(z: Tensor | None) -> bytes | None:
    if z is None:
        return None
    return z.detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4").tobytes()
