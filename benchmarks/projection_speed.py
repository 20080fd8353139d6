"""Speed and memory of the projections alone: P z and P^T g against the copy bandwidth.

    python benchmarks/projection_speed.py --device cuda        # writes reports/projection_speed.*
    python benchmarks/projection_speed.py --quick              # D up to 10^6, one core, minutes

Every time is the median of repeated products, on a CPU the time of one thread, on a GPU that of
the device between two events, once with each product launched by Python and once replayed from a
CUDA graph, which shows what launching costs. The copy bandwidth of the same device is measured in
the same run. A product must at least read its vector and P's tensors and write its result: those
bytes over the time are its bandwidth. What memory or time does not allow is named, not left out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from step_cost import hardware
from torch import Tensor

from difficulty_bench import projection
from difficulty_bench.projection import NAMES, Projection, kernels
from difficulty_bench.projection.implicit import KEEP_BYTES, Implicit

SIZES = (40_000, 200_000, 1_000_000, 10_000_000)
DIMENSIONS = (100, 1_000, 10_000)
COPY_BYTES = 1 << 28  # more than the caches of a CPU core or a GPU hold
GRAPH = 10  # products in a graph, so that its own launch is spread over several
# Measured seconds an entry where torch draws it anew (see docs/projections.md); the gate only.
DRAWING_S = {"gaussian": 20e-9, "rademacher": 5e-9}
# Peak bytes while P is drawn, per entry stored: numpy's temporaries beside the tensors.
DRAW_BYTES = {"dense": 4, "sparse": 26}

Row = dict[str, Any]


class Clock:
    """Times products on one device."""

    def __init__(self, device: str, seconds: float) -> None:
        self.device, self.seconds = device, seconds
        self.cuda = device == "cuda"

    def time(self, product: Callable[[], Any]) -> float:
        """Median seconds of a product, after one that prepares; at least 3, for `seconds` long."""
        product()
        times = [self._once(product)]
        while len(times) < 3 or (sum(times) < self.seconds and len(times) < 200):
            times.append(self._once(product))
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

    def _once(self, product: Callable[[], Any]) -> float:
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


def memory_bytes(device: str) -> int:
    if device == "cuda":
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def reason_to_skip(
    name: str, D: int, d: int, on_kernels: bool, memory: int, most_s: float
) -> str | None:
    """Why a case is not measured, or None."""
    entries = d * round(D**0.5) if name == "sparse" else D * d
    if (needed := DRAW_BYTES.get(name, 0) * entries) > memory // 2:
        return f"needs {needed / 1e9:.0f} GB"
    if name == "dense" and D * d * 10e-9 > 10 * most_s:  # numpy draws 10^8 Gaussians a second
        return f"drawing takes {D * d * 10e-9:.0f} s"
    drawing = DRAWING_S.get(name, 0) * entries
    if not on_kernels and 4 * entries > KEEP_BYTES and drawing > most_s:
        return f"a product takes about {drawing:.0f} s"
    return None


def least_bytes(P: Projection, on_kernels: bool) -> tuple[int, int]:
    """Bytes that P z and P^T g must read and write: vectors once, and P's tensors once."""
    vectors = 4 * (P.D + P.d)
    if isinstance(P, Implicit):
        kept = 0 if P.columns is None else P.columns.nbytes
        return vectors + kept, vectors + kept
    if on_kernels and P.name != "dense":
        up, down = (vectors + part.index.nbytes + part.starts.nbytes for part in P.lists())
        return up, down
    return vectors + P.nbytes, vectors + P.nbytes


def measure(name: str, D: int, d: int, clock: Clock) -> Row:
    """One family at one size, on its device as it stands."""
    peak = Peak(clock.device)
    P = projection.make(name, D, d, seed=0).to(clock.device)
    z, g = torch.randn(d, device=clock.device), torch.randn(D, device=clock.device)
    products = {"up": lambda: P.project(z), "down": lambda: P.project_transposed(g)}
    row: Row = {}
    for key, product in products.items():
        row[f"{key}_s"] = clock.time(product)
        row[f"{key}_graph_s"] = clock.replayed(product)
    row["up_bytes"], row["down_bytes"] = least_bytes(P, kernels.apply_to(z))
    return {**row, "held_bytes": P.nbytes, "peak_bytes": peak.bytes()}


def alone(function: Callable[..., Row], *args: Any) -> Row:
    """In a process of its own, where no memory that an earlier case freed hides the peak."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(function, args)


def cases(options: argparse.Namespace) -> Iterator[tuple[int, int, str, str]]:
    """(D, d, family, code): on a GPU by Triton's kernels and by torch's code."""
    codes = ["triton", "torch"] if options.device == "cuda" and kernels.enabled else ["torch"]
    for D in options.sizes:
        for d in options.dimensions:
            for name in options.projection:
                for code in codes:
                    if name != "dense" or code == "torch":
                        yield D, d, name, code


def rows(options: argparse.Namespace) -> Iterator[Row]:
    clock = Clock(options.device, options.seconds)
    bandwidth, memory = clock.copy_bandwidth(), memory_bytes(options.device)
    yield {"copy_bytes_per_s": bandwidth}
    installed = kernels.enabled
    for D, d, name, code in cases(options):
        kernels.enabled = installed and code == "triton"
        row: Row = {"D": D, "d": d, "projection": name, "code": code}
        row["stored_limit_s"] = 4 * D * d / bandwidth
        row["skipped"] = reason_to_skip(name, D, d, code == "triton", memory, options.most)
        if row["skipped"] is None:
            row |= (
                alone(measure, name, D, d, clock) if not clock.cuda else measure(name, D, d, clock)
            )
        yield row
    kernels.enabled = installed


COLUMNS = (
    "| D | d | projection | code | P z ms | of copy | P^T g ms | of copy | held MB | peak MB "
    "| stored P at copy bandwidth, ms |"
)


def line(row: Row, bandwidth: float) -> str:
    """One row of the table; on a GPU the times of the graph in brackets."""
    head = f"| {row['D']:,} | {row['d']:,} | {row['projection']} | {row['code']} "
    limit = f"{1e3 * row['stored_limit_s']:.3g} |"
    if row["skipped"]:
        return f"{head}| {row['skipped']} | | | | | | {limit}"
    cells = []
    for key in ("up", "down"):
        eager, graph = row[f"{key}_s"], row[f"{key}_graph_s"]
        times = f"{1e3 * eager:.3g}" + ("" if graph is None else f" ({1e3 * graph:.3g})")
        share = row[f"{key}_bytes"] / (eager if graph is None else graph) / bandwidth
        cells += [times, f"{share:.0%}"]
    cells += [f"{row[key] / 1e6:.1f}" for key in ("held_bytes", "peak_bytes")]
    return f"{head}| {' | '.join(cells)} | {limit}"


def markdown(about: Row, table: list[Row]) -> str:
    machine, bandwidth = about["hardware"], about["copy_bytes_per_s"]
    where = machine["gpu"] if about["device"] == "cuda" else f"one core of {machine['cpu']}"
    return "\n".join(
        [
            "# Speed of the projections",
            "",
            f"`{about['command']}` on {where}: Python {machine['python']}, torch "
            f"{machine['torch']}, numpy {machine['numpy']}, triton {machine['triton']}; load "
            f"{about['load']:.1f} on {os.cpu_count()} cores at the start. Copy bandwidth (read and "
            f"write) {bandwidth / 1e9:.1f} GB/s.",
            "",
            "Medians; in brackets from a CUDA graph. *Of copy*: the bytes that the product must "
            "read and write / its time / the copy bandwidth (above 100% where a cache holds "
            "them; next to nothing for `gaussian` and `rademacher` where they draw P and read "
            "none). *Held*: what P keeps; *peak*: the most held at once, drawing P and both "
            "products included, and on a CPU some 20 MB of the process itself. *Stored P*: the "
            "time to read a dense P once. What a skipped product would take is an estimate.",
            "",
            COLUMNS,
            "|---:|---:|---|---|" + "---:|" * 7,
            *(line(row, bandwidth) for row in table),
            "",
        ]
    )


def write(about: Row, table: list[Row], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "projection_speed.json").write_text(
        json.dumps({"about": about, "rows": table}, indent=1) + "\n"
    )
    (out / "projection_speed.md").write_text(markdown(about, table))


def versions(device: str) -> dict[str, str]:
    try:
        import triton

        version = triton.__version__
    except ImportError:
        version = "not installed"
    gpu = {"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}
    return {**hardware(), "triton": version, **gpu}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="D up to 10^6, shorter measurements")
    parser.add_argument("--projection", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--out", type=Path, default=Path("reports"), help="default: reports")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here (see `bench doctor`)")
    options.sizes = SIZES[:3] if options.quick else SIZES
    options.dimensions = DIMENSIONS
    options.seconds = 0.05 if options.quick else 0.5  # of repeats a product
    options.most = 1.5 if options.quick else 30.0  # a product that takes longer is skipped
    return options


def main() -> int:
    options = arguments()
    torch.set_num_threads(1)
    found = rows(options)
    about: Row = {
        "command": "python benchmarks/projection_speed.py"
        + (f" --device {options.device}" if options.device != "cpu" else "")
        + (" --quick" if options.quick else ""),
        "device": options.device,
        "hardware": versions(options.device),
        "load": os.getloadavg()[0],
        **next(found),
    }
    table = []
    for row in found:
        table.append(row)
        print(line(row, about["copy_bytes_per_s"]), flush=True)
    write(about, table, options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
