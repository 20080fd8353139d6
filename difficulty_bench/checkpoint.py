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

from .errors import ResourceError
from .records import check_request, trial_identity
from .results import Request
from .whole_file import whole_file

IDENTITY = re.compile("[0-9a-f]{64}")
Curve = list[tuple[int, str, float]]
DELETE = "delete it, and the trial starts again"  # the mend of a checkpoint that is of no use


@dataclass(frozen=True)
class Checkpoint:
    """Where a stopped trial stands.

    `state` is what its agent resumes from (tensors and plain containers), or None where the agent
    had nothing that may be saved: the trial then starts again. `study` and `request` say whose it
    is; None in files of earlier versions.
    """

    study: str | None
    request: Request | None
    steps: int
    elapsed_s: float
    curve: Curve
    state: dict[str, Any] | None

    @property
    def identity(self) -> str | None:
        if self.study is None or self.request is None:
            return None
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
            "request": asdict(self.request) if self.request else None,
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


def read_checkpoint(path: Path, *, mapped: bool = False) -> Checkpoint:
    """Raise ValueError for what is no checkpoint, or not as it was written.

    `mapped` leaves the tensors on the disk.
    """
    try:
        _check_bytes(path)
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        study, state = saved.get("study"), saved["state"]
        request = Request(**saved["request"]) if saved.get("request") else None
        if not (state is None or isinstance(state, dict)):
            raise TypeError("state")
        if not (study is None or isinstance(study, str)):
            raise TypeError("study")
        if request is not None:  # what is none has no identity
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
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"not a checkpoint: {why}") from None


def _check_bytes(path: Path) -> None:
    """Raise BadZipFile where one has changed since it was written: torch would not notice."""
    content = io.BytesIO(path.read_bytes())  # on a file, a place that cannot be is an OSError
    with zipfile.ZipFile(content) as archive:
        if (part := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"{part} is corrupt (its CRC is wrong)")


def checkpoints(
    folder: Path, warn: Callable[[str], object] = lambda line: None
) -> Iterator[tuple[Path, Checkpoint]]:
    """Those that lie in `folder`, their tensors left on the disk.

    `warn` hears in a line of each that bears a trial's name and is none, or a corrupt one.
    """
    for path in sorted(folder.glob("*.pt")):
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
    """Where the trials of a store keep their checkpoints: for `x.sqlite` in `x.checkpoints`.

    Beside the file itself, by whatever links it is reached.
    """
    store = store.resolve() if store.is_symlink() else store
    return store.parent / f"{store.name.removesuffix('.sqlite')}.checkpoints"


def checkpoint_path(folder: Path, identity: str) -> Path:
    return folder / f"{identity}.pt"


def discard_checkpoints(folder: Path, finished: Iterable[str]) -> None:
    """Those of trials, by identity, whose results are stored: until then they are all there is."""
    for identity in finished:
        with suppress(OSError):  # none there, or one that stays: nothing goes on from it
            checkpoint_path(folder, identity).unlink()
