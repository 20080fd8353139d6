"""A whole training step: in the subspace, compiled and captured, against the native step.

    python benchmarks/step_speed.py                      # writes reports/step_speed.*
    python benchmarks/step_speed.py --device cuda

zero_grad, forward, cross-entropy, backward and a step of fused Adam, with the network and the
batch of a task; of Pong the policy's network, not its critic. The steps compared alternate in short
turns, so that what else the machine does, and its clock, meet both. A turn's time is that of the
one thread, on a GPU that of the device between two events; a ratio is the median over pairs of
turns, and its quartiles say how far to trust it. On a GPU each comparison is made of steps that
Python launches and of steps replayed from a CUDA graph. Exit code 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from measuring import Clock, command_line, hardware, parse, write
from torch import nn
from torch.optim import Adam, Optimizer

from difficulty_bench.cpu import keep_freed_memory
from difficulty_bench.problem import count_parameters
from difficulty_bench.projection import NAMES
from difficulty_bench.projection.implicit import KEEP_BYTES
from difficulty_bench.registry import Registry
from difficulty_bench.subspace import SubspaceOptimizer
from difficulty_bench.trial import build_network

Row = dict[str, Any]
Step = Callable[[], None]
TASKS = ("mnist-lenet", "mnist-fc", "pong")
DIMENSIONS = (10, 100, 1000, 10_000)
STEPS = {"cpu": 4, "cuda": 20}  # of a turn: caches are then warm, and launches queue up
# Largest D x d in float32: above, `dense` fills the memory, and on a CPU the others are drawn anew
# in every product, which takes seconds (see projection_speed.py).
LIMIT_BYTES = {
    "cpu": {"dense": 10**9, "gaussian": KEEP_BYTES, "rademacher": KEEP_BYTES},
    "cuda": {"dense": 10**9},
}
GOALS = {
    "cpu": {
        ("mnist-lenet", "hashed"): 1.1,
        ("mnist-fc", "hashed"): 1.1,
        ("mnist-lenet", "fastfood"): 1.1,
        ("mnist-fc", "fastfood"): 2.0,
    },
    "cuda": {(task, name): 1.05 for task in TASKS for name in ("hashed", "fastfood")},
}


class Workload:
    """The network of a task at its theta_0, and one batch of random rows and labels."""

    def __init__(self, name: str, device: str) -> None:
        task = Registry().get(name)
        problem = task.problem()
        self.name, self.batch = name, int(task.definition()["agent"]["batch_size"])
        self.network = build_network(task, problem, seed=0).to(device)
        self.D = count_parameters(self.network)
        self.x = torch.randn(self.batch, *problem.input_shape, device=device)
        self.y = torch.randint(0, problem.output_size, (self.batch,), device=device)
        self.options = {"fused": True, "capturable": self.x.is_cuda}  # of Adam on either side

    def step(
        self,
        optimizer: Callable[[Iterator[nn.Parameter]], Optimizer],
        forward: Callable[[nn.Module], Callable[..., torch.Tensor]] = lambda network: network,
    ) -> Step:
        """A step of a copy of the network, through what `forward` makes of the copy."""
        network = copy.deepcopy(self.network)
        mine, compute = optimizer(network.parameters()), forward(network)

        def step() -> None:
            mine.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(compute(self.x), self.y))
            mine.step()

        return step

    def native(self, **how: Any) -> Step:
        return self.step(lambda parameters: Adam(parameters, lr=1e-3, **self.options), **how)

    def subspace(self, projection: str, d: int) -> Step:
        return self.step(
            lambda parameters: SubspaceOptimizer(
                parameters, Adam, d=d, seed=0, projection=projection, lr=1e-3, **self.options
            )
        )


def captured(step: Step) -> Step:
    """The same from a CUDA graph."""
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # as torch's documentation asks before a capture
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        step()

    def replay(alive: Step = step) -> None:
        """What a graph works on outside of its own memory lives as long as `step` does."""
        graph.replay()

    return replay


def compare(before: Step, after: Step, clock: Clock, turns: int) -> Row:
    """Median times of a step, the median and quartiles of after / before over pairs of turns."""
    steps = STEPS[clock.device]

    def turn(step: Step) -> float:
        return clock.once(lambda: [step() for _ in range(steps)]) / steps

    for step in (before, after):
        turn(step)
    times: dict[Step, list[float]] = {before: [], after: []}
    for i in range(turns):
        for step in (before, after) if i % 2 else (after, before):
            times[step].append(turn(step))
    ratios = [b / a for a, b in zip(times[before], times[after], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "before_ms": 1e3 * statistics.median(times[before]),
        "after_ms": 1e3 * statistics.median(times[after]),
        "ratio": middle,
        "ratio_quartiles": [low, high],
    }


def rows(
    work: Workload, names: list[str], dimensions: list[int], clock: Clock, turns: int
) -> Iterator[Row]:
    """In the subspace / native for each projection and d, then the native step compiled."""
    head = {"task": work.name, "D": work.D, "batch": work.batch}
    ways = {"eager": lambda step: step} | ({"graph": captured} if clock.cuda else {})
    for way, made in ways.items():
        native = made(work.native())
        for name in names:
            for d in dimensions:
                row = head | {"way": way, "projection": name, "d": d}
                if 4 * work.D * d > LIMIT_BYTES[clock.device].get(name, math.inf):
                    continue
                row |= compare(native, made(work.subspace(name, d)), clock, turns)
                goal = GOALS[clock.device].get((work.name, name))
                yield row | {"goal": goal, "met": None if goal is None else row["ratio"] <= goal}
    mode = "reduce-overhead" if clock.cuda else "default"
    step = work.native(forward=lambda network: torch.compile(network, mode=mode))
    start = time.perf_counter()
    step()  # compiles
    first = time.perf_counter() - start
    yield (
        head
        | {"way": "compiled", **compare(work.native(), step, clock, turns)}
        | {"first_s": first}
    )
    if clock.cuda:
        both = work.native(), captured(work.native())
        yield head | {"way": "captured", **compare(*both, clock, turns)}


def page(table: list[Row], about: Row) -> str:
    machine = about["hardware"]
    inside = [row for row in table if "d" in row]
    dimensions = sorted({row["d"] for row in inside})
    where = machine.get("gpu") or f"one core of {machine['cpu']} ({machine['capability']})"
    lines = [
        "# Cost of a training step",
        "",
        f"`{about['command']}` on {where}: Python {machine['python']}, torch {machine['torch']}, "
        f"numpy {machine['numpy']}; load {about['load']:.1f} on {os.cpu_count()} cores at the "
        f"start, {about['turns']} pairs of turns.",
        "",
        "## In the subspace / native",
        "",
        "Whole steps, both with fused Adam; in brackets the quartiles over pairs of turns. "
        "*Graph*: both replayed from CUDA graphs. A blank: P would not fit, or would be drawn in "
        "every product.",
        "",
        "| task | D | batch | steps | projection | native, ms | "
        + " | ".join(f"d = {d:,}" for d in dimensions)
        + " | goal |",
        "|---|---:|---:|---|---|---:|" + "---:|" * (len(dimensions) + 1),
    ]
    keys = ("task", "way", "projection")
    for key in dict.fromkeys(tuple(row[k] for k in keys) for row in inside):
        mine = {row["d"]: row for row in inside if tuple(row[k] for k in keys) == key}
        one = next(iter(mine.values()))
        cells = [_ratio(mine[d]) if d in mine else "" for d in dimensions]
        goal = "" if one["goal"] is None else f"<= {one['goal']:g}"
        native = statistics.median(row["before_ms"] for row in mine.values())
        lines.append(
            f"| {key[0]} | {one['D']:,} | {one['batch']} | {key[1]} | {key[2]} | {native:.3g} "
            f"| {' | '.join(cells)} | {goal} |"
        )
    lines += [
        "",
        "## The native step, compiled or captured / as it is",
        "",
        "Compiled: the network through `torch.compile`, whose first call is paid in every process "
        "and for every network and batch. Captured: the step replayed from a CUDA graph.",
        "",
        "| task | step | as it is, ms | so, ms | ratio | first call, s |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['task']} | {row['way']} | {row['before_ms']:.3g} | {row['after_ms']:.3g} "
        f"| {_ratio(row)} | {format(row['first_s'], '.0f') if 'first_s' in row else ''} |"
        for row in table
        if "d" not in row
    ]
    return "\n".join([*lines, ""])


def _ratio(row: Row) -> str:
    low, high = row["ratio_quartiles"]
    return f"{row['ratio']:.2f} ({low:.2f}–{high:.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--task", nargs="+", choices=TASKS, default=list(TASKS))
    add("--projection", nargs="+", choices=NAMES, default=list(NAMES))
    add("--d", nargs="+", type=int, default=list(DIMENSIONS), help="default: 10 to 10,000")
    add("--turns", type=int, default=20, help="pairs of turns a row (default: 20)")
    options = parse(parser)
    torch.set_num_threads(1)
    keep_freed_memory(torch.device(options.device))
    about: Row = {
        "command": command_line(),
        "hardware": hardware(options.device),
        "load": os.getloadavg()[0],
        "turns": options.turns,
    }
    clock = Clock(options.device)
    table: list[Row] = []
    for name in options.task:
        work = Workload(name, options.device)
        for row in rows(work, options.projection, options.d, clock, options.turns):
            table.append(row)
            what = f"{row['projection']} d = {row['d']}" if "d" in row else "native"
            print(f"{name} {row['way']} {what}: {_ratio(row)}", flush=True)
            write(options, "step_speed", page(table, about), {"about": about, "rows": table})
    missed = [row for row in table if row.get("met") is False]
    for row in missed:
        print(f"missed: {row['task']} {row['projection']} d = {row['d']}: {row['ratio']:.3f}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
