"""Standard output is for results alone, and standard error may go away while a run goes on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO


def harmless(text: str) -> str:
    """Words of a file or a learner, with an escape for whatever a terminal would obey."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def warn(text: str) -> None:
    print(f"bench: warning: {harmless(text)}", file=sys.stderr)


def lead_nowhere(stream: TextIO) -> None:
    """Python would end with code 120 for what is left in the buffer of a stream that is dead."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class Lossy:
    """A text stream that drops what it cannot write: a dead `tee` must not end a day's run."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError:
            self._lose()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._lose()

    def _lose(self) -> None:
        lead_nowhere(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lossy_stderr() -> Iterator[None]:
    """Standard error that loses lines rather than raise, also where it was closed at the start."""
    with redirect_stderr(Lossy(sys.stderr or open(os.devnull, "w"))):
        yield


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """What a problem or a learner prints is no result: it goes to standard error."""
    with lossy_stderr(), redirect_stdout(sys.stderr):
        yield
