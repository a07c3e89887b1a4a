"""``roundel serve``: coordinate an experiment over nodes that dial in."""

from typing import Annotated

import typer

from roundel.cli.options import ExperimentFile, Json, Out, Settings
from roundel.cli.tensorboard import TensorBoard


def serve(
    file: ExperimentFile = None,
    settings: Settings = None,
    listen: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Loopback address to listen on; port 0 picks one."),
    ] = "127.0.0.1:8470",
    out: Out = None,
    as_json: Json = False,
    tensorboard: TensorBoard = False,
) -> None:
    """Coordinate an experiment over nodes that dial in with `roundel join`.

    The rounds begin once every client is hosted by a node. Traffic is not encrypted, so only
    loopback addresses are accepted.

    Without FILE.toml, 100 clients learn the UCI digits by FedAvg.

    For example, in three terminals:

        roundel serve -s rounds=10
        roundel join 127.0.0.1:8470 --partition 1/2
        roundel join 127.0.0.1:8470 --partition 2/2
    """
    from roundel.cli.run import serve_run
    from roundel.core.configfile import load_experiment

    experiment = load_experiment(file, settings or [])
    serve_run(experiment, out, listen=listen, as_json=as_json, tensorboard=tensorboard)
