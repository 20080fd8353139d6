"""Speed of reinforcement learning: environment steps per second, and where the time goes.

    python benchmarks/rl_speed.py --workers 16

For each task: one trial alone, then the fleet of --workers trials side by side, one process each
and on a CPU one thread, started together. Only learning is timed, without evaluation and start-up.
The shares are of the single trial's wall time: `emulator` (stepping and resetting environments),
`network` (forward and backward), `projection` (P z, P^T g and moving the parameters), `optimiser`
(Adam on z and on PPO's native critic, gradient clipping), `rest` (PPO's own bookkeeping). The ratio
fleet / alone is taken within one run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from measuring import command_line, parse, write

from difficulty_bench.context import TrialContext
from difficulty_bench.cpu import keep_freed_memory, share_cores, use_one_thread
from difficulty_bench.environment import describe_environment, usable_cores
from difficulty_bench.registry import Registry
from difficulty_bench.results import Request
from difficulty_bench.trial import Runtime, Training, Trial

# Policy steps of a short run: some ten seconds of one core, and several updates.
STEPS = {"cartpole": 40_960, "pong-ram": 65_536, "pong": 16_384}
DIMENSIONS = {"cartpole": 10, "pong-ram": 2000, "pong": 2000}
PARTS = ("emulator", "network", "projection", "optimiser", "rest")


@dataclass(frozen=True)
class Job:
    task: str
    steps: int
    seed: int
    projection: str
    device: str


class Stopwatch:
    """Seconds of each part; while one part calls another, only the inner clock runs."""

    def __init__(self, device: str) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._cuda = device == "cuda"
        self._running: list[str] = []

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keys: Any) -> Any:
            with self.running(part):
                return function(*arguments, **keys)

        return call

    @contextmanager
    def running(self, part: str) -> Iterator[None]:
        self._split()
        self._running.append(part)
        try:
            yield
        finally:
            self._split()
            self._running.pop()

    def _split(self) -> None:
        """Charge the time since the last split to the part that runs."""
        if self._cuda:
            torch.cuda.synchronize()  # else a part is charged with what the one before it queued
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._last
        self._last = now


@contextmanager
def watched(watch: Stopwatch) -> Iterator[None]:
    """Time what PPO calls in each step and update."""
    from stable_baselines3.common.policies import ActorCriticPolicy

    from agents.sb3_vec_env import GymnasiumVecEnv
    from difficulty_bench.subspace import SubspaceOptimizer

    parts: dict[str, list[tuple[Any, str]]] = {
        "emulator": [(GymnasiumVecEnv, "step_wait"), (GymnasiumVecEnv, "reset")],
        "network": [
            *((ActorCriticPolicy, n) for n in ("forward", "evaluate_actions", "predict_values")),
            (torch.Tensor, "backward"),
        ],
        "projection": [(SubspaceOptimizer, "_pull_gradient"), (SubspaceOptimizer, "_write")],
        "optimiser": [(SubspaceOptimizer, "step"), (torch.nn.utils, "clip_grad_norm_")],
    }
    with ExitStack() as stack:
        for part, methods in parts.items():
            for owner, name in methods:
                timed = watch.timed(part, getattr(owner, name))
                stack.enter_context(patch.object(owner, name, timed))
        yield


def learn(job: Job) -> dict[str, Any]:
    """Train once; steps, seconds and the seconds of each part."""
    device = torch.device(job.device)
    use_one_thread(device)
    keep_freed_memory(device)
    if job.device == "cuda":  # its libraries load, and kernels compile, as they are first used
        train, _ = prepared(replace(job, steps=1))  # which is one rollout and its updates
        train()
    train, context = prepared(job)
    watch = Stopwatch(job.device)
    with watched(watch):
        _wait_for_the_others()
        with watch.running("rest"):
            train()
    seconds = sum(watch.seconds.values())
    return {"steps": context.steps, "seconds": seconds, "parts": watch.seconds, "D": context.D}


def prepared(job: Job) -> tuple[Callable[[], None], TrialContext]:
    """The training, and the context that counts its steps."""
    settings = [f"agent.total_timesteps={job.steps}", f"projection={job.projection}"]
    task = Registry().get(job.task, settings)
    trial = Trial(task, Request("trial", DIMENSIONS[job.task], job.seed, 30.0))
    training = Training(trial, Runtime(device=job.device), task.problem())
    problem, network, context = training.problem, training.network, training.context
    problem.prepare(torch.zeros(1, *problem.input_shape))  # start-up: the ranks of bytes
    return lambda: task.agent(problem, network, context), context


_barrier: Any = None


def _join_fleet(barrier: Any) -> None:
    global _barrier
    _barrier = barrier
    share_cores(barrier.parties)


def _wait_for_the_others() -> None:
    if _barrier is not None:
        _barrier.wait(timeout=600)


def fleet(jobs: list[Job]) -> list[dict[str, Any]]:
    """All jobs at the same time, one process each."""
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(len(jobs))
    with ProcessPoolExecutor(len(jobs), spawn, _join_fleet, (barrier,)) as pool:
        return list(pool.map(learn, jobs))


def measure(task: str, workers: int, scale: float, projection: str, device: str) -> dict[str, Any]:
    steps = max(1, round(STEPS[task] * scale))
    jobs = [Job(task, steps, seed, projection, device) for seed in range(workers)]
    (alone,) = fleet(jobs[:1])
    together = fleet(jobs)
    speed = alone["steps"] / alone["seconds"]
    # until the slowest is done, as a round of `bench run` is
    speeds = sum(one["steps"] for one in together) / max(one["seconds"] for one in together)
    return {
        "task": task,
        "projection": projection,
        **{"D": alone["D"], "d": DIMENSIONS[task], "device": device, "steps": alone["steps"]},
        "steps_per_s": speed,
        "shares": {part: alone["parts"][part] / alone["seconds"] for part in PARTS},
        "workers": workers,
        "fleet_steps_per_s": speeds,
        "fleet_over_alone": speeds / speed,
        "efficiency": speeds / speed / workers,
    }


def markdown(rows: list[dict[str, Any]], facts: dict[str, str]) -> str:
    versions = ("torch", "stable-baselines3", "gymnasium", "ale-py", "numpy", "python")
    lines = [
        "# Speed of reinforcement learning",
        "",
        "Steps are steps of the policy (Atari: 4 frames each), learning included, evaluation and "
        "start-up left out. Alone: one trial, on a CPU with one core; fleet: so many trials at "
        "once, one process each, sharing the cores, until the slowest ends. Shares are of the wall "
        "time of the trial alone.",
        "",
        "| task | D | d | alone, steps/s | emulator | network | projection | optimiser | rest "
        "| fleet | fleet, steps/s | fleet / alone |",
        "|---|" + 11 * "---:|",
    ]
    for row in rows:
        shares = " | ".join(f"{row['shares'][part]:.1%}" for part in PARTS)
        lines.append(
            f"| {row['task']} ({row['projection']}, {row['device']}) | {row['D']:,} | {row['d']:,} "
            f"| {row['steps_per_s']:,.0f} | {shares} | {row['workers']} "
            f"| {row['fleet_steps_per_s']:,.0f} | {row['fleet_over_alone']:.2f} |"
        )
    lines += [
        "",
        f"Command: `{facts['command']}`. Processor: {facts['processor']}, {facts['cores']} cores, "
        f"load when it began {facts['load']}. Device: {facts['device']}. "
        f"{', '.join(f'{name} {facts[name]}' for name in versions)}; commit {facts['commit']}.",
    ]
    return "\n".join(lines) + "\n"


def machine(device: str) -> dict[str, str]:
    load = f"{os.getloadavg()[0]:.2f}"
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return {**describe_environment(command_line()), "load": load, "device": name}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--task", nargs="+", choices=STEPS, default=list(STEPS))
    add("--workers", type=int, default=usable_cores(), metavar="N", help="default: one a core")
    add("--scale", type=float, default=1.0, help="factor on the steps of a run (default: 1)")
    add("--projection", default="hashed")
    options = parse(parser)
    facts = machine(options.device)
    measured = (options.workers, options.scale, options.projection, options.device)
    rows: list[dict[str, Any]] = []
    for task in options.task:
        rows.append(measure(task, *measured))
        write(options, "rl_speed", markdown(rows, facts), {"about": facts, "rows": rows})
    print(markdown(rows, facts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
