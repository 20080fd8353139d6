"""One figure a study: every trial's score against d, and how d_int90 is read off."""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from collections.abc import Iterator

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import blended_transform_factory

from ..crossing import Crossing
from .study import StudyReport
from .style import GLOBAL, GREY, INK, LOCAL, PALE, log_axis, mark, new_figure, styled
from .text import Row, metric, number, variant

HEIGHT = 3.3  # inches
TITLE_WIDTH = 56  # characters
LABEL_GAP = 0.085  # of the height, between labels at the right
FAILED_LANE = 0.035  # of the height, where failed trials lie
NATIVE_LANE = 0.975  # of the width, where native trials stand
DOT, DIAMOND, TRIANGLE = 3.6, 6.0, 6.0  # points


def study_figure(report: StudyReport, row: Row) -> Figure | None:
    """None where no trial has finished."""
    if not report.results:
        return None
    with styled():
        figure, axes = new_figure(HEIGHT)
        _set_limits(report, axes)
        labels = list(_draw_levels(report, axes))
        _draw_trials(report, axes)
        _draw_natives(report, axes)
        for suffix, colour, crossing in _crossings(report):
            _draw_crossing(axes, crossing, colour)
            _draw_reference(axes, row[f"reference_{suffix}"], colour)
        _place_labels(axes, labels)
        title = f"{row['task']}   D = {row['D']:,}   {variant(row)}"
        axes.set_title(textwrap.fill(title, TITLE_WIDTH, max_lines=3), loc="left")
        axes.set_xlabel("subspace dimension d")
        axes.set_ylabel(metric(row))
        figure.legend(handles=_legend(report, row), loc="outside lower center", ncols=5,
                      handletextpad=0.2, columnspacing=1.0)  # fmt: skip
    return figure


def _crossings(report: StudyReport) -> Iterator[tuple[str, str, Crossing | None]]:
    found = report.estimate
    yield "local", LOCAL, found.local if found else None
    yield "global", GLOBAL, found.global_ if found else None


def _set_limits(report: StudyReport, axes: Axes) -> None:
    """Room for what was tested, its thresholds and a published value; lanes below and beside."""
    task, found, (mean, _, _) = report.reading.task, report.estimate, report.baseline
    reference = report.reference
    ds = [point.d for point in report.points] or [task.search.d_min, task.search.d_max]
    ds += [d for d in (reference and reference.local, reference and reference.global_) if d]
    log_axis(axes, min(ds) / 1.25, max(ds) * 1.25 * (max(ds) / min(ds)) ** 0.06)
    levels = [mean, found.threshold_local if found else None, task.threshold_global]
    levels += [result.score for result in report.results if result.request.role != "pilot"]
    known = [level for level in levels if level is not None] or [task.floor, task.floor + 1.0]
    low, high = min(known), max(known)
    span = (high - low) or abs(high) or 1.0
    axes.set_ylim(low - 0.14 * span, high + 0.08 * span)


def _draw_levels(report: StudyReport, axes: Axes) -> Iterator[tuple[float, str, str]]:
    """Draw baseline and thresholds; yield (y, label, colour)."""
    mean, sd, _ = report.baseline
    if mean is not None:
        if sd is not None:
            axes.axhspan(mean - sd, mean + sd, color=PALE, linewidth=0, zorder=0)
        axes.axhline(mean, color=GREY, linewidth=1.0, zorder=1)
        yield mean, f"baseline {number(mean, 3)}", GREY
    local = report.estimate.threshold_local if report.estimate else None
    if local is not None:
        axes.axhline(local, color=LOCAL, linewidth=1.0, linestyle=(0, (5, 2)), zorder=1)
        yield local, f"local {number(local, 3)}", LOCAL
    if (level := report.reading.task.threshold_global) is not None:
        axes.axhline(level, color=GLOBAL, linewidth=1.0, linestyle=(0, (1, 1.5)), zorder=1)
        yield level, f"global {number(level, 3)}", GLOBAL


def _draw_crossing(axes: Axes, crossing: Crossing | None, colour: str) -> None:
    """The 95% interval, shaded and as a bar on its threshold, open where it is; d_int90 on it."""
    if crossing is None or (crossing.ci_low is None and crossing.ci_high is None):
        return
    left, right = axes.get_xlim()
    low = left if crossing.ci_low is None else crossing.ci_low
    high = right if crossing.ci_high is None else crossing.ci_high
    level = crossing.threshold
    axes.axvspan(low, high, color=colour, alpha=0.12, linewidth=0, zorder=0)
    axes.plot([low, high], [level] * 2, color=colour, linewidth=2.6, solid_capstyle="butt")
    if crossing.d_int90 is not None:
        axes.plot(crossing.d_int90, level, "D", color=colour, markersize=DIAMOND,
                  markeredgecolor="white", markeredgewidth=0.8, zorder=5)  # fmt: skip


def _draw_reference(axes: Axes, value: int | None, colour: str) -> None:
    """A published value: a triangle that hangs from the top."""
    if value is not None:
        at = blended_transform_factory(axes.transData, axes.transAxes)
        axes.plot(value, 0.98, "v", color="white", markeredgecolor=colour, markersize=TRIANGLE,
                  transform=at, zorder=4)  # fmt: skip


def _draw_trials(report: StudyReport, axes: Axes) -> None:
    line = [(point.d, point.median) for point in report.points if point.median is not None]
    if line:
        axes.plot(*zip(*line, strict=True), color=INK, linewidth=0.9, zorder=2)
    for d, score in _spread(report, axes):
        axes.plot(d, score, "o", color=INK, alpha=0.55, markersize=DOT, markeredgewidth=0, zorder=3)
    at = blended_transform_factory(axes.transData, axes.transAxes)
    for point in filter(lambda point: point.failed, report.points):
        axes.plot(point.d, FAILED_LANE, "x", color=INK, markersize=5, markeredgewidth=1.3,
                  transform=at, zorder=4)  # fmt: skip
        axes.annotate(f"{point.failed}", (point.d, FAILED_LANE), xycoords=at, xytext=(5, -0.5),
                      textcoords="offset points", fontsize=7, va="center")  # fmt: skip


def _draw_natives(report: StudyReport, axes: Axes) -> None:
    """The baseline's own trials, at the right edge: they have no d."""
    at = blended_transform_factory(axes.transAxes, axes.transData)
    natives = report.of_role("baseline")
    scores = [native.score for native in natives if native.score is not None]
    axes.plot([NATIVE_LANE] * len(scores), scores, "o", color="white", markeredgecolor=GREY,
              markersize=DOT, markeredgewidth=0.8, transform=at, zorder=3)  # fmt: skip
    if failed := len(natives) - len(scores):
        axes.annotate(f"× {failed}", (NATIVE_LANE, FAILED_LANE), xycoords="axes fraction",
                      ha="center", va="center", color=GREY)  # fmt: skip


def _spread(report: StudyReport, axes: Axes) -> Iterator[tuple[float, float]]:
    """(x, score), trials of like score at one d side by side, so that each can be seen."""
    low, high = axes.get_xlim()
    bottom, top = axes.get_ylim()
    step = math.log(high / low) * 0.008
    for point in report.points:
        bins: dict[int, list[float]] = defaultdict(list)
        for value in sorted(point.finished):
            bins[round((value - bottom) / (top - bottom) * 60)].append(value)
        for values in bins.values():
            for k, value in enumerate(values):
                yield point.d * math.exp(step * (k - (len(values) - 1) / 2)), value


def _place_labels(axes: Axes, labels: list[tuple[float, str, str]]) -> None:
    """Names at the right end of their lines, moved apart where they would overlap."""
    bottom, top = axes.get_ylim()
    above = math.inf
    for y, label, colour in sorted(labels, reverse=True):
        at = (y - bottom) / (top - bottom)
        above = min(at, above - LABEL_GAP)
        axes.annotate(
            label, (1.0, at), xycoords="axes fraction", xytext=(1.03, above),
            textcoords="axes fraction", color=colour, va="center", fontsize=8,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 1,
                        "shrinkB": 0},
        )  # fmt: skip


def _legend(report: StudyReport, row: Row) -> list[Line2D]:
    handles = [mark("o", GREY, "native", size=DOT, face="white")]
    if report.points:
        handles.insert(0, mark("o", INK, "trial", size=DOT))
        handles.append(Line2D([], [], color=INK, linewidth=0.9, label="median"))
    if any(point.failed for point in report.points):
        handles.append(mark("x", INK, "failed", size=5))
    if row["d_int90"] is not None or row["d_int90_global"] is not None:
        handles.append(mark("D", GREY, "d_int90, 95%", size=DIAMOND - 1))
    if row["reference_d_int90"] is not None:
        handles.append(mark("v", GREY, "published", size=TRIANGLE, face="white"))
    return handles
