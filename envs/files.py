"""Data files: whether they are there and intact, and their contents.

Nothing is handed out whose SHA-256 was not compared with the published one.
"""

from __future__ import annotations

import hashlib
import lzma
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from difficulty_bench.errors import ResourceError

from .catalogue import VARIABLE, Dataset, dataset

MAX_FILE_BYTES = 64 << 20  # twice a CIFAR-10 batch; stops a decompression bomb


def missing(name: str) -> str | None:
    """One line on the first file that is not there, and the mend; None where all are."""
    data = dataset(name)
    absent = next((file for file, path in _sources(data).items() if path is None), None)
    if absent is None:
        return None
    return (
        f"{data.title} is not in {data.folder} (no {absent}); {data.mend}, or set {VARIABLE} to "
        f"the folder that holds {data.name}/"
    )


def source_files(name: str) -> list[Path]:
    """The files on disk that `contents` reads. Raise ResourceError where one is missing."""
    if line := missing(name):
        raise ResourceError(line)
    return list(dict.fromkeys(path for path in _sources(dataset(name)).values() if path))


def contents(name: str) -> Iterator[tuple[str, bytes]]:
    """(file, its content after decompression) for every file of the data set, checked.

    Raise ResourceError naming the file that is missing, cut short or damaged.
    """
    data = dataset(name)
    paths = source_files(name)
    if data.archive and paths == [data.folder / data.archive]:
        yield from _archive_contents(data, paths[0])
        return
    for file, path in zip(data.files, paths, strict=True):
        yield file, _checked(data, path, _read(data, path), data.files[file])


def verify(name: str) -> list[tuple[str, bool, str]]:
    """(file as it lies on disk, whether it is intact, a line about it), whichever form is used."""
    data = dataset(name)
    status = []
    for file, path in _sources(data).items():
        if path is None:
            status.append((file, False, f"missing from {data.folder}; {data.mend}"))
        elif (shown := str(path.relative_to(data.folder))) not in [row[0] for row in status]:
            status.append((shown, *_verify_file(data, file, path)))
    return status


def _verify_file(data: Dataset, file: str, path: Path) -> tuple[bool, str]:
    try:
        if path.name == data.archive:
            _check_archive(data, path)
        else:
            _checked(data, path, _read(data, path), data.files[file])
    except OSError as error:
        return False, f"{path}: {error.strerror}"
    except ResourceError as error:
        return False, str(error)
    return True, "SHA-256 as published"


def _sources(data: Dataset) -> dict[str, Path | None]:
    """Where each file is read from: the archive if it is there, else plain, else `.xz`."""
    archive = data.folder / data.archive if data.archive else None
    if archive and archive.is_file():
        return dict.fromkeys(data.files, archive)
    forms = {file: (data.folder / file, data.folder / f"{file}.xz") for file in data.files}
    return {file: next((p for p in paths if p.is_file()), None) for file, paths in forms.items()}


def _read(data: Dataset, path: Path) -> bytes:
    try:
        with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as stream:
            return _bounded(data, path, stream)
    except (lzma.LZMAError, EOFError) as error:
        raise _damaged(data, path, str(error)) from None
    except OSError as error:
        raise ResourceError(f"{path}: {error.strerror}; make it readable") from None


def _archive_contents(data: Dataset, path: Path) -> Iterator[tuple[str, bytes]]:
    """Members in the archive's own order, in one pass; nothing is extracted to disk."""
    found = set()
    try:
        _check_archive(data, path)
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                if member.name in data.files and (stream := archive.extractfile(member)):
                    found.add(member.name)
                    content = _bounded(data, path, stream)
                    yield member.name, _checked(data, path, content, data.files[member.name])
    except (tarfile.TarError, EOFError, OSError) as error:
        raise _damaged(data, path, str(error)) from None
    if absent := set(data.files) - found:
        raise _damaged(data, path, f"it lacks {min(absent)}")


def _check_archive(data: Dataset, path: Path) -> None:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    _compare(data, path, digest, data.downloads[path.name])


def _bounded(data: Dataset, path: Path, stream: IO[bytes]) -> bytes:
    content = stream.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise _damaged(data, path, f"it holds more than {MAX_FILE_BYTES} bytes")
    return content


def _checked(data: Dataset, path: Path, content: bytes, expected: str) -> bytes:
    _compare(data, path, hashlib.sha256(content).hexdigest(), expected)
    return content


def _compare(data: Dataset, path: Path, digest: str, expected: str) -> None:
    if digest != expected:
        why = f"SHA-256 {digest[:12]}..., published {expected[:12]}..."
        raise _damaged(data, path, why)


def _damaged(data: Dataset, path: Path, why: str) -> ResourceError:
    return ResourceError(f"{path}: cut short or damaged ({why}); delete it and {data.mend}")
