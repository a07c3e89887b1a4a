"""``roundel join``: host clients for a coordinator."""

import json
import re
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roundel.cli.options import node_states
from roundel.core.errors import ConfigError

if TYPE_CHECKING:
    from roundel.client.grpc_node import Prepare

_LONGEST_TOKEN = 1000


def join(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="The coordinator.")],
    *,
    partition: Annotated[
        str, typer.Option(metavar="I/N", help="Host the I-th of N shares of the clients.")
    ] = "1/1",
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Bring examples of your own, which the run's task reads, and host one client.",
            show_default=False,
        ),
    ] = None,
    flower: Annotated[
        Path | None,
        typer.Option(
            metavar="APP",
            help="Host clients of a Flower app, of which this is the node's copy: its directory.",
            show_default=False,
        ),
    ] = None,
    node_config: Annotated[
        list[str] | None,
        typer.Option(
            "--node-config",
            metavar="KEY=VALUE",
            help="What the app's clients here find in `context.node_config` besides their number. "
            "Repeatable.",
            show_default=False,
        ),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE:FUNCTION",
            help="A task or metric of your own that the coordinator may name. Repeatable.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            help="What this node calls itself; by default the host's name and the share, such as "
            "edge7-1of3, and with --data the host's name.",
            show_default=False,
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the node keeps its clients' states and what it has not sent yet; by "
            "default ~/.local/state/roundel/HOST_PORT/NAME.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0.0,
            help="How long to wait for a coordinator that is away.",
        ),
    ] = 600.0,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN|@FILE",
            envvar="ROUNDEL_TOKEN",
            show_envvar=True,
            help="A join token, or a file with one; needed the first time, for a certificate.",
            show_default=False,
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="The coordinator runs without certificates.")
    ] = False,
) -> None:
    """Host clients for a coordinator and train them until the run is over.

    The node learns the experiment from the coordinator, makes its task and its clients' data
    itself, or reads examples of its own with --data, and dials out only. HOST:PORT is what `roundel
    serve` prints. Code of your own runs here only if you allow it by name. A Flower app that is
    served with `roundel serve --flower` each node has itself, and names with --flower.

    Both ends prove who they are by certificates. The node gets its own for a join token, keeps it
    in its directory and renews it in time.

    A node may be stopped or killed at any time: join again with the same name, and it goes on with
    what it has in its directory. While the coordinator is away it waits.

    For example:

        roundel join 127.0.0.1:8470 --partition 1/2 --token @token
        roundel join 127.0.0.1:8470 --allow birds:task
        roundel join 127.0.0.1:8470 --name north --data north.npz
        roundel join 127.0.0.1:8470 --flower quickstart-pytorch --partition 1/2
    """
    from roundel.core.addresses import host_and_port
    from roundel.core.certificates import check_node_name

    index, count = _share(partition, data)
    _check_apart(flower, data=data, allow=allow, node_config=node_config)
    host, port = host_and_port(address)
    name = name or socket.gethostname() + (f"-{index}of{count}" if data is None else "")
    check_node_name(name)
    state = state or node_states(host, port) / name

    from roundel.cli.progress import interruptible
    from roundel.client.grpc_enrol import Enrolling
    from roundel.client.grpc_node import Joining, run_node, unencrypted

    share = Share(address=address, index=index, count=count)
    if flower is not None:
        clients = _of_app(share, flower, node_config or [])
    else:
        clients = nullcontext(_of_experiment(share, data, allow or []))

    enrolling = Enrolling(
        address=address, name=name, state=state, token=_token(token), wait_s=wait, say=typer.echo
    )
    joining = Joining(
        address=address,
        name=name,
        state=state,
        wait_s=wait,
        identity=unencrypted if insecure else enrolling,
    )
    hint = f"join again with --name {name} to go on; what is finished is kept in {state}"
    with _terminable(), interruptible(lambda: hint), clients as prepare:
        run_node(joining, prepare, typer.echo)


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which clients of a run a node hosts.

    Attributes:
        address: Of the coordinator.
        index: Which share it is, from 1.
        count: Of how many.
    """

    address: str
    index: int
    count: int


def _of_experiment(share: Share, data: Path | None, allow: Sequence[str]) -> "Prepare":
    """Return what makes clients of an experiment."""
    import torch

    from roundel.client.journal import Journal
    from roundel.client.node import HostedClients, Node
    from roundel.core.configfile import parse_experiment
    from roundel.simulations.deployed import share_of
    from roundel.simulations.flowerapps.served.terms import app_terms, check_app
    from roundel.simulations.own_data import check_brings, own_share
    from roundel.simulations.prepare import prepare
    from roundel.simulations.registration import own_functions

    def clients(text: str, journal: Journal) -> HostedClients:
        check_app(app_terms(text), None, share.address)
        experiment = parse_experiment(json.loads(text))
        for function in own_functions(experiment):
            if function not in allow:
                raise ConfigError(
                    f"the coordinator's experiment names {function!r}, which would run code here; "
                    f"join with --allow {function} if it is yours"
                )
        torch.set_num_threads(experiment.engine.threads)
        check_brings(experiment, data)
        if data is not None:
            hosted = own_share(experiment, data)
        else:
            hosted = share_of(prepare(experiment, load_test=False), share.index, share.count)
        return Node(hosted, journal.state, journal.secret)

    return clients


def _of_app(share: Share, app: Path, settings: Sequence[str]) -> "AbstractContextManager[Prepare]":
    """Return what makes clients of a Flower app."""
    from roundel.core.flowerversion import installed, need_flower
    from roundel.simulations.flowerapps.project import node_settings, read_project

    need_flower(installed())
    read_project(app)  # before anything is dialled
    config = node_settings(settings)
    from roundel.simulations.flowerapps.served.hosting import Copy, hosting

    return hosting(
        Copy(
            app=app,
            address=share.address,
            index=share.index,
            count=share.count,
            node_config=config,
        )
    )


def _check_apart(
    flower: Path | None,
    *,
    data: Path | None,
    allow: Sequence[str] | None,
    node_config: Sequence[str] | None,
) -> None:
    """Refuse options for an app without one, and those of an experiment with one."""
    if flower is None and node_config:
        raise ConfigError(
            f"--node-config {node_config[0]} is for the clients of a Flower app; name its "
            "directory with --flower, or leave it out"
        )
    other = "--data" if data is not None else "--allow" if allow else ""
    if flower is not None and other:
        raise ConfigError(
            f"{other} is for an experiment, and --flower {flower} hosts clients of an app, which "
            "has its own code and data; leave one of them out"
        )


def _share(text: str, data: Path | None) -> tuple[int, int]:
    if data is not None and text != "1/1":
        raise ConfigError(
            f"--partition {text} is a share of clients whose examples are divided, and --data "
            f"{data} makes this node a client of its own; leave one of them out"
        )
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(
            f"--partition {text!r} is not a share; write I/N with I from 1 to N, such as 1/2"
        )
    return int(match[1]), int(match[2])


def _token(given: str | None) -> str | None:
    """Return a join token, which may stand in a file."""
    if given is None or not given.startswith("@"):
        return given
    try:
        with Path(given[1:]).open() as file:
            return file.read(_LONGEST_TOKEN)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the join token in {given[1:]}: "
            f"{getattr(error, 'strerror', None) or 'it is no text'}"
        ) from error


@contextmanager
def _terminable() -> Iterator[None]:
    """Let whoever asks the process to end interrupt it as a user would."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
