"""``roundel simulate``: run an experiment with simulated clients."""

from typing import Annotated

import typer

from roundel.cli.options import ExperimentFile, Json, Out, Settings
from roundel.cli.tensorboard import TensorBoard


def simulate(
    file: ExperimentFile = None,
    settings: Settings = None,
    *,
    out: Out = None,
    as_json: Json = False,
    as_deployed: Annotated[
        bool,
        typer.Option(
            "--as-deployed",
            help="Start a coordinator and node processes on this machine and run the experiment "
            "through real gRPC; the result is the same.",
        ),
    ] = False,
    nodes: Annotated[
        int, typer.Option(min=1, help="How many node processes `--as-deployed` starts.")
    ] = 2,
    tensorboard: TensorBoard = False,
) -> None:
    """Run an experiment with simulated clients.

    Without FILE.toml, 100 clients learn the UCI digits by FedAvg.

    For example:

        roundel simulate
        roundel simulate -s strategy.name=scaffold -s partition.alpha=0.1
        roundel simulate experiment.toml --out runs/first
        roundel simulate experiment.toml --json > rounds.jsonl
        roundel simulate experiment.toml --as-deployed --nodes 4
    """
    from roundel.cli.run import new_run
    from roundel.core.configfile import load_experiment

    experiment = load_experiment(file, settings or [])
    new_run(
        experiment,
        out,
        as_json=as_json,
        nodes=nodes if as_deployed else None,
        tensorboard=tensorboard,
    )
