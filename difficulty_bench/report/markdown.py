"""The report as one Markdown page: the comparison, the tables, and what each row rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..registry import Task
from . import text
from .prose import BITS, COMPARISONS, INTRO, OVERVIEW, READING
from .study import PARADIGMS
from .text import Row, code, escape
from .variants import Comparison, comparisons, leading


@dataclass
class Figures:
    """Paths of the figures, relative to the page: by the row's index, by the comparison's slug."""

    plots: dict[int, str] = field(default_factory=dict)
    comparisons: dict[str, str] = field(default_factory=dict)
    overview: str | None = None
    bits: str | None = None


COLUMNS = (
    *("task", "learner", "D", "d_int90 local [95%]", "d_int90 global [95%]", "bits local [95%]"),
    *("paper rule, local / global", "published", "baseline ± sd", "trials", "compute"),
)


COMPARED = ("setting", *COLUMNS[2:5], *COLUMNS[-4:])
HARDWARE = "device", "processor", "cores"  # of what a trial's environment says


def markdown(rows: Sequence[Row], figures: Figures, registered: Sequence[Task] = ()) -> str:
    plots, overview = figures.plots, figures.overview
    parts = [INTRO]
    if overview is not None:
        parts.append(OVERVIEW.format(path=overview))
    if figures.bits is not None:
        parts.append(BITS.format(path=figures.bits))
    led = leading(rows, registered)
    parts += [_paradigm(paradigm, led) for paradigm in PARADIGMS]
    parts.append(_unmeasured(registered, {row["task"] for row in rows}))
    if compared := comparisons(rows, registered):
        parts.append(COMPARISONS)
        parts += [_comparison(c, figures.comparisons.get(c.slug)) for c in compared]
    if not rows:
        parts.append("No study has been run yet: `bench run --task digits` measures one.\n")
    parts.append(READING)
    if rows:
        parts.append("## What each row rests on\n")
        parts += [_section(row, plots.get(index)) for index, row in enumerate(rows)]
    return "\n".join(part for part in parts if part)


def _paradigm(paradigm: str, rows: Sequence[Row]) -> str:
    own = [row for row in rows if row["paradigm"] == paradigm]
    if not own:
        return ""
    lines = [f"## {paradigm.capitalize()}", "", _line(COLUMNS), _line(["---"] * len(COLUMNS))]
    lines += [_line(_cells(row)) for row in own]
    for row in own:
        if row["error"]:
            lines += ["", f"No number for {escape(row['error'], 600)}."]
        if row["at_chance"]:
            lines += ["", f"Warning for {escape(row['task'])}: {escape(text.doubt(row), 600)}."]
    return "\n".join(lines) + "\n"


def _unmeasured(registered: Sequence[Task], measured: set[str]) -> str:
    left = [task for task in registered if task.name not in measured]
    if not left:
        return ""
    columns = ("task", "description", "published")
    lines = ["## Not measured yet", "", _line(columns), _line(["---"] * len(columns))]
    for task in left:
        name = f"{escape(task.name)} v{task.version}"
        lines.append(_line([name, escape(task.description), text.reference(task.reference)]))
    return "\n".join(lines) + "\n"


def _comparison(comparison: Comparison, plot: str | None) -> str:
    lines = [f"### {escape(comparison.title)}", ""]
    if plot is not None:
        lines += [f"![d_int90: {escape(comparison.title)}]({plot})", ""]
    lines += [_line(COMPARED), _line(["---"] * len(COMPARED))]
    for row, name in zip(comparison.rows, comparison.names, strict=True):
        link = f"[{escape(name)}](#{anchor(row)})"
        cells = _cells(row)
        lines.append(_line([link, *cells[2:5], *cells[-4:]]))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Row) -> list[str]:
    return [
        f"[{escape(row['task'])}](#{anchor(row)}) v{row['version']}",
        escape(text.learner(row)),
        text.count(row["D"]),
        text.d_int90(row),
        text.d_int90(row, "_global"),
        text.bits(row),
        text.paper_rule(row),
        text.published(row),
        text.baseline(row),
        text.trials(row),
        text.duration(row["compute_s"]),
    ]


def anchor(row: Row) -> str:
    """A name for a row that no other row has: in links and file names."""
    parts = row["task"], f"v{row['version']}", row["projection"], row["lr_rule"], row["study"][:6]
    return text.slug("-".join(parts))


def _section(row: Row, plot: str | None) -> str:
    title = f"{escape(row['task'])} v{row['version']} ({escape(text.variant(row))})"
    lines = [f'<a id="{anchor(row)}"></a>', "", f"### {title}", ""]
    if plot is not None:
        lines += [f"![score against d for {escape(row['task'])}]({plot})", "", _caption(row), ""]
    if row.get("clips"):
        lines += [*_clips(row["clips"]), ""]
    lines += [f"- {name}: {value}" for name, value in _facts(row) if value]
    return "\n".join(lines) + "\n"


def _clips(clips: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        _line([f"d = {clip['d']:,}" for clip in clips]),
        _line(["---"] * len(clips)),
        _line([f"![{clip['d']:,} numbers playing]({clip['file']})" for clip in clips]),
        "",
        "*What d numbers play: a fresh episode of the trial with the median score at each d.*",
    ]


def _caption(row: Row) -> str:
    levels = [f"local threshold {text.score(row['threshold_local'])} (dashed)"]
    if row["threshold_global"] is not None:
        levels.append(f"global threshold {text.score(row['threshold_global'])} (dotted)")
    return f"*{escape(text.metric(row)).capitalize()} against d; {', '.join(levels)}.*"


def _facts(row: Row) -> Iterator[tuple[str, str]]:
    yield "no number", escape(row["error"] or "", 600)
    yield "d_int90", "" if row["error"] else text.d_int90_text(row)
    yield "warning", escape(text.doubt(row), 600)
    yield "bits", _sizes(row)
    yield "metric", f"{escape(text.metric(row))}; floor {text.score(row['floor'])}"
    yield "network", code(row["network"])
    yield "problem", code(row["problem"])
    yield "agent", code(row["agent"])
    yield "early stop", _early_stop(row)
    yield "learning rate", _learning_rate(row)
    yield "projected", _projected(row)
    yield "notes", escape(row["notes"] or "", 1000)
    yield "published", _published(row)
    yield "seeds", _seeds(row)
    yield f"{text.UNMET} stopping rule", escape(row["unmet"] or "", 600)
    yield "failures", _failures(row)
    yield "outliers", text.outliers(row)
    yield "command", ", ".join(code(command) for command in row["command"] if command)
    yield "hardware", _environment(row, HARDWARE)
    yield "versions", _environment(row, _versions(row))


def _sizes(row: Row) -> str:
    """The bits, and d_int90 for all bits per number that were tried."""
    if not row["sizes"]:
        return text.bits(row) if row["bits_unscored"] else ""
    tried = [f"{s['bits_per_number']}: {text.d_int90(row | s)}" for s in row["sizes"]]
    return f"{text.bits_text(row)}; local d_int90 by bits per number: {', '.join(tried)}"


def _early_stop(row: Row) -> str:
    rule = row["early_stop"]
    if rule is None:
        return ""
    what = f"once {escape(rule['metric'].replace('_', ' '))} is at least {text.score(rule['at'])}"
    return f"{what} in {rule['times']} reports in a row, natively too"


def _learning_rate(row: Row) -> str:
    chosen = row["lr_multipliers"]
    if chosen is None:
        return f"rule `{row['lr_rule']}`" + (
            ", pilots unfinished" if row["lr_rule"] == "tuned" else ""
        )
    parts = [
        f"× {chosen[kind]:g} {where} ({_chosen_by(chosen, kind)})"
        for kind, where in (("native", "natively"), ("subspace", "on sqrt(D/d) in the subspace"))
    ]
    return f"rule `tuned`: {', '.join(parts)}"


def _projected(row: Row) -> str:
    """Where P moves more than the network: every rule goes by the network's D."""
    D, projected = row["D"], row["D_projected"]
    if projected in (None, D):
        return ""
    length = f", so steps are {(D / projected) ** 0.5:.2g} times as long as the rule says"
    return f"{projected:,} parameters{'' if row['lr_rule'] == 'paper' else length}"


def _chosen_by(chosen: dict[str, Any], kind: str) -> str:
    n = chosen[f"{kind}_pilots"]
    edge = ", an end of the grid" if chosen[f"{kind}_at_edge"] else ""
    return f"by {n} pilots{edge}" if n else "declared"


def _published(row: Row) -> str:
    if row["reference_source"] is None:
        return ""
    return f"{text.published(row)}; {escape(row['reference_source'])}"


def _seeds(row: Row) -> str:
    native = f"{len(row['seeds'].get('baseline', []))} native"
    pilots = f", {len(row['seeds']['pilot'])} per pilot" if "pilot" in row["seeds"] else ""
    per_d = ", ".join(f"{point['d']:,} × {point['n']}" for point in row["tested"])
    return f"{native}{pilots}" + (f"; d × seeds: {per_d}" if per_d else "")


def _failures(row: Row) -> str:
    parts = []
    for failure in row["failures"]:
        at = ", ".join("native" if d == 0 else f"{d:,}" for d in failure["d"])
        parts.append(f"{failure['n']} × {failure['state']}: {escape(failure['reason'])} (d = {at})")
    return "; ".join(parts) or ("none" if row["n_trials"] else "")


def _versions(row: Row) -> list[str]:
    left = [key for key in row["environment"] if key not in HARDWARE]
    return sorted(left, key=lambda key: (key != "difficulty-bench", key != "commit", key))


def _environment(row: Row, keys: Sequence[str]) -> str:
    """`torch 2.13.0, numpy 2.2`; several values of one key side by side."""
    found = [(key, row["environment"].get(key, [])) for key in keys]
    parts = [f"{escape(key)} {escape(' or '.join(values))}" for key, values in found if values]
    return ", ".join(part for part in parts if not part.endswith("not installed"))
