"""A whole native training step as it is and through torch.compile, and what compiling costs.

    python benchmarks/compiled_step.py [--device cuda]

zero_grad, forward, cross-entropy, backward and a fused Adam step on one batch; medians of CPU time
of one thread, on a GPU of the device. On CUDA the mode is `reduce-overhead`, which replays CUDA
graphs. The first call compiles; its wall time is shown beside the step, for it is paid in every
process and for every network, batch shape and mode.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable

import torch
from measuring import Clock
from step_cost import BATCH, NETWORKS, hardware
from torch import nn

SECONDS = 2.0  # of steps behind each median


def training_step(net: nn.Module, forward: Callable[..., torch.Tensor]) -> Callable[[], None]:
    device = next(net.parameters()).device
    x = torch.randn(BATCH, 1, 28, 28, device=device)
    y = torch.randint(0, 10, (BATCH,), device=device)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(forward(x), y))
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    device = parser.parse_args().device
    torch.set_num_threads(1)
    clock, machine = Clock(device, SECONDS), hardware()
    where = torch.cuda.get_device_name() if device == "cuda" else f"one core of {machine['cpu']}"
    print(f"{where}, batch {BATCH}, torch {machine['torch']}\n")
    print("| network | as it is, ms | compiled, ms | ratio | first call, s |")
    print("|---|---:|---:|---:|---:|")
    mode = "reduce-overhead" if device == "cuda" else "default"
    for name, build in NETWORKS.items():
        torch.manual_seed(0)
        net = build().to(device)
        twin = copy.deepcopy(net)
        plain = clock.time(training_step(net, net))
        step = training_step(twin, torch.compile(twin, mode=mode))
        start = time.perf_counter()
        step()
        first = time.perf_counter() - start
        step()  # a second kind of call, once gradients and moments are there
        compiled = clock.time(step)
        times = f"{1e3 * plain:.2f} | {1e3 * compiled:.2f}"
        print(f"| {name} | {times} | {compiled / plain:.2f} | {first:.0f} |", flush=True)


if __name__ == "__main__":
    main()
