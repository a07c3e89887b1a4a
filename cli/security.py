"""Who may call a coordinator: what `serve` is told about it."""

import shlex
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roundel.cli.options import default_authority
from roundel.core.errors import ConfigError
from roundel.core.runfiles import authority_of

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
    def directory(self) -> Path:
        """Where the authority is."""
        return self.authority or default_authority()

    @property
    def inviting(self) -> str:
        """What makes a join token of this authority."""
        command = ["roundel", "nodes", "token"]
        return shlex.join(
            command + (["--authority", str(self.authority)] if self.authority else [])
        )

    @property
    def remembered(self) -> Path | None:
        """What a run remembers of it: where the authority is, from whichever directory."""
        return None if self.insecure else self.directory.absolute()

    def as_before(self, run: Path) -> "Access":
        """Return this with the authority that a run began with, unless another is named.

        Raises:
            ConfigError: It is not there any more: nodes would not know another one.
        """
        before = None if self.insecure or self.authority else authority_of(run)
        if before is None or before == default_authority():
            return self
        if not before.exists():
            raise ConfigError(
                f"{run} began with the authority in {before}, which is not there; bring it back, "
                "or name where it is now with --authority"
            )
        return replace(self, authority=before)


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

    if not access.directory.exists():
        making = f"roundel: making an authority for certificates in {access.directory}"
        typer.echo(making, err=True)
    with closing(Authority(access.directory, SYSTEM.utc())) as authority:
        yield Tls(authority, enrolment_port=access.enrolment_port, token_file=access.token_file)
