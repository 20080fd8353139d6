"""The page of `projection_speed.py`: one table of our families, one of their peers."""

from __future__ import annotations

import os
from typing import Any

Row = dict[str, Any]
PRODUCTS = ("up", "down")  # P z, P^T g

COLUMNS = (
    "| D | d | projection | code | P z ms | of copy | P^T g ms | of copy | held MB | peak MB "
    "| stored P at copy bandwidth, ms |"
)
PEER_COLUMNS = (
    "| D | d | peer | columns' length | P z ms | P^T g ms | held MB | peak MB | ours "
    "| P z: peer / ours | P^T g: peer / ours |"
)


def line(row: Row, bandwidth: float) -> str:
    """One of our rows; on a GPU the times of the graph in brackets."""
    head = f"| {row['D']:,} | {row['d']:,} | {row['projection']} | {row['code']} "
    limit = f"{1e3 * row['stored_limit_s']:.3g} |"
    if row["skipped"]:
        return f"{head}| {row['skipped']} | | | | | | {limit}"
    cells = []
    for key in PRODUCTS:
        eager, graph = row[f"{key}_s"], row[f"{key}_graph_s"]
        times = f"{1e3 * eager:.3g}" + ("" if graph is None else f" ({1e3 * graph:.3g})")
        share = row[f"{key}_bytes"] / (eager if graph is None else graph) / bandwidth
        cells += [times, f"{share:.0%}"]
    cells += [f"{row[key] / 1e6:.1f}" for key in ("held_bytes", "peak_bytes")]
    return f"{head}| {' | '.join(cells)} | {limit}"


def peer_line(row: Row, table: list[Row]) -> str:
    """A peer's row, with the ratio of its times to those of our family at the same size."""
    head = f"| {row['D']:,} | {row['d']:,} | {row['peer']} | {row['lengths']} "
    if row["skipped"]:
        return f"{head}| {row['skipped']} | | | | {row['projection']} | | |"
    ours = counterpart(row, table)
    times = [
        "none" if row[f"{key}_s"] is None else f"{1e3 * row[f'{key}_s']:.3g}" for key in PRODUCTS
    ]
    memory = [f"{row[key] / 1e6:.1f}" for key in ("held_bytes", "peak_bytes")]
    ratios = [ratio(row[f"{key}_s"], ours[f"{key}_s"] if ours else None) for key in PRODUCTS]
    return f"{head}| {' | '.join([*times, *memory, row['projection'], *ratios])} |"


def counterpart(row: Row, table: list[Row]) -> Row | None:
    """Our measured row of the peer's family and size; on a GPU Triton's, which comes first."""
    key = ("D", "d", "projection")
    ours = (r for r in table if "peer" not in r and all(r[k] == row[k] for k in key))
    return next((r for r in ours if not r["skipped"]), None)


def ratio(theirs: float | None, ours: float | None) -> str:
    if theirs is None:
        return ""
    return "ours not measured" if ours is None else f"{theirs / ours:.3g}"


def markdown(about: Row, table: list[Row]) -> str:
    machine, bandwidth = about["hardware"], about["copy_bytes_per_s"]
    packages = ", ".join(f"{name} {version}" for name, version in about["peers"].items())
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
            "time to read a dense P once. What a skipped product would take is an estimate. On a "
            "CPU a result of 40 MB (D = 10^7) is new memory from the system each time, whose first "
            "touch P z pays for; a training step, which writes into its parameters, does not.",
            "",
            COLUMNS,
            "|---:|---:|---|---|" + "---:|" * 7,
            *(line(row, bandwidth) for row in table if "peer" not in row),
            "",
            "## Against public implementations",
            "",
            f"The same run, with {packages}. A ratio is the peer's time / the time of our family "
            "of the same kind at the same D and d: above 1 ours is faster. *None*: the library has "
            "no such product. "
            "Ours have columns of length 1. `BasicProjector` keeps the entries of 100 columns and, "
            "where d is larger, draws all of them in every product; ours keep up to 256 MiB. "
            "`clarkson_woodruff_transform` draws its map in every call. `intrinsic-dimensionality` "
            "0.1, a port of the whole method, is missing: what pip installs of it holds no code.",
            "",
            PEER_COLUMNS,
            "|---:|---:|---|---|" + "---:|" * 4 + "---|" + "---:|" * 2,
            *(peer_line(row, table) for row in table if "peer" in row),
            "",
        ]
    )
