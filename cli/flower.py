"""``roundel flower``: run Flower apps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from roundel.cli.options import Out

app = typer.Typer(
    help="""Run Flower apps on our engines, unmodified.

    For example:

        roundel flower run quickstart-pytorch --clients 100
    """,
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@app.callback()
def flower() -> None:
    """Group the verbs about Flower."""


@app.command()
def run(
    path: Annotated[
        Path, typer.Argument(metavar="APP", help="The app's directory, with its pyproject.toml.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            metavar="KEY=VALUE",
            help="Set any key of the app's run config, such as `-s num-server-rounds=5`. "
            "Repeatable.",
            show_default=False,
        ),
    ] = None,
    *,
    clients: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many clients there are; by default as many as the app says, or 10.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many processes play the clients; by default one for each core. With 1 they "
            "run in this process, so that breakpoints work. The result is the same.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="What everything that is drawn comes from.")] = 1,
    out: Out = None,
) -> None:
    """Run a Flower app with simulated clients: without Ray, a daemon or a network.

    Its ServerApp runs in this process, its ClientApp in processes forked from it. Ids, samples and
    the order of replies come from the seed.

    For example:

        roundel flower run quickstart-pytorch
        roundel flower run quickstart-pytorch --clients 100 -s num-server-rounds=5
        roundel flower run quickstart-pytorch --workers 1 --out runs/debug
    """
    from roundel.simulations.flowerapps.project import read_project
    from roundel.simulations.flowerapps.version import installed, need_flower

    need_flower(installed())
    project = read_project(path, settings or [])
    from roundel.simulations.flowerapps.run import Plan, View, default_workers, run_app
    from roundel.simulations.simulate import new_run_path

    number = clients or project.clients
    plan = Plan(
        project=project,
        clients=number,
        workers=min(workers, number) if workers else default_workers(number),
        seed=seed,
        out=out or new_run_path(project.name),
    )
    outcome = run_app(plan, View(show=_show, warn=_warn))
    failed = f", {outcome.failures} messages without a reply" if outcome.failures else ""
    typer.echo(f"{plan.out}: {outcome.rounds} rounds{failed}")
    if outcome.arrays:
        typer.echo(f"model.safetensors holds {outcome.source}")


def _show(line: Mapping[str, Any]) -> None:
    sides = [_side(kind, side) for kind, side in line.items() if isinstance(side, Mapping)]
    typer.echo(f"round {line['round']}  {'; '.join(sides)}  {line['seconds']:.2f} s")


def _side(kind: str, side: Mapping[str, Any]) -> str:
    figures = "".join(
        f"  {name} {value:.4g}"
        for name, value in side["metrics"].items()
        if name not in ("num-examples", "num_examples")
    )
    return f"{kind}: {side['replies']} of {side['messages']} replied{figures}"


def _warn(text: str) -> None:
    typer.echo(text, err=True)
