"""What is written appears whole or not at all, and in no place where something is lost by it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from difficulty_bench.cli import main
from difficulty_bench.errors import UsageError
from difficulty_bench.store import Store
from difficulty_bench.whole_file import whole_file


def test_a_failure_inside_leaves_the_old_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "x"
    with whole_file(file) as out:
        out.write(b"old")
    with pytest.raises(UsageError, match=r"x: cannot write: No space left"):
        _fill_the_disk(file)
    assert file.read_bytes() == b"old"
    assert list(file.parent.iterdir()) == [file]


def _fill_the_disk(file: Path) -> None:
    with whole_file(file) as out:
        out.write(b"new")
        raise OSError(28, "No space left on device")


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with whole_file(tmp_path / "link") as out:
        out.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_what_is_no_regular_file_is_written_to_and_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with whole_file(tmp_path / "pipe") as out:
        out.write(b"through")
    assert os.read(reader, 10) == b"through"
    assert (tmp_path / "pipe").is_fifo()
    os.close(reader)


@pytest.mark.parametrize("verb", [["results", "export"], ["study", "export", "--task", "toy"]])
def test_no_export_takes_the_place_of_a_store(
    tmp_path: Path, verb: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    store = str(tmp_path / "s.sqlite")
    run = ["run", "--task", "toy", "--d", "9", "--seeds", "1", "--workers", "1", "--quiet"]
    assert main([*run, "--store", store]) == 0
    assert main([*verb, store, "--store", store]) == 2
    assert "is a store (an SQLite file), which would be lost" in capsys.readouterr().err
    with Store(store, read_only=True) as kept:
        assert kept.studies()
