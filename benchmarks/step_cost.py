"""Cost of training in a subspace: a whole training step / the same step with native Adam.

    python benchmarks/step_cost.py --json step_cost.json

One core, batch 128: zero_grad, forward, cross-entropy, backward, optimiser step. Native and
subspace steps alternate in short turns, so that what else the machine does, and its clock, meet
both. Times are CPU time of the one thread; a ratio is the median over pairs of turns, and its
quartiles say how far to trust it.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from difficulty_bench.projection import NAMES
from difficulty_bench.projection.implicit import KEEP_BYTES
from difficulty_bench.subspace import SubspaceOptimizer

DIMENSIONS = (10, 100, 1000, 10_000)
BATCH = 128
TURN = 4  # steps of one kind before the other's turn: its caches are then warm, as in training
# Largest D x d in float32: above, `dense` fills the memory, and the others are drawn anew in every
# product, which takes seconds on a CPU (see projection_speed.py).
LIMIT_BYTES = {"dense": 10**9, "gaussian": KEEP_BYTES, "rademacher": KEEP_BYTES}
GOALS = {
    ("lenet", "hashed"): 1.1,
    ("fc", "hashed"): 1.1,
    ("lenet", "fastfood"): 1.1,
    ("fc", "fastfood"): 2.0,
}


def fc() -> nn.Module:
    """784-200-200-10, D = 199,210."""
    sizes = [784, 200, 200, 10]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def lenet() -> nn.Module:
    """Valid 5x5 convolutions, D = 44,426."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {"lenet": lenet, "fc": fc}


def training_step(net: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    x, y = torch.randn(BATCH, 1, 28, 28), torch.randint(0, 10, (BATCH,))

    def step() -> None:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def turn(step: Callable[[], None]) -> list[float]:
    """Seconds of each of a few steps in a row."""
    times = []
    for _ in range(TURN):
        start = time.thread_time()
        step()
        times.append(time.thread_time() - start)
    return times


def compare(native: Callable[[], None], subspace: Callable[[], None], turns: int) -> dict[str, Any]:
    """Median step times, and the median and quartiles of the ratio over pairs of turns."""
    for step in (native, subspace):
        turn(step)
    times: dict[Callable[[], None], list[list[float]]] = {native: [], subspace: []}
    for i in range(turns):
        for step in (native, subspace) if i % 2 else (subspace, native):
            times[step].append(turn(step))
    pairs = zip(times[native], times[subspace], strict=True)
    ratios = [statistics.median(after) / statistics.median(before) for before, after in pairs]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "native_ms": 1e3 * statistics.median(itertools.chain(*times[native])),
        "subspace_ms": 1e3 * statistics.median(itertools.chain(*times[subspace])),
        "ratio": middle,
        "ratio_quartiles": [low, high],
        "turns": turns,
    }


def measure(networks: list[str], names: list[str], turns: int) -> Iterator[dict[str, Any]]:
    for key in networks:
        torch.manual_seed(0)
        net = NETWORKS[key]()
        D = sum(p.numel() for p in net.parameters())
        for name in names:
            for d in DIMENSIONS:
                if 4 * D * d > LIMIT_BYTES.get(name, math.inf):
                    continue
                twin = copy.deepcopy(net)
                native = training_step(net, torch.optim.Adam(net.parameters(), lr=1e-3))
                inside = SubspaceOptimizer(twin.parameters(), d=d, seed=0, projection=name, lr=1e-3)
                row = compare(native, training_step(twin, inside), turns)
                goal = GOALS.get((key, name))
                met = None if goal is None else row["ratio"] <= goal
                yield {"network": key, "D": D, "projection": name, "d": d, **row} | {
                    "nbytes": inside.projection.nbytes,
                    "goal": goal,
                    "met": met,
                }


def hardware() -> dict[str, str]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def markdown(rows: list[dict[str, Any]], machine: dict[str, str]) -> str:
    """One line a network and family, one column a dimension."""
    lines = [
        f"Whole training step in the subspace / native Adam step. One core of {machine['cpu']} "
        f"({machine['capability']}), batch {BATCH}, Python {machine['python']}, "
        f"torch {machine['torch']}, numpy {machine['numpy']}.",
        "",
        "| network | projection | " + " | ".join(f"d = {d:,}" for d in DIMENSIONS) + " | goal |",
        "|---|---|" + "---:|" * (len(DIMENSIONS) + 1),
    ]
    for key, name in dict.fromkeys((row["network"], row["projection"]) for row in rows):
        mine = {r["d"]: r for r in rows if (r["network"], r["projection"]) == (key, name)}
        cells = [f"{mine[d]['ratio']:.2f}" if d in mine else "-" for d in DIMENSIONS]
        goal = GOALS.get((key, name))
        end = f"<= {goal}" if goal else ""
        D = next(iter(mine.values()))["D"]
        lines.append(f"| {key} (D = {D:,}) | {name} | {' | '.join(cells)} | {end} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--projection", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--turns", type=int, default=40, help="pairs of turns a row (default 40)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    machine = hardware()
    rows = list(measure(options.network, options.projection, options.turns))
    print(markdown(rows, machine))
    missed = [row for row in rows if row["met"] is False]
    for row in missed:
        print(f"missed: {row['network']} {row['projection']} d = {row['d']}: {row['ratio']:.3f}")
    if options.json:
        options.json.write_text(json.dumps({"hardware": machine, "rows": rows}, indent=1) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
