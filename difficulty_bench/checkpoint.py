"""A trial's checkpoint: a file that says whose it is, written whole, read without running code."""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from .errors import ResourceError, first_line
from .records import check_request, trial_identity
from .results import Request
from .whole_file import whole_file

IDENTITY = re.compile("[0-9a-f]{64}")
Points = list[tuple[int, str, float]]
RESTARTS = "nothing saved to go on from, so it starts again"  # of one without a state
DELETE = "delete it, and the trial starts again"  # the mend of a checkpoint that is of no use


@dataclass(frozen=True)
class Checkpoint:
    """Where a stopped trial stands.

    `state` is what its agent resumes from (tensors and plain containers), or None where there was
    nothing that may be saved: the trial then starts again. `study` and `request` say whose it is.
    """

    study: str
    request: Request
    steps: int
    elapsed_s: float
    curve: Points
    state: dict[str, Any] | None

    @property
    def identity(self) -> str:
        return trial_identity(self.study, self.request)

    @property
    def values(self) -> dict[str, float]:
        """The curve's newest points."""
        return {name: value for step, name, value in self.curve if step == self.curve[-1][0]}

    def facts(self) -> dict[str, Any]:
        """What `progress` says, for a program to read."""
        elapsed_s = round(self.elapsed_s, 3)
        return {"steps": self.steps, "elapsed_s": elapsed_s, "values": self.values}

    def progress(self) -> str:
        """How far, how long, how good."""
        values = [f", {name} {value:.4g}" for name, value in self.values.items()]
        return f"step {self.steps:,} after {self.elapsed_s:.0f} s{''.join(values)}"

    def write(self, path: Path) -> None:
        """Write beside and rename, so that a kill leaves the old checkpoint or the new one.

        Raise ResourceError where it cannot be written: that is the disk's fault, not the trial's.
        """
        content = {
            "study": self.study,
            "request": asdict(self.request),
            "steps": self.steps,
            "elapsed_s": self.elapsed_s,
            "curve": [list(point) for point in self.curve],
            "state": self.state,
        }
        buffer = io.BytesIO()  # torch.save would turn a full disk into a RuntimeError
        torch.save(content, buffer)
        mend = "free or mend the disk, and the same command goes on"
        with whole_file(path, error=ResourceError, mend=mend) as file:
            file.write(buffer.getbuffer())


def read_checkpoint(source: Path | bytes, *, mapped: bool = False) -> Checkpoint:
    """Of a file or of its bytes. Raise ValueError for what is no checkpoint, or not as written.

    `mapped` leaves the tensors of a file on the disk.
    """
    # on a file, a place that cannot be is an OSError
    content = io.BytesIO(source if isinstance(source, bytes) else source.read_bytes())
    try:
        _check_bytes(content)
        from_disk = mapped and isinstance(source, Path)
        opened: Any = source if from_disk else content
        saved = torch.load(opened, map_location="cpu", weights_only=True, mmap=from_disk)
        study, state, request = saved["study"], saved["state"], Request(**saved["request"])
        if not (state is None or isinstance(state, dict)):
            raise TypeError("state")
        if not isinstance(study, str):
            raise TypeError("study")
        check_request(request)
        elapsed_s = float(saved["elapsed_s"])
        curve = [(int(s), str(n), float(v)) for s, n, v in saved["curve"]]
        if not all(math.isfinite(value) for value in (elapsed_s, *(v for _, _, v in curve))):
            raise ValueError("a time or a point of its curve is not finite")
        return Checkpoint(study, request, int(saved["steps"]), elapsed_s, curve, state)
    except OSError:
        raise
    except UnpicklingError:  # torch's words advise to let the file run code
        raise ValueError("not a checkpoint: more than tensors and plain containers") from None
    except Exception as error:  # torch.load has one for every byte that may be wrong
        raise ValueError(f"not a checkpoint: {first_line(error)}") from None


def _check_bytes(content: io.BytesIO) -> None:
    """Raise BadZipFile where one has changed since it was written: torch would not notice."""
    with zipfile.ZipFile(content) as archive:
        if (part := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"{part} is corrupt (its CRC is wrong)")
    content.seek(0)


def checkpoints(
    folder: Path,
    warn: Callable[[str], object] = lambda line: None,
    only: Iterable[str] | None = None,
) -> Iterator[tuple[Path, Checkpoint]]:
    """Those that lie in `folder` (of the trials `only`, by identity), their tensors left on the
    disk.

    `warn` hears in a line of each that bears a trial's name and is none, or a corrupt one.
    """
    own = None if only is None else {checkpoint_path(folder, identity) for identity in only}
    for path in sorted(folder.glob("*.pt") if own is None else own):
        try:
            checkpoint = read_checkpoint(path, mapped=True)
        except OSError:
            continue  # its trial has just ended
        except ValueError as error:
            if IDENTITY.fullmatch(path.stem):
                warn(f"{path}: {error}; {DELETE}")
            continue
        if path.stem == checkpoint.identity:
            yield path, checkpoint


def checkpoint_folder(store: Path) -> Path:
    """Where the trials of a store keep their checkpoints: for `x.sqlite` in `x.sqlite.checkpoints`.

    Beside the file itself, by whatever links it is reached.
    """
    store = store.resolve() if store.is_symlink() else store
    return store.parent / f"{store.name}.checkpoints"


def checkpoint_path(folder: Path, identity: str) -> Path:
    return folder / f"{identity}.pt"


def discard_checkpoints(folder: Path, finished: Iterable[str]) -> None:
    """Those of trials, by identity, whose results are stored: until then they are all there is."""
    for identity in finished:
        with suppress(OSError):  # none there, or one that stays: nothing goes on from it
            checkpoint_path(folder, identity).unlink()
