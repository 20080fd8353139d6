"""Opening the store's SQLite file: version, durability, one writer, and clear refusals."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import sqlite3
from pathlib import Path
from typing import ClassVar

from .errors import ResourceError

VERSION = 2  # PRAGMA user_version; raise it with every change of the schema
APPLICATION = 0x64393030  # PRAGMA application_id ("d900"): tells our files from other people's
BUSY_S = 30.0
HELD = errno.EACCES, errno.EAGAIN  # of a lock that another process has


class WriterLock:
    """Held by the one process that may write to `path`, through a file beside it.

    A POSIX record lock: the kernel drops it with the process, SIGKILL included, and a forked
    worker does not inherit it, so orphans cannot keep it. It does not tell apart two holders in
    one process; `_held` does.

    Two bytes of the file are locked. `WRITER` is claimed by writers alone. Whoever asks whether
    there is one takes `ASKED`, for a moment: the writer, which holds it too, waits for that.
    """

    WRITER, ASKED = 0, 1  # where they lie; no byte need be there
    _held: ClassVar[set[Path]] = set()

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise _refuse(path, "is a folder")
        self._path = _lock_file(path)
        if self._path in self._held:
            raise _refuse(path, "this process is already writing to it", "close it first")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _refuse(path, f"cannot be written: {error.strerror}") from None
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self.WRITER)
            fcntl.lockf(self._file, fcntl.LOCK_EX, 1, self.ASKED)
        except OSError as error:
            holder = os.read(self._file, 128).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            if error.errno not in HELD:
                why = f"cannot be locked: {error.strerror}"
                raise _refuse(path, why, "put it on a file system that has locks") from None
            raise _refuse(
                path, f"another bench (process {holder}) is writing to it", "wait until it ends"
            ) from None
        os.ftruncate(self._file, 0)
        os.write(self._file, f"{os.getpid()} on {platform.node()}".encode())
        self._held.add(self._path)

    @classmethod
    def is_held(cls, path: Path) -> bool:
        """Whether a live process may write to `path`."""
        lock = _lock_file(path)
        if lock in cls._held:  # and closing the file here would drop the lock
            return True
        try:
            file = os.open(lock, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, cls.ASKED)
        except OSError as error:
            return error.errno in HELD
        finally:
            os.close(file)
        return False

    def release(self) -> None:
        """May be called twice. The file stays: removing it would let two writers in."""
        if self._path in self._held:
            self._held.remove(self._path)
            os.close(self._file)


def _lock_file(path: Path) -> Path:
    file = _file_itself(path)
    return file.with_name(file.name + ".lock")


def _file_itself(path: Path) -> Path:
    """By whatever links it is reached: beside it lie its lock and what SQLite keeps."""
    return Path(os.path.realpath(path))  # Path.resolve raises on a loop of links


def open_writer(path: Path | str, schema: str) -> sqlite3.Connection:
    """Open for writing, creating what is missing. Raise ResourceError for what is not a store."""
    try:
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        if not _is_empty(connection):
            _check_stamp(connection, path)
        # Not WAL, which several hosts on a network file system cannot share: `bench status` on
        # another one than the run's could damage the file.
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        if _is_empty(connection):
            stamp = f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION};"
            connection.executescript(f"BEGIN IMMEDIATE; {schema} {stamp} COMMIT;")
    except sqlite3.Error as error:
        raise _refuse(path, f"cannot be used as a store: {error}") from None
    return connection


def open_reader(path: Path) -> sqlite3.Connection | None:
    """Open for reading; None where there is nothing yet. Raise ResourceError as above.

    `mode=rw` with `query_only` lets SQLite roll back what a killed writer left half done.
    """
    if not path.exists():
        return None
    file = _file_itself(path)
    writable = os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)
    mode = "mode=rw" if writable else "mode=ro"
    try:
        connection = sqlite3.connect(
            f"{file.as_uri()}?{mode}", uri=True, timeout=BUSY_S, isolation_level=None
        )
        if _is_empty(connection):
            connection.close()
            return None
        _check_stamp(connection, path)
        connection.execute("PRAGMA query_only = ON")
    except sqlite3.Error as error:
        raise _refuse(path, f"cannot be used as a store: {error}") from None
    return connection


def _is_empty(connection: sqlite3.Connection) -> bool:
    """Whether no table was created yet: a new file, or one whose creation was killed."""
    return not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def _check_stamp(connection: sqlite3.Connection, path: Path | str) -> None:
    """Raise ResourceError, the connection closed, for what is no store of this version."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if (application, version) == (APPLICATION, VERSION):
        return
    connection.close()
    if application != APPLICATION:
        raise _refuse(path, "an SQLite file of another program")
    raise _refuse(
        path,
        f"a store of version {version}, this program reads version {VERSION}",
        "`bench results export` it with the program that wrote it",
    )


def _refuse(path: Path | str, why: str, mend: str = "") -> ResourceError:
    mends = f"{mend}, or give" if mend else "give"
    return ResourceError(f"{path}: {why}; {mends} --store another path")
