"""``roundel strategies``: the strategies, their papers and their knobs."""

from typing import Annotated

import typer


def strategies(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Explain this one.", show_default=False),
    ] = None,
) -> None:
    """List the strategies, or explain one.

    What it computes, its paper and its knobs. Knobs stand beside the name in the section
    `strategy` of the experiment file, or are set with `-s strategy.KNOB=VALUE`.

    For example:

        roundel strategies
        roundel strategies fedadam
    """
    from roundel.cli.docstrings import documented, knobs
    from roundel.cli.explain import entry, explanation, knob_defaults, knob_list
    from roundel.core.errors import ConfigError
    from roundel.core.suggest import suggest
    from roundel.strategies.registry import STRATEGIES

    if name is None:
        for key, make in STRATEGIES.items():
            said = documented(make)
            typer.echo(entry(key, said.summary, said.source, knob_defaults(make)) + "\n")
        typer.echo("`roundel strategies NAME` explains one")
        return
    if name not in STRATEGIES:
        raise ConfigError(f"there is no strategy {name!r}; {suggest(name, STRATEGIES)}")
    make = STRATEGIES[name]
    use = ["try it", f"    roundel simulate -s strategy.name={name}"]
    blocks = [name, *explanation(make), "\n".join(knob_list(knobs(make), "strategy"))]
    typer.echo("\n\n".join([*filter(None, blocks), "\n".join(use)]))
