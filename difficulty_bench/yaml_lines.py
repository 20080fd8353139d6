"""YAML -> plain data plus the place where each key stands, so that errors can name it.

YAML 1.2 scalars (`1e-3` is a number, `yes` is a string); duplicate keys are refused, and so are
aliases, of which a few lines can make gigabytes; nothing is constructed but mappings, lists,
strings, numbers, booleans and null.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from .errors import UsageError, first_line

KeyPath = tuple[str | int, ...]
Marks = dict[KeyPath, str]
ENTRY_POINT = "entry_point"


class _Yaml12Loader(yaml.SafeLoader):
    """SafeLoader with the scalar rules of the YAML 1.2 core schema."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (drops the YAML 1.1 rules)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()  # type: ignore[no-untyped-call]
            problem = f"the alias *{event.anchor} is not allowed; use `extends`, or write it out"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


for _tag, _pattern, _first in [
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?[0-9]+$", list("-+0123456789")),
    (
        "float",
        r"^[-+]?(?:(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|\.inf|\.Inf|\.INF)$|^\.nan$",
        list("-+.0123456789"),
    ),
]:
    _Yaml12Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), _first)


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(node.value)  # PyYAML's own reads 010 as 8


_Yaml12Loader.add_constructor("tag:yaml.org,2002:int", _integer)


class Document:
    """A parsed file: `data`, and `where(path)`, the place of the nearest known key above `path`."""

    def __init__(self, data: Any, marks: Marks, name: str) -> None:
        self.data, self.marks, self.name = data, marks, name

    def where(self, path: KeyPath) -> str:
        for length in range(len(path), 0, -1):
            if path[:length] in self.marks:
                return self.marks[path[:length]]
        return self.name


def load_yaml(path: Path) -> Document:
    """Read a mapping from `path`; UsageError with file and line for anything malformed."""
    marks: Marks = {}
    try:
        data = _parse(path.read_text(encoding="utf-8"), marks, path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; give the path of a task file") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}:{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid YAML: {first_line(error)}") from None
    if not isinstance(data, dict):
        raise UsageError(f"{path}:1: expected a mapping of task names to tasks")
    return Document(data, marks, str(path))


def _parse(text: str, marks: Marks, file: Path) -> Any:
    try:
        node = yaml.compose(text, Loader=_Yaml12Loader)
        return None if node is None else _convert(node, (), marks, file)
    except RecursionError:
        raise UsageError(f"{file}: lists or mappings are nested too deeply") from None


def _convert(node: yaml.Node, path: KeyPath, marks: Marks, file: Path) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _convert_mapping(node, path, marks, file)
    if isinstance(node, yaml.SequenceNode):
        return [_convert(child, (*path, i), marks, file) for i, child in enumerate(node.value)]
    return _scalar(node, file)


def _convert_mapping(node: yaml.MappingNode, path: KeyPath, marks: Marks, file: Path) -> Any:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = _scalar(key_node, file)
        if not isinstance(key, str):
            raise UsageError(f"{file}:{line}: key {key!r} must be a word; put it in quotes")
        place = ".".join(map(str, (*path, key)))
        if key in result:
            first = marks[(*path, key)].rpartition(":")[2]
            raise UsageError(f"{file}:{line}: {place}: duplicate key, first given on line {first}")
        marks[(*path, key)] = f"{file}:{line}"
        result[key] = _convert(value_node, (*path, key), marks, file)
    return result


def _scalar(node: yaml.Node, file: Path) -> Hashable:
    loader = _Yaml12Loader("")
    try:
        value: Hashable = loader.construct_object(node)
    except yaml.YAMLError:
        line = node.start_mark.line + 1
        raise UsageError(f"{file}:{line}: the tag {node.tag} is not allowed") from None
    except (ValueError, LookupError, AttributeError):
        # What PyYAML makes of `!!bool x` and the like.
        line, kind = node.start_mark.line + 1, node.tag.rpartition(":")[2]
        text = str(node.value)[:40]
        raise UsageError(f"{file}:{line}: '{text}' is no {kind}; write it as one") from None
    return value


def parse_scalar(text: str) -> Any:
    """The value of `--set key=TEXT`, read as YAML (number, list, true, null, word)."""
    try:
        return _parse(text, {}, Path("--set"))
    except yaml.YAMLError:
        raise UsageError(f"--set: '{text}' is not a YAML value; put it in quotes") from None


def assign(document: Document, root: KeyPath, setting: str) -> None:
    """Apply `key.key=value` below `root`.

    `--set ...` becomes the place of the key, and of those above it that were not there.

    Another `entry_point` drops the keys beside it, which are another function's (see `merge`).
    """
    name, equals, text = setting.partition("=")
    if not equals or not name:
        raise UsageError(f"--set {setting}: expected key=value, e.g. agent.learning_rate=3e-4")
    *parents, last = name.split(".")
    target, place = document.data, f"--set {setting}"
    for depth, key in enumerate(path := (*root, *parents), 1):
        if key not in target:
            document.marks[path[:depth]] = place
        target = target.setdefault(key, {})
        if not isinstance(target, dict):
            raise UsageError(f"--set {setting}: '{key}' holds a value, not further keys")
    value = parse_scalar(text)
    if last == ENTRY_POINT and value != target.get(last):
        target.clear()
    target[last] = value
    document.marks[(*path, last)] = place
    if parents:  # where what is wrong with these keys together came from
        document.marks[path] = place


def sets_entry_point(setting: str) -> bool:
    return setting.partition("=")[0].endswith(f".{ENTRY_POINT}")


def merge(base: Any, over: Any) -> Any:
    """`over` laid on `base`, mapping by mapping; anything else replaces.

    So does a mapping with another `entry_point`, whose keys are another function's.
    """
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return copy.deepcopy(over)
    if over.get(ENTRY_POINT, base.get(ENTRY_POINT)) != base.get(ENTRY_POINT):
        return copy.deepcopy(over)
    return {
        key: merge(base.get(key), over[key]) if key in over else copy.deepcopy(base[key])
        for key in [*base, *(k for k in over if k not in base)]
    }
