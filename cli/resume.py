"""``roundel resume``: go on with a run that was interrupted."""

from pathlib import Path
from typing import Annotated

import typer

from roundel.cli.options import Json
from roundel.cli.tensorboard import TensorBoard


def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory.")],
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            help="Processes that share the work from now on; by default as many as before. The "
            "result is the same.",
        ),
    ] = None,
    as_json: Json = False,
    tensorboard: TensorBoard = False,
) -> None:
    """Go on with a run that was interrupted or killed.

    RUN is its directory, as the end of a run prints it. A finished run is left as it is.

    It starts from the newest checkpoint and ends with the same parameters, bit for bit, as a run
    that was never interrupted. Rounds that were recorded after the checkpoint are computed again
    and compared with what was recorded. Secure noise is drawn by the run's own keys: what is
    computed again comes out the same, and what follows is like no other run's.

    For example:

        roundel resume runs/experiment-20260131-120000
    """
    from roundel.cli.run import resume_run

    resume_run(run, workers=workers, as_json=as_json, tensorboard=tensorboard)
