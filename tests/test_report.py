"""The report: what it says of every kind of study, and that it says it in the same bytes."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from difficulty_bench.cli import main
from difficulty_bench.crossing import UNFINISHED, Crossing
from difficulty_bench.errors import ResourceError
from difficulty_bench.exchange import export
from difficulty_bench.records import trial_identity
from difficulty_bench.registry import Registry, Task
from difficulty_bench.report import FIELDS, d_int90_text, row_text, rows, write_report
from difficulty_bench.report.files import to_csv
from difficulty_bench.report.latex import escape as latex_escape
from difficulty_bench.report.latex import latex
from difficulty_bench.report.markdown import Figures, markdown
from difficulty_bench.report.overview import overview_figure
from difficulty_bench.report.plot import study_figure
from difficulty_bench.report.rows import inside, row
from difficulty_bench.report.study import Point, study_reports
from difficulty_bench.report.text import code, d_int90, duration, escape, number
from difficulty_bench.report.variants import comparisons, leading
from difficulty_bench.results import Request, TrialResult
from difficulty_bench.store import Store

from . import recorded

ROOT = Path(__file__).resolve().parents[1]
DESIGN_FIELDS = """task, version, paradigm, network, D, agent, projection, lr_rule, floor,
    baseline_mean, baseline_sd, baseline_n, threshold_local, threshold_global, d_int90, ci_low,
    ci_high, censored, d_int90_global, ci_low_global, ci_high_global, censored_global,
    paper_rule_d, paper_rule_d_global, reference_d_int90, bits, n_trials, n_failed, compute_s"""


@pytest.fixture(scope="module")
def gallery() -> Store:
    return recorded.gallery()


@pytest.fixture(scope="module")
def table(gallery: Store) -> dict[str, dict[str, Any]]:
    """Rows by task; of `known`, that without overrides."""
    return {row["task"]: row for row in reversed(rows(gallery))}


def test_a_row_has_the_fields_of_the_design_first(gallery: Store) -> None:
    names = tuple(re.split(r",\s*", DESIGN_FIELDS))
    assert names == FIELDS
    for found in rows(gallery):
        assert tuple(found)[: len(FIELDS)] == FIELDS


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def test_rows_hold_plain_finite_values(gallery: Store) -> None:
    for value in leaves(rows(gallery)):
        assert value is None or type(value) in (str, int, float, bool)
        assert not isinstance(value, float) or (
            math.isfinite(value) and value == float(f"{value:.6g}")
        )


def test_a_finished_study_has_its_numbers(table: dict[str, dict[str, Any]]) -> None:
    found = table["known"]
    assert found["baseline_n"] == 5
    assert found["baseline_mean"] == pytest.approx(0.98, abs=0.003)
    assert found["threshold_local"] == pytest.approx(0.9 * found["baseline_mean"], rel=1e-5)
    assert found["ci_low"] <= found["d_int90"] <= found["ci_high"]
    assert found["ci_low"] <= 300 <= found["ci_high"]
    assert found["d_int90"] < found["d_int90_global"]
    assert (found["n_trials"], found["n_failed"], found["bits"]) == (40, 0, None)
    assert found["compute_s"] == pytest.approx(40 * 1.5 + 5 * 2655 / 7)
    assert found["network"] == "network.make(rate=0.001, size=3)"
    assert [point["n"] for point in found["tested"]] == [5] * 7
    assert (found["reference_d_int90"], found["reference_threshold"]) == (150, "local")
    assert found["command"] == ["bench run --task known"]


def test_a_search_that_has_not_met_its_stopping_rule_is_marked(
    table: dict[str, dict[str, Any]],
) -> None:
    met, wide = table["known"], table["control"]
    assert met["unmet"] is None
    assert "†" not in row_text(met)
    why = "local within a factor 1.65, wanted 1.25; global within a factor 1.65, wanted 1.25"
    assert wide["unmet"] == why
    assert f"trials     53†, 4 failed; {duration(wide['compute_s'])} in all\n" in row_text(wide)
    assert f"† unmet    {why}" in row_text(wide)
    page = markdown([wide], Figures())
    assert "| 53†, 4 failed |" in page
    assert f"- † stopping rule: {why}\n" in page
    assert r"53$\dagger$, 4 failed" in latex([wide], Figures())
    (line,) = csv.DictReader(to_csv([wide], Figures(), ()).splitlines())
    assert line["unmet"] == why


def test_a_baseline_at_the_floor_is_a_row_with_its_reason(table: dict[str, dict[str, Any]]) -> None:
    found = table["bad-baseline"]
    assert "no better than the floor" in found["error"]
    assert found["baseline_mean"] == 0.504
    assert found["d_int90"] is found["censored"] is found["threshold_local"] is None
    assert "no number: " in d_int90_text(found)


def test_a_failed_baseline_is_a_row_with_its_reason() -> None:
    of = recorded.reading()
    failed = recorded.result(of, "baseline", 0, 1, None)
    source = recorded.fill(Store.in_memory(), of, [recorded.known_study()[0], failed])
    (found,) = rows(source)
    assert "failed" in found["error"]
    assert (found["baseline_n"], found["n_failed"]) == (1, 1)
    assert found["failures"] == [
        {"state": "failed", "reason": failed.reason, "n": 1, "d": [0]},
    ]


def test_an_unfinished_study_says_what_is_known(table: dict[str, dict[str, Any]]) -> None:
    found = table["begun"]
    assert (found["censored"], found["d_int90"]) == ("unfinished", None)
    assert found["largest_failed_d"] == 210
    bounded = found | {"ci_low": 100, "ci_high": None}
    assert "unfinished (not solved at 210) [100, –] local" in d_int90_text(bounded)
    waiting = table["waiting"]
    assert waiting["censored"] == waiting["censored_global"] == "unfinished"
    assert (waiting["n_trials"], waiting["baseline_mean"], waiting["compute_s"]) == (0, None, 0)


def test_a_task_without_a_global_threshold_says_nothing_of_it(
    table: dict[str, dict[str, Any]],
) -> None:
    found = table["easy"]
    assert all(value is None for key, value in found.items() if key.endswith("_global"))
    assert "global" not in d_int90_text(found)


def test_a_study_never_solved_is_censored(table: dict[str, dict[str, Any]]) -> None:
    found = table["never"]
    assert (found["d_int90"], found["censored"]) == (None, "> d_max")
    assert d_int90(found).startswith("> 2,100")


def test_failed_trials_are_counted_and_their_reasons_kept(table: dict[str, dict[str, Any]]) -> None:
    found = table["control"]
    assert (found["n_trials"], found["n_failed"]) == (53, 4)
    assert found["failures"] == [
        {"state": "failed", "reason": "diverged: loss is nan", "n": 4, "d": [2, 16, 100]},
    ]
    assert next(p for p in found["tested"] if p["d"] == 2)["failed"] == 2


def test_trials_that_hardly_count_are_named() -> None:
    of = recorded.reading()
    odd = [
        recorded.result(of, "trial", 222, 7, 0.0625),
        recorded.result(of, "trial", 1999, 7, None),
    ]
    with recorded.fill(Store.in_memory(), of, [*recorded.known_study(), *odd]) as source:
        (found,) = rows(source)
        page = markdown([found], Figures())
    assert found["outliers"] == [{"d": 222, "score": 0.0625}, {"d": 1999, "score": None}]
    said = "0.0625 at d = 222, failed at d = 1,999: unlike the other trials, so they hardly count"
    assert f"- outliers: {said}" in page
    assert f"outliers   {said}" in row_text(found)


@pytest.mark.parametrize(
    ("chance", "scores", "doubted"),
    [
        (0.1, (0.09, 0.1, 0.11), True),  # learned nothing
        (0.1, (0.2, 0.1, 0.1), True),  # perhaps
        (0.9, (0.95, 0.951, 0.952), True),  # learned something, but 90% of it is less than nothing
        (0.1, (0.95, 0.951, 0.952), False),
        (None, (0.09, 0.1, 0.11), False),
    ],
)
def test_a_baseline_at_chance_is_doubted(
    chance: float | None, scores: tuple[float, ...], doubted: bool
) -> None:
    of = recorded.reading(chance=chance, baseline_seeds=3)
    native = [recorded.result(of, "baseline", 0, seed, y) for seed, y in enumerate(scores)]
    with recorded.fill(Store.in_memory(), of, native) as source:
        (found,) = rows(source)
        page = markdown([found], Figures())
    says = f"a prediction that is always the same scores {chance}"
    assert (says in row_text(found)) == doubted
    assert (f"- warning: {says}" in page) == doubted
    assert (f"\nWarning for known: {says}" in page) == doubted


@pytest.mark.parametrize(
    ("task", "local", "global_"), [("control", 0.9 * 498, 475.0), ("known", 0.88, 0.9)]
)
def test_every_point_says_what_its_trials_scored(
    gallery: Store, table: dict[str, dict[str, Any]], task: str, local: float, global_: float
) -> None:
    found = table[task]
    assert found["threshold_local"] == pytest.approx(local, abs=0.003)
    outcomes = gallery.outcomes(found["study"])
    native = [o.score for r, o in outcomes.items() if r.role == "baseline" and o.score is not None]
    assert found["baseline_sd"] == pytest.approx(np.std(native, ddof=1), rel=1e-5)
    means, failed, solved = {}, set[int](), set[int]()
    for point in found["tested"]:
        d = point["d"]
        scores = [o.score for r, o in outcomes.items() if r.d == d]
        finished = [score for score in scores if score is not None]
        passed = [score >= found["threshold_local"] for score in finished]
        assert (point["n"], point["failed"]) == (len(scores), len(scores) - len(finished))
        whole = len(finished) == len(scores)  # a failed training has no score to average
        assert point["mean"] == (pytest.approx(np.mean(finished), rel=1e-5) if whole else None)
        assert point["solved"] == sum(passed)
        assert point["solved_global"] == sum(score >= global_ for score in finished)
        means[d] = sum(finished) / len(scores)  # a failed one has the score of the floor, 0
        failed |= {d} if sum(passed) < len(scores) else set()
        solved |= {d} if any(passed) else set()
    assert (found["largest_failed_d"], found["smallest_solved_d"]) == (max(failed), min(solved))
    assert found["paper_rule_d"] == min(d for d, mean in means.items() if mean > local)


def with_rule(result: TrialResult, lr_scale: float, role: Any = None) -> TrialResult:
    request = replace(result.request, lr_scale=lr_scale, role=role or result.request.role)
    return replace(result, request=request, identity=trial_identity(result.study, request))


def test_trials_of_another_learning_rate_rule_are_another_row() -> None:
    of = recorded.reading()
    matched = replace(of, task=of.task.model_copy(update={"lr_rule": "matched"}))
    paper = recorded.known_study()
    theirs = [with_rule(r, float(f"{math.sqrt(of.D / r.request.d):.6g}")) for r in paper[5:20]]
    source = recorded.fill(Store.in_memory(), of, paper)
    recorded.fill(source, matched, theirs)
    found = {row["lr_rule"]: row for row in rows(source)}
    assert found["paper"]["n_trials"] == 40
    assert found["matched"]["n_trials"] == 5 + 15
    assert found["matched"]["baseline_mean"] == found["paper"]["baseline_mean"]
    assert rows(source, [of.study]) == rows(source)
    assert rows(source, ["another"]) == []


def test_every_rule_of_a_study_is_looked_at_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bench list` shows the rule of the registry, `bench status` each rule's own trials."""
    file, registry = tmp_path / "bench.sqlite", Registry()
    with Store(file) as store:
        for settings in ((), ("lr_rule=matched",)):
            study = store.add_study(registry.get("toy", settings), 1000, settings, "performance")
        of = store.study(study)
        store.put(recorded.result(of, "trial", 3, 0, 0.1))
        for seed in range(3):
            store.put(recorded.result(of, "baseline", 0, seed, 1.0))
        matched = with_rule(recorded.result(of, "trial", 10, 0, None), 10.0)
        store.put(matched)
    monkeypatch.setattr(Registry, "names", lambda _: ["toy"])
    assert main(["list", "--store", str(file)]) == 0
    assert "not solved at 3" in capsys.readouterr().out.splitlines()[1]
    assert main(["status", "--store", str(file)]) == 0
    out = capsys.readouterr().out
    assert "toy\n  4 complete; " in out
    assert "toy lr_rule=matched\n  3 complete, 1 failed; " in out
    assert main(["show", "toy", "--store", str(file)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"trial d=10 seed 0 +lr x10 +failed", shown)
    assert "\nd_int90 with lr rule paper: unfinished (not solved at 3" in shown
    assert "\nd_int90 with lr rule matched: " in shown


def test_a_row_that_came_by_mail_names_no_other_folder_and_ends_no_attribute(
    tmp_path: Path,
) -> None:
    for name in ("x/../../../escaped", '"></a><script>alert(1)</script>'):
        of = recorded.reading(name, projection=name)
        source = recorded.fill(
            Store.in_memory(),
            of,
            [recorded.result(of, "trial", d, 0, 0.1 * d) for d in (3, 4, 5, 6, 7)]
            + [recorded.result(of, "baseline", 0, seed, 1.0) for seed in range(3)],
        )
        out = tmp_path / "out" / "deep"
        for path in write_report(source, out, ["md", "html"]):
            assert path.resolve().is_relative_to(out)
        assert "<script>alert" not in (out / "difficulty.html").read_text()


def test_results_are_printed_whatever_the_locale_can_show(tmp_path: Path) -> None:
    of = recorded.reading()
    with Store(tmp_path / "s.sqlite") as store:
        recorded.fill(store, of, [recorded.result(of, "trial", 3, 0, 0.1)])
    status = [sys.executable, "-m", "difficulty_bench", "status", "--store", "s.sqlite"]
    ascii_ = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(status, cwd=tmp_path, env=ascii_, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    with open("/dev/full", "w") as full:
        lost = subprocess.run(status, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True,
                              env=os.environ | {"PYTHONPATH": str(Path.cwd())})  # fmt: skip
    assert lost.returncode == 3
    assert lost.stderr == "bench: [Errno 28] No space left on device\n"


def test_what_tuning_chose_is_told() -> None:
    tuning = {"grid": [1.0, 4.0], "d": [100], "seeds": 1}
    of = recorded.reading(lr_rule="tuned", tuning=tuning)
    source = recorded.fill(Store.in_memory(), of, [])
    assert rows(source)[0]["lr_multipliers"] is None
    for c, score in ((1.0, 0.5), (4.0, 0.6)):
        source.put(recorded.result(of, "pilot", 0, 0, score, lr_scale=c))
        source.put(recorded.result(of, "pilot", 100, 0, 1.0 - score, lr_scale=10.0 * c))
    source.put(recorded.result(of, "baseline", 0, 0, 0.98, lr_scale=4.0))
    source.put(recorded.result(of, "baseline", 0, 0, 0.11, lr_scale=1.0))
    (found,) = rows(source)
    chosen = found["lr_multipliers"]
    assert (chosen["native"], chosen["subspace"]) == (4.0, 1.0)
    assert (chosen["native_pilots"], chosen["subspace_pilots"]) == (2, 2)
    assert (found["n_trials"], found["baseline_mean"]) == (5, 0.98)
    # of another grid, which is no other study
    source.put(recorded.result(of, "pilot", 0, 0, None, lr_scale=9.0))
    (found,) = rows(source)
    assert (found["n_trials"], found["n_failed"], found["baseline_mean"]) == (5, 0, 0.98)


@pytest.mark.parametrize(
    ("low", "high", "value", "verdict"),
    [
        *((250, 310, value, True) for value in (250, 290, 310)),
        *((250, 310, value, False) for value in (249, 311)),
        *((250, None, value, verdict) for value, verdict in ((290, None), (100, False))),
        *((None, 310, value, verdict) for value, verdict in ((290, None), (500, False))),
        *((None, None, 290, None), (250, 310, None, None)),
    ],
)
def test_whether_a_published_value_is_inside(
    low: int | None, high: int | None, value: int | None, verdict: bool | None
) -> None:
    crossing = Crossing(0.9, 280, low, high, None)
    assert inside(value, crossing) is verdict
    assert inside(value, None) is None
    assert inside(value, replace(crossing, d_int90=None, censored=UNFINISHED)) is None


def test_a_published_value_is_not_held_against_another_problem() -> None:
    fields: dict[str, Any] = {"reference": {"source": "someone", "local": 10}}
    fields["settings"] = ("problem.constraints=7",)
    (found,) = rows(recorded.fill(Store.in_memory(), recorded.reading(**fields), []))
    assert found["reference_d_int90"] is found["reference_source"] is None


def test_what_was_published_is_what_the_registry_says_now(gallery: Store, tmp_path: Path) -> None:
    """Beside what its recorded curve gives; the trials' own record may be older."""
    known = next(reading.task for reading in gallery.studies() if reading.task.name == "known")
    reference = {"source": "someone 2018", "global": 310, "recorded": {"local": 150, "global": 290}}
    now = Task.model_validate({**known.model_dump(by_alias=True), "reference": reference})
    write_report(gallery, tmp_path, ["md", "csv"], [now])
    page = (tmp_path / "difficulty.md").read_text()
    found = next(
        r for r in study_reports(gallery, registered=[now]) if r.reading.task.name == "known"
    )
    values = row(found)
    assert (values["reference_local"], values["reference_global"]) == (None, 310)
    inside = {True: "inside", False: "outside"}
    verdicts = [
        inside[values[f"ci_low{s}"] <= value <= values[f"ci_high{s}"]]
        for s, value in (("_global", 310), ("", 150), ("_global", 290))
    ]
    shown = "310 global ({}); recorded 150 local ({}), 290 global ({})".format(*verdicts)
    assert f"| {shown} |" in page
    assert "150 local (outside), 290 global" not in page.replace(shown, "")
    older = next(r for r in study_reports(gallery) if r.reading.task.name == "known")
    assert row(older)["reference_local"] == 150


def test_the_median_counts_a_failure_as_lowest() -> None:
    assert Point(1, (0.5, None, 0.7)).median == 0.5
    assert Point(1, (0.5, None, None)).median is None
    assert Point(1, (None, 0.5)).median is None
    assert Point(1, (0.5, None, 0.7)).solved(0.6) == 1
    assert Point(1, (0.5, None, 0.7)).solved(0.5) == 2


def marks(figure: Figure, marker: str, colour: str = "#222222") -> int:
    lines = [line for line in figure.axes[0].lines if line.get_marker() == marker]
    return sum(int(np.size(line.get_xdata())) for line in lines if line.get_color() == colour)


def test_a_plot_shows_every_trial(gallery: Store) -> None:
    for report in study_reports(gallery):
        figure = study_figure(report, row(report))
        trials = report.of_role("trial")
        if not report.results:
            assert figure is None
            continue
        assert figure is not None
        finished = [trial for trial in trials if trial.score is not None]
        assert marks(figure, "o") == len(finished)
        assert marks(figure, "o", "white") == len(report.of_role("baseline"))
        failed = {trial.request.d for trial in trials if trial.score is None}
        assert marks(figure, "x") == len(failed)
        low, high = figure.axes[0].get_ylim()
        assert all(low < trial.score < high for trial in finished if trial.score is not None)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_results_give_the_same_bytes(tmp_path: Path, gallery: Store) -> None:
    """Through a results file, in another process, with another hash seed and matplotlibrc."""
    write_report(gallery, tmp_path / "a")
    export(gallery, tmp_path / "results.jsonl")
    (tmp_path / "matplotlibrc").write_text("font.size: 20\naxes.grid: True\n")
    code = (
        "import sys; from pathlib import Path; from difficulty_bench.exchange import merged;"
        "from difficulty_bench.report import write_report;"
        "write_report(merged(Path('no'), Path('results.jsonl')), Path('b'));"
        "assert 'torch' not in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_json_and_csv_say_the_same(tmp_path: Path, gallery: Store) -> None:
    paths = write_report(gallery, tmp_path, ["json", "csv"])
    assert [path.name for path in paths] == ["difficulty.json", "difficulty.csv"]
    as_json = json.loads(paths[0].read_text())
    assert as_json == rows(gallery)
    with paths[1].open(newline="") as file:
        as_csv = list(csv.DictReader(file))
    for one, other in zip(as_json, as_csv, strict=True):
        for name in FIELDS:
            assert other[name] == ("" if one[name] is None else str(one[name]))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, gallery: Store) -> str:
    folder = tmp_path_factory.mktemp("page")
    write_report(gallery, folder, ["md"])
    text = (folder / "difficulty.md").read_text()
    for path in re.findall(r"\]\(([^#)]+)\)", text):
        assert (folder / path).is_file()
    return text


def test_the_page_links_every_row_to_what_it_rests_on(page: str, gallery: Store) -> None:
    links = re.findall(r"\]\(#([^)]+)\)", page)
    assert len(set(links)) == len(rows(gallery))
    assert sorted(set(links)) == sorted(re.findall(r'<a id="([^"]+)"></a>', page))


class Elements(HTMLParser):
    """What of a page is open, has an id, is linked or shown."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.images: list[str] = []
        self.cells: list[int] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        if tag not in ("meta", "img", "br", "hr"):
            self.open.append(tag)
        self.cells = [*self.cells, 0] if tag == "tr" else self.cells
        if tag in ("th", "td"):
            self.cells[-1] += 1
        self.ids |= {named["id"]} if "id" in named else set()
        self.links |= {named["href"]} if "href" in named else set()
        self.images += [named["src"]] if tag == "img" else []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_as_html_has_the_same_tables_links_and_figures(
    tmp_path: Path, page: str, gallery: Store
) -> None:
    write_report(gallery, tmp_path, ["html"])
    elements = Elements()
    elements.feed((tmp_path / "difficulty.html").read_text())
    assert elements.open == []
    assert elements.links == {f"#{name}" for name in elements.ids}
    assert len(elements.ids) == len(rows(gallery))
    assert elements.images == re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page)
    assert all((tmp_path / image).is_file() for image in elements.images)
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(elements.cells) == len([line for line in lines if "---" not in line])
    assert set(elements.cells) == {11, 8}


def test_the_tables_as_latex_have_a_cell_for_every_column(gallery: Store) -> None:
    text = latex(rows(gallery), Figures())
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 3
    lines = re.findall(r"(.*) \\\\$", text, re.MULTILINE)
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {8}
    assert len(lines) == 3 + len(leading(rows(gallery)))
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert latex_escape("-3 ± 1e-4 (50%) a_b-2 {x}") == (r"$-$3 $\pm$ 1e-4 (50\%) a\_b-2 \{x\}")


def test_every_table_is_rectangular(page: str) -> None:
    tables = re.findall(r"(?:^\|.*\n)+", re.sub(r"\\.", "", page), re.MULTILINE)
    assert [{line.count("|") for line in table.splitlines()} for table in tables] == [
        {12},
        {12},
        {12},
        {9},
    ]  # three paradigms and one comparison


def test_tables_lead_with_the_task_as_registered(gallery: Store) -> None:
    lead = leading(rows(gallery))
    assert len(lead) == len({row["task"] for row in rows(gallery)}) < len(rows(gallery))
    assert not [row for row in lead if row["settings"]]


def test_tables_lead_with_the_rule_that_the_registry_has_now() -> None:
    tuning = {"grid": [1, 4, 16], "d": [4, 8], "seeds": 2}
    overrides = ("lr_rule=tuned", "tuning={grid: [1, 4, 16], d: [4, 8], seeds: 2}")
    tuned = {"lr_rule": "tuned", "tuning": tuning}
    old = made("net", 1000, lr_rule="matched")
    new = made("net", 1000, *overrides, **tuned)
    deep = made("net", 3000, *overrides, "network.depth=9", **tuned)
    now = recorded.reading("net", **tuned).task
    assert leading([deep, old, new], [now]) == [new]
    assert leading([deep, old, new], [recorded.reading("net", lr_rule="matched").task]) == [old]
    assert leading([deep, old, new], [recorded.reading("net", version=2, **tuned).task]) == [old]
    assert comparisons([deep, old, new], [now])[0].rows == (new, old)


def made(task: str, D: int, *settings: str, **fields: Any) -> dict[str, Any]:
    of = recorded.reading(task, D=D, settings=settings, **fields)
    return row(study_reports(recorded.fill(Store.in_memory(), of, []))[0])


def test_a_comparison_names_what_differs_and_orders_by_size() -> None:
    found = [
        made("net", 3000, "network.width=9"),
        made("net", 1000, "projection=dense", projection="dense"),
        made("net", 500, "network.width=5"),
        made("net", 1000),
        made("other", 1000),
    ]
    trained, sized = comparisons(found)
    assert trained.names == ("hashed", "dense")
    assert sized.names == ("as registered", "network.width=5", "network.width=9")
    assert [row["D"] for row in sized.rows] == [1000, 500, 3000]
    assert sized.figure() is None  # nothing measured yet


def test_learners_of_one_environment_are_compared_and_data_sets_are_not() -> None:
    for paradigm, n in (("reinforcement", 1), ("supervised", 0)):
        found = [made(name, 1000, paradigm=paradigm) for name in ("pole", "pole-es")]
        assert len(comparisons(found)) == n


def test_an_earlier_version_of_a_task_is_no_other_learner() -> None:
    def pole(version: int, name: str = "pole") -> dict[str, Any]:
        return made(name, 1000, paradigm="reinforcement", version=version)

    assert comparisons([pole(2), pole(1)]) == []
    (found,) = comparisons([pole(2), pole(1), pole(1, "pole-es")])
    assert [(row["task"], row["version"]) for row in found.rows] == [("pole", 2), ("pole-es", 1)]


def test_the_page_says_what_a_sceptic_asks(page: str) -> None:
    for words in (
        *("What is not measured", "bench run --task known", "A Processor", "torch 2.13.0"),
        *("4 × failed: diverged: loss is nan (d = 2, 16, 100)", "no better than the floor"),
        *("150 local (outside)", "30 × 5, 120 × 5", "rule `paper`", "fresh"),
    ):
        assert words in page


def test_the_page_names_what_the_registry_has_and_nobody_measured(gallery: Store) -> None:
    tasks = Registry().registered()
    assert [task.name for task in tasks] == Registry().names()
    pong = next(task for task in tasks if task.name == "pong")
    known = pong.model_copy(update={"name": "known"})
    left = markdown(rows(gallery), Figures(), [pong, known]).partition("## Not measured yet")[2]
    table = left.partition("##")[0]
    assert (
        f"| pong v{pong.version} | Pong from 84 x 84 pixels with sticky actions | 6,000 local |"
        in table
    )
    assert "known" not in table
    assert "Not measured yet" not in markdown(rows(gallery), Figures(), [known])


def test_a_rule_that_ends_trainings_early_is_told(tmp_path: Path) -> None:
    early = recorded.reading(early_stop={"metric": "episodic_return", "at": 475.0})
    native = recorded.result(early, "baseline", 0, 0, 0.9)
    write_report(recorded.fill(Store.in_memory(), early, [native]), tmp_path, ["md"])
    page = (tmp_path / "difficulty.md").read_text()
    assert "once episodic return is at least 475 in 2 reports in a row, natively too" in page


def test_text_from_outside_stays_text(tmp_path: Path) -> None:
    evil = "<script>x</script> | [a](b)\n# heading `code`"
    of = recorded.reading(name="a$b|c](d", notes=evil, settings=(f"notes={evil}",))
    broken = replace(recorded.result(of, "trial", 9, 0, None), reason=evil)
    native = replace(recorded.result(of, "baseline", 0, 0, 0.9), environment={"command": evil})
    write_report(recorded.fill(Store.in_memory(), of, [native, broken]), tmp_path)
    page = (tmp_path / "difficulty.md").read_text()
    outside_code = re.sub(r"`[^`]*`", "", re.sub(r"\\.", "", page))
    assert "<script" not in outside_code
    assert "[a](b)" not in outside_code
    assert not re.search(r"^# heading", page, re.MULTILINE)
    html = (tmp_path / "difficulty.html").read_text()
    assert "<script" not in html
    assert "&lt;script&gt;x&lt;/script&gt; | [a](b) # heading" in html
    tex = (tmp_path / "difficulty.tex").read_text()
    assert r"notes=\textless{}script$>$x\textless{}/script$>$ \textbar{} [a](b) \# heading" in tex
    assert r"a\$b\textbar{}c](d v1 &" in tex


@pytest.mark.parametrize(
    ("rule", "length"), [("matched", ", so steps are 0.5 times as"), ("paper", "\n")]
)
def test_a_critic_in_the_subspace_is_said_to_shorten_steps(
    tmp_path: Path, rule: str, length: str
) -> None:
    of = recorded.reading(lr_rule=rule)
    trials = [recorded.result(of, "baseline", 0, seed, 1.0) for seed in range(3)]
    scale = 1.0 if rule == "paper" else math.sqrt(of.D / 100)
    trials += [replace(recorded.result(of, "trial", 100, 0, 0.5, scale), D=4 * of.D)]
    write_report(recorded.fill(Store.in_memory(), of, trials), tmp_path, ["md"])
    page = (tmp_path / "difficulty.md").read_text()
    assert f"- projected: 40,000 parameters{length}" in page


def test_an_empty_store_gives_a_page_that_says_so(tmp_path: Path) -> None:
    write_report(Store.in_memory(), tmp_path)
    assert "No study has been run yet" in (tmp_path / "difficulty.md").read_text()
    assert json.loads((tmp_path / "difficulty.json").read_text()) == []


def test_a_wrong_format_or_folder_is_one_line(
    tmp_path: Path, gallery: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--format", "jsn", "--out", str(tmp_path / "new")]) == 2
    assert capsys.readouterr().err == "bench: --format: no format 'jsn'; did you mean 'json'?\n"
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ResourceError, match="cannot write"):
        write_report(gallery, tmp_path / "out", ["csv"])


def test_small_text() -> None:
    assert [number(x, 2) for x in (149.6, 99.7, 12.34, 1.9e-11, 0)] == [
        *("150", "100", "12", "1.9e-11", "0"),
    ]
    assert number(-12_345.6, 4) == "-12,346"
    assert [duration(s) for s in (0.5, 59.9, 90.0, 5400.0)] == [
        "0.5 s",
        "59.9 s",
        "1.5 min",
        "1.5 h",
    ]
    assert escape("a|b\n<c>") == r"a\|b \<c\>"
    assert len(escape("x" * 1000)) == 300
    assert code("a `b` | c") == "`a 'b' ¦ c`"


@pytest.mark.parametrize(
    ("failed", "solved", "says"),
    [
        (2, 5, "(not solved at 2, solved at 5)"),
        (2, 2, "(solved by some at 2)"),
        (5, 2, "(solved by some at 2 to 5)"),
        (None, 2, "(solved at 2)"),
    ],
)
def test_what_is_known_without_a_number(
    table: dict[str, dict[str, Any]], failed: int | None, solved: int | None, says: str
) -> None:
    row = {**table["begun"], "largest_failed_d": failed, "smallest_solved_d": solved}
    assert f"unfinished {says}" in d_int90_text(row)


def test_the_row_of_the_terminal(table: dict[str, dict[str, Any]]) -> None:
    text = row_text(table["known"])
    assert "known v1" in text
    assert "150 local" in text
    assert f"{table['known']['d_int90']} [" in text
    assert "trials     40; " in text


def test_a_file_is_enough_for_the_rows(tmp_path: Path, gallery: Store) -> None:
    export(gallery, tmp_path / "results.jsonl")
    with recorded.read(tmp_path / "results.jsonl") as source:
        assert rows(source) == rows(gallery)
    assert Request("trial", 100, 0) in gallery.outcomes(
        next(r.study for r in gallery.studies() if r.task.name == "control")
    )


def test_a_reading_that_cannot_be_searched_is_a_row_with_its_error() -> None:
    """Whoever mails a results file may have given it pilots above D."""
    tuning = {"grid": [1.0], "d": [500_000]}
    store = recorded.fill(Store.in_memory(), recorded.reading(lr_rule="tuned", tuning=tuning), [])
    (row,) = rows(store)
    assert "tuning.d holds 500000, above D" in row["error"]


def test_the_figure_shows_where_an_interval_is_open() -> None:
    source = recorded.fill(Store.in_memory(), recorded.reading(), recorded.known_study())
    (row,) = rows(source)
    (axes,) = overview_figure([row]).axes
    assert not axes.texts
    (axes,) = overview_figure([{**row, "ci_high": None}]).axes
    (arrow,) = axes.texts
    assert arrow.xy[0] > row["d_int90"] == arrow.xyann[0]
