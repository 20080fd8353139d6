"""What `bench report` writes: whole files or none, and the same bytes for the same results."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ResourceError
from ..registry import Task
from ..store import Store
from ..whole_file import whole_file
from .html import html
from .latex import latex
from .markdown import Figures, anchor, markdown
from .rows import FIELDS, row
from .study import StudyReport, study_reports
from .text import Row
from .variants import comparisons, leading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOTS = "plots"
CSV_FIELDS = (
    *FIELDS,
    *("bits_ci_low", "bits_ci_high", "bits_per_number"),
    *("bits_global", "bits_ci_low_global", "bits_ci_high_global", "bits_per_number_global"),
    *("settings", "metric", "unmet", "width", "largest_failed_d", "smallest_solved_d"),
    *("width_global", "largest_failed_d_global", "smallest_solved_d_global"),
    *("reference_threshold", "reference_local", "reference_global"),
    *("reference_inside", "reference_inside_global"),
    *("reference_recorded_local", "reference_recorded_global"),
    *("reference_recorded_inside", "reference_recorded_inside_global", "error", "study"),
)
Page = Callable[[Sequence[Row], Figures, Sequence[Task]], str]


def to_json(rows: Sequence[Row], figures: Figures, registered: Sequence[Task]) -> str:
    return json.dumps(list(rows), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def to_csv(rows: Sequence[Row], figures: Figures, registered: Sequence[Task]) -> str:
    """One line a row; missing is an empty cell."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for one in rows:
        cells = {key: one[key] for key in CSV_FIELDS}
        writer.writerow({**cells, "settings": " ".join(one["settings"])})
    return out.getvalue()


PAGES: dict[str, Page] = {
    "md": markdown,
    "html": html,
    "tex": latex,
    "json": to_json,
    "csv": to_csv,
}
WITH_PLOTS = frozenset({"md", "html"})
FORMATS = tuple(PAGES)


def write_report(
    source: Store,
    out: Path,
    formats: Sequence[str] = FORMATS,
    registered: Sequence[Task] = (),
) -> list[Path]:
    """Write `difficulty.FORMAT` into `out`, and `plots/` beside a page that shows them.

    The tables lead with what trains as `registered` says, beside what it says was published, and
    the page names those tasks of it that have no row. Return the paths written.
    `formats` are some of FORMATS. Raise ResourceError where `out` cannot be written.
    """
    reports = study_reports(source, registered=registered)
    rows = [_with_clips(row(report), out) for report in reports]
    files: dict[str, bytes] = {}
    figures = Figures()
    if WITH_PLOTS.intersection(formats):
        figures = _draw(reports, rows, registered, files)
    for name in dict.fromkeys(formats):
        files[f"difficulty.{name}"] = PAGES[name](rows, figures, registered).encode()
    return [write_file(out / name, content) for name, content in files.items()]


def _with_clips(values: Row, out: Path) -> Row:
    """The row, and under `clips` the moving pictures that `bench report --clips` left in `out`."""
    found = {point["d"]: clip_path(out, anchor(values), point["d"]) for point in values["tested"]}
    clips = [
        {"d": d, "file": path.relative_to(out).as_posix()}
        for d, path in found.items()
        if path.exists()
    ]
    return {**values, "clips": clips} if clips else values


def clip_path(out: Path, anchor: str, d: int) -> Path:
    return out / "clips" / f"{anchor}-d{d}.gif"


def _draw(
    reports: Sequence[StudyReport],
    rows: Sequence[Row],
    registered: Sequence[Task],
    files: dict[str, bytes],
) -> Figures:
    """Add every figure to `files`."""
    from .overview import bits_figure, overview_figure
    from .plot import study_figure
    from .style import svg

    figures = Figures()

    def add(name: str, figure: Figure | None) -> str | None:
        if figure is None:
            return None
        files[path := f"{PLOTS}/{name}.svg"] = svg(figure)
        return path

    for index, (report, values) in enumerate(zip(reports, rows, strict=True)):
        if path := add(anchor(values), study_figure(report, values)):
            figures.plots[index] = path
    for comparison in comparisons(rows, registered):
        if path := add(comparison.slug, comparison.figure()):
            figures.comparisons[comparison.slug] = path
    led = leading(rows, registered)
    figures.overview = add("overview", overview_figure(led))
    figures.bits = add("bits", bits_figure(led))
    return figures


def write_file(path: Path, content: bytes) -> Path:
    """Raise ResourceError where it cannot be written."""
    with whole_file(path, error=ResourceError, mend="give --out another folder") as file:
        file.write(content)
    return path
