"""``roundel serve``: coordinate an experiment over nodes that dial in."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from roundel.cli.apps import AppOptions, resume_flower, serve_flower
from roundel.cli.metrics import Metrics
from roundel.cli.options import AppClients, AuthorityDirectory, ExperimentFile, Out, Settings
from roundel.cli.security import Access, EnrolPort, TokenFile
from roundel.cli.tensorboard import TensorBoard
from roundel.core.errors import ConfigError


def serve(
    file: ExperimentFile = None,
    settings: Settings = None,
    listen: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Address to listen on; port 0 picks one."),
    ] = "127.0.0.1:8470",
    out: Out = None,
    flower: Annotated[
        Path | None,
        typer.Option(
            metavar="APP",
            help="Run this Flower app, a directory with its pyproject.toml, in place of FILE.toml; "
            "-s sets keys of its run config.",
            show_default=False,
        ),
    ] = None,
    clients: AppClients = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="What everything that the app draws comes from; by default 1.",
            show_default=False,
        ),
    ] = None,
    patience: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0.0,
            help="How long the app's clients are waited for whose node is away; by default 60.",
            show_default=False,
        ),
    ] = None,
    reply_limit: Annotated[
        int | None,
        typer.Option(
            metavar="MIB",
            min=1,
            help="How large a reply of the app's clients may be; by default 1024 MiB.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Go on with this run, in place of FILE.toml, with the authority that it began "
            "with; nodes come back by themselves.",
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
    """Coordinate an experiment, or a Flower app, over nodes that dial in with `roundel join`.

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

    With --flower, the ServerApp runs here and its ClientApp on the nodes, each of which has a copy
    of the app:

        roundel serve --flower quickstart-pytorch --clients 2 --token-file token
        roundel join 127.0.0.1:8470 --flower quickstart-pytorch --partition 1/2 --token @token
    """
    from roundel.cli.run import Listening, resume_served_run, serve_run
    from roundel.core.configfile import load_experiment
    from roundel.core.heaps import share_heaps
    from roundel.core.runfiles import is_app_run

    share_heaps()
    of_app = {
        "--clients": clients,
        "--seed": seed,
        "--patience": patience,
        "--reply-limit": reply_limit,
    }
    _check_apart(resume, flower, of_app, [file, settings, out], [file, tensorboard or None])
    access = Access(
        insecure=insecure,
        authority=authority,
        enrolment_port=enrol_port,
        token_file=token_file,
    )
    if resume is not None:
        access = access.as_before(resume)
    listening = Listening(address=listen, access=access, metrics=metrics)
    if flower is not None:
        options = AppOptions(
            app=flower,
            settings=settings or (),
            clients=clients,
            seed=seed,
            patience_s=patience,
            reply_mib=reply_limit,
        )
        serve_flower(options, out, listening, as_json=as_json)
        return
    if resume is None:
        experiment = load_experiment(file, settings or [])
        serve_run(experiment, out, listening, as_json=as_json, tensorboard=tensorboard)
        return
    if is_app_run(resume):
        resume_flower(resume, listening, as_json=as_json)
        return
    resume_served_run(resume, listening, as_json=as_json, tensorboard=tensorboard)


def _check_apart(
    resume: Path | None,
    flower: Path | None,
    of_app: Mapping[str, object],
    of_new: Sequence[object],
    of_experiment: Sequence[object],
) -> None:
    """Refuse options that do not go together.

    Args:
        resume: The run to go on with.
        flower: The app to run.
        of_app: Options of an app, by their names.
        of_new: What a new run is told.
        of_experiment: What an experiment alone is told.
    """
    said = next((name for name, value in of_app.items() if value is not None), "")
    if resume is not None and (said or flower or any(of_new)):
        raise ConfigError(
            f"--resume {resume} goes on with a run as it began: leave out FILE.toml, -s and --out"
            + (f", and {said or '--flower'}" if said or flower else "")
        )
    if flower is not None and any(of_experiment):
        raise ConfigError(
            f"--flower {flower} runs an app, and FILE.toml and --tensorboard are for experiments; "
            "leave them out"
        )
    if flower is None and said:
        raise ConfigError(
            f"{said} is for a Flower app; name its directory with --flower, or set the "
            "experiment's own keys with -s"
        )
