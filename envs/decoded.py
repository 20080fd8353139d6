"""Decode once: arrays kept in the user's cache, beside nothing that may be read-only."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import platformdirs

from .files import source_files


def decoded(name: str, sha256: str, decode: Callable[[], np.ndarray]) -> np.ndarray:
    """The array `decode()` gives for the data set `name`, from the cache where that is sound.

    It is sound when the source files are those once decoded (path, size, time) and the cached
    bytes have the given SHA-256 (0.1 s for CIFAR-10). The array is a copy-on-write map of the
    file, so that worker processes share its memory. A cache that cannot be written costs time,
    nothing else. Raise ResourceError where a source file is missing or damaged.
    """
    folder = platformdirs.user_cache_path("difficulty-bench") / "decoded"
    file = folder / f"{name}.npy"
    mark = folder / f"{name}-{_fingerprint(source_files(name))}.verified"
    if mark.exists() and (array := _load(file, sha256)) is not None:
        return array
    array = decode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _save(array, file)
        mark.touch()
    except OSError:
        pass
    return array


def _fingerprint(files: list[Path]) -> str:
    facts = [(str(file.resolve()), (s := file.stat()).st_size, s.st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _load(file: Path, sha256: str) -> np.ndarray | None:
    try:
        array: np.ndarray = np.load(file, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):  # the last: of an empty one
        return None
    return array if hashlib.sha256(array.data).hexdigest() == sha256 else None


def _save(array: np.ndarray, file: Path) -> None:
    """Write beside and rename: processes that decode at once each leave a whole file."""
    descriptor, partial = tempfile.mkstemp(dir=file.parent, suffix=".partial")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            np.save(stream, array, allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())  # before the name: a power cut would leave it empty
        Path(partial).replace(file)
    finally:
        Path(partial).unlink(missing_ok=True)
