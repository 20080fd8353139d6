"""An unfinished study moves to another store and goes on there; a wrong file changes nothing."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from difficulty_bench.checkpoint import Checkpoint, checkpoint_folder, read_checkpoint
from difficulty_bench.cli import main
from difficulty_bench.errors import ResourceError, UsageError
from difficulty_bench.exchange import export
from difficulty_bench.registry import Registry
from difficulty_bench.results import Request
from difficulty_bench.store import Store
from difficulty_bench.study_file import Imported, export_study, import_study, opened_study
from difficulty_bench.trial import Runtime, Trial, run_trial
from difficulty_bench.verbs.study import plan_of

from . import recorded

SMALL = {
    **{"agent.total_timesteps": 192, "agent.n_envs": 2, "agent.n_steps": 32},
    **{"agent.batch_size": 32, "problem.eval_episodes": 4, "floor": -1},
}
SETS = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
TASK = ["--task", "cartpole", *SETS]


def run(store: Path, *more: str) -> int:
    grid = ["--d", "3,5", "--seeds", "2", "--workers", "1", "--quiet", "--json"]
    return main(["run", *TASK, *grid, "--store", str(store), *more])


def stop_at(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the run at the n-th time that it asks whether to."""
    asked = iter(range(1, 10_000))
    monkeypatch.setattr(Runtime, "must_stop", lambda self: next(asked) >= n)


def test_a_study_goes_on_elsewhere_as_it_would_have_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here" / "bench.sqlite", tmp_path / "there" / "other.sqlite"
    file = tmp_path / "study.zip"
    stop_at(24, monkeypatch)  # within the sixth trial of nine
    assert run(here) == 75  # as where --max-hours ends it
    monkeypatch.undo()
    (checkpoint,) = checkpoint_folder(here).iterdir()
    assert read_checkpoint(checkpoint).steps > 0
    capsys.readouterr()
    assert main(["study", "export", str(file), *TASK, "--store", str(here)]) == 0
    assert "5 finished trials, 1 checkpoints" in capsys.readouterr().out
    assert main(["study", "import", str(file), "--store", str(there)]) == 0
    said = capsys.readouterr().out
    assert "5 trials added" in said
    assert "bench run --task cartpole --set agent.total_timesteps=192" in said
    ends = []
    for store in (here, there):
        assert run(store) == 0
        (row,) = json.loads(capsys.readouterr().out)
        with Store(store, read_only=True) as found:
            trials = found.results(row["study"])
            z = [found.solution(trial.identity) for trial in trials]
            curve = found.curve(checkpoint.stem)
        scores = [(trial.identity, trial.score) for trial in trials]
        ends.append((scores, z, curve, row["d_int90"], row["baseline_mean"]))
        assert not list(checkpoint_folder(store).iterdir())
    assert ends[0] == ends[1]
    assert len(ends[0][0]) == 9
    assert "environments_reset" in {name for _, name, _ in ends[1][2]}  # it did not start again


def test_an_imported_study_is_resumed_as_far_as_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = ["--tasks", str(Path(__file__).parent / "tiny.yaml"), "--task", "tiny"]
    here, file = ["--store", str(tmp_path / "here.sqlite")], str(tmp_path / "study.zip")
    words = ["run", *tiny, *here, "--workers", "1", "--d", "3,5", "--seeds=2", "--max-trials", "2"]
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    assert main(words) == 0
    assert main(["study", "export", file, *tiny, *here]) == 0
    assert main(["study", "import", file, *tiny[:2], "--store", str(tmp_path / "there")]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert f"--task tiny --d 3,5 --seeds 2 --max-trials 2 --store {tmp_path / 'there'}" in last


@pytest.mark.parametrize(
    ("command", "plan"),
    [
        ("bench run --env X --d 3 --set a=1 --precision=1.1", ("--d", "3", "--precision", "1.1")),
        ("bench run --task x", ()),
        ("bench run --d '$(rm)' --seeds", ()),
        ("bench run '", ()),
    ],
)
def test_of_a_command_from_elsewhere_only_numbers_are_repeated(
    command: str, plan: tuple[str, ...]
) -> None:
    assert plan_of(command) == plan


OF = recorded.reading()
DONE = recorded.result(OF, "trial", 100, 0, 0.5)
WAITING = Request("trial", 100, 1)


def checkpoint(steps: int = 5, of: str = OF.study, request: Request = WAITING) -> Checkpoint:
    return Checkpoint(of, request, steps, 1.0, [(1, "loss", 0.5)], {"w": torch.arange(3.0)})


def put(store: Path, one: Checkpoint) -> Path:
    path = checkpoint_folder(store) / f"{one.identity}.pt"
    one.write(path)
    return path


def imported(store: Store, file: Path) -> Imported:
    with opened_study(file) as content:
        return import_study(store, content)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    source = tmp_path / "source.sqlite"
    put(source, checkpoint())
    put(source, checkpoint(of="f" * 64))
    put(source, replace(checkpoint(request=Request("trial", 9, 0)), state=None))
    with Store(source) as store:
        recorded.fill(store, OF, [DONE])
        done = export_study(store, OF.study, tmp_path / "study.zip")
    assert (done.trials, len(done.checkpoints), len(done.restarting)) == (1, 1, 1)
    return tmp_path / "study.zip"


def test_a_file_holds_the_study_alone_and_gives_it_back(tmp_path: Path, file: Path) -> None:
    target = tmp_path / "target.sqlite"
    with Store(target) as store:
        first, again = imported(store, file), imported(store, file)
        assert store.solution(DONE.identity) == DONE.z
        assert store.outcomes(OF.study)[DONE.request].score == 0.5
    assert (first.merged.added, first.checkpoints, first.older) == (1, 1, 0)
    assert (again.merged.known, again.checkpoints, again.older) == (1, 0, 1)
    (path,) = checkpoint_folder(target).iterdir()
    back = read_checkpoint(path)
    assert back.state is not None
    assert torch.equal(back.state["w"], torch.arange(3.0))
    assert replace(back, state=None) == replace(checkpoint(), state=None)


def test_no_two_stores_share_a_folder_of_checkpoints() -> None:
    stores = [Path("a") / name for name in ("exp", "exp.sqlite", "exp.v1", "exp.v2")]
    folders = {checkpoint_folder(store) for store in stores}
    assert len(folders) == len(stores)
    assert {folder.parent for folder in folders} == {Path("a")}


@pytest.mark.parametrize(("steps", "kept"), [(4, 5), (6, 6)])
def test_of_two_checkpoints_the_one_further_along_is_kept(
    tmp_path: Path, file: Path, steps: int, kept: int
) -> None:
    target = tmp_path / "target.sqlite"
    path = put(target, checkpoint(steps))
    with Store(target) as store:
        imported(store, file)
    assert read_checkpoint(path).steps == kept


def test_a_trial_that_is_finished_here_needs_no_checkpoint(tmp_path: Path, file: Path) -> None:
    target = tmp_path / "target.sqlite"
    with Store(target) as store:
        recorded.fill(store, OF, [recorded.result(OF, "trial", 100, 1, 0.7)])
        assert imported(store, file).older == 1
    assert not list(checkpoint_folder(target).iterdir())


@pytest.mark.parametrize("verb", ["results", "study"])
def test_a_trial_that_was_finished_elsewhere_keeps_no_checkpoint_here(
    tmp_path: Path, verb: str
) -> None:
    source, target, file = (tmp_path / name for name in ("source", "target", "file"))
    with Store(source) as store:
        recorded.fill(store, OF, [DONE])
        if verb == "results":
            export(store, file)
        else:
            export_study(store, OF.study, file)
    put(target, checkpoint(request=DONE.request))
    waiting = put(target, checkpoint())
    another = put(target, checkpoint(of="f" * 64, request=DONE.request))
    assert main([verb, "import", str(file), "--store", str(target)]) == 0
    assert sorted(checkpoint_folder(target).iterdir()) == sorted([waiting, another])


def test_status_tells_of_trials_that_have_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are under way while another process writes to the store, interrupted otherwise."""
    path = tmp_path / "bench.sqlite"
    put(path, checkpoint(steps=1234))
    put(path, replace(checkpoint(request=Request("baseline", 0, 2)), state=None))
    put(path, checkpoint(request=DONE.request))  # finished meanwhile, on another machine
    put(path, checkpoint(of="f" * 64))
    (checkpoint_folder(path) / "noise.pt").write_bytes(b"noise")
    with Store(path) as store:
        recorded.fill(store, OF, [DONE])
    assert main(["status", "--store", str(path)]) == 0
    interrupted = capsys.readouterr().out
    words = [sys.executable, "-m", "difficulty_bench", "status", "--store", str(path)]
    with Store(path):
        assert main(["status", "--store", str(path)]) == 0  # which leaves the lock where it is
        said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert said == capsys.readouterr().out == interrupted.replace("interrupted", "under way")
    assert "  under way: trial d=100 seed 1, step 1,234 after 1 s, loss 0.5\n" in said
    assert "  under way: baseline native seed 2, step 5 after 1 s, loss 0.5; nothing saved" in said
    assert said.count("under way") == interrupted.count("interrupted") == 2
    assert main(["status", "--store", str(path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["study"], row["under_way"]) == (OF.study, False)
    waiting = {"role": "trial", "d": 100, "seed": 1, "lr_scale": 1.0, "starts_again": False}
    assert waiting | {"steps": 1234, "elapsed_s": 1.0, "values": {"loss": 0.5}} in row["begun"]
    assert [one["starts_again"] for one in row["begun"]].count(True) == 1


def test_a_disk_that_takes_no_checkpoint_is_not_the_file_s_fault(
    tmp_path: Path, file: Path
) -> None:
    target = tmp_path / "target.sqlite"
    checkpoint_folder(target).write_text("a file where the folder would be")
    with (
        Store(target) as store,
        pytest.raises(ResourceError, match=r"target\.sqlite\.checkpoints/") as said,
    ):
        imported(store, file)
    assert "free or mend the disk" in str(said.value)


def test_a_fault_half_way_is_undone_and_not_called_the_file_s(tmp_path: Path) -> None:
    source, target, file = (tmp_path / name for name in ("source", "target", "study.zip"))
    requests = [Request("trial", 100, seed) for seed in (1, 2, 3)]
    three = sorted([checkpoint(5, request=r) for r in requests], key=lambda one: str(one.identity))
    for one in three:
        put(source, one)
    with Store(source) as store:
        recorded.fill(store, OF, [DONE])
        export_study(store, OF.study, file)
    new, further, blocked = (checkpoint_folder(target) / f"{one.identity}.pt" for one in three)
    put(target, replace(three[1], steps=4))
    earlier = further.read_bytes()
    blocked.mkdir()  # where the last one belongs
    with Store(target) as store:
        with pytest.raises(ResourceError) as said:
            imported(store, file)
        assert str(said.value).startswith(f"{blocked}: Is a directory; free or mend the disk")
        assert store.studies() == []
        assert sorted(checkpoint_folder(target).iterdir()) == sorted([further, blocked])
        assert further.read_bytes() == earlier
        blocked.rmdir()
        assert imported(store, file).checkpoints == 3
        assert len(store.results(OF.study)) == 1
    assert read_checkpoint(further).steps == 5
    assert sorted(checkpoint_folder(target).iterdir()) == sorted([new, further, blocked])


def test_no_option_is_read_as_another(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["status", "--task", "pong"], ["show", "toy", "--task", "pong"]):
        with pytest.raises(SystemExit):
            main(words)  # `show` takes --tasks, a file
        assert "unrecognized arguments: --task pong" in capsys.readouterr().err


def test_no_verb_takes_an_option_that_it_does_not_read(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["data", "verify", "--store", "x"], ["eval", "x", "--store", "x"]):
        with pytest.raises(SystemExit):
            main(words)
        assert "unrecognized arguments: --store x" in capsys.readouterr().err
    assert main(["results", "import", "x.jsonl", "--task", "toy"]) == 2
    assert "leave out --task" in capsys.readouterr().err


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


def pt(**content: Any) -> bytes:
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


CHECKPOINT = f"checkpoints/{checkpoint().identity}.pt"
OTHER = checkpoint(request=Request("trial", 7, 0))
OTHERS = vars(OTHER) | {"request": vars(OTHER.request)}
Parts = dict[str, bytes]
WRONG: dict[str, tuple[Callable[[Parts], object], str]] = {
    "a path above": (lambda p: p.update({"../evil": b""}), "'../evil' is no part"),
    "a path within": (lambda p: p.update({f"checkpoints/../{'a' * 64}.pt": b""}), "is no part"),
    "an absolute path": (lambda p: p.update({"/tmp/evil": b""}), "is no part"),
    "no results": (lambda p: p.pop("results.jsonl"), "needs study.json and results.jsonl"),
    "no head": (lambda p: p.update({"study.json": b"[]"}), "names no study"),
    "format": (lambda p: p.update({"study.json": b'{"format": 9, "study": ""}'}), "format 9"),
    "study": (lambda p: p.update({"study.json": b'{"format": 1, "study": "a"}'}), "another study"),
    "results": (lambda p: p.update({"results.jsonl": b"{}"}), "study.zip/results.jsonl:1: "),
    "z": (lambda p: p.update({f"solutions/{DONE.identity}": b"1234"}), "fits no trial"),
    "no such z": (lambda p: p.update({"solutions/" + "a" * 64: b"1234"}), "fits no trial"),
    "noise": (lambda p: p.update({CHECKPOINT: b"noise"}), "not a checkpoint"),
    "pickle": (lambda p: p.update({CHECKPOINT: pickle.dumps(Evil())}), "not a checkpoint"),
    "torch pickle": (lambda p: p.update({CHECKPOINT: pt(state=Evil())}), "not a checkpoint"),
    "no keys": (lambda p: p.update({CHECKPOINT: pt(state={})}), "not a checkpoint"),
    "another trial's": (lambda p: p.update({CHECKPOINT: pt(**OTHERS)}), "another study or trial"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_file_is_refused_in_one_line_and_changes_nothing(
    tmp_path: Path, file: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, why = WRONG[what]
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    change(parts)
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    assert_refused(tmp_path, file, why, monkeypatch)


def assert_refused(tmp_path: Path, file: Path, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "cwd" / "target.sqlite"
    with Store(target) as store:
        monkeypatch.chdir(target.parent)
        with pytest.raises(UsageError) as caught:
            imported(store, file)
        assert why in str(caught.value)
        assert "\n" not in str(caught.value)
        assert store.studies() == []
    assert not list(checkpoint_folder(target).glob("*"))
    assert not (target.parent / "evil").exists()
    new = tmp_path / "new" / "target.sqlite"
    assert main(["study", "import", str(file), "--store", str(new)]) == 2
    assert not new.parent.exists()  # a file that is refused leaves no store


def test_words_of_a_file_do_not_reach_a_terminal_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "study.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("study.json", "results.jsonl", "\x1b[2J\x1b[31mowned"):
            archive.writestr(name, "{}")
    assert main(["study", "import", str(file)]) == 2
    assert "'\\x1b[2J\\x1b[31mowned' is no part" in capsys.readouterr().err


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_file_cut_short_is_refused(
    tmp_path: Path, file: Path, keep: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
    assert_refused(tmp_path, file, "export the study anew", monkeypatch)


def test_a_flipped_byte_is_noticed(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray(file.read_bytes())
    content[content.index(b"accuracy")] ^= 1
    file.write_bytes(content)
    assert_refused(tmp_path, file, "CRC", monkeypatch)


def test_compressed_or_large_parts_are_refused(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("difficulty_bench.study_file.MAX_CHECKPOINT_BYTES", 100)
    assert_refused(tmp_path, file, "is above", monkeypatch)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("study.json", "results.jsonl"):
            archive.writestr(name, " " * 100_000)
    assert_refused(tmp_path, file, "more bytes than it has", monkeypatch)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("study.json", "results.jsonl"):
            archive.writestr(name, "1")
    assert_refused(tmp_path, file, "is compressed", monkeypatch)


def test_the_verb_refuses_what_makes_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ["--store", str(tmp_path / "bench.sqlite")]
    file = str(tmp_path / "study.zip")
    Store(store[1]).close()
    for words, says in (
        (["export", file], "say what to measure"),
        (["export", file, "--task", "toy", "--task", "digits"], "one study, not 2"),
        (["export", file, "--task", "toy"], "nothing of this study"),
        (["import", file], "No such file"),
        (["import", file, "--task", "toy"], "give FILE alone"),
    ):
        assert main(["study", *words, *store]) == 2
        assert says in capsys.readouterr().err
    assert not Path(file).exists()


def test_a_task_of_ones_own_goes_on_with_its_file(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["study", "import", str(file), "--store", str(tmp_path / "target.sqlite")]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "bench run --tasks FILE --task known --store" in said
    assert "(FILE: the one with the task 'known')" in said
    tasks = tmp_path / "mine.yaml"
    tasks.write_text("known: {extends: toy}")
    assert main([*command, "--tasks", str(tasks)]) == 0
    assert f"bench run --tasks {tasks} --task known --store" in capsys.readouterr().out


def test_a_corrupt_checkpoint_is_named_with_the_mend(tmp_path: Path) -> None:
    task = Registry().get("cartpole", [f"{key}={value}" for key, value in SMALL.items()])
    trial = Trial(task, Request("trial", 3, 0))
    path = tmp_path / f"{trial.identity}.pt"
    path.write_bytes(b"noise")
    with pytest.raises(ResourceError, match="delete it"):
        run_trial(trial, Runtime(checkpoint_dir=tmp_path))


def test_a_flipped_bit_of_a_checkpoint_is_noticed(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "source.sqlite"
    path = checkpoint_folder(store) / f"{checkpoint().identity}.pt"
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(3.0).numpy().tobytes()) + 6] ^= 1
    path.write_bytes(content)
    for mapped in (False, True):
        with pytest.raises(ValueError, match="data/0 is corrupt"):
            read_checkpoint(path, mapped=mapped)
    with Store(store) as opened:
        done = export_study(opened, OF.study, file)
    assert (done.checkpoints, len(done.corrupt)) == ((), 1)
    assert main(["status", "--store", str(store)]) == 0
    said = capsys.readouterr().err
    assert said == f"bench: warning: {done.corrupt[0]}\n"
    assert f"{path}: not a checkpoint: " in said
    assert "delete it" in said


def test_no_line_advises_to_let_a_checkpoint_run_code(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(pt(state=Evil()))
    with pytest.raises(ValueError, match=r"more than tensors and plain containers$"):
        read_checkpoint(tmp_path / "x.pt")


def whose(study: object = OF.study, **request: object) -> bytes:
    """A checkpoint whose state is sound."""
    return pt(**vars(checkpoint()) | {"study": study, "request": vars(WAITING) | request})


TENSOR = torch.arange(3)
ODD = [whose(TENSOR), whose(1), whose(d=TENSOR), whose(lr_scale=float("nan")), whose(role="other")]


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04", b"\x80\x02", pt(state=1), *ODD])
def test_whatever_is_no_checkpoint_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    for mapped in (False, True):
        with pytest.raises(ValueError, match=r"^not a checkpoint: .+"):
            read_checkpoint(tmp_path / "x.pt", mapped=mapped)


def test_status_says_in_a_line_which_checkpoint_is_of_no_trial_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "bench.sqlite"
    with Store(store) as opened:
        recorded.fill(opened, OF, [DONE])
    path = checkpoint_folder(store) / f"{'a' * 64}.pt"
    path.parent.mkdir()
    path.write_bytes(whose(seed=TENSOR))
    assert main(["status", "--store", str(store)]) == 0
    assert f"{path}: not a checkpoint: d = 100 or seed = " in capsys.readouterr().err


def test_a_wrong_byte_of_a_checkpoint_is_found_or_says_nothing(tmp_path: Path) -> None:
    """The zip has bytes that nobody reads, such as times."""
    own = replace(checkpoint(), state={"x": torch.arange(200.0)})
    whole, path = put(tmp_path / "x.sqlite", own).read_bytes(), tmp_path / "x.pt"
    found = 0
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            read = read_checkpoint(path)
        except ValueError:
            found += 1
            continue
        assert replace(read, state=None) == replace(own, state=None)
        assert read.state is not None
        assert torch.equal(read.state["x"], torch.arange(200.0))
    assert found > 200  # 800 bytes of the tensor alone


def test_a_checkpoint_to_go_on_from_is_better_than_none(tmp_path: Path, file: Path) -> None:
    target = tmp_path / "target.sqlite"
    path = put(target, replace(checkpoint(steps=1000), state=None))
    with Store(target) as store:
        assert imported(store, file).checkpoints == 1
    assert read_checkpoint(path).steps == 5


def test_a_table_of_contents_of_another_zip_is_refused(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray(file.read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 151  # the version that it takes to read it
    file.write_bytes(content)
    assert_refused(tmp_path, file, "corrupt, or no study file", monkeypatch)


def test_what_a_terminal_would_obey_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "bench.sqlite"
    with Store(store) as written:
        recorded.fill(written, recorded.reading(settings=("notes=\x1b[31m\nbench: done",)), [])
    assert main(["status", "--store", str(store)]) == 0
    assert "notes=\\x1b[31m\\nbench: done" in capsys.readouterr().out
