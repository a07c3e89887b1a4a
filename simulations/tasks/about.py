"""What `roundel tasks` says about a task."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from roundel.core.errors import ConfigError
from roundel.core.suggest import suggest
from roundel.core.task import Task


@dataclass(frozen=True, kw_only=True)
class About:
    """A built-in task and its facts.

    Attributes:
        make: Makes the task; its keyword arguments are the task's knobs. A parameter called `path`
            gets `task.path`.
        summary: What is learned, in one line.
        size: How many examples, and where the data comes from if it does not ship.
        models: Each model with its number of parameters; the first is the default.
        licence: Of the data.
        source: Who made the data or the recipe.
        figure: What a run reaches, and with which settings.
    """

    make: Callable[..., Task]
    summary: str
    size: str
    models: Mapping[str, int | None]
    licence: str
    source: str
    figure: str


def choose(models: Mapping[str, Callable[..., object]], name: str, task: str) -> str:
    """Return the name of a task's model if there is one of that name.

    Raises:
        ConfigError: There is not.
    """
    if name not in models:
        raise ConfigError(
            f"task.model = {name!r} is not a model of {task}; {suggest(name, models)}"
        )
    return name
