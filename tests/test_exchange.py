"""Results files: exact there and back, merged by identity, refused as a whole when wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from difficulty_bench.cli import main
from difficulty_bench.errors import UsageError
from difficulty_bench.exchange import export, import_results, merged
from difficulty_bench.records import trial_identity
from difficulty_bench.results import Request, TrialResult
from difficulty_bench.seeds import content_hash
from difficulty_bench.store import Store

from . import recorded

OF = recorded.reading(settings=("projection=dense",))
NATIVE = recorded.result(OF, "baseline", 0, 0, 0.98)
TRIAL = recorded.result(OF, "trial", 100, 0, 0.1 + 0.2)
FAILED = recorded.result(OF, "trial", 100, 1, None)
Lines = list[dict[str, Any]]


def store_of(*results: TrialResult) -> Store:
    return recorded.fill(Store.in_memory(), OF, list(results))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "results.jsonl"
    assert export(store_of(NATIVE, TRIAL, FAILED), path) == 3
    return path


finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
natural = st.integers(0, 2**63 - 1)
requests = st.builds(
    Request, st.sampled_from(["pilot", "trial"]), st.integers(1, OF.D), natural, positive
)


@st.composite
def results(draw: st.DrawFn) -> TrialResult:
    request = draw(requests)
    complete = draw(st.booleans())
    return replace(
        TRIAL,
        identity=trial_identity(OF.study, request),
        request=request,
        state="complete" if complete else draw(st.sampled_from(["failed", "timed_out"])),
        score=draw(finite) if complete else None,
        score_sd=draw(st.none() | positive) if complete else None,
        score_n=draw(st.none() | natural),
        reason=None if complete else draw(st.text(min_size=1)),
        steps=draw(natural),
        wall_s=draw(positive),
        device=draw(st.text()),
        environment=draw(st.dictionaries(st.text(), st.text(), max_size=3)),
        curve=(),
        z=None,
    )


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(results(), min_size=1, max_size=6, unique_by=lambda r: r.identity))
def test_a_file_gives_back_exactly_what_was_exported(
    tmp_path_factory: pytest.TempPathFactory, found: list[TrialResult]
) -> None:
    folder = tmp_path_factory.mktemp("exchange")
    first, second, third = (folder / name for name in ("a", "b", "c"))
    solved = [r.identity for r in found if r.score is not None and r.request.d]
    scores = {identity: {4: 0.1 + 0.2, 16: 1 / 3} for identity in sorted(solved)}
    with store_of(*found) as store, store_of(*reversed(found)) as other:
        for one in (store, other):
            for identity in scores:
                one.put_quantised(identity, scores[identity])
        export(store, first)
        export(other, second)
        with recorded.read(first) as back:
            export(back, third)
            assert back.results(OF.study) == store.results(OF.study)
            assert back.studies() == [OF]
            assert back.quantised(OF.study) == scores
    assert first.read_bytes() == second.read_bytes() == third.read_bytes()


def test_merging_is_by_identity(tmp_path: Path, file: Path) -> None:
    other = tmp_path / "other.jsonl"
    export(store_of(replace(TRIAL, score=0.7), recorded.result(OF, "trial", 9, 0, 0.1)), other)
    with Store.in_memory() as store:
        first, again, conflicting = (import_results(store, f) for f in (file, file, other))
        assert (first.added, first.known, first.conflicts) == (3, 0, ())
        assert (again.added, again.known, again.conflicts) == (0, 3, ())
        assert (conflicting.added, conflicting.known) == (1, 1)
        assert len(conflicting.conflicts) == 1
        assert "other.jsonl:" in conflicting.conflicts[0]
        assert store.outcomes(OF.study)[TRIAL.request].score == TRIAL.score


def test_another_reading_is_named_and_not_taken(tmp_path: Path, file: Path) -> None:
    """A threshold that silently stays another makes another row of the same trials."""
    task = OF.task
    search = task.search.model_copy(update={"d_max": task.search.d_max - 1})
    mine = task.model_copy(update={"threshold_global": 0.875, "search": search, "notes": "mine"})
    with Store.in_memory() as store:
        store.add_reading(replace(OF, task=mine))
        merged = import_results(store, file)
        assert (merged.added, store.studies()[0].task) == (3, mine)
    (conflict,) = merged.conflicts
    line, said = conflict.removeprefix(f"{file}:").split(": ", 1)
    assert f'"{OF.study}"' in file.read_text().splitlines()[int(line) - 1]
    assert said.startswith(
        f"{task.name}: threshold_global is {task.threshold_global} here and 0.875 in the store, "
        f"search.d_max is {task.search.d_max} here and {search.d_max} in the store; "
    )


def test_scores_of_another_solution_are_left_out(tmp_path: Path, file: Path) -> None:
    """Where the store has another end of a trial, what a file says of its z is of another z."""
    with recorded.read(file) as store:
        store.put_quantised(TRIAL.identity, {4: 0.25, 8: None})
        export(store, file)
    for other in (
        replace(TRIAL, score=0.7),
        replace(TRIAL, score=None, state="failed", reason="x"),
    ):
        with store_of(other) as store:
            assert len(import_results(store, file).conflicts) == 1
            assert store.quantised(OF.study) == {}
    with store_of(TRIAL) as store:
        import_results(store, file)
        assert store.quantised(OF.study) == {TRIAL.identity: {4: 0.25, 8: None}}


def test_two_files_one_after_the_other_are_a_file(file: Path) -> None:
    file.write_bytes(file.read_bytes() * 2 + b"\n")
    with recorded.read(file) as store:
        assert len(store.results(OF.study)) == 3


def test_one_task_can_be_exported_alone(tmp_path: Path) -> None:
    other = recorded.reading("other")
    store = recorded.fill(store_of(TRIAL), other, [recorded.result(other, "trial", 9, 0, 0.1)])
    assert export(store, tmp_path / "f", ["other"]) == 1
    with recorded.read(tmp_path / "f") as back:
        assert [reading.task.name for reading in back.studies()] == ["other"]


def test_all_readings_of_a_study_come_along(tmp_path: Path) -> None:
    store = store_of(TRIAL)
    store.add_reading(replace(OF, task=OF.task.model_copy(update={"lr_rule": "matched"})))
    assert export(store, tmp_path / "f") == 1
    with recorded.read(tmp_path / "f") as back:
        assert back.studies() == store.studies()


def test_the_store_and_a_file_are_merged_in_memory(tmp_path: Path, file: Path) -> None:
    path = tmp_path / "bench.sqlite"
    with merged(path, file) as source:
        assert len(source.results(OF.study)) == 3
    assert not path.exists()
    newer = replace(OF, task=OF.task.model_copy(update={"floor": 0.1}))
    with Store(path) as store:
        recorded.fill(store, newer, [replace(TRIAL, score=0.7)])
    said: list[str] = []
    with merged(path, file, said.append) as source:
        assert source.outcomes(OF.study)[TRIAL.request].score == 0.7
        assert [reading.task.floor for reading in source.studies()] == [0.1]
        assert len(source.results(OF.study)) == 3
    conflict, of_floor = sorted(said, key=lambda text: "floor" in text)
    assert f"{file}:" in conflict
    assert "floor is 0.0 here and 0.1 in the store" in of_floor
    assert "is there as complete (0.7); kept, not replaced by" in conflict
    with merged(path, tmp_path / "none.jsonl") as source:
        assert len(source.results(OF.study)) == 1


def lines_of(file: Path) -> Lines:
    return [json.loads(line) for line in file.read_text().splitlines()]


def kind(lines: Lines, name: str) -> dict[str, Any]:
    return next(line for line in lines if line["kind"] == name)


def trial(**changes: Any) -> Callable[[Lines], object]:
    return lambda lines: lines[-1].update(changes)


def study(**changes: Any) -> Callable[[Lines], object]:
    return lambda lines: kind(lines, "study").update(changes)


def defined(**changes: Any) -> Callable[[Lines], object]:
    """Another definition, and the study named by its hash as it should be."""

    def change(lines: Lines) -> None:
        line = kind(lines, "study")
        line["definition"] |= changes
        line["study"] = content_hash(line["definition"])

    return change


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


def quantised(identity: str, scores: dict[str, float | None]) -> Callable[[Lines], object]:
    line = {"kind": "quantised", "identity": identity, "scores": scores}
    return lambda lines: lines.append(line)


WRONG: dict[str, tuple[Callable[[Lines], object], int, str]] = {
    "type": (trial(seed="1"), 6, "seed"),
    "range": (trial(seed=-1), 6, "seed"),
    "huge": (trial(steps=2**63), 6, "steps"),
    "nan": (trial(wall_s=float("nan")), 6, "NaN is not a number"),
    "infinite": (trial(wall_s=float("inf")), 6, "Infinity is not a number"),
    "score": (trial(state="complete"), 6, "score None"),
    "state": (trial(state="running"), 6, "state"),
    "unknown key": (trial(colour="red"), 6, "colour"),
    "d": (trial(d=20_000), 6, "hash of its study and request"),
    "native": (trial(d=0), 6, "hash of its study and request"),
    "seed": (trial(seed=7), 6, "hash of its study and request"),
    "study": (trial(study="f" * 64), 6, "no study line"),
    "environment": (trial(environment="f" * 16), 6, "no environment line"),
    "kind": (trial(kind="poem"), 6, "kind"),
    "missing": (lambda lines: lines[-1].pop("device"), 6, "device"),
    "definition": (
        lambda x: kind(x, "study")["definition"].update(version=2),
        3,
        "hash of its def",
    ),
    "timeout": (defined(timeout_s=5.0), 3, "timeout_s is None in the task, 5.0 defined"),
    "early stop": (defined(early_stop="soon"), 3, "early_stop is None in the task, 'soon' def"),
    "no early stop": (
        lambda lines: kind(lines, "study")["task"].update(early_stop={"metric": "a", "at": 1.0}),
        3,
        "early_stop is {'metric': 'a', 'at': 1.0, 'times': 2} in the task, None defined",
    ),
    "depth": (defined(more=nested(300)), 3, "depth"),
    "text": (study(settings=["a=\udcff"]), 3, "surrogates not allowed"),
    "task": (lambda lines: kind(lines, "study")["task"].update(version=2), 3, "version is 2"),
    "task key": (lambda lines: kind(lines, "study")["task"].update(flor=1), 3, "flor"),
    "agent": (
        lambda lines: kind(lines, "study")["task"]["agent"].update(entry_point="os:system"),
        3,
        "agent of the task",
    ),
    "D": (study(D=0), 3, "D"),
    "facts": (lambda lines: kind(lines, "environment")["facts"].update(torch="0"), 2, "facts"),
    "format": (lambda lines: lines[0].update(format=3), 1, "format 3"),
    "no such trial": (quantised("f" * 64, {"4": 0.5}), 7, "no finished subspace trial"),
    "native solution": (quantised(NATIVE.identity, {"4": 0.5}), 7, "no finished subspace trial"),
    "a prefix": (quantised(TRIAL.identity[:12], {"4": 0.5}), 7, "no finished subspace trial"),
    "failed": (quantised(FAILED.identity, {"4": 0.5}), 7, "no finished subspace trial"),
    "bits": (quantised(TRIAL.identity, {"17": 0.5}), 7, "scores.17"),
    "no bits": (quantised(TRIAL.identity, {}), 7, "scores"),
    "no header": (lambda lines: lines.pop(0), 1, "not a results file"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_line_is_named_and_nothing_is_imported(file: Path, what: str) -> None:
    change, number, why = WRONG[what]
    lines = lines_of(file)
    change(lines)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert_refused(file, number, why)


def assert_refused(file: Path, number: int, why: str) -> None:
    with Store.in_memory() as store:
        with pytest.raises(UsageError, match=rf"results\.jsonl:{number}: .*{why}.*") as caught:
            import_results(store, file)
        assert "\n" not in str(caught.value)
        assert "export" in str(caught.value)
        assert store.studies() == []


@pytest.mark.parametrize(
    "tail", [b'{"kind": "tri', b"\xff\xfe", b"[1, 2]", b'"x"', b"9" * 5000, b"[" * 10**5]
)
def test_a_torn_or_foreign_line_is_named(file: Path, tail: bytes) -> None:
    file.write_bytes(file.read_bytes() + tail)
    assert_refused(file, 7, "")


def test_a_key_that_stands_twice_is_refused(file: Path) -> None:
    file.write_text(file.read_text().replace('"seed": 1,', '"seed": 1, "seed": 1,'))
    assert_refused(file, 6, "twice")


def test_another_network_under_the_same_definition_is_refused(file: Path) -> None:
    with recorded.fill(Store.in_memory(), replace(OF, D=OF.D + 1), []) as store:
        with pytest.raises(UsageError, match=r"results\.jsonl:3: .*raise the task's version"):
            import_results(store, file)
        assert store.results(OF.study) == []


@pytest.mark.parametrize("name", ["none.jsonl", "."])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="bench results export"):
        recorded.read(tmp_path / name)


def test_an_export_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(UsageError, match="cannot write"):
        export(store_of(TRIAL), tmp_path / "folder" / "results.jsonl")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--store", "typo.sqlite"], 3, "typo.sqlite: no such file; give --store"),
        (["--store", "here.sqlite", "--task", "Known"], 2, "no task 'Known' in it; did you mean"),
        (["--store", "empty.sqlite"], 2, "empty.sqlite: no finished trials"),
        ([], 2, "bench.sqlite: no finished trials"),
    ],
)
def test_an_export_of_nothing_leaves_the_file_as_it_is(
    file: Path,
    words: list[str],
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(file.parent)
    with Store("here.sqlite") as store, Store("empty.sqlite") as empty:
        recorded.fill(store, OF, [TRIAL])
        recorded.fill(empty, OF, [])
    before = file.read_bytes()
    assert main(["results", "export", str(file), *words]) == code
    assert says in capsys.readouterr().err
    assert file.read_bytes() == before
    assert not list(file.parent.glob("*.partial"))


@pytest.mark.parametrize("name", [".", "", "folder"])
def test_an_export_to_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        export(store_of(TRIAL), tmp_path / name if name == "folder" else Path(name))
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_store_that_was_named_must_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The default one need not: the rows of results.jsonl are reported without it."""
    monkeypatch.chdir(tmp_path)
    export(store_of(TRIAL), tmp_path / "reports" / "results.jsonl")
    missing = ["--store", "typo.sqlite"]
    for verb in (["report"], ["status"], ["list"], ["show", "toy"], ["export", "ab", "x.json"]):
        assert main([*verb, *missing]) == 3
        assert "typo.sqlite: no such file" in capsys.readouterr().err
    assert main(["report", "--format", "json, csv"]) == 0
    assert main(["status"]) == 0
    assert "nothing measured yet" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["reports"]


def test_a_file_that_is_refused_leaves_no_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").write_text("{")
    for verb in ("results", "study"):
        assert main([verb, "import", str(tmp_path / "x"), "--store", str(tmp_path / "s")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_trial_takes_half_a_kilobyte(file: Path) -> None:
    trials = [line for line in file.read_text().splitlines() if '"kind": "trial"' in line]
    assert max(map(len, trials)) < 520
