"""The registry: what is accepted, and that every mistake is named with its place and its mend."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from difficulty_bench import entry_point
from difficulty_bench.errors import ResourceError, UsageError
from difficulty_bench.problem import count_parameters
from difficulty_bench.records import trial_identity
from difficulty_bench.registry import Reference, Registry
from difficulty_bench.results import Request
from difficulty_bench.seeds import Streams, content_hash, derive
from difficulty_bench.trial import build_network
from difficulty_bench.yaml_lines import load_yaml, parse_scalar

ENTRY = """\
mine:
  version: 1
  paradigm: supervised
  description: a task of the tests
  problem: {entry_point: "tests.tiny:problem"}
  network:
    entry_point: "tests.tiny:network"
    width: 4
  agent: {entry_point: "agents.supervised:train", learning_rate: 1e-2, epochs: 2}
  floor: 0
  search: {d_min: 1, d_max: 20}
"""


def registry(tmp_path: Path, text: str) -> Registry:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    return Registry([file])


def refusal(tmp_path: Path, text: str, settings: list[str] | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        registry(tmp_path, text).get("mine", settings or [])
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(tmp_path), "")


def test_a_users_own_task_is_read_with_its_numbers(tmp_path: Path) -> None:
    task = registry(tmp_path, ENTRY).get("mine")
    assert task.agent.parameters()["learning_rate"] == 0.01
    assert task.network.parameters()["width"] == 4
    assert task.search.d_max == 20


def test_a_task_is_frozen(tmp_path: Path) -> None:
    task = registry(tmp_path, ENTRY).get("mine")
    with pytest.raises(ValueError, match="frozen"):
        task.floor = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("wrong", "right", "expected"),
    [
        ("  floor: 0", "  flor: 0", "/mine.yaml:10: mine.flor: unknown key; did you mean 'floor'?"),
        ("  floor: 0", "  floor: 0\n  name: x", ":11: mine.name: unknown key; the entry's own key, 'mine', is"),
        ("    width: 4", "    widht: 4", ":8: mine.network.widht: unknown key; did you mean 'width'?"),
        ("    width: 4", "    width: four", ":8: mine.network.width: should be a valid integer"),
        ("  floor: 0", "  floor: low", ":10: mine.floor: should be a valid number, not 'low'"),
        ("  version: 1", "  version: 1.5", ":2: mine.version: should be a valid integer, not 1.5"),
        ("d_max: 20", "d_max: 0", ":11: mine.search.d_max: should be greater than 0"),
        ("d_min: 1", "d_min: 30", "mine.search: d_min = 30 is above d_max = 20"),
        ("  version: 1\n", "", ":1: mine.version: missing; add this key"),
        ("tests.tiny:network", "tests.tiny:netwrk", "no function 'netwrk'; did you mean 'network'?"),
        ("tests.tiny:network", "tests.tinny:network", "no module 'tests.tinny'"),
        ("  floor: 0", "  floor: 0\n  floor: 1", ":11: mine.floor: duplicate key, first given on line 10"),
        ("  floor: 0", "  floor: 0\n  lr_rule: tuned", "lr_rule 'tuned' needs the key `tuning`"),
        ("  floor: 0", "  floor: 0\n  lr_rule: best", ":11: mine.lr_rule: should be 'paper', 'matched' or 'tuned'"),
        ("  floor: 0", "  floor: !!python/name:os.system", ":10: the tag"),
        ("  floor: 0", "  floor: [", "not valid YAML"),
        ("  floor: 0", "  floor: .nan", ":10: mine.floor: should be a finite number, not nan"),
        ("1e-2", ".inf", ":9: mine.agent.learning_rate: should be a finite number, not inf"),
        ("1e-2", "1e999", ":9: mine.agent.learning_rate: should be a finite number, not inf"),
        ('"tests.tiny:problem"', '"envs.control:make", id: X-v0, env_kwargs: {a: [.inf]}', ":5: mine.problem.env_kwargs: should be of finite"),
        ("  version: 1", "  version: 9999999999", ":2: mine.version: should be less than or equal to 2147483647"),
        ("  floor: 0", "  floor: 0\n  baseline_seeds: 10001", ":11: mine.baseline_seeds: should be less than"),
        ("d_max: 20", "d_max: 20, seeds: 10001", ":11: mine.search.seeds: should be less than"),
        ("d_max: 20", "d_max: 20, batch: 10001", ":11: mine.search.batch: should be less than"),
        ("  floor: 0", "  floor: " + 3000 * "[", "/mine.yaml: lists or mappings are nested too deeply"),
        ("  floor: 0", "  floor: &a [*a]", "/mine.yaml:10: not valid YAML: the alias *a is not allowed"),
        ("mine:\n", "mine:\n  extends: mine\n", ":2: mine.extends: a task cannot extend itself: mine -> mine"),
        ("mine:\n", "your:\n  extends: mine\nmine:\n  extends: your\n", "itself: mine -> your -> mine"),
        ("mine:\n", "mine:\n  extends: your\n", "mine.extends: no task 'your' to extend"),
        ("mine:\n", "mine:\n  extends: [toy]\n", ":2: mine.extends: should be one name, not ['toy']"),
        ("mine:\n", "'':\n", ":1: a task needs a name"),
        ('"tests.tiny:network"', "network", "network.entry_point: should be of the form module:function"),
        ("  floor: 0", "  floor: 0\n  lr_rule: tuned\n  tuning: {grid: [], d: [3]}", "tuning.grid: should not be empty"),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path: Path, wrong: str, right: str, expected: str) -> None:
    assert wrong in ENTRY
    assert expected in refusal(tmp_path, ENTRY.replace(wrong, right))


def test_tasks_that_extend_one_another_end_somewhere(tmp_path: Path) -> None:
    links = [f"t{i}: {{extends: {f't{i - 1}' if i else 'toy'}}}" for i in range(2000)]
    tasks = registry(tmp_path, "\n".join(links))
    assert tasks.get("t99").name == "t99"
    with pytest.raises(UsageError, match=r":1900: t1899\.extends: more than 100 tasks"):
        tasks.get("t1999")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("t@: {extends: t@x}", "/mine.yaml:1: t@.extends: a task cannot extend itself: t@ -> t@x"),
        ("t@: {extends: u@x}\nu@: {extends: t@z}", "itself: t@ -> u@ -> t@z"),
        ("t@: {extends: t@y}\nt@y: {extends: t@y}", "itself: t@y -> t@ -> t@y"),
        ("t@: {extends: u}\nu: {extends: t@x}", "itself: t@ -> u -> t@x"),
    ],
)
def test_a_template_cannot_extend_what_it_derives(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        registry(tmp_path, text).get("t@y")
    assert expected in str(caught.value).replace(str(tmp_path), "")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("foo.bar=1", "tiny.foo: unknown key; did"),
        ("serch.d_max=9", "tiny.serch: unknown key; did you mean 'search'?"),
        ("problem.foo.bar=1", "tiny.problem.foo: unknown key; "),
        ("search.d_min=90", "tiny.search: d_min = 90 is above d_max = "),
        ("agent.entry_point=agents.sb3:ppo", "tiny.agent.total_timesteps: missing; add this key"),
    ],
)
def test_a_mistake_that_a_setting_makes_is_the_setting_s(setting: str, expected: str) -> None:
    tiny = Registry([Path(__file__).parent / "tiny.yaml"])
    with pytest.raises(UsageError) as caught:
        tiny.get("tiny", [setting])
    assert str(caught.value).startswith(f"--set {setting}: {expected}")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import torch,", "SyntaxError: "),
        ("from torch import nosuch", "ImportError: cannot import name 'nosuch' from 'torch'"),
        ("import nosuchpackage", "no module 'nosuchpackage'"),
        ("raise SystemExit(1)", "SystemExit: 1 ("),
        ("def problem(*, x: 'Missing') -> None: ...", "NameError: name 'Missing' is not defined"),
    ],
)
def test_a_module_that_cannot_be_imported_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, expected: str
) -> None:
    module = tmp_path.name  # never imported before
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    message = refusal(tmp_path, ENTRY.replace("tests.tiny:problem", f"{module}:problem"))
    assert message.startswith(f"/mine.yaml:5: entry_point '{module}:problem': {expected}")


@pytest.mark.parametrize(
    ("module", "own", "taken"),
    [
        ("envs", "envs.py", "envs/__init__.py"),
        ("profile", "profile.py", "profile.py"),
        ("agents.mine", "agents/mine.py", "agents/__init__.py"),
    ],
)
def test_a_module_behind_another_of_its_name_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, own: str, taken: str
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(entry_point, "_users_folders", [])
    (tmp_path / own).parent.mkdir(exist_ok=True)
    (tmp_path / own).write_text("def problem(): ...")
    message = refusal(tmp_path, ENTRY.replace("tests.tiny:problem", f"{module}:problem"))
    top = module.partition(".")[0]
    assert f"the name '{top}' is taken by " in message
    assert f"{taken}, which hides /{own}: rename yours" in message


def test_set_overrides_and_is_checked_the_same_way(tmp_path: Path) -> None:
    tasks = registry(tmp_path, ENTRY)
    assert (
        tasks.get("mine", ["agent.learning_rate=3e-4"]).agent.parameters()["learning_rate"] == 3e-4
    )
    message = refusal(tmp_path, ENTRY, ["agent.lerning_rate=3"])
    assert message.startswith("--set agent.lerning_rate=3: mine.agent.lerning_rate: unknown key")
    assert "did you mean 'learning_rate'?" in message
    assert "expected key=value" in refusal(tmp_path, ENTRY, ["floor"])
    assert "holds a value" in refusal(tmp_path, ENTRY, ["floor.x=1"])


def test_one_task_does_not_see_the_settings_of_another_call(tmp_path: Path) -> None:
    tasks = registry(tmp_path, ENTRY)
    tasks.get("mine", ["floor=0.5"])
    assert tasks.get("mine").floor == 0


def test_extends_merges_and_keeps_the_place_of_inherited_keys(tmp_path: Path) -> None:
    text = ENTRY + "wide:\n  extends: mine\n  network: {width: 9}\n"
    task = registry(tmp_path, text).get("wide")
    assert (task.name, task.network.parameters()["width"], task.search.d_max) == ("wide", 9, 20)
    broken = text.replace("floor: 0", "floor: low")
    file = tmp_path / "mine.yaml"
    file.write_text(broken)
    with pytest.raises(UsageError, match=r"mine\.yaml:10: wide\.floor"):
        Registry([file]).get("wide")


def test_another_entry_point_on_the_command_line_inherits_no_keys() -> None:
    tasks = Registry([Path(__file__).parent / "tiny.yaml"])
    for settings in (["agent.entry_point=tests.tiny:misbehave", "agent.how=hang"],) * 2:
        settings.reverse()
        assert tasks.get("tiny", settings).agent.parameters() == {"how": "hang"}


def test_another_entry_point_inherits_no_keys(tmp_path: Path) -> None:
    text = ENTRY + 'other:\n  extends: mine\n  agent: {entry_point: "tests.tiny:misbehave"}\n'
    task = registry(tmp_path, text).get("other")
    assert task.agent.parameters() == {"how": "raise"}


def test_unknown_task_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="no task 'cartpol'; did you mean 'cartpole'"):
        Registry().get("cartpol")


def test_same_name_in_two_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="duplicate task"):
        registry(tmp_path, ENTRY.replace("mine:", "cartpole:"))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing\.yaml: No such file"):
        Registry([tmp_path / "nothing.yaml"])


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1", 1), ("010", 10), ("08", 8), ("1.", 1.0), ("yes", "yes"), ("true", True), ("null", None),
     ("0o7", "0o7"), ("[1, 2e1]", [1, 20.0]), ("1_000", "1_000"), ("''", "")],
)  # fmt: skip
def test_scalars_are_yaml_1_2(text: str, value: object) -> None:
    parsed = parse_scalar(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("text", ["!!int abc", "!!float abc", "!!bool x", "!!timestamp 2001-99-01"])
def test_a_value_that_is_none_of_its_tag_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--set:1: "):
        parse_scalar(text)


def test_every_task_of_the_suite_is_valid_and_named_in_kebab_case() -> None:
    tasks = Registry()
    for name in tasks.names():
        assert tasks.get(name).name == name
        assert name == name.lower().replace("_", "-")


@pytest.mark.parametrize("name", Registry().names())
def test_every_network_of_the_suite_fits_its_problem(name: str) -> None:
    task = Registry().get(name)
    try:
        problem = task.problem()
    except ResourceError as missing:
        pytest.skip(str(missing))
    network = build_network(task, problem, seed=0)
    assert task.search.d_max <= count_parameters(network)


def test_identity_follows_what_defines_a_trial_and_nothing_else(tmp_path: Path) -> None:
    tasks = registry(tmp_path, ENTRY)

    def identity(*settings: str) -> str:
        return content_hash(tasks.get("mine", settings).definition())

    assert identity() == identity("agent.epochs=2")  # the same value, given again
    assert identity() == identity("floor=0.1") == identity("search.d_max=7")
    for changed in ("version=2", "agent.epochs=3", "network.width=5", "projection=dense"):
        assert identity() != identity(changed)


def test_streams_are_distinct_within_and_between_trials() -> None:
    streams = [Streams.of(content_hash(i)) for i in range(200)]
    seeds = [seed for s in streams for seed in vars(s).values()]
    assert len(set(seeds)) == len(seeds) == 1000
    assert Streams.of(content_hash(0)) == streams[0]


def test_identities_and_streams_are_the_same_on_every_machine_and_version() -> None:
    """Stored results and exported solutions rest on them: a change breaks them."""
    identity = trial_identity("0" * 64, Request("trial", 100, 3, 2.5))
    assert identity == "0b57ecc8720e3ea10a183da3c6ab6708b99bcade4cfd79a028476a13676dbaf9"
    assert Streams.of(identity) == Streams(
        theta_0=2_566_827_482_265_088_914,
        projection=5_677_172_202_922_306_055,
        data=8_253_915_793_610_673_947,
        agent=5_656_747_916_827_929_699,
        evaluation=2_132_375_376_855_975_349,
    )
    assert derive(5_656_747_916_827_929_699, 0) == 435_700_154_862_892_255
    assert derive(5_656_747_916_827_929_699, 100_000) == 1_221_290_039_772_717_308
    assert derive(0, 0) == 7_896_617_691_693_857_887
    assert derive(2**63 - 1, 7) == 1_968_110_152_401_461_778


def test_marks_point_at_nested_lists(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a:\n  b:\n    - 1\n    - {c: 2}\n")
    document = load_yaml(file)
    assert document.where(("a", "b", 1, "c")).endswith("a.yaml:4")
    assert document.where(("a", "x", "y")).endswith("a.yaml:1")


def test_aliases_that_stand_for_gigabytes_are_refused() -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    lists = [f"&{new} [*{old},*{old}]" for old, new in itertools.pairwise(letters)]
    with pytest.raises(UsageError, match="is not a YAML value"):
        parse_scalar(f"[&a [1,1],{','.join(lists)}]")


def listed(*, models: list[Reference]) -> None:
    """A factory with a list of models."""


def test_an_unknown_key_in_a_list_is_named_without_a_guess(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(
        'mine: {extends: toy, problem: {entry_point: "tests.test_registry:listed", models: [{x: 1}]}}'
    )
    with pytest.raises(UsageError, match=r"mine\.problem\.models\.0\.x: unknown key$"):
        Registry([file]).get("mine")
