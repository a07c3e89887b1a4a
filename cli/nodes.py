"""``roundel nodes``: operate a federation."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from click import Context
from typer.core import TyperGroup

from roundel.cli.options import AuthorityDirectory, default_authority

if TYPE_CHECKING:
    from roundel.client.grpc_operate import Operator

_WIDEST = 120
_EVERY_NODE = 1_000_000


class _ListByDefault(TyperGroup):
    """A group whose first command may be left out."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_ListByDefault,
    help="""Operate a federation: see its nodes, let new ones in, send others away.

    It is done through the coordinator, with the operator's certificate; a coordinator that runs
    with --insecure obeys its own machine only. A machine elsewhere needs ca.pem, operator.pem and
    operator.key of the authority's directory.

    For example:

        roundel nodes
        roundel nodes token --hours 2 --uses 3
        roundel nodes drain edge7
        roundel nodes revoke edge7 --reason "lost on a train"
    """,
    no_args_is_help=False,
    add_completion=False,
    suggest_commands=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
)

Coordinator = Annotated[
    str, typer.Option(metavar="HOST:PORT", help="Where `roundel serve` listens.")
]
Insecure = Annotated[
    bool, typer.Option("--insecure", help="The coordinator runs without certificates.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the node.")]
HERE = "127.0.0.1:8470"


@app.command("list")
def list_nodes(
    coordinator: Coordinator = HERE,
    authority: AuthorityDirectory = None,
    insecure: Insecure = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, and nothing else.")
    ] = False,
) -> None:
    """Show what the federation does, and each of its nodes.

    For example:

        roundel nodes list
        roundel nodes list --json > nodes.json
    """
    from roundel.reports.federation import federation_lines

    with _operating(coordinator, authority, insecure=insecure) as operator:
        snapshot = operator.status()
    if as_json:
        print(snapshot.to_json())
        return
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    for line in federation_lines(snapshot, width=width, height=_EVERY_NODE):
        typer.echo(line.text)


@app.command()
def drain(
    name: Name,
    coordinator: Coordinator = HERE,
    authority: AuthorityDirectory = None,
    insecure: Insecure = False,
) -> None:
    """Give a node no more work, and let it go when it has done what it has.

    It may join again.

    For example:

        roundel nodes drain edge7
    """
    with _operating(coordinator, authority, insecure=insecure) as operator:
        typer.echo(operator.drain(name))


@app.command()
def revoke(
    name: Name,
    reason: Annotated[str, typer.Option(help="Why, for the audit trail.")] = "",
    coordinator: Coordinator = HERE,
    authority: AuthorityDirectory = None,
    insecure: Insecure = False,
) -> None:
    """Never again accept a node's certificates.

    Its next call is refused, and what it is sending. The name is free again: a node that has a join
    token may enrol under it, with another key. If the token that the revoked one came with has uses
    left, the answer says so.

    For example:

        roundel nodes revoke edge7 --reason "lost on a train"
    """
    with _operating(coordinator, authority, insecure=insecure) as operator:
        typer.echo(operator.revoke(name, reason))


@app.command()
def token(
    hours: Annotated[
        float, typer.Option(metavar="H", min=0.01, max=720.0, help="How long it is good.")
    ] = 1.0,
    uses: Annotated[
        int, typer.Option(metavar="N", min=1, max=100_000, help="For how many nodes.")
    ] = 1,
    coordinator: Coordinator = HERE,
    authority: AuthorityDirectory = None,
    insecure: Insecure = False,
) -> None:
    """Make a join token, which a node needs the first time.

    The token alone is printed to stdout; what it is called, to stderr. Whoever has it can enrol a
    node: pass it on in private.

    For example:

        roundel nodes token
        (umask 077; roundel nodes token --hours 24 --uses 10 > token)
    """
    with _operating(coordinator, authority, insecure=insecure) as operator:
        text, token_id = operator.issue_token(seconds=3600.0 * hours, uses=uses)
    typer.echo(
        f"token {token_id}: take it back by `roundel nodes revoke-token {token_id}`", err=True
    )
    print(text)


@app.command("revoke-token")
def revoke_token(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="What the token is called.")],
    coordinator: Coordinator = HERE,
    authority: AuthorityDirectory = None,
    insecure: Insecure = False,
) -> None:
    """Let nobody enrol with a join token any more; who has, stays.

    For example:

        roundel nodes revoke-token 5f3a09c1
    """
    with _operating(coordinator, authority, insecure=insecure) as operator:
        typer.echo(operator.revoke_token(token_id))


@contextmanager
def _operating(coordinator: str, authority: Path | None, *, insecure: bool) -> Iterator["Operator"]:
    from roundel.client.grpc_operate import operating
    from roundel.core.addresses import host_and_port
    from roundel.server.authority_files import read_operator

    host_and_port(coordinator)
    identity = None if insecure else read_operator(authority or default_authority())
    with operating(coordinator, identity) as operator:
        yield operator
