"""``roundel report``: figures and a page of a comparison or of runs, from their files."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR...", help="The directory of a comparison, or those of runs of any kind."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Where to write; by default to the directory itself. Several runs need it.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write figures and a page about a comparison, or about runs.

    Everything is made of the files in the directories, as often as you like, also while they are
    still being written: curves.png and curves.pdf, report.html, which needs neither other files
    nor a network, and for a comparison the tables table.csv, table.md and table.tex.

    Runs get curves, their clients round by round, who has which examples, and what went wrong.
    Several runs share one page.

    For example:

        roundel report runs/comparison-20250131-120000
        roundel report runs/first
        roundel report runs/first runs/second --out both
    """
    from roundel.cli.extras import need_report

    need_report("roundel report")

    from roundel.core.comparisonfile import FILE
    from roundel.core.errors import ConfigError
    from roundel.reports.write import PAGE, write_comparison, write_runs

    compared = [path for path in paths if (path / FILE).is_file()]
    if compared and len(paths) > 1:
        raise ConfigError(
            f"{compared[0]} is a comparison, whose report is its own; give it alone, or only runs"
        )
    if compared:
        write_comparison(paths[0], out)
        page = (out or paths[0]) / PAGE
    else:
        page = write_runs(paths, out)
    typer.echo(f"the report is {page}; open it in a browser")
