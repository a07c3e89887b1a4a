"""``roundel strategies``: the strategies, their papers and their knobs."""

from typing import Annotated, Any

import typer


def strategies(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="Explain this one; your own as package.module:function, Flower's as flower:NAME.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a strategy, and nothing else.")
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print what is known about all of them as a page.")
    ] = False,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Say which two can be composed, and why others cannot.")
    ] = False,
) -> None:
    """List the strategies, or explain one.

    What it computes, what it needs and costs, against what it is verified, its paper and its knobs.
    Knobs stand beside the name in the section `strategy` of the experiment file, or are set with
    `-s strategy.KNOB=VALUE`. `strategy.parts` names others to compose it with.

    For example:

        roundel strategies
        roundel strategies fedadam
        roundel strategies scaffold --pairs
        roundel strategies --json > strategies.jsonl
    """
    from roundel.cli.reference import reference
    from roundel.core.errors import ConfigError
    from roundel.core.files import json_line
    from roundel.core.suggest import suggest
    from roundel.strategies.pairs import partners, refusals, table
    from roundel.strategies.registry import LISTED, STRATEGIES

    if name is not None and ":" not in name and name not in STRATEGIES:
        raise ConfigError(f"there is no strategy {name!r}; {suggest(name, STRATEGIES, LISTED)}")
    if pairs:
        typer.echo(table(refusals()) if name is None else partners(name))
    elif markdown:
        typer.echo(reference(), nl=False)
    elif as_json:
        for key in STRATEGIES if name is None else [name]:
            print(json_line(_record(key)))
    else:
        typer.echo(_listing() if name is None else _page(name))


def _listing() -> str:
    """Return a table of names and what they are, by family."""
    from roundel.cli.docstrings import documented
    from roundel.cli.explain import table
    from roundel.strategies.registry import FAMILIES, STRATEGIES

    width = max(map(len, STRATEGIES))
    lines: list[str] = []
    for family, members in FAMILIES.items():
        rows = [(make.__name__, documented(make).summary) for make in members]
        lines += [family, *table(rows, width), ""]
    lines.append("`roundel strategies NAME` explains one, with its paper and knobs;")
    return "\n".join([*lines, "`flower:NAME` is one of Flower's, such as `flower:Krum`"])


def _page(name: str) -> str:
    from roundel.cli.docstrings import knobs
    from roundel.cli.explain import explanation, knob_list, paragraph
    from roundel.strategies.registry import constructor

    make = constructor(name, "the strategy")
    listed = knobs(make)
    costs = _costs(name)
    blocks = [
        f"{name} ({_family(name)})",
        *explanation(make),
        paragraph(f"costs: {costs}") if costs else "",
        "\n".join(knob_list(listed, "strategy")),
        f"try it\n    roundel simulate -s strategy.name={name}",
    ]
    return "\n\n".join(filter(None, blocks))


def _record(name: str) -> dict[str, Any]:
    """Return everything about a strategy as plain values."""
    from dataclasses import asdict

    from roundel.cli.docstrings import documented, knobs
    from roundel.strategies.registry import constructor

    make = constructor(name, "the strategy")
    said = documented(make)
    return {
        "name": name,
        "family": _family(name),
        "summary": said.summary,
        "source": said.source,
        "needs": said.needs,
        "verified": said.verified,
        "knobs": [asdict(knob) for knob in knobs(make)],
    }


def _family(name: str) -> str:
    from roundel.strategies.registry import FAMILIES, FLOWER, STRATEGIES

    if name.startswith(FLOWER):
        return "one of Flower's"
    made = STRATEGIES.get(name)
    return next((family for family, members in FAMILIES.items() if made in members), "your own")


def _costs(name: str) -> str:
    """Say what a strategy costs with the knobs it has by itself; empty if it needs more."""
    from roundel.core.errors import RoundelError
    from roundel.core.threads import intra_op_threads
    from roundel.simulations.facts import facts
    from roundel.strategies.registry import make_strategy

    try:
        with intra_op_threads(1):
            return facts(make_strategy(name, {})).sentence()
    except RoundelError:
        return ""
