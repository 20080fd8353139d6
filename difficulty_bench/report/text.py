"""Values as a person reads them; the same text in the terminal and in every table."""

from __future__ import annotations

import re
from typing import Any

from ..crossing import ABOVE, BELOW
from ..registry import Reference

NONE = "–"
UNMET = "†"  # beside the number of trials: the search has not met its stopping rule
Row = dict[str, Any]


def count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def number(value: float, digits: int) -> str:
    """So many significant digits, but no power of ten for a large number: 190, not 1.9e+02."""
    large = abs(value) >= 10**digits - 0.5
    return f"{value:,.0f}" if large else f"{value:.{digits}g}"


def score(value: float | None) -> str:
    """Four significant digits: more than seeds agree on."""
    return NONE if value is None else number(value, 4)


def duration(seconds: float) -> str:
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def searched(row: Row) -> tuple[int, int]:
    """The ends of the search range, or of what was tested where that reaches further."""
    tested = [point["d"] for point in row["tested"]]
    low, high = row["search"]["d_min"], row["search"]["d_max"]
    return min([low, *tested]), max([high, *tested])


def d_int90(row: Row, suffix: str = "") -> str:
    """`290 [262, 315]`, what censoring leaves of it (`> 2,000 [1,400, –]`), or `no number`."""
    if row["error"]:
        return "no number"
    value, why = row[f"d_int90{suffix}"], row[f"censored{suffix}"]
    low, high = row[f"ci_low{suffix}"], row[f"ci_high{suffix}"]
    interval = "" if low is None and high is None else f" [{count(low)}, {count(high)}]"
    if value is not None:
        return f"{count(value)}{interval}"
    if why == ABOVE:
        return f"> {count(searched(row)[1])}{interval}"
    if why == BELOW:
        return f"≤ {count(searched(row)[0])}{interval}"
    if why is None:
        return NONE
    return f"unfinished{_bracket(row, suffix)}{interval}"


def _bracket(row: Row, suffix: str) -> str:
    low, high = row[f"largest_failed_d{suffix}"], row[f"smallest_solved_d{suffix}"]
    if low is not None and high is not None and low >= high:  # seeds, or d, that disagree
        return f" (solved by some at {count(high)}{f' to {count(low)}' if low > high else ''})"
    facts = [f"not solved at {count(low)}"] if low is not None else []
    facts += [f"solved at {count(high)}"] if high is not None else []
    return f" ({', '.join(facts)})" if facts else ""


def d_int90_text(row: Row) -> str:
    """Both thresholds in a few words; the reason where there is no number."""
    if row["error"]:
        return f"no number: {row['error'].removeprefix(row['task'] + ': ')}"
    local = f"{d_int90(row)} local"
    if row["threshold_global"] is None:
        return local
    return f"{local}; {d_int90(row, '_global')} global"


def bits(row: Row, suffix: str = "") -> str:
    """`640 [600, 700] at 4 per number`, or why there is nothing."""
    value, per_number = row[f"bits{suffix}"], row[f"bits_per_number{suffix}"]
    if value is None:
        left = row["bits_unscored"]
        return f"{NONE} ({left} trials not scored yet)" if left else NONE
    low, high = row[f"bits_ci_low{suffix}"], row[f"bits_ci_high{suffix}"]
    return f"{count(value)} [{count(low)}, {count(high)}] at {per_number} per number"


def bits_text(row: Row) -> str:
    """Both thresholds, as `d_int90_text` has them."""
    if row["threshold_global"] is None:
        return f"{bits(row)} local"
    return f"{bits(row)} local; {bits(row, '_global')} global"


def has_number(row: Row) -> bool:
    """Whether a figure can show the row: it has a d_int90, or an end beyond which that lies."""
    return any(row[f"d_int90{s}"] or row[f"censored{s}"] in (ABOVE, BELOW) for s in ("", "_global"))


def baseline(row: Row) -> str:
    if row["baseline_mean"] is None:
        return NONE
    spread = "" if row["baseline_sd"] is None else f" ± {number(row['baseline_sd'], 2)}"
    return f"{score(row['baseline_mean'])}{spread} (n = {row['baseline_n']})"


def doubt(row: Row) -> str:
    """Why the row's d_int90 says nothing, and the mend; empty where that is not so."""
    if not row["at_chance"]:
        return ""
    return (
        f"a prediction that is always the same scores {score(row['chance'])}, and the baseline or "
        "its local threshold is not clearly above that, so d_int90 says nothing; give the agent "
        f"more budget, or measure from there with --set floor={row['chance']:g}"
    )


def paper_rule(row: Row) -> str:
    local, global_ = row["paper_rule_d"], row["paper_rule_d_global"]
    return count(local) if row["threshold_global"] is None else f"{count(local)} / {count(global_)}"


def published(row: Row) -> str:
    """`275 local (inside), 290 global (outside)`, and behind it what a recorded curve gives."""
    recorded = _judged(row, "reference_recorded")
    return (_judged(row, "reference") or NONE) + (f"; recorded {recorded}" if recorded else "")


def _judged(row: Row, of: str) -> str:
    verdict = {True: " (inside)", False: " (outside)", None: ""}
    return ", ".join(
        f"{count(value)} {kind}{verdict[row[f'{of}_inside{suffix}']]}"
        for kind, suffix in (("local", ""), ("global", "_global"))
        if (value := row[f"{of}_{kind}"]) is not None
    )


def reference(of: Reference | None) -> str:
    """`275 local, 290 global`, where there is nothing yet to compare them with."""
    values = {"local": of.local, "global": of.global_} if of else {}
    return ", ".join(f"{count(d)} {kind}" for kind, d in values.items() if d is not None) or NONE


def trials(row: Row) -> str:
    failed = f", {row['n_failed']} failed" if row["n_failed"] else ""
    return f"{row['n_trials']}{UNMET if row['unmet'] else ''}{failed}"


def outliers(row: Row) -> str:
    """`0.2 at d = 500, failed at d = 800: hardly count`; empty where there are none."""
    found = [
        f"{'failed' if one['score'] is None else score(one['score'])} at d = {one['d']:,}"
        for one in row["outliers"]
    ]
    return f"{', '.join(found)}: unlike the other trials, so they hardly count" if found else ""


def variant(row: Row) -> str:
    """What sets apart two rows of one task: `hashed, tuned lr, agent.epochs=3`."""
    told = {f"projection={row['projection']}", f"lr_rule={row['lr_rule']}"}
    more = [setting for setting in row["settings"] if setting not in told]
    return ", ".join([row["projection"], f"{row['lr_rule']} lr", *more])


def learner(row: Row) -> str:
    return f"{row['agent'].partition('(')[0]}, {variant(row)}"


def metric(row: Row) -> str:
    return (row["metric"] or "score").replace("_", " ")


def row_text(row: Row) -> str:
    """A row for the terminal, in a few lines."""
    lines = [
        f"{row['task']} v{row['version']}  ({row['paradigm']}; {learner(row)}; D = {row['D']:,})",
        f"  d_int90    {d_int90_text(row)}",
        *([f"  bits       {bits_text(row)}"] if row["sizes"] or row["bits_unscored"] else []),
        f"  threshold  {score(row['threshold_local'])} local; "
        f"{score(row['threshold_global'])} global ({metric(row)})",
        f"  baseline   {baseline(row)}; floor {score(row['floor'])}",
        *([f"  warning    {doubt(row)}"] if row["at_chance"] else []),
        f"  paper rule {paper_rule(row)}; published {published(row)}",
        f"  trials     {trials(row)}; {duration(row['compute_s'])} in all",
        *([f"  {UNMET} unmet    {row['unmet']}"] if row["unmet"] else []),
        *([f"  outliers   {outliers(row)}"] if row["outliers"] else []),
    ]
    return "\n".join(lines)


_MARKUP = re.compile(r"([\\`*_\[\]<>|~&#])")


def escape(text: str, limit: int = 300) -> str:
    """Free text (a reason, a setting, a note) as one harmless line of Markdown."""
    return _MARKUP.sub(r"\\\1", _one_line(text, limit))


def code(text: str, limit: int = 300) -> str:
    """Free text as an inline code span of Markdown, safe in a table."""
    line = _one_line(text, limit).replace("`", "'").replace("|", "¦")
    return f"`{line}`" if line else NONE


def _one_line(text: str, limit: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def slug(name: str) -> str:
    """A part of a file's name or of a link: it can name no other folder and end no attribute."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)
