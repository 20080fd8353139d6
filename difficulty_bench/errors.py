"""Errors a user can mend: one line that names the file, the key and the mend."""

from __future__ import annotations

import difflib
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_SAID = 300  # characters of somebody else's message
OTHERS = (
    str(Path(__file__).parent),
    *(sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")),
)


class BenchError(Exception):
    """Shown as one line, without a traceback; `exit_code` becomes the process's."""

    exit_code = 2


class UsageError(BenchError):
    """A wrong argument, key, value or registry entry (exit code 2)."""


class ResourceError(BenchError):
    """A store, data file, environment or device that cannot be used (exit code 3)."""

    exit_code = 3


class StudyError(BenchError):
    """A measurement that cannot become a number, such as a baseline at the floor (exit code 1)."""

    exit_code = 1


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?`, or `; known: a, b` where nothing is near."""
    options = sorted(known)
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(options)}" if options else ""


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Run code of the user's inside; whatever it raises becomes a UsageError of one line.

    It is `what: `, then as `described`. A BenchError passes as it is.
    """
    try:
        yield
    except BenchError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"{what}: {described(error)}") from error


def first_line(error: BaseException) -> str:
    """Of what `error` says, or of its repr where it says nothing."""
    return (str(error).strip() or repr(error)).splitlines()[0]


def described(error: BaseException) -> str:
    """`RuntimeError: what it says (mine.py:12, in linear.py:34)`, in one line.

    The first place is the innermost line of the user's own code, where there is one; the last is
    where the error was raised.
    """
    says = " ".join(str(error).split())
    says = says if len(says) <= MAX_SAID else f"{says[:MAX_SAID]}…"
    text = f"{type(error).__name__}: {says}".rstrip(": ")
    if isinstance(error, SyntaxError):  # says itself where
        return text
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if _is_the_users(frame.filename)][-1:]
    places = dict.fromkeys(f"{Path(f.filename).name}:{f.lineno}" for f in (*own, frames[-1]))
    return f"{text} ({', in '.join(places)})"


def _is_the_users(file: str) -> bool:
    """Not of Python, of an installed package, or of this one; `<string>` is no file."""
    return not file.startswith(("<", *OTHERS))
