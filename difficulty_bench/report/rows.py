"""Rows: what a study comes to, as plain values. Missing is None, never 0 or NaN."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from ..crossing import UNFINISHED, Crossing
from ..estimate import Estimate
from ..registry import Recorded
from ..sizes import smallest
from ..store import Store
from .study import StudyReport, study_reports

DIGITS = 6  # significant; what is beyond may differ between machines
FIELDS = (
    *("task", "version", "paradigm", "network", "D", "agent", "projection", "lr_rule", "floor"),
    *("baseline_mean", "baseline_sd", "baseline_n", "threshold_local", "threshold_global"),
    *("d_int90", "ci_low", "ci_high", "censored"),
    *("d_int90_global", "ci_low_global", "ci_high_global", "censored_global"),
    *("paper_rule_d", "paper_rule_d_global", "reference_d_int90", "bits"),
    *("n_trials", "n_failed", "compute_s"),
)


def rows(source: Store, studies: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """One row a reading (a study under one lr rule), of `studies` only where given."""
    return [row(report) for report in study_reports(source, studies)]


def row(report: StudyReport) -> dict[str, Any]:
    """`FIELDS` first, in their order, then what else a reader may ask."""
    parts = (_task(report), _measured(report), _reference(report), _provenance(report))
    values = {key: _rounded(value) for part in parts for key, value in part.items()}
    return {key: values.pop(key) for key in FIELDS} | values


def _task(report: StudyReport) -> dict[str, Any]:
    task, definition = report.reading.task, report.reading.definition
    return {
        "task": task.name,
        "version": task.version,
        "paradigm": task.paradigm,
        "network": call(definition["network"]),
        "D": report.reading.D,
        "agent": call(definition["agent"]),
        "projection": task.projection,
        "lr_rule": task.lr_rule,
        "floor": task.floor,
        "threshold_global": task.threshold_global,
        "settings": list(report.reading.settings),
        "metric": report.reading.metric,
        "chance": task.chance,
        "problem": call(definition["problem"]),
        "timeout_s": task.timeout_s,
        "early_stop": definition.get("early_stop"),
        "tuning": task.tuning.model_dump(mode="json") if task.tuning else None,
        "search": task.search.model_dump(mode="json"),
        "notes": task.notes,
        "study": report.reading.study,
    }


def call(entry: Mapping[str, Any]) -> str:
    """An entry point as a person reads it: `networks.mlp(width=200, depth=2)`."""
    module, _, name = str(entry["entry_point"]).partition(":")
    pairs = [f"{key}={_plain(value)}" for key, value in entry.items() if key != "entry_point"]
    return f"{module.rpartition('.')[2]}.{name}({', '.join(pairs)})"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _measured(report: StudyReport) -> dict[str, Any]:
    found, results = report.estimate, report.results
    mean, sd, n = report.baseline
    has_global = report.reading.task.threshold_global is not None
    states = [result.state for result in results]
    return {
        "baseline_mean": mean,
        "baseline_sd": sd,
        "baseline_n": n,
        "threshold_local": found.threshold_local if found else None,
        **_crossing(found.local if found else None, "", open_=not report.error),
        **_crossing(
            found.global_ if found else None, "_global", open_=has_global and not report.error
        ),
        **_bits(report, "local", ""),
        **_bits(report, "global_", "_global"),
        "bits_unscored": report.unscored,
        "sizes": [_size(bits, found) for bits, found in report.sizes.items()],
        "unmet": report.unmet,
        "n_trials": len(results),
        "n_failed": len(states) - states.count("complete"),
        "compute_s": sum(result.wall_s for result in results),
        "outliers": [{"d": d, "score": y} for d, y in (found.outliers if found else ())],
        "at_chance": found is not None and found.at_chance,
        "error": report.error,
        "lr_multipliers": _multipliers(report),
        "D_projected": max((result.D for result in results if result.request.d), default=None),
        "tested": [_point(report, n) for n in range(len(report.points))],
    }


def _crossing(crossing: Crossing | None, suffix: str, *, open_: bool) -> dict[str, Any]:
    """Fields of one threshold; `open_` where it is asked for but cannot be said yet."""
    fields = asdict(crossing or Crossing(0.0, censored=UNFINISHED if open_ else None))
    return {f"{key}{suffix}": value for key, value in fields.items() if key != "threshold"}


def _bits(report: StudyReport, which: str, suffix: str) -> dict[str, Any]:
    """What `sizes.smallest` takes for one threshold."""
    least = smallest({bits: getattr(found, which) for bits, found in report.sizes.items()})
    return {
        f"bits{suffix}": least.bits if least else None,
        f"bits_ci_low{suffix}": least.ci_low if least else None,
        f"bits_ci_high{suffix}": least.ci_high if least else None,
        f"bits_per_number{suffix}": least.bits_per_number if least else None,
    }


def _size(bits: int, found: Estimate) -> dict[str, Any]:
    """d_int90 of solutions with so many bits per number."""
    return {
        "bits_per_number": bits,
        **_crossing(found.local, "", open_=False),
        **_crossing(found.global_, "_global", open_=False),
    }


def _multipliers(report: StudyReport) -> dict[str, Any] | None:
    """What `tuned` chose; None under the other rules and while pilots are missing."""
    chosen = report.chosen
    if report.reading.task.lr_rule != "tuned" or chosen is None:
        return None
    return asdict(chosen)


def _point(report: StudyReport, index: int) -> dict[str, Any]:
    point, found = report.points[index], report.estimate
    finished = point.finished
    return {
        "d": point.d,
        "n": len(point.scores),
        "failed": point.failed,
        "mean": sum(finished) / len(finished) if finished and not point.failed else None,
        "median": point.median,
        "solved": point.solved(found.threshold_local if found else None),
        "solved_global": point.solved(report.reading.task.threshold_global),
    }


def _reference(report: StudyReport) -> dict[str, Any]:
    """The published value, that of the local threshold where there are two, and the recorded."""
    reference, found = report.reference, report.estimate
    recorded = reference.recorded if reference else None
    local = reference.local if reference else None
    global_ = reference.global_ if reference else None
    either = "local" if local is not None else "global" if global_ is not None else None
    return {
        "reference_d_int90": local if local is not None else global_,
        "reference_threshold": either,
        "reference_local": local,
        "reference_global": global_,
        "reference_inside": inside(local, found.local if found else None),
        "reference_inside_global": inside(global_, found.global_ if found else None),
        "reference_source": reference.source if reference else None,
        **_recorded(recorded, found),
    }


def _recorded(recorded: Recorded | None, found: Estimate | None) -> dict[str, Any]:
    local, global_ = (recorded.local, recorded.global_) if recorded else (None, None)
    return {
        "reference_recorded_local": local,
        "reference_recorded_global": global_,
        "reference_recorded_inside": inside(local, found.local if found else None),
        "reference_recorded_inside_global": inside(global_, found.global_ if found else None),
    }


def inside(value: int | None, crossing: Crossing | None) -> bool | None:
    """Whether a value is in the 95% interval; None where it is unfinished or too open to say."""
    if value is None or crossing is None or crossing.censored == UNFINISHED:
        return None
    low, high = crossing.ci_low, crossing.ci_high
    if (low is not None and value < low) or (high is not None and value > high):
        return False
    return True if low is not None and high is not None else None


def _provenance(report: StudyReport) -> dict[str, Any]:
    seeds: dict[str, set[int]] = defaultdict(set)
    facts: dict[str, set[str]] = defaultdict(set)
    failures: dict[tuple[str, str], list[int]] = defaultdict(list)
    for result in report.results:
        request = result.request
        seeds[request.role].add(request.seed)
        facts["device"].add(result.device)
        for key, value in result.environment.items():
            facts[key].add(value)
        if result.state != "complete":
            failures[result.state, str(result.reason)].append(request.d)
    return {
        "command": sorted(facts.pop("command", set())),
        "environment": {key: sorted(facts[key]) for key in sorted(facts)},
        "seeds": {role: sorted(seeds[role]) for role in sorted(seeds)},
        "failures": [
            {"state": state, "reason": reason, "n": len(dims), "d": sorted(set(dims))}
            for (state, reason), dims in sorted(failures.items())
        ],
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value
