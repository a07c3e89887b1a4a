"""``roundel audit``: what has happened to a federation, and whether that can be believed."""

from pathlib import Path
from typing import Annotated

import typer

from roundel.cli.options import AuthorityDirectory, default_authority

app = typer.Typer(
    help="""Check the audit trail of a federation.

    The authority's directory has it, as audit.jsonl: who enrolled, was refused, renewed, revoked or
    drained, and which runs there were. Each line holds the digest of the one before it.

    For example:

        roundel audit verify
    """,
    no_args_is_help=False,
    add_completion=False,
    suggest_commands=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
)


@app.callback()
def audit() -> None:
    """Make ``verify`` a command of its own, though it is the only one."""


@app.command()
def verify(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="The audit trail.", show_default=False),
    ] = None,
    authority: AuthorityDirectory = None,
) -> None:
    """Say whether an audit trail is as it was written, or which line is not.

    Lines that are missing at its end leave no trace in it. So keep the digest that is printed
    somewhere else: if the trail has only grown since, one of its lines says that it follows it.

    For example:

        roundel audit verify
        roundel audit verify audit.jsonl
    """
    from roundel.core.audit import verify as verify_file

    path = file or (authority or default_authority()) / "audit.jsonl"
    found = verify_file(path)
    if found.problem:
        typer.echo(f"{path}: line {found.lines + 1} {found.problem}")
        raise typer.Exit(1)
    lines = "1 line" if found.lines == 1 else f"{found.lines} lines"
    typer.echo(f"{path}: {lines}, as they were written; the digest of the last is {found.digest}")
