"""`module:function` with parameters, as tasks.yaml writes it; the only door to user code."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
import typing
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, create_model

from .errors import UsageError, did_you_mean, user_code

if TYPE_CHECKING:
    from .problem import Problem

ModuleFunction = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]


class EntryPoint(BaseModel):
    """A function named in the registry, and values for its keyword-only parameters.

    The function's signature is the schema: its keyword-only parameters are the keys that the
    entry may hold, their annotations the types, their defaults the defaults.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    entry_point: ModuleFunction

    @property
    def schema_model(self) -> type[BaseModel]:
        """A pydantic model of the function's keyword-only parameters."""
        return _schema(self.entry_point)

    def parameters(self) -> dict[str, Any]:
        """All parameters, defaults filled in. Raise pydantic.ValidationError for a wrong one."""
        model = self.schema_model.model_validate(self.model_extra or {})
        return {name: getattr(model, name) for name in type(model).model_fields}

    def __call__(self, *arguments: Any) -> Any:
        """Call the function with the framework's `arguments` and the entry's parameters."""
        return _function(self.entry_point)(*arguments, **self.parameters())

    def check_call(self, *arguments: str) -> None:
        """Raise UsageError unless the function takes `arguments`, the framework's, by position."""
        function = _function(self.entry_point)
        try:
            inspect.signature(function).bind(*arguments, **self.parameters())
        except (TypeError, ValueError) as error:  # the latter where it has no signature
            raise UsageError(
                f"entry_point '{self.entry_point}': {error}; it is called with "
                f"({', '.join(arguments)}, **parameters)"
            ) from None

    def companion(self, name: str) -> Callable[..., Any] | None:
        """The function `<function>_<name>` of the same module and parameters, if there is one.

        An agent `train` may have two. `train_check(problem, **parameters)` raises UsageError for
        what it cannot train on. `train_together(problem, networks, contexts, **parameters)` trains
        several trials of one task in one program.
        """
        _function(self.entry_point)
        module_name, _, own_name = self.entry_point.partition(":")
        function = getattr(sys.modules[module_name], f"{own_name}_{name}", None)
        return None if function is None else functools.partial(function, **self.parameters())


class ProblemEntryPoint(EntryPoint):
    """The entry point of a problem's factory."""

    def __call__(self, *arguments: Any) -> Problem:
        """The problem. Raise UsageError where the factory fails or returns something else."""
        from .problem import Problem  # and torch, of which a registry alone has no need

        with user_code(f"problem '{self.entry_point}'"):
            problem = super().__call__(*arguments)
        if not isinstance(problem, Problem):
            raise UsageError(
                f"problem '{self.entry_point}' returns {type(problem).__name__}; return a "
                "SupervisedProblem or another Problem of difficulty_bench.problem"
            )
        return problem

    def check_data(self, problem: Problem) -> None:
        """Read the problem's data sets. Raise UsageError for those that do not fit."""
        from .problem import SupervisedProblem

        if isinstance(problem, SupervisedProblem):
            with user_code(f"problem '{self.entry_point}': its data cannot be read"):
                problem.check_data()

    def missing(self, problem: Problem) -> str | None:
        """`problem.missing()`. Raise UsageError where that fails."""
        with user_code(f"problem '{self.entry_point}': missing() fails"):
            return problem.missing()


@functools.cache
def _function(target: str) -> Callable[..., Any]:
    module_name, _, name = target.partition(":")
    with user_code(f"entry_point '{target}'"):
        try:
            module = _import(module_name)
        except ModuleNotFoundError as error:
            mend = _hidden(module_name) or (
                "; install it, or put it in the working folder or beside the task file"
            )
            raise UsageError(f"entry_point '{target}': no module '{error.name}'{mend}") from error
    if not callable(function := getattr(module, name, None)):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        mend = _hidden(module_name) or did_you_mean(name, known)
        raise UsageError(f"entry_point '{target}': {module_name} has no function '{name}'{mend}")
    return typing.cast(Callable[..., Any], function)


_users_folders: list[Path] = []


def search_folder(folder: Path) -> None:
    """Import from `folder`, too, what is in no folder before it and not installed."""
    folder = folder.resolve()
    if folder not in _users_folders:
        _users_folders.append(folder)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def users_folders() -> tuple[Path, ...]:
    """Those of `search_folder`, for a process elsewhere."""
    return tuple(_users_folders)


def _import(module_name: str) -> Any:
    """Import as `python -m` would: the working folder counts, after everything installed."""
    search_folder(Path.cwd())
    return importlib.import_module(module_name)


def _hidden(module_name: str) -> str:
    """`; ...` where a user's folder holds this module, behind another one that has its name."""
    top, *rest = module_name.split(".")
    taken = getattr(getattr(sys.modules.get(top), "__spec__", None), "origin", None)
    if taken is None:
        return ""
    for folder in _users_folders:
        base = folder.joinpath(top, *rest)
        for own in (base.with_suffix(".py"), base / "__init__.py"):
            found = own == Path(taken) or folder / top in Path(taken).parents
            if own.is_file() and not found:
                return f"; the name '{top}' is taken by {taken}, which hides {own}: rename yours"
    return ""


@functools.cache
def _schema(target: str) -> type[BaseModel]:
    function = _function(target)
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    fields: dict[str, Any] = {}
    with user_code(f"entry_point '{target}'"):  # an annotation may name what is not there
        hints = typing.get_type_hints(function, include_extras=True)
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                default = ... if parameter.default is inspect.Parameter.empty else parameter.default
                fields[name] = (hints.get(name, Any), default)
        with warnings.catch_warnings(action="ignore"):  # `copy` or `schema` shadow what is unused
            return create_model(target, __config__=config, **fields)
