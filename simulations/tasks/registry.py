"""From the name in an experiment file to a task: a built-in one, or a function of the user's."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from roundel.core.config import TaskConfig
from roundel.core.errors import ConfigError, RoundelError
from roundel.core.suggest import suggest
from roundel.core.task import Task
from roundel.core.usercode import one_line, user_line
from roundel.simulations.tasks.digits import digits

TASKS: Mapping[str, Callable[..., Task]] = MappingProxyType({"digits": digits})
"""The built-in tasks: name to a function that takes the keyword `model`."""

FORM = "package.module:function"


def make_task(config: TaskConfig) -> Task:
    """Make the task that an experiment names.

    A name with a colon is ``package.module:function``: the module is imported, from the current
    directory too, and the function is called, with the keyword `model` if `task.model` is set.

    Raises:
        ConfigError: There is no such task, its module cannot be imported, or its function fails,
            does not take the keyword or returns something else than a `Task`.
    """
    make = _own(config.name) if ":" in config.name else _built_in(config.name)
    options = {} if config.model is None else {"model": config.model}
    _check_call(make, options, config)
    try:
        task = make(**options)
    except RoundelError:
        raise
    except Exception as error:
        raise ConfigError(f"task.name = {config.name!r} failed: {_story(error)}") from error
    if not isinstance(task, Task):
        raise ConfigError(
            f"task.name = {config.name!r} returned {type(task).__name__}; it must return a "
            f"{Task.__module__}.{Task.__name__}"
        )
    return task


def _built_in(name: str) -> Callable[..., Any]:
    make = TASKS.get(name)
    if make is None:
        raise ConfigError(
            f"task.name = {name!r} is neither a built-in task nor {FORM}; {suggest(name, TASKS)}"
        )
    return make


def _own(name: str) -> Callable[..., Any]:
    """Find the user's function."""
    path, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*path.split("."), attribute)):
        raise ConfigError(
            f"task.name = {name!r} is not of the form {FORM}; write it such as mytasks.birds:task"
        )
    module = _import(path, name)
    make = getattr(module, attribute, None)
    if not callable(make):
        raise ConfigError(
            f"task.name = {name!r}: the module {path!r} has no function {attribute!r}; "
            f"{_other_functions(module, attribute)}"
        )
    found: Callable[..., Any] = make
    return found


def _import(path: str, name: str) -> ModuleType:
    """Import a module, from the current directory too, as ``python -m`` does."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(path)
    except (Exception, SystemExit) as error:
        if _is_absent(path, error):
            reason = f"there is no module {path!r}, neither in {here} nor among installed packages"
        else:
            reason = f"importing {path!r} failed: {_story(error)}"
        raise ConfigError(f"task.name = {name!r}: {reason}") from error


def _is_absent(path: str, error: BaseException) -> bool:
    """Tell a module that does not exist from one that imports something that does not exist."""
    return (
        isinstance(error, ModuleNotFoundError)
        and error.name is not None
        and f"{path}.".startswith(f"{error.name}.")
    )


def _other_functions(module: ModuleType, wanted: str) -> str:
    """Suggest a function that the module does define."""
    names = [
        name
        for name, value in vars(module).items()
        if callable(value)
        and not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
    ]
    return suggest(wanted, names) if names else "define it there"


def _check_call(make: Callable[..., Any], options: Mapping[str, str], config: TaskConfig) -> None:
    """Find out before the call whether the function takes what it would be given."""
    try:
        signature(make).bind(**options)
    except (TypeError, ValueError) as error:
        given = f"the keyword model={config.model!r}" if options else "no arguments"
        raise ConfigError(
            f"task.name = {config.name!r} cannot be called with {given} ({error}); a task's "
            "function is called with the keyword `model` if task.model is set, else without any"
        ) from error


def _story(error: BaseException) -> str:
    """Return the error's type, message and place, in one line."""
    return f"{one_line(error)} ({user_line(error)})"
