"""``roundel export``: what runs have recorded, for other tools."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def export(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Run directories; that of a comparison stands for all its runs.",
        ),
    ],
    to: Annotated[
        Literal["tensorboard", "csv", "wandb", "mlflow"],
        typer.Option("--to", help="For which tool."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="A new directory; by default one under `exports/`.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write what runs have recorded in a form that another tool reads.

    It reads files and writes others, so that no tracker can stand in the way of a run; runs that
    are not finished are written as far as they are. csv: rounds.csv and clients.csv, a row each.
    tensorboard: for `tensorboard --logdir DIR`. wandb: offline runs, for `wandb sync`. mlflow: a
    database, mlflow.db. Nothing is sent unless WANDB_MODE or MLFLOW_TRACKING_URI say so.

    For example:

        roundel export runs/first --to csv --out tables
        roundel export runs/comparison-20260131-120000 --to tensorboard
    """
    import time

    from roundel.reports.export import export as written

    place = out or Path("exports") / f"{to}-{time.strftime('%Y%m%d-%H%M%S')}"
    count = written(runs, to, place)
    typer.echo(f"{count} run{'' if count == 1 else 's'} in {place}")
