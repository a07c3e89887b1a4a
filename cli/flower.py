"""``roundel flower``: run Flower apps, and make them."""

from pathlib import Path
from typing import Annotated

import typer

from roundel.cli.apps import app_view, sum_up
from roundel.cli.options import AppClients, Out, Settings

app = typer.Typer(
    help="""Run Flower apps on our engines, unmodified, and our experiments on Flower's.

    For example:

        roundel flower run quickstart-pytorch --clients 100
        roundel flower export experiment.toml my-app
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
    clients: AppClients = None,
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
    from roundel.core.flowerversion import installed, need_flower
    from roundel.simulations.flowerapps.project import read_project

    need_flower(installed())
    project = read_project(path, settings or [])
    from roundel.simulations.flowerapps.run import Plan, default_workers, run_app
    from roundel.simulations.simulate import new_run_path

    number = clients or project.clients
    plan = Plan(
        project=project,
        clients=number,
        workers=min(workers, number) if workers else default_workers(number),
        seed=seed,
        out=out or new_run_path(project.name),
    )
    sum_up(plan.out, run_app(plan, app_view()))


@app.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE.toml", help="The experiment.")],
    path: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A new directory; the app's package is named after it."),
    ],
    settings: Settings = None,
) -> None:
    """Write an experiment as a Flower app, for `flwr run`.

    The app runs on Flower's simulation, on a SuperLink with SuperNodes, and by `roundel flower
    run`; all end with the parameters that `roundel simulate` gives. Its README.md says how.

    For example:

        roundel flower export experiment.toml my-app
        roundel flower export experiment.toml scaffold-app -s strategy.name=scaffold
    """
    from roundel.core.configfile import load_experiment
    from roundel.simulations.flowerapps.export import export_app

    for written in export_app(load_experiment(file, settings or []), path):
        typer.echo(written)
