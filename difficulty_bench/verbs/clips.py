"""`bench report --clips`: moving pictures of what the store's solutions play."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..clips import study_clips
from ..errors import BenchError
from ..outputs import warn
from ..registry import Registry
from ..report import anchor, clip_path, write_file
from ..report.rows import row
from ..report.study import study_reports
from ..store import Store


def write_clips(store_path: Path, tasks: Sequence[Path], out: Path) -> None:
    """A few clips a study into `out`/clips; a study that cannot be drawn is named, and left out."""
    registry = Registry(tasks)
    with Store(store_path, read_only=True) as store:
        for report in study_reports(store):
            if report.reading.task.paradigm != "reinforcement":
                continue
            values = row(report)
            try:
                for d, content in study_clips(store, registry, report, values["d_int90"]):
                    print(write_file(clip_path(out, anchor(values), d), content))
            except BenchError as error:
                warn(f"no clips: {error}")
