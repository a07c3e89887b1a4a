"""``roundel tasks``: what there is to learn."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from roundel.simulations.tasks.about import About


def tasks(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="Explain this one: a built-in task, or `package.module:function` of your own.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """List the built-in tasks, or explain one.

    Its data, models and knobs, and what it reaches. Knobs stand beside the name in the section
    `task` of the experiment file, or are set with `-s task.KNOB=VALUE`. `roundel new` makes a
    project with a task of your own.

    For example:

        roundel tasks
        roundel tasks digits
    """
    from roundel.cli.explain import entry
    from roundel.core.errors import ConfigError
    from roundel.core.suggest import suggest
    from roundel.core.usercode import FORM, load_function
    from roundel.simulations.tasks.registry import TASKS

    if name is None:
        for key, about in TASKS.items():
            typer.echo(entry(key, about.summary, *_facts(about)[:-1]) + "\n")
        typer.echo("`roundel tasks NAME` explains one")
    elif name in TASKS:
        typer.echo(_page(name, TASKS[name].make, _facts(TASKS[name])))
    elif ":" in name:
        typer.echo(_page(name, load_function(name, "roundel tasks"), []))
    else:
        raise ConfigError(
            f"there is no task {name!r}, and it is not {FORM} either; {suggest(name, TASKS)}"
        )


def _page(name: str, make: Callable[..., Any], facts: list[str]) -> str:
    from roundel.cli.docstrings import knobs
    from roundel.cli.explain import explanation, knob_list, paragraph

    listed = knobs(make)
    own = [knob for knob in listed if knob.name != "path"]
    blocks = [
        name,
        *explanation(make),
        "\n".join(paragraph(fact) for fact in facts),
        "\n".join(knob_list(own, "task")),
        f"try it\n    roundel simulate -s task.name={name}",
    ]
    return "\n\n".join(filter(None, blocks))


def _facts(about: "About") -> list[str]:
    return [
        f"data: {about.size}",
        f"licence: {about.licence}",
        f"source: {about.source}",
        f"models: {_models(about)}",
        f"reaches: {about.figure}",
    ]


def _models(about: "About") -> str:
    """Name each model and its number of parameters, where that does not depend on the data."""
    return ", ".join(
        model if count is None else f"{model} ({count:,} parameters)"
        for model, count in about.models.items()
    )
