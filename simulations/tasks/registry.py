"""From the name in an experiment file to a task: a built-in one, or a function of the user's."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from inspect import signature
from types import MappingProxyType
from typing import Any

from roundel.core.config import TaskConfig
from roundel.core.errors import ConfigError, RoundelError
from roundel.core.knobs import settle
from roundel.core.suggest import suggest
from roundel.core.task import Task
from roundel.core.usercode import FORM, load_function, story
from roundel.simulations.tasks import (
    characters,
    cifar10,
    denoising,
    digits,
    images,
    leaf,
    linear,
    mnist,
    synthetic,
    tabular,
)
from roundel.simulations.tasks.about import About

TASKS: Mapping[str, About] = MappingProxyType(
    {
        "digits": digits.ABOUT,
        "mnist": mnist.ABOUT,
        "cifar10": cifar10.ABOUT,
        "images": images.ABOUT,
        "tabular": tabular.ABOUT,
        "synthetic": synthetic.ABOUT,
        "leaf-synthetic": leaf.ABOUT,
        "characters": characters.ABOUT,
        "denoising": denoising.ABOUT,
        "linear": linear.ABOUT,
    }
)
"""The built-in tasks by name."""


def make_task(config: TaskConfig) -> Task:
    """Make the task that an experiment names, with all its knobs settled.

    A name with a colon is ``package.module:function``: the module is imported, from the current
    directory too, and the function is called with the knobs that the experiment sets, and with
    `task.path` if it has a parameter `path`.

    Raises:
        ConfigError: There is no such task, its module cannot be imported, or its function fails,
            does not take a knob or returns something else than a `Task`.
        DataError: It reads data, and cannot.
    """
    name = config.name
    make = load_function(name, "task.name") if ":" in name else _built_in(name)
    given = config.knobs if config.model is None else {"model": config.model, **config.knobs}
    if _takes_path(make):
        given["path"] = config.path
    knobs = settle(make, given, section="task", name=name)
    try:
        task = make(**knobs)
    except RoundelError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"task.name = {name!r} failed: {story(error)}") from error
    if not isinstance(task, Task):
        raise ConfigError(
            f"task.name = {name!r} returned {type(task).__name__}; it must return a "
            f"{Task.__module__}.{Task.__name__}"
        )
    if unknown := task.knobs.keys() - knobs.keys():
        raise ConfigError(
            f"task.name = {name!r} returned a task with the knob {min(unknown)!r}, which its "
            "function does not take; give it a parameter of that name"
        )
    settled = {k: v for k, v in {**knobs, **task.knobs}.items() if k != "path"}
    return replace(task, knobs=settled)


def _takes_path(make: Callable[..., Any]) -> bool:
    try:
        return "path" in signature(make).parameters
    except (TypeError, ValueError):
        return False


def _built_in(name: str) -> Callable[..., Any]:
    if name not in TASKS:
        raise ConfigError(
            f"task.name = {name!r} is neither a built-in task nor {FORM}; {suggest(name, TASKS)}"
        )
    return TASKS[name].make
