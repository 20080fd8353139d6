"""Speed and memory of the projections alone: P z and P^T g against copy bandwidth and peers.

    python benchmarks/projection_speed.py                      # writes reports/projection_speed.*
    python benchmarks/projection_speed.py --quick              # D up to 10^6, one core, minutes
    python benchmarks/projection_speed.py --device cuda

Every time is the median of repeated products, on a CPU the time of one thread, on a GPU that of
the device between two events, once with each product launched by Python and once replayed from a
CUDA graph, which shows what launching costs. The copy bandwidth of the same device is measured in
the same run. A product must at least read its vector and P's tensors and write its result: those
bytes over the time are its bandwidth. Public implementations (`peers.py`) run beside the family of
their kind. What memory, time or a missing package does not allow is named, not left out.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import peers
import torch
from measuring import Clock, Peak, alone, command_line, hardware, memory_bytes, parse, write
from peers import PEERS, Cost, Peer
from projection_page import Row, line, markdown, peer_line
from threadpoolctl import threadpool_limits

from difficulty_bench import projection
from difficulty_bench.errors import ResourceError
from difficulty_bench.projection import NAMES, Projection, kernels
from difficulty_bench.projection.implicit import KEEP_BYTES, Implicit

SIZES = (40_000, 200_000, 1_000_000, 10_000_000)
DIMENSIONS = (100, 1_000, 10_000)
MAX_DRAWING = 10  # times what a product may take
MAX_DRAWN = 10**8  # entries of P in a product of torch's code on a GPU, where it is the fallback
MAX_CAPTURED_S = 0.1  # a slower one is some 10^4 kernels or more, too many nodes for a graph


def cost(name: str, D: int, d: int, on_kernels: bool) -> Cost:
    """Of our families; the figures an entry are measured (see docs/projections.md)."""
    if name == "dense":
        return Cost(4 * D * d, draw_s=10e-9 * D * d)  # numpy's Gaussians
    if name == "sparse":
        return Cost(26 * d * D**0.5)  # numpy's temporaries beside the tensors
    if name in ("gaussian", "rademacher") and not on_kernels and 4 * D * d > KEEP_BYTES:
        return Cost(product_s={"gaussian": 17e-9, "rademacher": 3e-9}[name] * D * d)
    return Cost()


def reason_to_skip(cost: Cost, device: str, memory: int, most_s: float) -> str | None:
    """Why a case is not measured, or None."""
    if cost.peak_bytes > memory // 2:
        return f"needs {cost.peak_bytes / 1e9:.0f} GB"
    if cost.draw_s > MAX_DRAWING * most_s:
        return f"drawing takes {cost.draw_s:.0f} s"
    if device == "cpu" and cost.product_s > most_s:
        return f"a product takes about {cost.product_s:.0f} s"
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
        slow = row[f"{key}_s"] > MAX_CAPTURED_S
        row[f"{key}_graph_s"] = None if slow else clock.replayed(product)
    row["up_bytes"], row["down_bytes"] = least_bytes(P, kernels.apply_to(z))
    return {**row, "held_bytes": P.nbytes, "peak_bytes": peak.bytes()}


def measure_peer(kind: type[Peer], D: int, d: int, clock: Clock) -> Row:
    """The same of a peer; numpy's BLAS on one thread, whose time is the only one that counts."""
    peak = Peak(clock.device)
    with threadpool_limits(1):
        P = kind(D, d, clock.device)
        z, g = torch.randn(d, device=clock.device), torch.randn(D, device=clock.device)
        up = None if P.project(z) is None else clock.time(lambda: P.project(z))
        down = clock.time(lambda: P.project_transposed(g))
    return {"up_s": up, "down_s": down, "held_bytes": P.nbytes, "peak_bytes": peak.bytes()}


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
        limits = clock.device, memory, options.most
        why = reason_to_skip(cost(name, D, d, code == "triton"), *limits)
        if clock.cuda and code == "torch" and name in ("gaussian", "rademacher"):
            why = why or ("drawn in torch: many seconds" if D * d > MAX_DRAWN else None)
        yield row | measured(why, measure, name, D, d, clock)
        for kind in (kind for kind in PEERS if kind.family == name and code == "torch"):
            row = {"D": D, "d": d, "projection": name, "peer": kind.title, "lengths": kind.lengths}
            why = kind.lack(clock.device) or reason_to_skip(kind.cost(D, d), *limits)
            yield row | measured(why, measure_peer, kind, D, d, clock)
    kernels.enabled = installed


def measured(why: str | None, measure: Callable[..., Row], *case: Any) -> Row:
    """What `measure` finds, unless there is a reason `why` not to, or the memory ends."""
    if why is not None:
        return {"skipped": why}
    on_gpu = case[-1].cuda
    try:
        return {"skipped": None} | (measure(*case) if on_gpu else alone(measure, *case))
    except ResourceError as error:  # P is drawn on the host, which may have less memory
        return {"skipped": str(error).partition(":")[0]}
    except (MemoryError, BrokenProcessPool, torch.OutOfMemoryError):
        return {"skipped": "ran out of memory, or its process died"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="D up to 10^6, shorter measurements")
    parser.add_argument("--projection", nargs="+", choices=NAMES, default=list(NAMES))
    options = parse(parser)
    options.sizes = SIZES[:3] if options.quick else SIZES
    options.dimensions = DIMENSIONS
    short = options.quick or options.device == "cuda"  # whose own clock varies little
    options.seconds = 0.05 if short else 0.5  # of repeats a product
    options.most = 1.5 if short else 30.0  # a product that takes longer is skipped
    return options


def main() -> int:
    options = arguments()
    torch.set_num_threads(1)
    found = rows(options)
    about: Row = {
        "command": command_line(),
        "device": options.device,
        "hardware": hardware(options.device),
        "peers": peers.versions(),
        "load": os.getloadavg()[0],
        **next(found),
    }
    table = list[Row]()
    for row in found:
        table.append(row)
        text = peer_line(row, table) if "peer" in row else line(row, about["copy_bytes_per_s"])
        print(text, flush=True)
        write(options, "projection_speed", markdown(about, table), {"about": about, "rows": table})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
