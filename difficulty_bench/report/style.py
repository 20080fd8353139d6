"""How every figure looks, and how its bytes stay the same from one run to the next."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    EngFormatter,
    FuncFormatter,
    LogLocator,
    NullFormatter,
    NullLocator,
)

# Okabe and Ito's palette: told apart by colour-blind readers and in grey.
LOCAL, GLOBAL = "#0072B2", "#D55E00"
INK, GREY, PALE = "#222222", "#777777", "#DDDDDD"
PARADIGM = {
    "supervised": ("#0072B2", "o"),
    "reinforcement": ("#D55E00", "s"),
    "synthetic": ("#009E73", "D"),
}
WIDTH = 4.6  # inches; text stays readable at half a page's width
RC: Any = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same glyphs everywhere
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "text.parse_math": False,  # a `$` in a task's name is a `$`
    "svg.hashsalt": "difficulty_bench",  # else ids are random
    "svg.fonttype": "path",
}


@contextmanager
def styled() -> Iterator[None]:
    """This style alone: a user's matplotlibrc must not show."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(RC)
        yield


def new_figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def log_axis(axes: Axes, low: float, high: float) -> None:
    """d on a log scale with plain numbers, close enough together to read values off."""
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    subs = (
        (1.0,) if high / low > 300 else (1.0, 2.0, 5.0) if high / low > 4 else (1, 1.5, 2, 3, 5, 7)
    )
    decades = high / low > 3e4 or high > 3e5  # plain numbers would run into each other
    axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        EngFormatter(sep="") if decades else FuncFormatter(lambda value, _: f"{value:,.0f}")
    )
    axes.xaxis.set_minor_formatter(NullFormatter())


def mark(marker: str, colour: str, label: str, *, size: float, face: str | None = None) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], marker=marker, linestyle="", color=face or colour, label=label,
                  markeredgecolor=colour, markersize=size)  # fmt: skip


def svg(figure: Figure) -> bytes:
    """The figure's bytes: no date, no random ids."""
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
