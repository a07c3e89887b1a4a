"""``roundel diff``: what two runs have in common, and what not."""

from pathlib import Path
from typing import Annotated

import typer


def diff(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="Another one.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, and nothing else.")
    ] = False,
) -> None:
    """Say in what two runs differ, and from which round on.

    Settings and environments that differ, the first round after which the parameters are not the
    same bit for bit, and the final figures side by side.

    The exit code is 0 if both runs have the same parameters after every round, and 1 if not: after
    some round they differ, one of the runs has more rounds, or they have none to compare.

    For example:

        roundel diff runs/first runs/second
        roundel diff runs/first runs/second --json
    """
    from roundel.core.files import json_line
    from roundel.core.history import read_history
    from roundel.reports.difference import difference, difference_text

    found = difference(read_history(first), read_history(second))
    typer.echo(json_line(found) if as_json else difference_text(found))
    raise typer.Exit(0 if found["identical"] else 1)
