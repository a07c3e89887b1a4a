"""Who may call a coordinator: what `serve` is told about it."""

import shlex
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roundel.cli.options import default_authority

if TYPE_CHECKING:
    from roundel.server.grpc_security import Security

EnrolPort = Annotated[
    int | None,
    typer.Option(
        "--enrol-port",
        metavar="PORT",
        min=0,
        max=65535,
        help="Where nodes get their certificates; by default the port after that of --listen.",
        show_default=False,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="PATH",
        help="Write a join token there, good for an hour and 100 nodes, as soon as it is.",
        show_default=False,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Access:
    """Who may call.

    Attributes:
        insecure: Everybody, and everybody on the way may read along.
        authority: The authority's directory; None for this user's.
        enrolment_port: Where nodes enrol; None for the port after the federation's.
        token_file: Where to write a join token.
    """

    insecure: bool = False
    authority: Path | None = None
    enrolment_port: int | None = None
    token_file: Path | None = None

    @property
    def inviting(self) -> str:
        """What makes a join token of this authority."""
        command = ["roundel", "nodes", "token"]
        return shlex.join(
            command + (["--authority", str(self.authority)] if self.authority else [])
        )


@contextmanager
def secured(access: Access) -> Iterator["Security | None"]:
    """Yield what stands between the coordinator and its callers; None if nothing does.

    Raises:
        ConfigError: The authority's directory cannot be used.
    """
    if access.insecure:
        typer.echo(
            "roundel: --insecure: nothing is encrypted, and whoever reaches this address can join, "
            "take the name of a node and download the model",
            err=True,
        )
        yield None
        return
    from roundel.server.authority import Authority
    from roundel.server.clocks import SYSTEM
    from roundel.server.grpc_tls import Tls

    directory = access.authority or default_authority()
    if not directory.exists():
        typer.echo(f"roundel: making an authority for certificates in {directory}", err=True)
    with closing(Authority(directory, SYSTEM.utc())) as authority:
        yield Tls(authority, enrolment_port=access.enrolment_port, token_file=access.token_file)
