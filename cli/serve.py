"""``roundel serve``: coordinate an experiment over nodes that dial in."""

from pathlib import Path
from typing import Annotated

import typer

from roundel.cli.metrics import Metrics
from roundel.cli.options import AuthorityDirectory, ExperimentFile, Out, Settings
from roundel.cli.security import Access, EnrolPort, TokenFile
from roundel.cli.tensorboard import TensorBoard


def serve(
    file: ExperimentFile = None,
    settings: Settings = None,
    listen: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Address to listen on; port 0 picks one."),
    ] = "127.0.0.1:8470",
    out: Out = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Go on with this run, in place of FILE.toml; nodes come back by themselves.",
            show_default=False,
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Without certificates and encryption, for a network that you trust.",
        ),
    ] = False,
    authority: AuthorityDirectory = None,
    enrol_port: EnrolPort = None,
    token_file: TokenFile = None,
    metrics: Metrics = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print one JSON object a round, and one with an `event` for what else happens.",
        ),
    ] = False,
    tensorboard: TensorBoard = False,
) -> None:
    """Coordinate an experiment over nodes that dial in with `roundel join`.

    The rounds begin once every client is hosted by a node. Both ends prove who they are by
    certificates of an authority, which is made the first time. A node gets its own for a join
    token, on the port after that of --listen; `roundel nodes token` makes one.

    Whatever a node was told to be accepted is on disk. A coordinator that was stopped or killed
    goes on with --resume, and asks for nothing again that it had accepted.

    On a terminal a table shows what each node is doing. With --json an object has an `event` for
    node_joined, node_away, node_back, node_left, round_started and round_waits, and its `time`; the
    object of a round that is over has none, and is the line of metrics.jsonl.

    Without FILE.toml, 100 clients learn the UCI digits by FedAvg.

    For example, in three terminals:

        roundel serve -s rounds=10 --token-file token
        roundel join 127.0.0.1:8470 --partition 1/2 --token @token
        roundel join 127.0.0.1:8470 --partition 2/2 --token @token

    or, after it was killed:

        roundel serve --resume runs/experiment-20260131-120000
    """
    from roundel.cli.run import Listening, resume_served_run, serve_run
    from roundel.core.configfile import load_experiment
    from roundel.core.errors import ConfigError

    access = Access(
        insecure=insecure,
        authority=authority,
        enrolment_port=enrol_port,
        token_file=token_file,
    )
    listening = Listening(address=listen, access=access, metrics=metrics)
    if resume is None:
        experiment = load_experiment(file, settings or [])
        serve_run(experiment, out, listening, as_json=as_json, tensorboard=tensorboard)
        return
    if file or settings or out:
        raise ConfigError(
            f"--resume {resume} goes on with a run as it began: leave out FILE.toml, -s and --out"
        )
    resume_served_run(resume, listening, as_json=as_json, tensorboard=tensorboard)
