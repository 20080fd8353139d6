"""The README's own problems, as a reader would paste them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from .test_study import ROOT, bench

BLOCKS = re.findall(r"```(\w*)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def paste(folder: Path) -> None:
    yaml = [text for language, text in BLOCKS if language == "yaml"]
    (python,) = [text for language, text in BLOCKS if language == "python"]
    (folder / "mine.yaml").write_text("".join(yaml))
    (folder / "mine.py").write_text(python)


def test_an_own_data_set_is_measured(tmp_path: Path) -> None:
    beside = tmp_path / "beside"
    beside.mkdir()
    paste(beside)  # mine.py is found beside mine.yaml, by the workers too
    own = ("--tasks", "beside/mine.yaml", "--task", "my-data", "--workers", "2")
    finished = bench("run", *own, "--d", "10,200", "--seeds", "2", "--json", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    (row,) = json.loads(finished.stdout)
    assert row["D"] == 17 * 32 + 33 * 2
    assert row["n_trials"] == 9
    assert row["baseline_mean"] > 0.8


def test_an_own_environment_is_accepted(tmp_path: Path) -> None:
    paste(tmp_path)
    own = ("--tasks", "mine.yaml", "--task", "my-pendulum")
    finished = bench("run", *own, "--dry-run", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "D = 4803" in finished.stdout
