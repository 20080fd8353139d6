"""The figures that the suite exists for: rows on one axis, of d_int90 or of bits."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..crossing import ABOVE, BELOW
from .style import GREY, INK, PALE, PARADIGM, log_axis, mark, new_figure, styled
from .text import Row, has_number, searched, variant

SIZE = 5.0  # points
MARGIN = 1.6  # factor between the outermost values and the edges
D_INT90, BITS = "d_int90", "bits at d_int90"
OPEN = 4.0  # factor over which an arrow leads away from a d_int90 that is not bounded there
LANE = 0.17  # how far local and global stand apart, of a row's height


def overview_figure(rows: Sequence[Row]) -> Figure | None:
    """None where no row has a number yet. Easiest task first, from the top."""
    shown = sorted(filter(has_number, rows), key=_position)
    return forest_figure(shown, _names(shown)) if shown else None


def bits_figure(rows: Sequence[Row]) -> Figure | None:
    """The same in bits; None where no row has any."""
    shown = sorted((_in_bits(row) for row in rows if row["sizes"]), key=_position)
    shown = [row for row in shown if has_number(row)]
    return forest_figure(shown, _names(shown), sizes=False, label=BITS) if shown else None


def _in_bits(row: Row) -> Row:
    """A row whose d_int90 and intervals are its bits."""
    bits = {}
    for suffix in ("", "_global"):
        bits[f"d_int90{suffix}"] = row[f"bits{suffix}"]
        bits[f"censored{suffix}"] = None
        for end in ("ci_low", "ci_high"):
            bits[f"{end}{suffix}"] = row[f"bits_{end}{suffix}"]
    return {**row, **bits}


def forest_figure(
    shown: Sequence[Row], names: Sequence[str], *, sizes: bool = True, label: str = D_INT90
) -> Figure:
    """Rows that have a number, from the top, each with its name; with `sizes`, D as a tick."""
    with styled():
        figure, axes = new_figure(1.15 + 0.34 * len(shown))
        values = [d for row in shown for d in _extent(row) + [row["D"]] * sizes]
        low, high = min(values) / MARGIN, max(values) * MARGIN
        log_axis(axes, low, high)
        for y, row in enumerate(shown):
            end = row["D"] if sizes else high
            axes.plot([low, end], [y, y], color=PALE, linewidth=0.8, zorder=0)
            if sizes:
                axes.plot(end, y, "|", color=GREY, markersize=8, markeredgewidth=1.2)
            both = row["threshold_global"] is not None
            _draw(axes, row, "", y - LANE * both, filled=True)
            _draw(axes, row, "_global", y + LANE, filled=False)
        axes.set_yticks(range(len(shown)), names)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlabel(f"{label} with its 95% interval")
        figure.legend(handles=_legend(shown, sizes), loc="outside lower center", ncols=3,
                      handletextpad=0.4, columnspacing=1.2)  # fmt: skip
    return figure


def _position(row: Row) -> tuple[float, str]:
    return float(_point(row, "") or _point(row, "_global") or 0), row["task"]


def _point(row: Row, suffix: str) -> int | None:
    """d_int90, or the end of the search range beyond which it lies."""
    low, high = searched(row)
    ends = {ABOVE: high, BELOW: low}
    value: int | None = row[f"d_int90{suffix}"] or ends.get(row[f"censored{suffix}"])
    return value


def _extent(row: Row) -> list[int]:
    ends = [row[f"{end}{s}"] for end in ("ci_low", "ci_high") for s in ("", "_global")]
    every = [_point(row, ""), _point(row, "_global"), *ends]
    return [value for value in every if value]


def _names(shown: Sequence[Row]) -> list[str]:
    """Each row's task, and beneath it what sets it apart where the task has several rows."""
    tasks = [row["task"] for row in shown]
    details = [" ".join(row["settings"]) for row in shown]
    plain = list(zip(tasks, details, strict=True))
    for index, row in enumerate(shown):
        if plain.count(plain[index]) > 1:
            parts = [f"v{row['version']}", variant(row)]
            details[index] = ", ".join(parts)
    return [
        f"{task}\n{detail[:40]}" if detail else task
        for task, detail in zip(tasks, details, strict=True)
    ]


def _draw(axes: Axes, row: Row, suffix: str, y: float, *, filled: bool) -> None:
    point, why = _point(row, suffix), row[f"censored{suffix}"]
    if point is None:
        return
    colour, marker = PARADIGM[row["paradigm"]]
    low, high = row[f"ci_low{suffix}"], row[f"ci_high{suffix}"]
    ends = [low or point, high or point]
    axes.plot(ends, [y, y], color=colour, linewidth=1.6, solid_capstyle="butt", zorder=2)
    left, right = axes.get_xlim()
    for end, to in ((low, max(left, point / OPEN)), (high, min(right, point * OPEN))):
        if end is None and why is None:
            arrow = {"arrowstyle": "->", "color": colour, "linewidth": 1.6, "linestyle": ":"}
            axes.annotate("", (to, y), (point, y), arrowprops=arrow, zorder=2)
    shape = {ABOVE: ">", BELOW: "<"}.get(why, marker)
    axes.plot(point, y, shape, color=colour if filled else "white", markeredgecolor=colour,
              markersize=SIZE, markeredgewidth=1.2, zorder=3)  # fmt: skip


def _legend(shown: Sequence[Row], sizes: bool) -> list[Line2D]:
    present = {row["paradigm"] for row in shown}
    handles = [mark(m, c, name, size=SIZE) for name, (c, m) in PARADIGM.items() if name in present]
    handles.append(mark("o", INK, "local threshold", size=SIZE))
    if any(row["threshold_global"] is not None for row in shown):
        handles.append(mark("o", INK, "global threshold", size=SIZE, face="white"))
    if any(row[f"censored{s}"] in (ABOVE, BELOW) for row in shown for s in ("", "_global")):
        handles.append(mark(">", INK, "beyond the range searched", size=SIZE))
    return [*handles, mark("|", GREY, "D", size=SIZE)] if sizes else handles
