"""The `roundel` command: finds the verb, runs it, and turns errors into a sentence and a code.

0    the run finished
1    a run failed: too few clients answered, or recomputed rounds disagreed; for `diff`: the two
     runs have other parameters; for `check`: the strategy breaks a law; for `doctor`: something is
     in the way
2    bad input: a key, a file, a directory
130  interrupted; the message says how to go on
"""

import os
import sys
from importlib import metadata
from io import TextIOWrapper
from typing import Annotated

import typer
from click import ClickException
from click.exceptions import Abort, UsageError

from roundel.cli import (
    audit,
    check,
    compare,
    diff,
    doctor,
    export,
    flower,
    join,
    landscape,
    new,
    nodes,
    predict,
    replay,
    report,
    resume,
    runs,
    serve,
    show,
    simulate,
    strategies,
    tasks,
    tune,
)
from roundel.core.errors import RoundelError

app = typer.Typer(
    name="roundel",
    help="Federated learning: simulate it, deploy it, compare strategies.",
    epilog="Start with `roundel simulate`: 100 clients learn the UCI digits. "
    "Every verb explains itself: `roundel simulate --help`.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    suggest_commands=False,  # click does it
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
)
_run = app.command(rich_help_panel="Run")
_run(simulate.simulate)
_run(resume.resume)
app.add_typer(flower.app, name="flower", rich_help_panel="Run")
_compare = app.command(rich_help_panel="Compare")
_compare(compare.compare)
_compare(tune.tune)
_compare(report.report)
_compare(export.export)
_compare(landscape.landscape)
_look = app.command(rich_help_panel="Look")
_look(runs.runs)
_look(show.show)
_look(diff.diff)
_look(predict.predict)
_look(replay.replay)
_learn = app.command(rich_help_panel="Learn")
_learn(strategies.strategies)
_learn(tasks.tasks)
_learn(check.check)
_learn(new.new)
_deploy = app.command(rich_help_panel="Deploy")
_deploy(serve.serve)
_deploy(join.join)
_deploy(doctor.doctor)
app.add_typer(nodes.app, name="nodes", rich_help_panel="Deploy")
app.add_typer(audit.app, name="audit", rich_help_panel="Deploy")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(metadata.version("roundel"))
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback does the work
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Take the options that stand before the verb; without one, show the help."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def main() -> None:
    """Run the command line and exit."""
    # Else gRPC notes on the terminal whatever knocks at a port with a handshake that fails.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # Torch asks for large pages: new memory for a large tensor takes half of the time.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # curves and pictures are not in every encoding
    try:
        code = app(standalone_mode=False)
    except RoundelError as error:
        typer.echo(f"roundel: {error}", err=True)
        code = error.exit_code
    except ClickException as error:
        typer.echo(f"roundel: {_sentence(error)}", err=True)
        code = error.exit_code
    except (Abort, KeyboardInterrupt):
        typer.echo("roundel: interrupted", err=True)
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


def _sentence(error: ClickException) -> str:
    """Say what is wrong with the command line, and where to read on."""
    message = " ".join(error.format_message().split()).rstrip(".")
    if isinstance(error, UsageError) and error.ctx is not None:
        return f"{message} (see `{error.ctx.command_path} --help`)"
    return message
