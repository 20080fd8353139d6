"""Trials per hour of a supervised task: one by one, side by side, and together in one program.

    python benchmarks/batch_speed.py [--device cuda] [--sizes 2 8] [--task mnist-lenet]

Whole trials of one epoch, evaluation included, through the engines that `bench run` uses:

- `alone`: one after another, one thread (on a GPU: the whole device);
- `launched`: the same with every kernel launched, no step replayed from a CUDA graph (GPU only);
- `threads`: the same with all cores to each trial (CPU only);
- `workers`: one process a core, one thread each (CPU only);
- `together K`: K trials in one program (`--batch-trials K`).

All are taken in one run; a ratio is to `alone`. Writes reports/batch_speed.{json,md}, of a GPU
batch_speed_cuda.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from measuring import command_line, parse, write

from agents import captured
from difficulty_bench.engine import Engine, InlineEngine, ProcessEngine
from difficulty_bench.environment import describe_environment, usable_cores
from difficulty_bench.registry import Registry, Task
from difficulty_bench.results import Request
from difficulty_bench.trial import Runtime, Trial

TASKS = ("mnist-fc", "mnist-lenet", "cifar10-lenet")
SIZES = {"cpu": [2, 8], "cuda": [4, 16, 64, 256]}  # a group of one is `alone`
D = 300  # of the subspace
seeds = itertools.count()  # no trial is run twice, so no data order or network is warm


def trials(task: Task, n: int) -> list[Trial]:
    return [Trial(task, Request("trial", D, next(seeds), 30.0)) for _ in range(n)]


def timed(engine: Engine, task: Task, runtime: Runtime, n: int) -> float:
    """Seconds per trial, of n trials."""
    start = time.perf_counter()
    states = [result.state for result in engine.run(trials(task, n), runtime)]
    if states != ["complete"] * n:
        raise RuntimeError(f"{task.name}: trials ended as {states}")
    return (time.perf_counter() - start) / n


def ways(sizes: list[int], device: str) -> Iterator[tuple[str, int, Callable[[], Engine], bool]]:
    """Name, number of trials, engine, and whether a trial may use every core."""
    cores = usable_cores()
    yield "alone", 2, InlineEngine, False
    if device == "cuda":
        with patch.object(captured, "AFTER", sys.maxsize):
            yield "launched", 2, InlineEngine, False
    else:
        yield "threads", 2, InlineEngine, True
        yield f"workers {cores}", 2 * cores, lambda: ProcessEngine(cores), False
    for size in sizes:
        yield f"together {size}", size, lambda size=size: InlineEngine(size, apart), False


class Apart(Exception):
    """A group did not train in one program, or not whole; its time is that of something else."""


def apart(why: str) -> None:
    raise Apart(why)


def measure(task: Task, sizes: list[int], device: str) -> Iterator[dict[str, Any]]:
    runtime, alone = Runtime(device=device), None
    for name, n, make, all_cores in ways(sizes, device):
        engine = make()
        with ExitStack() as stack:
            stack.callback(engine.close)
            if all_cores:
                torch.set_num_threads(usable_cores())
                stack.enter_context(patch("torch.set_num_threads"))  # a trial asks for one
            # a group has kernels of its own
            warm_up = 1 if name in ("alone", "launched", "threads") else n
            try:
                timed(engine, task, runtime, warm_up)  # processes, data, kernels
                seconds = timed(engine, task, runtime, n)
            except Apart as error:
                yield {"task": task.name, "way": name, "apart": str(error)}
                continue
        alone = alone or seconds
        yield {
            "task": task.name,
            "way": name,
            "s_per_trial": round(seconds, 4),
            "trials_per_hour": round(3600 / seconds),
            "times_alone": round(alone / seconds, 3),
        }


def page(rows: list[dict[str, Any]], about: dict[str, Any]) -> str:
    lines = [
        "# Trials per hour: alone, side by side, together",
        "",
        f"Trials of one epoch at d = {D} with their evaluation. `threads`: every core to one "
        "trial; `workers`: a process a core; `launched`: alone, without replaying steps from a "
        "CUDA graph; `together K`: K trials in one program. `times alone` is within this run.",
        "",
        "| task | way | s per trial | trials per hour | times alone |",
        "|---|---|---:|---:|---:|",
    ]
    lines += [
        f"| {row['task']} | {row['way']} | {row['s_per_trial']:.3g} "
        f"| {row['trials_per_hour']:,} | {row['times_alone']:.2f} |"
        if "apart" not in row
        else f"| {row['task']} | {row['way']} | - | - | - |"
        for row in rows
    ]
    lines += ["", *(f"{row['way']} is missing: {row['apart']}." for row in rows if "apart" in row)]
    facts = ", ".join(f"{key} {value}" for key, value in about.items() if key != "command")
    return "\n".join([*lines, "", f"`{about['command']}`: {facts}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--sizes", nargs="+", type=int, metavar="K", help="default: 2 8, on a GPU 4 16 64 256")
    add(
        "--task", nargs="+", default=list(TASKS), metavar="NAME", help=f"default: {' '.join(TASKS)}"
    )
    given = parse(parser)
    sizes = given.sizes or SIZES[given.device]
    command = command_line()
    on_gpu = given.device == "cuda"
    device = {"device": torch.cuda.get_device_name() if on_gpu else "cpu"}
    load = {"load when it began": f"{os.getloadavg()[0]:.1f}"}
    about = {**describe_environment(command), **device, **load}
    rows = []
    for name in given.task:
        task = Registry().get(name, ["agent.epochs=1", "lr_rule=matched"])
        for row in measure(task, sizes, given.device):
            rows.append(row)
            print(json.dumps(row), flush=True)
            write(given, "batch_speed", page(rows, about), {"about": about, "rows": rows})


if __name__ == "__main__":
    main()
