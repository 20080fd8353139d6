"""`bench data fetch`: downloads with SHA-256, retries and mirrors, through pooch."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from difficulty_bench.errors import ResourceError

from .catalogue import VARIABLE, Dataset, dataset
from .files import verify

RETRIES = 2
TIMEOUT_S = 30.0  # without a byte
REPORT_INTERVAL_S = 1.0
CHUNK_BYTES = 1 << 16

Report = Callable[[str], None]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def fetch(name: str, progress: Report = say) -> None:
    """Make the data set `name` complete; files that are intact stay as they are.

    A file appears under its name only when whole and verified. `progress` gets plain lines.
    Raise UsageError for an unknown name, ResourceError where no mirror gave a file.
    """
    data = dataset(name)
    if all(intact for _, intact, _ in verify(name)):
        progress(f"{data.title} is in {data.folder}, intact")
        return
    for file in data.downloads:
        _fetch_file(data, file, progress)


def _fetch_file(data: Dataset, file: str, progress: Report) -> None:
    why: Exception | None = None
    for mirror in data.mirrors:
        try:
            _fetch_from(mirror, data, file, progress)
        except PermissionError as error:
            raise ResourceError(
                f"{data.folder}: {error.strerror}; set {VARIABLE} to a folder you can write"
            ) from None
        except (OSError, ValueError) as error:  # requests' errors are OSErrors
            progress(f"{mirror}{file}: {error}")
            why = error
        else:
            progress(f"{data.folder / file}: fetched, SHA-256 as published")
            return
    raise ResourceError(
        f"{data.title}: {file} could not be fetched from any of {len(data.mirrors)} mirrors "
        f"(last: {why}); try again with a network, or put it into {data.folder}"
    )


def _fetch_from(mirror: str, data: Dataset, file: str, progress: Report) -> None:
    """pooch writes beside, compares the SHA-256 and renames; a corrupt old file is replaced."""
    import pooch

    pooch.get_logger().setLevel("WARNING")
    keeper = pooch.create(
        path=data.folder,
        base_url=mirror,
        registry={file: f"sha256:{data.downloads[file]}"},
        retry_if_failed=RETRIES,
    )
    meter = _Meter(f"{mirror}{file}", progress)
    # `identity`: requests would unpack a .gz that a server labels as gzip-encoded.
    downloader = pooch.HTTPDownloader(
        progressbar=meter,
        chunk_size=CHUNK_BYTES,
        timeout=TIMEOUT_S,
        headers={"Accept-Encoding": "identity"},
    )
    keeper.fetch(file, downloader=downloader)


class _Meter:
    """What pooch asks of a progress bar, as one line a second at most."""

    def __init__(self, label: str, progress: Report) -> None:
        self.total = 0
        self._label, self._progress = label, progress
        self.reset()

    def reset(self) -> None:
        self._bytes, self._last = 0, time.monotonic()

    def update(self, amount: int) -> None:
        self._bytes += amount
        if time.monotonic() - self._last >= REPORT_INTERVAL_S:
            self._last = time.monotonic()
            self._progress(f"{self._label}: {self._bytes / 1e6:.0f} of {self.total / 1e6:.0f} MB")

    def close(self) -> None:
        """Nothing to release."""
