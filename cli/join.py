"""``roundel join``: host clients for a coordinator."""

import re
import socket
from typing import Annotated

import typer

from roundel.core.errors import ConfigError


def join(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="The coordinator.")],
    partition: Annotated[
        str, typer.Option(metavar="I/N", help="Host the I-th of N shares of the clients.")
    ] = "1/1",
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
            help="What this node calls itself; by default the host's name.", show_default=False
        ),
    ] = None,
) -> None:
    """Host clients for a coordinator and train them until the run is over.

    The node learns the experiment from the coordinator, makes its task and its clients' data
    itself, and dials out only. HOST:PORT is what `roundel serve` prints. Code of your own runs here
    only if you allow it by name.

    For example:

        roundel join 127.0.0.1:8470 --partition 1/2
        roundel join 127.0.0.1:8470 --allow birds:task
    """
    import torch

    from roundel.cli.progress import interruptible
    from roundel.client.grpc_node import run_node
    from roundel.client.node import Hosted
    from roundel.core.config import Experiment
    from roundel.simulations.deployed import own_functions, share_of
    from roundel.simulations.prepare import prepare

    index, count = _share(partition)

    def hosted(experiment: Experiment) -> Hosted:
        for function in own_functions(experiment):
            if function not in (allow or ()):
                raise ConfigError(
                    f"the coordinator's experiment names {function!r}, which would run code here; "
                    f"join with --allow {function} if it is yours"
                )
        torch.set_num_threads(experiment.engine.threads)
        return share_of(prepare(experiment, load_test=False), index, count)

    with interruptible(lambda: "its clients take part again once a node joins with the same share"):
        run_node(address, name or socket.gethostname(), hosted, typer.echo)


def _share(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(
            f"--partition {text!r} is not a share; write I/N with I from 1 to N, such as 1/2"
        )
    return int(match[1]), int(match[2])
