"""What the benchmarks share: clock, memory, the machine, options, and where a page goes."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from difficulty_bench.environment import usable_memory

REPORTS = Path(__file__).resolve().parent.parent / "reports"
COPY_BYTES = 1 << 28  # more than the caches of a CPU core or a GPU hold
GRAPH = 10  # products in a graph, so that its own launch is spread over several
SLOW_S = 5.0  # a product as slow as this varies less than the patience for three more


class Clock:
    """Times products on one device: a CPU thread's own time, or a GPU's between two events."""

    def __init__(self, device: str, seconds: float = 0.0) -> None:
        self.device, self.seconds = device, seconds
        self.cuda = device == "cuda"

    def time(self, product: Callable[[], Any]) -> float:
        """Median seconds of a product, after one that prepares: for `seconds` long, at least 3.

        One that takes `SLOW_S` or more is measured once.
        """
        product()
        times = [self.once(product)]
        if times[0] >= SLOW_S:
            return times[0]
        while len(times) < 3 or (sum(times) < self.seconds and len(times) < 200):
            times.append(self.once(product))
        return statistics.median(times)

    def replayed(self, product: Callable[[], Tensor]) -> float | None:
        """The same from a CUDA graph; None on a CPU."""
        if not self.cuda:
            return None
        graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        with torch.cuda.stream(side):
            product()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            for _ in range(GRAPH):
                product()
        return self.time(graph.replay) / GRAPH

    def once(self, product: Callable[[], Any]) -> float:
        """Seconds of one call."""
        if not self.cuda:
            start = time.thread_time()
            product()
            return time.thread_time() - start
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        product()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1e3

    def copy_bandwidth(self) -> float:
        """Bytes read and written a second by a copy of `COPY_BYTES`."""
        source = torch.ones(COPY_BYTES // 4, device=self.device)
        target = torch.empty_like(source)
        return 2 * COPY_BYTES / self.time(lambda: target.copy_(source))


class Peak:
    """The most memory held at once since the start: of the process, or of the GPU's allocator."""

    def __init__(self, device: str) -> None:
        self.cuda = device == "cuda"
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: VmHWM starts again from VmRSS
        self.start = torch.cuda.memory_allocated() if self.cuda else self._status("VmRSS")

    def bytes(self) -> int:
        now = torch.cuda.max_memory_allocated() if self.cuda else self._status("VmHWM")
        return now - self.start

    @staticmethod
    def _status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key + ":"))


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Its options and those of every benchmark; a GPU that is not there ends in one line."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=REPORTS, metavar="DIR", help="default: reports")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here (see `bench doctor`)")
    return options


def write(options: argparse.Namespace, name: str, page: str, found: dict[str, Any]) -> None:
    """The page and its numbers, in `--out`: `name`.md and .json, of a GPU `name`_cuda.

    Benchmarks write after every row, so that one that is stopped leaves what it has measured.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / (f"{name}_cuda" if options.device == "cuda" else name)
    file.with_suffix(".md").write_text(page, encoding="utf-8")
    file.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def command_line() -> str:
    """As it was typed."""
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def hardware(device: str) -> dict[str, str]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    found = {
        "cpu": models[0] if models else platform.processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
    try:
        found["triton"] = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        found["triton"] = "not installed"
    return found | ({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})


def memory_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory
    return usable_memory()


def alone(function: Callable[..., Any], *args: Any) -> Any:
    """In a process of its own, where no memory that an earlier case freed hides the peak.

    Raise BrokenProcessPool where the system ended it.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return pool.submit(function, *args).result()
