"""A solution is (seed, d numbers): it reloads to the very network, and its file runs no code."""

from __future__ import annotations

import base64
import contextlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from difficulty_bench.cli import main
from difficulty_bench.engine import InlineEngine
from difficulty_bench.errors import UsageError
from difficulty_bench.problem import Evaluation, SupervisedProblem
from difficulty_bench.projection import NAMES
from difficulty_bench.registry import Registry
from difficulty_bench.results import Request, Role
from difficulty_bench.seeds import content_hash
from difficulty_bench.solution import Solution, load, trusted_trial
from difficulty_bench.store import Store
from difficulty_bench.trial import Runtime, Trial

TASKS = Registry([Path(__file__).parent / "tiny.yaml"])


def trained(projection: str) -> tuple[Solution, float]:
    settings = (f"projection={projection}",)
    trial = Trial(TASKS.get("tiny", settings), Request("trial", 7, 1, 2.5))
    result = next(InlineEngine().run([trial], Runtime()))
    assert result.z is not None
    assert result.score is not None
    z = torch.frombuffer(bytearray(result.z), dtype=torch.float32)
    return Solution(trial, settings, result.D, z), result.score


@pytest.mark.parametrize("projection", NAMES)
def test_a_saved_solution_scores_as_it_did(tmp_path: Path, projection: str) -> None:
    solution, score = trained(projection)
    solution.save(tmp_path / "solution.json")
    again = load(tmp_path / "solution.json", TASKS)
    problem = again.trial.task.problem()
    result = problem.evaluate(again.network(), split="test", seed=0, device=torch.device("cpu"))
    assert result.score == score
    assert torch.equal(again.z, solution.z)


@pytest.mark.parametrize(
    ("role", "judged"), [("trial", ", score 0."), ("pilot", ", validation score (a pilot's) 0.")]
)
def test_an_export_says_what_its_score_was_taken_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], role: Role, judged: str
) -> None:
    task, tiny = TASKS.get("tiny"), str(Path(__file__).parent / "tiny.yaml")
    (result,) = InlineEngine().run([Trial(task, Request(role, 7, 1, 2.5))], Runtime())
    with Store(tmp_path / "s.sqlite") as store:
        store.add_study(task, result.D)
        store.put(result)
    words = ["export", result.identity, str(tmp_path / "z.json"), "--tasks", tiny]
    assert main([*words, "--store", str(tmp_path / "s.sqlite")]) == 0
    assert judged in capsys.readouterr().out


def test_a_failed_trial_is_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its z is kept where it had one."""
    tiny, file = ["--tasks", str(Path(__file__).parent / "tiny.yaml")], tmp_path / "z.json"
    trial = Trial(TASKS.get("tiny", ["timeout_s=1e-9"]), Request("trial", 7, 1, 2.5))
    (result,) = InlineEngine().run([trial], Runtime())
    assert result.z is not None
    with Store(tmp_path / "s.sqlite") as store:
        store.add_study(trial.task, result.D, ["timeout_s=1e-9"])
        store.put(result)
    words = ["export", result.identity, str(file), *tiny, "--store", str(tmp_path / "s.sqlite")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said == (
        f"bench: {tmp_path / 's.sqlite'}: trial {result.identity[:12]} is native or failed: it has "
        "no solution; give a complete one with a d (see bench show)\n"
    )
    assert not file.exists()


def test_a_solution_without_a_score_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one whose z is finite and whose outputs are not."""
    solution, _ = trained("hashed")
    file, tiny = tmp_path / "z.json", ["--tasks", str(Path(__file__).parent / "tiny.yaml")]
    solution.save(file)
    monkeypatch.setattr(SupervisedProblem, "evaluate", lambda *_, **keys: Evaluation(math.nan, 9))
    assert main(["eval", str(file), *tiny]) == 2
    assert capsys.readouterr().err == f"bench: {file}: its network scores nan; train it anew\n"


def test_no_depth_of_nesting_is_a_traceback(tmp_path: Path) -> None:
    """There are some that can be read and not be hashed."""
    file = tmp_path / "z.json"
    for depth in range(700, 1001):
        nested = "[" * depth + "]" * depth
        file.write_text(f'{{"format": 2, "checksum": "", "settings": {nested}}}')
        with pytest.raises(UsageError, match=r"z\.json: "):
            load(file, TASKS)


def test_a_network_that_seed_and_z_do_not_hold_is_refused_before_it_is_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, store = ("network.batch_norm=true",), tmp_path / "bench.sqlite"
    trial = Trial(TASKS.get("tiny", settings), Request("trial", 7, 1, 2.5))
    result = next(InlineEngine().run([trial], Runtime()))
    assert result.z is not None
    solution = Solution.stored(trial, settings, result.D, result.z)
    with pytest.raises(UsageError, match=r"'tiny' has buffers") as caught:
        solution.network()
    with Store(store) as opened:
        opened.add_study(trial.task, result.D, settings, "test_accuracy")
        opened.put(result)
    file = tmp_path / "solution.json"
    tasks = ["--tasks", str(Path(__file__).parent / "tiny.yaml")]
    assert main(["export", trial.identity, str(file), *tasks, "--store", str(store)]) == 2
    assert capsys.readouterr().err == f"bench: {caught.value}\n"
    assert not file.exists()


@pytest.mark.parametrize("bits", [1, 3, 8, 16])
def test_a_quantised_solution_is_read_as_it_was_written(tmp_path: Path, bits: int) -> None:
    solution, _ = trained("hashed")
    coarse = solution.quantised(bits)
    coarse.save(tmp_path / "s")
    again = load(tmp_path / "s", TASKS)
    assert torch.equal(again.z, coarse.z)
    assert again.size_bits == 7 * bits + 32
    assert solution.size_bits == 7 * 32
    packed = base64.b64decode(json.loads((tmp_path / "s").read_text())["z"])
    assert len(packed) == -(-7 * bits // 8)
    for mine, other in zip(
        again.network().parameters(), coarse.network().parameters(), strict=True
    ):
        assert torch.equal(mine, other)


def alter(file: Path, changes: dict[str, Any]) -> None:
    """Write other values, as somebody would who knows the checksum."""
    content = json.loads(file.read_text()) | changes
    del content["checksum"]
    with contextlib.suppress(ValueError):  # of nan, which has no canonical form
        content["checksum"] = content_hash({**content})
    file.write_text(json.dumps({"checksum": "", **content}))


@pytest.mark.parametrize(
    ("key", "value"),
    [("D", 50), ("request", {"role": "trial", "d": 7, "seed": 9, "lr_scale": 1.0}), ("task", "x")],
)
def test_a_damaged_file_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    solution, _ = trained("hashed")
    solution.save(file := tmp_path / "s")
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(UsageError, match="damaged or edited"):
        load(file, TASKS)


@pytest.mark.parametrize(
    ("quantiser", "expected"),
    [
        ({"bits": 0, "step": 1.0}, "give 1 to 16"),
        ({"bits": 3, "step": 0.0}, "not above 0"),
        ({"bits": 3, "step": 1e300}, "too large"),
        ({"bits": 3, "step": float("nan")}, "not a solution file"),
        ({"bits": 5, "step": 1.0}, "3 bytes cannot hold 7 numbers of 5 bits"),
        ({"bits": "3", "step": 1.0}, "not a solution file"),
        ({"bits": 3, "step": 1.0, "codec": "os"}, "not a solution file"),
        ([3], "not a solution file"),
    ],
)
def test_a_wrong_quantiser_is_refused(tmp_path: Path, quantiser: Any, expected: str) -> None:
    solution, _ = trained("hashed")
    solution.quantised(3).save(file := tmp_path / "s")
    alter(file, {"quantiser": quantiser})
    with pytest.raises(UsageError, match=expected) as caught:
        load(file, TASKS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("settings", ["agent.entry_point=os:system"], "may not name an entry point"),
        ("settings", ["agent={'entry_point': 'os:system'}"], "may not name an entry point"),
        ("settings", ['agent={"entry\\x5fpoint": "os:system"}'], "may not name an entry point"),
        ("settings", ['problem.id="evil\\x3aName-v0"'], "may not name a package"),
        ("settings", ["search={d_max: 40}", "agent.epochs=9"], "another definition of 'tiny'"),
        ("settings", ["agent.epochs=9"], "another definition of 'tiny'"),
        ("task", "tinny", "no task 'tinny'"),
        ("format", 1, "format 1"),
        ("z", "AAAA", "not a solution file"),
        ("z", base64.b64encode(b"\xff" * 28).decode(), "not finite"),
        ("request", {"role": "trial"}, "not a solution file"),
        *[
            ("request", {"role": "trial", "d": 7, "seed": 0, "lr_scale": 1.0} | wrong, "not a solu")
            for wrong in (
                {"d": 7.0},
                {"seed": "zero"},
                {"seed": -1},
                {"lr_scale": "a"},
                {"role": "x"},
            )
        ],
    ],
)
def test_a_wrong_file_is_refused_with_one_line(
    tmp_path: Path, key: str, value: Any, expected: str
) -> None:
    solution, _ = trained("hashed")
    file = tmp_path / "solution.json"
    solution.save(file)
    alter(file, {key: value})
    with pytest.raises(UsageError, match=expected) as caught:
        load(file, TASKS)
    assert "\n" not in str(caught.value)


def test_a_short_z_is_refused(tmp_path: Path) -> None:
    solution, _ = trained("hashed")
    Solution(solution.trial, solution.settings, solution.D, solution.z[:3]).save(tmp_path / "s")
    with pytest.raises(UsageError, match="z holds 3 numbers"):
        load(tmp_path / "s", TASKS)


@pytest.mark.parametrize("D", [45, 10**12])
def test_parameters_that_the_network_has_not_are_refused(D: int) -> None:
    solution, _ = trained("hashed")
    with pytest.raises(UsageError, match=r"the network of 'tiny' 46 parameters"):
        Solution(solution.trial, solution.settings, D, solution.z).network()


def test_a_file_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("[" * 100_000)
    with pytest.raises(UsageError, match="not a solution file"):
        load(tmp_path / "s", TASKS)


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    solution, _ = trained("hashed")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write: "):
        solution.save(tmp_path / "file" / "s.json")


def test_an_entry_point_of_the_registrys_own_may_be_chosen(tmp_path: Path) -> None:
    settings = ("network.entry_point=agents.networks:mlp", "network.width=5")
    trial = Trial(TASKS.get("tiny", settings), Request("trial", 3, 0))
    Solution(trial, settings, 87, torch.ones(3)).save(tmp_path / "s")
    again = load(tmp_path / "s", TASKS)
    assert again.trial.identity == trial.identity
    assert again.network()(torch.zeros(2, 8)).shape == (2, 2)


def test_settings_of_an_imported_study_choose_no_code() -> None:
    """`bench export` and `bench report --clips` apply them."""
    of = Request("trial", 3, 0), "a study", "store"
    with pytest.raises(UsageError, match=r"store: .* may not name an entry point"):
        trusted_trial(TASKS, "tiny", ("problem.entry_point=antigravity:fly",), *of)
    with pytest.raises(UsageError, match="may not name a package"):
        trusted_trial(TASKS, "ppo@evil:Name-v0", (), *of)


def test_words_that_people_alone_read_may_hold_anything(tmp_path: Path) -> None:
    settings = ("notes='my run: the second'", "description='a: b'")
    trial = Trial(TASKS.get("tiny", settings), Request("trial", 3, 0))
    Solution(trial, settings, 46, torch.ones(3)).save(tmp_path / "s")
    assert load(tmp_path / "s", TASKS).settings == settings
