"""Data files: found in every form, refused when damaged, fetched whole or not at all."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import io
import lzma
import pickle
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from difficulty_bench.errors import ResourceError, UsageError
from envs import catalogue, cifar10, data, decoded, download, files, mnist

CONTENT = {"inner/one": b"first file" * 100, "inner/two": b"second file" * 100}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def archive_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


ARCHIVE = archive_of({"inner/readme": b"not asked for", **CONTENT})
TINY = catalogue.Dataset(
    "tiny",
    "Tiny",
    files={name: sha256(content) for name, content in CONTENT.items()},
    downloads={"tiny.tar.gz": sha256(ARCHIVE)},
    mirrors=(),
    archive="tiny.tar.gz",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the data set TINY, in a data folder of its own, with a cache of its own."""
    monkeypatch.setenv(catalogue.VARIABLE, str(tmp_path / "data"))
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / "cache" / name)
    monkeypatch.setitem(catalogue.DATASETS, "tiny", TINY)
    (tmp_path / "data" / "tiny" / "inner").mkdir(parents=True)
    return tmp_path / "data" / "tiny"


def lay_plain(folder: Path) -> None:
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)


def lay_xz(folder: Path) -> None:
    for name, content in CONTENT.items():
        (folder / f"{name}.xz").write_bytes(lzma.compress(content))


def lay_archive(folder: Path) -> None:
    (folder / "tiny.tar.gz").write_bytes(ARCHIVE)


FORMS = [lay_plain, lay_xz, lay_archive]


@pytest.mark.parametrize("lay", FORMS)
def test_every_form_gives_the_same_contents(folder: Path, lay: Callable[[Path], None]) -> None:
    assert files.missing("tiny") is not None
    lay(folder)
    assert files.missing("tiny") is None
    assert dict(files.contents("tiny")) == CONTENT
    assert all(intact for _, intact, _ in data.verify("tiny"))


@pytest.mark.parametrize("lay", FORMS)
@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_file_is_named_and_refused(
    folder: Path, lay: Callable[[Path], None], damage: str
) -> None:
    lay(folder)
    victim = max(path for path in folder.rglob("*") if path.is_file())
    raw = bytearray(victim.read_bytes())
    raw[len(raw) // 2] ^= 1
    cut = {"truncate": raw[: len(raw) // 2], "flip": raw, "empty": bytearray()}[damage]
    victim.write_bytes(cut)
    with pytest.raises(ResourceError, match=rf"{victim}: cut short or damaged.*bench data fetch"):
        list(files.contents("tiny"))
    broken = [(name, line) for name, intact, line in data.verify("tiny") if not intact]
    assert [name for name, _ in broken] == [str(victim.relative_to(folder))]
    assert str(victim) in broken[0][1]


def test_an_archive_that_lacks_a_file_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = archive_of({"inner/one": CONTENT["inner/one"]})
    (folder / "tiny.tar.gz").write_bytes(short)
    fields = {**vars(TINY), "downloads": {"tiny.tar.gz": sha256(short)}}
    monkeypatch.setitem(catalogue.DATASETS, "tiny", catalogue.Dataset(**fields))
    with pytest.raises(ResourceError, match="it lacks inner/two"):
        list(files.contents("tiny"))


def test_a_decompression_bomb_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_xz(folder)
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 50)
    with pytest.raises(ResourceError, match="more than 50 bytes"):
        list(files.contents("tiny"))


def test_a_missing_file_is_one_line_with_the_mend(folder: Path) -> None:
    (folder / "inner" / "one").write_bytes(CONTENT["inner/one"])
    line = files.missing("tiny")
    assert line is not None
    assert "inner/two" in line
    assert "bench data fetch tiny" in line
    assert "\n" not in line
    with pytest.raises(ResourceError, match="inner/two"):
        list(files.contents("tiny"))
    assert [row[:2] for row in data.verify("tiny")] == [("inner/one", True), ("inner/two", False)]


def test_an_unknown_data_set_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="did you mean 'mnist'"):
        data.verify("mnits")


# Fetching, from a server on this machine.


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; the first `failures` requests end after half the body."""

    failures = 0
    requests: list[str] = []  # noqa: RUF012  (shared by the handler's instances on purpose)

    def do_GET(self) -> None:
        Server.requests.append(self.path)
        if Server.failures:
            Server.failures -= 1
            self.send_response(200)
            self.send_header("Content-Length", str(len(ARCHIVE)))
            self.end_headers()
            self.wfile.write(ARCHIVE[: len(ARCHIVE) // 2])
            return
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a mirror that has TINY's archive."""
    served = tmp_path / "served"
    served.mkdir()
    (served / "tiny.tar.gz").write_bytes(ARCHIVE)
    Server.failures, Server.requests = 0, []
    handler = functools.partial(Server, directory=str(served))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    serve = functools.partial(server.serve_forever, poll_interval=0.01)
    threading.Thread(target=serve, daemon=True).start()
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def use_mirrors(monkeypatch: pytest.MonkeyPatch, *mirrors: str) -> None:
    fields = {**vars(TINY), "mirrors": mirrors}
    monkeypatch.setitem(catalogue.DATASETS, "tiny", catalogue.Dataset(**fields))


def test_fetch_brings_the_archive_and_fetches_nothing_twice(
    folder: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mirrors(monkeypatch, mirror)
    lines: list[str] = []
    download.fetch("tiny", lines.append)
    download.fetch("tiny", lines.append)
    assert dict(files.contents("tiny")) == CONTENT
    assert Server.requests == ["/tiny.tar.gz"]
    assert "SHA-256 as published" in lines[0]
    assert "intact" in lines[-1]


def test_fetch_retries_a_broken_transfer(
    folder: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mirrors(monkeypatch, mirror)
    Server.failures = 2
    download.fetch("tiny")
    assert len(Server.requests) == 3
    assert all(intact for _, intact, _ in data.verify("tiny"))


def test_fetch_goes_on_to_the_next_mirror(
    folder: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mirrors(monkeypatch, f"{mirror}nothing/", mirror)
    lines: list[str] = []
    download.fetch("tiny", lines.append)
    assert "404" in lines[0]
    assert files.missing("tiny") is None


def test_fetch_leaves_no_half_file_and_says_why(
    folder: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mirrors(monkeypatch, mirror)
    Server.failures = 99
    with pytest.raises(ResourceError, match=r"tiny\.tar\.gz could not be fetched") as caught:
        download.fetch("tiny")
    assert "\n" not in str(caught.value)
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_fetch_replaces_a_damaged_file(
    folder: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mirrors(monkeypatch, mirror)
    (folder / "tiny.tar.gz").write_bytes(ARCHIVE[:100])
    download.fetch("tiny")
    assert (folder / "tiny.tar.gz").read_bytes() == ARCHIVE


def test_fetch_mends_a_damaged_folder_by_the_archive(
    folder: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mirrors(monkeypatch, mirror)
    lay_plain(folder)
    (folder / "inner" / "one").write_bytes(b"damaged")
    download.fetch("tiny")
    assert dict(files.contents("tiny")) == CONTENT


def test_fetch_into_a_file_of_that_name_is_one_line(
    tmp_path: Path, folder: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mirrors(monkeypatch, mirror)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv(catalogue.VARIABLE, str(tmp_path / "file"))
    with pytest.raises(ResourceError, match="could not be fetched"):
        download.fetch("tiny")


# Decoding.


def _counted(calls: list[int]) -> np.ndarray:
    calls.append(1)
    list(files.contents("tiny"))
    return np.arange(1000, dtype=np.uint8)


DIGEST = sha256(np.arange(1000, dtype=np.uint8).tobytes())


def test_decoding_happens_once_until_cache_or_sources_change(folder: Path, tmp_path: Path) -> None:
    lay_plain(folder)
    calls: list[int] = []
    read = functools.partial(decoded.decoded, "tiny", DIGEST, lambda: _counted(calls))
    for _ in range(2):
        np.testing.assert_array_equal(read(), np.arange(1000, dtype=np.uint8))
    assert len(calls) == 1
    (cache,) = (tmp_path / "cache").rglob("*.npy")
    cache.write_bytes(cache.read_bytes()[:-1] + b"x")  # a changed value
    assert sha256(read().tobytes()) == DIGEST
    assert len(calls) == 2
    cache.write_bytes(cache.read_bytes()[:500])  # cut short
    assert sha256(read().tobytes()) == DIGEST
    assert len(calls) == 3
    cache.write_bytes(b"")  # as a power cut may leave it
    assert sha256(read().tobytes()) == DIGEST
    assert len(calls) == 4
    (folder / "inner" / "one").write_bytes(b"damaged")
    with pytest.raises(ResourceError, match="damaged"):
        read()


def test_writing_into_a_decoded_array_leaves_the_cache_alone(folder: Path) -> None:
    lay_plain(folder)
    read = functools.partial(decoded.decoded, "tiny", DIGEST, lambda: _counted([]))
    read()
    read()[:] = 0
    assert read()[7] == 7


def test_a_cache_that_cannot_be_written_costs_only_time(folder: Path, tmp_path: Path) -> None:
    lay_plain(folder)
    (tmp_path / "cache").write_text("in the way")
    calls: list[int] = []
    for _ in range(2):
        decoded.decoded("tiny", DIGEST, lambda: _counted(calls))
    assert len(calls) == 2


PYTHON_2_ARRAY = (  # numpy.array([5, 7], "uint8"), as Python 2 and numpy wrote it in 2009
    b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN"
    b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x02\x05\x07tb."
)


def test_the_unpickler_reads_an_array_of_2009() -> None:
    array: object = cifar10.unpickle(PYTHON_2_ARRAY)
    assert isinstance(array, np.ndarray)
    np.testing.assert_array_equal(array, np.array([5, 7], dtype=np.uint8))


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'file'\ntR.",
        pickle.dumps(Path("x")),
    ],
)
def test_the_unpickler_refuses_every_other_name(content: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError, match="no place in a data file"):
        cifar10.unpickle(content)


def test_idx_is_read_as_its_header_says_and_other_files_are_refused() -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    header = struct.pack(">HBBIII", 0, 8, 3, 2, 3, 4)
    np.testing.assert_array_equal(mnist.parse_idx(gzip.compress(header + values.tobytes())), values)
    with pytest.raises(ValueError, match="not an IDX file"):
        mnist.parse_idx(gzip.compress(struct.pack(">HBBI", 0, 13, 1, 1) + b"1234"))


# The published files.


def test_published_mnist_files_are_intact(mnist_files: None) -> None:
    assert [intact for _, intact, _ in data.verify("mnist")] == [True] * 4
