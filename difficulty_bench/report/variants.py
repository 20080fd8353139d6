"""Which rows the tables lead with, and which stand beside them for comparison.

The main tables hold one row a task: the task as the registry defines it now. A row of another
projection, learning-rate rule or network belongs beside that one, in a comparison.
"""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..registry import Task
from .text import Row, has_number, slug, variant

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PARTS = ("problem", "network", "agent", "early_stop", "timeout_s")  # overridden: another training
LABEL_WIDTH = 24  # characters; longer ones would leave the axis no room


@dataclass(frozen=True)
class Comparison:
    """Rows that differ in something on purpose; `names` says in what, row by row."""

    title: str
    slug: str
    rows: tuple[Row, ...]
    names: tuple[str, ...]

    def figure(self) -> Figure | None:
        """None where fewer than two rows have a number."""
        from .overview import forest_figure  # matplotlib takes a second that no other verb needs

        pairs = [(r, n) for r, n in zip(self.rows, self.names, strict=True) if has_number(r)]
        if len(pairs) < 2:
            return None
        shown = [row for row, _ in pairs]
        sizes = len({row["D"] for row in shown}) > 1
        return forest_figure(shown, [_label(name) for _, name in pairs], sizes=sizes)


def leading(rows: Sequence[Row], registered: Sequence[Task] = ()) -> list[Row]:
    """One row for every task and version: the one that trains as `registered` says now, else one
    without overrides, else the first there is.
    """
    tasks = {(task.name, task.version): task for task in registered}

    def rank(row: Row) -> tuple[bool, bool]:
        task = tasks.get((row["task"], row["version"]))
        return not (task and _trains_as(row, task)), bool(row["settings"])

    first: dict[tuple[str, int], Row] = {}
    for row in sorted(rows, key=rank):  # stable
        first.setdefault((row["task"], row["version"]), row)
    kept = {id(row) for row in first.values()}
    return [row for row in rows if id(row) in kept]


def _trains_as(row: Row, task: Task) -> bool:
    """Whether the registry and the row agree on what may change without a new version.

    Whether an override gave the row its rule says nothing: the registry's may have changed since.
    """
    keys = {"projection", "lr_rule"} | ({"tuning"} if task.lr_rule == "tuned" else set())
    changed = {setting.partition("=")[0].partition(".")[0] for setting in row["settings"]}
    registered = task.model_dump(mode="json", include=keys)
    return changed.isdisjoint(PARTS) and registered == {key: row[key] for key in keys}


def comparisons(rows: Sequence[Row], registered: Sequence[Task] = ()) -> list[Comparison]:
    """What one task gives otherwise trained, and with another network or problem; and what one
    problem gives with other learners, each in its task's newest version.
    """
    found = []
    for name, group in _groups(rows, lambda row: f"{row['task']} v{row['version']}"):
        first = leading(group, registered)[0]
        others = [row for row in group if row is not first]
        for kind, which, title in (
            (False, "training", "other projections, rates and budgets"),
            (True, "size", "other networks and sizes"),
        ):
            if own := [row for row in others if _is_another_task(row) == kind]:
                found.append(_of_task(f"{name}: {title}", f"{name}-{which}", [first, *own]))
    led = leading(rows, registered)
    environments = [row for row in led if row["paradigm"] == "reinforcement"]
    newest = {row["task"]: row for row in sorted(environments, key=lambda row: row["version"])}
    environments = [row for row in environments if row is newest[row["task"]]]
    problems = _groups(environments, lambda row: str(row["problem"]))
    return found + [_of_problem(group) for _, group in problems]


def _is_another_task(row: Row) -> bool:
    return any(setting.startswith(("network.", "problem.")) for setting in row["settings"])


def _groups(rows: Iterable[Row], key: Callable[[Row], str]) -> list[tuple[str, list[Row]]]:
    """Groups of two or more, in the order of their first rows."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return [(name, group) for name, group in groups.items() if len(group) > 1]


def _of_task(title: str, name: str, group: Sequence[Row]) -> Comparison:
    """The task as registered first, then by D."""
    ordered = [group[0], *sorted(group[1:], key=lambda row: row["D"])]
    parts = [variant(row).split(", ") for row in ordered]
    common = set[str].intersection(*map(set, parts))
    names = [", ".join(p for p in part if p not in common) for part in parts]
    return Comparison(
        title, _slug(name), tuple(ordered), tuple(n or "as registered" for n in names)
    )


def _of_problem(group: Sequence[Row]) -> Comparison:
    names = tuple(f"{row['task']} ({row['agent'].partition('(')[0]})" for row in group)
    title = f"{' / '.join(row['task'] for row in group)}: one problem, several learners"
    return Comparison(title, _slug("-".join(row["task"] for row in group)), tuple(group), names)


def _label(name: str) -> str:
    """A setting as it stands beside an axis: `width=400, depth=5` without the sections' names."""
    parts = [part.rpartition("=") for part in name.split(", ")]
    text = ", ".join(f"{key.rpartition('.')[2]}{sign}{value}" for key, sign, value in parts)
    return textwrap.fill(text, LABEL_WIDTH)


def _slug(name: str) -> str:
    return f"compare-{slug(name)}"
