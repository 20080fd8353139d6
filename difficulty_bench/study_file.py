"""An unfinished study in one file: its finished trials and where the others stand.

A zip archive, stored without compression: `study.json` (format and study), `results.jsonl` (the
lines of `bench results export`), `solutions/IDENTITY` (z of a finished trial: d float32 numbers,
little-endian) and `checkpoints/IDENTITY.pt` (see checkpoint.py). Reading it runs no code, and
writes no path of the file's choosing.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from .checkpoint import (
    Checkpoint,
    checkpoint_folder,
    checkpoint_path,
    checkpoints,
    discard_checkpoints,
    read_checkpoint,
)
from .errors import ResourceError, UsageError
from .exchange import Merged, Parsed, lines_of, merge, parse
from .records import Reading
from .result_lines import TrialLine, dump_line
from .store import Store
from .whole_file import whole_file

FORMAT = 1
HEAD, RESULTS = "study.json", "results.jsonl"
NAMES = re.compile(
    r"study\.json|results\.jsonl|solutions/[0-9a-f]{64}|checkpoints/[0-9a-f]{64}\.pt"
)
COPY, EARLIER = ".imported", ".earlier"
# A results line has some 500 bytes; Pong's checkpoint with a critic of its own has 40 MB.
MAX_TEXT_BYTES = 2**28
MAX_CHECKPOINT_BYTES = 2**30


@dataclass(frozen=True)
class Exported:
    """What went into a file, and what did not: the trials that were stopped with nothing to go on
    from, and a line on each corrupt checkpoint, of whatever study.
    """

    trials: int
    checkpoints: tuple[Checkpoint, ...]
    restarting: tuple[Checkpoint, ...]
    corrupt: tuple[str, ...]


@dataclass(frozen=True)
class Imported:
    """`reading` is the study; `checkpoints` says how many were taken over, `older` how many not,
    because the trial is finished here or stands further along.
    """

    reading: Reading
    merged: Merged
    checkpoints: int
    older: int


@dataclass(frozen=True)
class Content:
    """An open `file`, and what it says of its one study."""

    file: Path
    archive: zipfile.ZipFile
    study: str
    parsed: Parsed


def export_study(store: Store, study: str, file: Path) -> Exported:
    """Write `study` to `file`, as a whole or not at all.

    Raise UsageError where the store does not know it or the file cannot be written.
    """
    readings = [reading for reading in store.studies() if reading.study == study]
    if not readings:
        raise UsageError(f"{store.path}: nothing of this study; `bench status` lists what there is")
    # the checkpoints first: that of a trial which ends meanwhile goes, and its result is there
    own: list[tuple[Checkpoint, str, bytes]] = []
    corrupt: list[str] = []
    for path, one in checkpoints(checkpoint_folder(store.path), corrupt.append):
        if one.study == study:
            with suppress(FileNotFoundError):
                own.append((one, path.name, b"" if one.state is None else path.read_bytes()))
    lines = list(lines_of(store, readings))
    finished = [line.identity for line in lines if isinstance(line, TrialLine)]
    own = [entry for entry in own if entry[0].identity not in finished]
    with whole_file(file) as out, zipfile.ZipFile(out, "w") as archive:
        archive.writestr(HEAD, json.dumps({"format": FORMAT, "study": study}))
        archive.writestr(RESULTS, "".join(map(dump_line, lines)))
        for identity in finished:
            if z := store.solution(identity):
                archive.writestr(f"solutions/{identity}", z)
        for _, name, content in own:
            if content:
                archive.writestr(f"checkpoints/{name}", content)
    saved = tuple(one for one, _, content in own if content)
    restarting = tuple(one for one, _, content in own if not content)
    return Exported(len(finished), saved, restarting, tuple(corrupt))


def import_study(store: Store, content: Content) -> Imported:
    """Merge what `opened_study` gave into `store` and its checkpoints: all of it or nothing.

    What the store holds is kept, and of two checkpoints of a trial the one further along. Raise
    ResourceError where store or folder cannot be written.
    """
    folder = checkpoint_folder(store.path)
    with _in_folder(folder), ExitStack() as undo:
        copies = [_copy(content, name, folder) for name in _checkpoint_names(content.archive)]
        with store.transaction():
            merged = merge(store, content.file / RESULTS, content.parsed)
            finished = {result.identity for result in store.results(content.study)}
            missing = [copy for copy in copies if copy.stem not in finished]
            taken = [_place(copy, folder, undo) for copy in missing].count(True)
        undo.pop_all()
    discard_checkpoints(folder, finished)
    return Imported(content.parsed.readings[0][1], merged, taken, len(copies) - taken)


@contextmanager
def opened_study(file: Path) -> Iterator[Content]:
    """A file of `export_study`, checked to its last byte.

    Raise UsageError, in one line, where it is corrupt, too large or not of one study.
    """
    try:
        stream = file.open("rb")
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}; give a file of `bench study export`") from None
    with stream:
        with _reading(file):
            archive = zipfile.ZipFile(stream)
            _check(file, archive.infolist())
            study = _head(file, archive.read(HEAD))
            parsed = _with_solutions(file, archive, parse(file / RESULTS, archive.read(RESULTS)))
        if {reading.study for _, reading in parsed.readings} != {study}:
            raise _refuse(file, f"{RESULTS} is of another study than {HEAD} says")
        for name in _checkpoint_names(archive):
            _check_checkpoint(file, archive, name, study)
        yield Content(file, archive, study, parsed)


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Raise UsageError for what goes wrong inside, where nothing is touched but `file`."""
    try:
        yield
    # an OSError: of a place in the file that cannot be
    except (zipfile.BadZipFile, EOFError, ValueError, RuntimeError, OSError) as error:
        raise _refuse(file, f"corrupt, or no study file: {error}") from None


@contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    """Leave nothing behind that was not put in its place.

    Raise ResourceError where the folder is at fault.
    """
    try:
        try:
            yield
        finally:
            for kind in (COPY, EARLIER):
                for left in folder.glob(f"*{kind}"):
                    left.unlink()
    except OSError as error:
        why = f"{error.filename or folder}: {error.strerror or error}"
        raise ResourceError(f"{why}; free or mend the disk, and import again") from None


def _check(file: Path, found: list[zipfile.ZipInfo]) -> None:
    names = [info.filename for info in found]
    if len(set(names)) != len(names) or not {HEAD, RESULTS}.issubset(names):
        raise _refuse(file, f"needs {HEAD} and {RESULTS}, and every name once")
    if sum(info.file_size for info in found) > file.stat().st_size:
        raise _refuse(file, "claims more bytes than it has")
    for info in found:
        name = info.filename
        if not NAMES.fullmatch(name):
            raise _refuse(file, f"'{name[:80]}' is no part of a study")
        if info.compress_type != zipfile.ZIP_STORED:
            raise _refuse(file, f"{name} is compressed")
        limit = MAX_CHECKPOINT_BYTES if name.startswith("checkpoints/") else MAX_TEXT_BYTES
        if info.file_size > limit:
            raise _refuse(file, f"{name} is above {limit // 2**20} MiB")


def _head(file: Path, content: bytes) -> str:
    try:
        head = json.loads(content)
        known, study = head["format"], str(head["study"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _refuse(file, f"{HEAD} names no study") from None
    if known != FORMAT:
        raise _refuse(file, f"format {known!r}, this program reads {FORMAT}")
    return study


def _with_solutions(file: Path, archive: zipfile.ZipFile, parsed: Parsed) -> Parsed:
    """The trials with their z, where the file holds one."""
    z: Mapping[str, bytes] = {
        name.partition("/")[2]: archive.read(name)
        for name in archive.namelist()
        if name.startswith("solutions/")
    }
    d = {trial.identity: trial.request.d for _, trial in parsed.trials}
    for identity, numbers in z.items():
        if not d.get(identity) or len(numbers) != 4 * d[identity]:
            raise _refuse(file, f"solutions/{identity[:12]}... fits no trial of {RESULTS}")
    return replace(parsed, trials=[(n, replace(t, z=z.get(t.identity))) for n, t in parsed.trials])


def _checkpoint_names(archive: zipfile.ZipFile) -> list[str]:
    return [name for name in archive.namelist() if name.startswith("checkpoints/")]


def _check_checkpoint(file: Path, archive: zipfile.ZipFile, name: str, study: str) -> None:
    try:
        checkpoint = read_checkpoint(_read(file, archive, name))
    except ValueError as error:
        raise _refuse(file, f"{name}: {error}") from None
    if checkpoint.study != study or checkpoint.identity != Path(name).stem:
        raise _refuse(file, f"{name}: of another study or trial than its name says")


def _copy(content: Content, name: str, folder: Path) -> Path:
    """A checkpoint, copied beside its place."""
    read = _read(content.file, content.archive, name)  # or the folder would be blamed for the file
    copy = folder / (Path(name).stem + COPY)
    with whole_file(copy, error=ResourceError, mend="free or mend the disk") as out:
        out.write(read)
    return copy


def _read(file: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    with _reading(file):
        return archive.read(name)


def _place(copy: Path, folder: Path, undo: ExitStack) -> bool:
    """Put the copy where its trial looks for it, unless that stands further along.

    `undo` gets what puts the folder back as it was.
    """
    path = checkpoint_path(folder, copy.stem)
    if path.exists():
        with suppress(ValueError):  # what cannot be read is no further along
            here, there = (read_checkpoint(p, mapped=True) for p in (path, copy))
            if (here.state is not None, here.steps) >= (there.state is not None, there.steps):
                return False
        earlier = path.with_suffix(EARLIER)
        shutil.copyfile(path, earlier)  # moved, it would be lost where this process is killed
        undo.callback(earlier.replace, path)
    else:
        undo.callback(path.unlink, missing_ok=True)
    copy.replace(path)
    return True


def _refuse(file: Path, why: str) -> UsageError:
    return UsageError(f"{file}: {why}; export the study anew")
