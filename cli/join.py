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
    name: Annotated[
        str | None,
        typer.Option(
            help="What this node calls itself; by default the host's name.", show_default=False
        ),
    ] = None,
) -> None:
    """Host clients for a coordinator and train them until the run is over.

    The node learns the experiment from the coordinator, makes its task and its clients' data
    itself, and dials out only. HOST:PORT is what `roundel serve` prints.

    For example:

        roundel join 127.0.0.1:8470 --partition 1/2
    """
    import torch

    from roundel.cli.progress import interruptible
    from roundel.client.grpc_node import run_node
    from roundel.client.node import Hosted
    from roundel.core.config import Experiment
    from roundel.simulations.deployed import share_of
    from roundel.simulations.prepare import prepare

    index, count = _share(partition)

    def hosted(experiment: Experiment) -> Hosted:
        torch.set_num_threads(experiment.engine.threads)
        return share_of(prepare(experiment), index, count)

    with interruptible(lambda: "its clients take part again once a node joins with the same share"):
        run_node(address, name or socket.gethostname(), hosted, typer.echo)


def _share(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(
            f"--partition {text!r} is not a share; write I/N with I from 1 to N, such as 1/2"
        )
    return int(match[1]), int(match[2])
