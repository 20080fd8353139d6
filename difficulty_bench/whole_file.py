"""Files that appear whole or not at all, and never in the place of something precious."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import BenchError, UsageError

SQLITE = b"SQLite format 3\0"


@contextmanager
def whole_file(
    path: Path, *, error: type[BenchError] = UsageError, mend: str = "give another path"
) -> Iterator[BinaryIO]:
    """`path` to write to: beside it and renamed, so that a kill leaves the old file or the new.

    A link is followed; what is no regular file (a pipe, a device) is written to as it is. Raise
    `error` with the `mend` for a folder, for a store, and where it cannot be written.
    """
    if path.is_dir():
        raise error(f"{path}: is a folder; give the path of a file")
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as out:
                yield out
            return
        target = path.resolve()
        if _is_store(target):
            raise error(f"{path}: is a store (an SQLite file), which would be lost; {mend}")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        try:
            with partial.open("wb") as out:
                yield out
                out.flush()
                os.fsync(out.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as failure:
        raise error(f"{path}: cannot write: {failure.strerror}; {mend}") from None


def _is_store(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("rb") as file:
        return file.read(len(SQLITE)) == SQLITE
