"""The store: what goes in comes out, whatever is killed, and nothing else goes in."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from difficulty_bench.errors import ResourceError, StudyError
from difficulty_bench.records import Reading, trial_identity
from difficulty_bench.registry import Registry
from difficulty_bench.results import Outcome, Request, TrialResult
from difficulty_bench.seeds import content_hash
from difficulty_bench.sqlite_file import VERSION, WriterLock
from difficulty_bench.store import Store

from . import recorded

ROOT = Path(__file__).resolve().parents[1]
OF = recorded.reading()
TRIAL = recorded.result(OF, "trial", 100, 0, 0.1 + 0.2)
FAILED = recorded.result(OF, "trial", 100, 1, None)
NATIVE = recorded.result(OF, "baseline", 0, 0, 0.98)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "bench.sqlite"


def filled(path: Path | str) -> Store:
    return recorded.fill(Store(path), OF, [TRIAL, FAILED, NATIVE])


def without_bulk(result: TrialResult) -> TrialResult:
    return replace(result, curve=(), z=None)


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A process of its own that runs `code` with the repository on its path."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_what_goes_in_comes_out(path: Path) -> None:
    filled(path).close()
    with Store(path, read_only=True) as store:
        assert store.results(OF.study) == [without_bulk(r) for r in (NATIVE, TRIAL, FAILED)]
        assert store.curve(TRIAL.identity) == TRIAL.curve
        assert store.solution(TRIAL.identity) == TRIAL.z
        assert store.solution(NATIVE.identity) is None
        assert store.outcomes(OF.study)[FAILED.request] == Outcome(None)
        assert store.studies() == [OF]
        assert store.study(OF.study) == OF
        assert store.find(TRIAL.identity[:10]) == [without_bulk(TRIAL)]
        assert len(store.find("")) == 3
        assert store.find("%") == []


def test_the_same_trial_again_changes_nothing() -> None:
    with filled(":memory:") as store:
        assert store.put(TRIAL) is None
        assert store.put(replace(TRIAL, wall_s=99.0)) is None
        assert len(store.results(OF.study)) == 3


def test_curve_and_solution_are_added_to_a_trial_that_came_without() -> None:
    with recorded.fill(Store(":memory:"), OF, [without_bulk(TRIAL)]) as store:
        assert store.put(replace(TRIAL, score=0.5)) is not None
        assert store.solution(TRIAL.identity) is None
        assert store.put(TRIAL) is None
        assert store.solution(TRIAL.identity) == TRIAL.z is not None
        assert store.curve(TRIAL.identity) == TRIAL.curve
        assert store.put(TRIAL) is None
        assert store.curve(TRIAL.identity) == TRIAL.curve


def test_another_end_of_the_same_trial_is_told_and_not_kept() -> None:
    with filled(":memory:") as store:
        warning = store.put(replace(TRIAL, score=0.5))
        assert warning is not None
        assert TRIAL.identity[:12] in warning
        assert "0.5" in warning
        assert without_bulk(TRIAL) in store.results(OF.study)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(TRIAL, identity="0" * 64),
        replace(TRIAL, request=replace(TRIAL.request, seed=5)),
        replace(TRIAL, score=float("nan")),
        replace(TRIAL, score=float("inf")),
        replace(TRIAL, score_sd=float("nan")),
        replace(TRIAL, score=None),
        replace(TRIAL, state="running"),
        replace(FAILED, score=0.5),
        replace(FAILED, reason=None),
        replace(TRIAL, D=50),
        replace(TRIAL, wall_s=-1.0),
        replace(TRIAL, wall_s=float("nan")),
        replace(TRIAL, steps=-1),
        replace(NATIVE, D=-1),
        recorded.result(OF, "trial", 7, -1, 0.5),
        recorded.result(OF, "trial", 7, 0, 0.5, lr_scale=0.0),
        recorded.result(OF, "pilot", -7, 0, 0.5),
        recorded.result(OF, "trial", 7, 0, 0.5, lr_scale=1),
        recorded.result(OF, "trial", -7, 0, 0.5),
        recorded.result(OF, "trial", 0, 0, 0.5),
        recorded.result(OF, "baseline", 7, 0, 0.5),
        recorded.result(recorded.reading("never-added"), "trial", 7, 0, 0.5),
    ],
)
def test_what_is_no_finished_trial_is_refused(wrong: TrialResult) -> None:
    with filled(":memory:") as store:
        before = store.results(OF.study)
        with pytest.raises(ValueError, match=r"\w"):
            store.put(wrong)
        assert store.results(OF.study) == before


def defined(**changes: object) -> Reading:
    definition = OF.definition | changes
    return replace(OF, definition=definition, study=content_hash(definition))


@pytest.mark.parametrize(
    "wrong",
    [
        replace(OF, D=0),
        replace(OF, study="0" * 64),
        defined(task="another"),
        defined(version=2),
        defined(projection="dense"),
        *(defined(**{key: {"entry_point": "x:y"}}) for key in ("problem", "network", "agent")),
        *(defined(**{key: "nowhere:make"}) for key in ("problem", "network", "agent")),
    ],
)
def test_what_is_no_reading_is_refused(wrong: Reading) -> None:
    with Store.in_memory() as store:
        with pytest.raises(ValueError, match=r"\w"):
            store.add_reading(wrong)
        assert store.studies() == []


def test_only_a_study_without_trials_is_forgotten() -> None:
    empty = recorded.reading("empty")
    with recorded.fill(filled(":memory:"), empty, []) as store:
        store.forget_empty(OF.study)
        assert len(store.studies()) == 2
        store.forget_empty(empty.study)
        assert store.studies() == [OF]
        assert len(store.results(OF.study)) == 3
        store.add_reading(replace(empty, D=7))  # forgotten wholly, or D would not fit
        assert len(store.studies()) == 2


def test_stores_in_memory_share_nothing_and_leave_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Store.in_memory() as one, Store.in_memory() as other:
        one.add_reading(OF)
        assert other.studies() == []
    assert list(tmp_path.iterdir()) == []


def test_text_that_is_not_unicode_loses_no_trial() -> None:
    odd = replace(FAILED, reason="no file 'a\udcff'", environment={"command": "run \udcff"})
    with recorded.fill(Store.in_memory(), OF, [odd]) as store:
        found = store.results(OF.study)[0]
        assert found.reason == r"no file 'a\udcff'"
        assert found.environment == {"command": r"run \udcff"}


def test_reading_anew_keeps_the_trials() -> None:
    stricter = OF.task.model_copy(update={"floor": 0.1})
    with filled(":memory:") as store:
        store.add_reading(replace(OF, task=stricter))
        assert [reading.task.floor for reading in store.studies()] == [0.1]
        assert not store.add_reading(OF, replace=False)
        assert [reading.task.floor for reading in store.studies()] == [0.1]
        matched = OF.task.model_copy(update={"lr_rule": "matched"})
        store.add_reading(replace(OF, task=matched))
        assert [reading.task.lr_rule for reading in store.studies()] == ["matched", "paper"]
        assert len(store.results(OF.study)) == 3


def test_versions_of_a_task_never_meet() -> None:
    newer = recorded.reading(version=2)
    with recorded.fill(filled(":memory:"), newer, []) as store:
        assert [reading.task.version for reading in store.studies()] == [1, 2]
        assert store.outcomes(newer.study) == {}


def test_another_d_under_the_same_definition_is_refused() -> None:
    with filled(":memory:") as store, pytest.raises(StudyError, match="raise the task's version"):
        store.add_reading(replace(OF, D=OF.D + 1))


def test_add_study_takes_a_task_as_the_registry_gives_it() -> None:
    task = Registry([ROOT / "tests" / "tiny.yaml"]).get("tiny", ["floor=0.4"])
    with Store.in_memory() as store:
        study = store.add_study(task, 46, ["floor=0.4"], metric="test_accuracy")
        found = store.study(study)
        assert found.task == task
        assert (found.D, found.settings, found.metric) == (46, ("floor=0.4",), "test_accuracy")
        request = Request("baseline", 0, 0)
        assert (
            store.put(replace(NATIVE, identity=trial_identity(study, request), study=study)) is None
        )


def test_a_transaction_is_all_or_nothing(path: Path) -> None:
    with Store(path) as store:
        with pytest.raises(ValueError, match="never added"):
            fill_in_one_transaction(store)
        assert store.studies() == []
        recorded.fill(store, OF, [TRIAL])
    with Store(path, read_only=True) as store:
        assert len(store.results(OF.study)) == 1


def fill_in_one_transaction(store: Store) -> None:
    with store.transaction():
        recorded.fill(store, OF, [TRIAL])
        store.put(recorded.result(recorded.reading("never-added"), "trial", 7, 0, 0.5))


def test_looking_creates_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "none" / "bench.sqlite", read_only=True) as store:
        assert store.studies() == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_store(tmp_path: Path, path: Path) -> None:
    path.parent.mkdir()
    with pytest.raises(ResourceError, match="is a folder; give --store"):
        Store(path.parent)
    assert [path.name for path in tmp_path.iterdir()] == [path.parent.name]


def test_readers_work_beside_a_writer_and_leave_no_trace(path: Path) -> None:
    with filled(path) as store, Store(path, read_only=True) as reader:
        assert len(reader.results(OF.study)) == 3
        store.put(recorded.result(OF, "trial", 200, 0, 0.5))
        assert len(reader.results(OF.study)) == 4
    before = path.read_bytes()
    with Store(path, read_only=True) as reader, pytest.raises(ResourceError, match="cannot write"):
        reader.add_reading(OF)
    assert sorted(p.name for p in path.parent.iterdir()) == ["bench.sqlite", "bench.sqlite.lock"]
    assert path.read_bytes() == before


def test_a_store_that_was_killed_while_it_was_created_is_an_empty_one(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    with Store(path, read_only=True) as store:
        assert store.studies() == []
    filled(path).close()


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize("kind", ["newer", "older", "foreign", "text", "folder"])
def test_what_is_no_store_is_refused_and_left_alone(path: Path, kind: str, read_only: bool) -> None:
    path.parent.mkdir()
    if kind in ("newer", "older"):
        filled(path).close()
        execute(path, f"PRAGMA user_version = {VERSION + (1 if kind == 'newer' else -1)}")
    elif kind == "foreign":
        execute(path, "CREATE TABLE theirs (a)")
    elif kind == "text":
        path.write_text("these are my notes, not a data base\n" * 50)
    else:
        path.mkdir()
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(ResourceError, match=r"bench\.sqlite: .*--store another path"):
        Store(path, read_only=read_only)
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_the_first_score_of_a_quantised_solution_is_kept() -> None:
    with filled(":memory:") as store:
        store.put_quantised(TRIAL.identity, {4: 0.2, 2: 0.1})
        store.put_quantised(TRIAL.identity, {4: 0.9, 8: None})
        assert store.quantised(OF.study) == {TRIAL.identity: {2: 0.1, 4: 0.2, 8: None}}
        assert store.quantised("another study") == {}
        for other in (NATIVE.identity, FAILED.identity, TRIAL.identity[:12], "0" * 64):
            with pytest.raises(ValueError, match="no finished subspace trial"):
                store.put_quantised(other, {4: 0.5})
        with pytest.raises(ValueError, match="finite"):
            store.put_quantised(TRIAL.identity, {6: float("nan")})


def execute(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_a_file_system_without_locks_is_named_as_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path).close()

    def lockf(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with pytest.raises(ResourceError, match=r"cannot be locked: No locks .* that has locks"):
        Store(path)
    assert not WriterLock.is_held(path)


def test_a_second_writer_is_refused_until_the_first_is_gone(path: Path) -> None:
    code = "import sys; from difficulty_bench.store import Store; s = Store(sys.argv[1]);"
    other = python(code + "print('open', flush=True); input()", str(path))
    assert other.stdout is not None
    assert other.stdout.readline() == "open\n"
    with pytest.raises(ResourceError, match=rf"another bench \(process {other.pid} on "):
        Store(path)
    Store(path, read_only=True).close()
    other.kill()
    other.wait()
    with Store(path):
        with pytest.raises(ResourceError, match="this process is already writing"):
            Store(path)
        Store(path.with_name("another.sqlite")).close()
    Store(path).close()


def test_a_store_has_one_writer_by_whatever_links_it_is_reached(path: Path) -> None:
    link, folder = path.parent / "links" / "link.sqlite", path.parent / "folder"
    link.parent.mkdir(parents=True)
    link.symlink_to(path)  # which is not there yet
    folder.symlink_to(path.parent, target_is_directory=True)
    for one, other in ((path, link), (link, path), (path, folder / path.name)):
        with Store(one):
            assert WriterLock.is_held(other)
            with pytest.raises(ResourceError, match="already writing to it"):
                Store(other)
    assert [file.name for file in link.parent.iterdir()] == [link.name]


def test_to_ask_whether_there_is_a_writer_keeps_none_out(path: Path) -> None:
    Store(path).close()
    slow = """
import os, sys, time
from pathlib import Path
from difficulty_bench.sqlite_file import WriterLock
close = os.close
os.close = lambda file: (print("asked", flush=True), time.sleep(0.5), close(file))
print(WriterLock.is_held(Path(sys.argv[1])))
"""
    asking = python(slow, str(path))
    assert asking.stdout is not None
    assert asking.stdout.readline() == "asked\n"
    Store(path).close()
    assert asking.stdout.read() == "False\n"
    asking.wait()


def test_an_orphaned_worker_does_not_keep_the_store(path: Path) -> None:
    code = (
        "import os, sys, time; from difficulty_bench.store import Store; s = Store(sys.argv[1]);"
        "child = os.fork() or time.sleep(30); print(child, flush=True); os.kill(os.getpid(), 9)"
    )
    parent = python(code, str(path))
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.wait()
    try:
        Store(path).close()
    finally:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.2])
def test_a_kill_while_writing_loses_no_trial_that_was_put(path: Path, delay_s: float) -> None:
    code = """
import sys
from difficulty_bench.store import Store
from tests import recorded
of = recorded.reading()
with Store(sys.argv[1]) as store:
    store.add_reading(of)
    for seed in range(100_000):
        result = recorded.result(of, "trial", 5000, seed, 0.5)
        store.put(result)
        print(result.identity, flush=True)
"""
    writer = python(code, str(path))
    assert writer.stdout is not None
    acknowledged = [writer.stdout.readline().strip()]
    time.sleep(delay_s)
    writer.kill()
    acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
    writer.wait()
    with Store(path) as store:
        kept = [result.identity for result in store.results(OF.study)]
        assert set(acknowledged) <= set(kept)
        assert len(kept) <= len(acknowledged) + 1
        assert all(len(store.solution(identity) or b"") == 20_000 for identity in kept)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE environments SET facts = '{'",
        "UPDATE trials SET d = d + 1",
        "UPDATE trials SET state = 'foo'",
        "UPDATE trials SET score = 'abc'",
    ],
)
def test_a_damaged_trial_is_named_in_one_line(tmp_path: Path, damage: str) -> None:
    of, path = recorded.reading(), tmp_path / "s.sqlite"
    with Store(path) as store:
        recorded.fill(store, of, [recorded.result(of, "trial", 3, 0, 0.1)])
    with sqlite3.connect(path) as raw:
        raw.execute(damage)
    with Store(path, read_only=True) as store, pytest.raises(ResourceError, match="is damaged: "):
        store.results(of.study)


def test_only_in_memory_means_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    of = recorded.reading()
    with Store(Path(":memory:")) as store:
        store.add_reading(of)
    with Store(Path(":memory:"), read_only=True) as store:
        assert [reading.study for reading in store.studies()] == [of.study]


def test_a_folder_that_cannot_be_written_hides_no_result_of_a_killed_writer(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(path).close()
    code = "import os, sys; from pathlib import Path; from tests.test_store import *;"
    code += "store = Store(Path(sys.argv[1])); store.put(recorded.result(OF, 'trial', 7, 0, .5));"
    code += "os.kill(os.getpid(), signal.SIGKILL)"
    python(code, str(path)).wait()
    monkeypatch.setattr(os, "access", lambda *_: False)
    link = path.parents[1] / "link.sqlite"
    link.symlink_to(path)
    for one in (path, link):
        with Store(one, read_only=True) as store:
            assert len(store.results(OF.study)) == 4
