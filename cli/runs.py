"""``roundel runs``: list the runs of a directory."""

from pathlib import Path
from typing import Annotated

import typer

RUNS = Path("runs")


def runs(
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Where to look; directories below it count too.")
    ] = RUNS,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a run, and nothing else.")
    ] = False,
) -> None:
    """List the runs of a directory, the newest last.

    A run is finished once its final model is written; an unfinished one still runs, or goes on with
    `roundel resume`. A run that failed and one whose files cannot be read are listed with the
    reason.

    For example:

        roundel runs
        roundel runs studies/alpha
        roundel runs --json > runs.jsonl
    """
    from roundel.core.files import json_line
    from roundel.reports.listing import list_runs, listing

    rows = [] if directory == RUNS and not directory.exists() else list_runs(directory)
    if as_json:
        for row in rows:
            print(json_line(row.line()))
    elif rows:
        typer.echo(listing(rows))
    else:
        typer.echo(f"there are no runs in {directory}; `roundel simulate` makes one in {RUNS}")
