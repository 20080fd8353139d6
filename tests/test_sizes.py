"""From d to bits: every number of bits has a d_int90 of its own, and the row takes a sound one."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from difficulty_bench.bits import size_bits
from difficulty_bench.cli import main
from difficulty_bench.crossing import Crossing
from difficulty_bench.estimate import estimate
from difficulty_bench.exchange import export
from difficulty_bench.problem import Evaluation, SupervisedProblem
from difficulty_bench.report import rows
from difficulty_bench.report.overview import bits_figure
from difficulty_bench.results import Outcome, Request
from difficulty_bench.sizes import sizes, smallest
from difficulty_bench.solution import Solution
from difficulty_bench.store import Store

from . import made_up

TINY = ["--tasks", str(Path(__file__).parent / "tiny.yaml"), "--task", "tiny"]
TASK = made_up.made_up_task()
Quantised = Mapping[Request, Mapping[int, float]]


def study(d50: float) -> dict[Request, Outcome]:
    return made_up.run_study(TASK, made_up.learner(made_up.power_law(d50)))


def shifted(outcomes: dict[Request, Outcome], factors: dict[int, float]) -> Quantised:
    """Scores of quantised trials that do as well as full ones do at `factor` times fewer d."""
    full = made_up.power_law(400)
    return {
        request: {w: score + (full(request.d / f) - full(request.d)) for w, f in factors.items()}
        for request, outcome in outcomes.items()
        if request.role == "trial" and (score := outcome.score) is not None
    }


def test_bits_that_need_more_d_have_a_crossing_of_their_own() -> None:
    outcomes = study(400)
    full = estimate(TASK, made_up.D, outcomes)
    found = sizes(TASK, made_up.D, outcomes, shifted(outcomes, {8: 1.0, 3: 1.5}))
    assert list(found) == [3, 8]
    assert found[8] == full  # nothing was lost, so nothing changes
    local = found[3].local
    assert local is not None
    assert local.ci_low is not None
    assert local.ci_high is not None
    assert local.ci_low <= 600 <= local.ci_high
    assert found[3].threshold_local == full.threshold_local


def test_a_failed_trial_stays_a_failure_and_a_missing_score_leaves_the_bits_out() -> None:
    outcomes = study(400)
    request = max(r for r in outcomes if r.role == "trial")
    outcomes[request] = Outcome(None)
    scores = dict(shifted(outcomes, {4: 1.0}))
    assert request not in scores
    full = estimate(TASK, made_up.D, outcomes)
    assert sizes(TASK, made_up.D, outcomes, scores)[4] == full
    del scores[next(iter(scores))]
    assert sizes(TASK, made_up.D, outcomes, scores) == {}


def test_the_interval_of_the_bits_shown_holds_the_truth_although_they_were_chosen() -> None:
    """50 studies, with a little noise from quantising; all but a few intervals must hold it."""
    loss, full = {2: 3.0, 3: 1.6, 4: 1.2, 6: 1.03}, made_up.power_law(400)
    held = open_ended = 0
    for seed in range(50):
        rng = np.random.default_rng([7, seed])
        outcomes = made_up.play_study(TASK, made_up.learner(full, sd=0.012, seed=seed))
        scores = {
            request: {w: score + 0.004 * float(rng.standard_normal()) for w, score in by.items()}
            for request, by in shifted(outcomes, loss).items()
        }
        found = sizes(TASK, made_up.D, outcomes, scores)
        shown = smallest({w: estimate.local for w, estimate in found.items()})
        assert shown is not None
        assert shown.ci_low is not None
        open_ended += shown.ci_high is None
        truth = size_bits(math.ceil(400 * loss[shown.bits_per_number]), shown.bits_per_number)
        held += shown.ci_low <= truth <= (shown.ci_high or math.inf)
    assert held >= 44  # 95% of 50, less three binomial deviations
    assert open_ended <= 2


def crossing(d: int | None, high: int | None) -> Crossing:
    return Crossing(0.9, d_int90=d, ci_low=d and d // 2, ci_high=high, censored=None)


@pytest.mark.parametrize(
    ("crossings", "per_number", "bits"),
    [
        ({2: crossing(300, None), 4: crossing(160, 300), 6: crossing(120, 130)}, 6, 6 * 120 + 32),
        ({2: crossing(300, 330), 4: crossing(160, 300)}, 2, 632),
        ({2: crossing(300, None), 4: crossing(160, None)}, 2, 632),
        ({2: crossing(None, None), 4: crossing(160, None), 6: None}, 4, 672),
    ],
)
def test_those_whose_interval_ends_lowest_are_taken(
    crossings: dict[int, Crossing | None], per_number: int, bits: int
) -> None:
    found = smallest(crossings)
    assert found is not None
    assert (found.bits_per_number, found.bits) == (per_number, bits)
    assert found.ci_low == per_number * (found.crossing.ci_low or 0) + 32


def test_without_a_crossing_there_are_no_bits() -> None:
    assert smallest({}) is None
    assert smallest({4: crossing(None, 900)}) is None
    assert (size_bits(100, None), size_bits(100, 4)) == (3200, 432)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("bits") / "bench.sqlite"
    assert main(["run", *TINY, "--store", str(store), "--workers", "1", "--quiet"]) == 0
    return store


def run_bits(store: Path, *more: str) -> int:
    return main(["bits", *TINY, "--store", str(store), "--device", "cpu", *more])


def test_every_trial_is_scored_once_on_its_own_evaluation(
    measured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_bits(measured, "--bits", "1,16", "--quiet") == 0
    assert "  bits       " in capsys.readouterr().out
    with Store(measured, read_only=True) as store:
        (row,) = rows(store)
        results = [r for r in store.results(row["study"]) if r.request.role == "trial"]
        found = store.quantised(row["study"])
    assert {r.identity for r in results if r.score is not None} == set(found)
    for result in results:  # 16 bits lose nothing that the score of 1,000 samples could show
        assert result.score == pytest.approx(found[result.identity][16], abs=0.002)
    assert [size["bits_per_number"] for size in row["sizes"]] == [1, 16]
    assert row["sizes"][1]["d_int90"] == row["d_int90"]
    assert row["bits"] <= 16 * row["d_int90"] + 32
    assert run_bits(measured, "--bits", "1,16") == 0
    assert "bits" not in capsys.readouterr().err  # nothing was left to score


def test_trials_that_are_not_scored_yet_are_told(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = str(shutil.copy(measured, tmp_path / "more.sqlite"))
    command = ["run", *TINY, "--store", copy, "--workers", "1", "--quiet", "--precision", "1.01"]
    assert main([*command, "--max-trials", "60"]) == 0
    with Store(copy, read_only=True) as store:
        left = rows(store)[0]["bits_unscored"]
    assert left > 0
    assert f"  bits       – ({left} trials not scored yet) local" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("raise", "RuntimeError: broken"),
        ("exit", "SystemExit: 0"),
        ("nan", "not solved at 4"),
    ],
)
def test_a_solution_without_a_score_is_not_solved(
    measured: Path,
    tmp_path: Path,
    how: str,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = shutil.copy(measured, tmp_path / "copy.sqlite")

    def evaluate(*_: Any, **keys: Any) -> Evaluation:
        if how == "raise":
            raise RuntimeError("broken")
        if how == "exit":
            raise SystemExit(0)
        return Evaluation(float("nan"), 1)

    monkeypatch.setattr(SupervisedProblem, "evaluate", evaluate)
    assert run_bits(Path(copy), "--bits", "4", "--workers", "1") == 0
    assert expected in capsys.readouterr().err
    with Store(copy, read_only=True) as store:
        row = rows(store)[0]
        found = store.quantised(row["study"])
    assert all(scores[4] is None for scores in found.values())
    (size,) = (size for size in row["sizes"] if size["bits_per_number"] == 4)
    assert size["d_int90"] is None


def test_a_gpu_that_others_fill_solves_nothing_and_fails_nothing(
    measured: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = shutil.copy(measured, tmp_path / "copy.sqlite")

    def network(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Solution, "network", network)
    assert run_bits(Path(copy), "--bits", "5", "--workers", "1", "--quiet") == 3
    said = capsys.readouterr().err
    assert "CUDA out of memory" in said
    assert "the same command goes on" in said
    assert said.count("\n") == 1
    with Store(copy, read_only=True) as store:
        found = store.quantised(rows(store)[0]["study"])
    assert not any(5 in scores for scores in found.values())


def test_the_bits_travel_with_the_results(
    measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_bits(measured, "--bits", "8", "--quiet") == 0
    with Store(measured, read_only=True) as store:
        export(store, tmp_path / "results.jsonl")
        before = rows(store)
    monkeypatch.chdir(tmp_path)  # where there is no store
    assert main(["report", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "difficulty.md").read_text()
    assert f"{before[0]['bits']:,} [" in page
    assert "local d_int90 by bits per number: 1: " in page
    assert "](plots/bits.svg)" in page
    assert (tmp_path / "plots" / "bits.svg").is_file()


def test_the_figure_of_bits_shows_the_bits_and_no_d(measured: Path) -> None:
    with Store(measured, read_only=True) as store:
        row = rows(store)[0]
    row = {**row, "D": 999_983}
    figure = bits_figure([row, {**row, "sizes": []}])
    assert figure is not None
    points = [float(x) for line in figure.axes[0].lines for x in np.ravel(line.get_xdata())]
    known = {row["bits"], row["bits_ci_low"], row["bits_ci_high"]} - {None}
    assert known <= set(points)
    assert row["D"] not in points
    assert len(figure.axes[0].get_yticks()) == 1
    assert bits_figure([{**row, "sizes": []}]) is None


@pytest.mark.parametrize("text", ["0", "17", "4,x", ""])
def test_bits_out_of_range_are_refused(
    measured: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_bits(measured, "--bits", text)
    assert "bits per number" in capsys.readouterr().err


def test_what_cannot_be_quantised_is_one_line(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run_bits(tmp_path / "missing.sqlite")
    assert not list(tmp_path.iterdir())  # looking for trials creates no store
    text = capsys.readouterr().err
    assert (code, text.count("\n")) == (3, 1)
    Store(tmp_path / "empty.sqlite").close()
    code = run_bits(tmp_path / "empty.sqlite")
    text = capsys.readouterr().err
    assert (code, text.count("\n")) == (2, 1)
    assert "bench run measures them first" in text
    with Store(measured, read_only=True) as store:
        export(store, tmp_path / "results.jsonl")
    imported = tmp_path / "imported.sqlite"
    file = str(tmp_path / "results.jsonl")
    assert main(["results", "import", file, "--store", str(imported)]) == 0
    code = run_bits(imported, "--bits", "5")
    text = capsys.readouterr().err
    assert (code, text.count("\n")) == (3, 1)
    assert "without its d numbers" in text
    with Store(imported, read_only=True) as store:
        (study,) = {reading.study for reading in store.studies()}
        identity = next(r.identity for r in store.results(study) if r.request.d)
    export_one = ["export", identity, str(tmp_path / "z.json"), "--store", str(imported)]
    assert main(export_one) == 3
    assert "a results file holds none" in capsys.readouterr().err
