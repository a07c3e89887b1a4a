"""``roundel show``: everything about one run."""

from pathlib import Path
from typing import Annotated

import typer


def show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory.")],
    round: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="R", help="Show the clients of this round.", show_default=False
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object, or with --round one a client."),
    ] = False,
) -> None:
    """Show everything about one run.

    What it ran and where, how it went and what became of its clients: settings that differ from
    the defaults, the curve, figures by client and by class, the partition, failures by reason, and
    where the files lie. The run may still be running.

    For example:

        roundel show runs/first
        roundel show runs/first --round 3
        roundel show runs/first --json > first.json
    """
    from roundel.core.files import json_line
    from roundel.core.history import read_history
    from roundel.reports.details import details, round_clients
    from roundel.reports.details_text import clients_text, details_text

    history = read_history(run)
    if round is not None:
        clients = round_clients(history, round)
        typer.echo("\n".join(map(json_line, clients)) if as_json else clients_text(clients))
        return
    found = details(history)
    typer.echo(json_line(found) if as_json else details_text(found, history))
