"""``roundel landscape``: the loss around the models of runs, and how they got there."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from roundel.core.landscape import Landscape, View
    from roundel.simulations.landscape import Source


def landscape(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Run directories; that of a comparison stands for its arms with the first seed.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the files go.")] = Path(
        "landscape"
    ),
    round: Annotated[
        int | None,
        typer.Option(
            "--round",
            "-r",
            min=1,
            metavar="R",
            help="Draw what there was after this round; by default after the last one.",
            show_default=False,
        ),
    ] = None,
    grid: Annotated[int, typer.Option(min=3, max=999, help="Points along each direction.")] = 25,
) -> None:
    """Draw the loss around the global model, the path to it, and its clients.

    Two planes go through the model: one along the path of the rounds, one along what the clients of
    the last round made of the model. Runs that are given together share planes, axes and colours.
    Each run is computed again in memory, and every hash is compared; its directory stays as it is.

    It writes landscape.png, landscape.pdf and, with all numbers, landscape.npz.

    For example:

        roundel landscape runs/first
        roundel landscape runs/fedavg runs/scaffold --out drift --round 5
    """
    from roundel.cli.extras import need_report
    from roundel.core.files import writing
    from roundel.simulations.landscape import landscape as computed

    need_report("roundel landscape")
    sources = _sources(runs)
    with _told() as tell:
        found = computed(sources, round=round, grid=grid, tell=tell)
    from roundel.reports.landscape import STEM, write_landscape

    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    write_landscape(found, out)
    typer.echo(f"{_shares(found)}; {out / STEM}.png, .pdf and .npz")


def _sources(paths: Sequence[Path]) -> "list[Source]":
    """Return what to draw, and what to call it.

    Raises:
        ConfigError: The runs of a comparison that are to be drawn have not begun.
        RunDirectoryError: A directory is a comparison's and damaged.
    """
    from roundel.core.comparisonfile import FILE
    from roundel.simulations.landscape import Source

    sources: list[Source] = []
    for path in paths:
        if (path / FILE).is_file():
            sources += _of_comparison(path)
        else:
            sources.append(Source(path=path, label=path.resolve().name))
    return sources


def _of_comparison(path: Path) -> "Iterator[Source]":
    from roundel.core.comparisonfile import read_comparison
    from roundel.core.errors import ConfigError
    from roundel.core.runfiles import is_run
    from roundel.simulations.landscape import Source

    comparison = read_comparison(path)
    seed = comparison.seeds[0]
    cells = [cell for cell in comparison.cells() if cell.seed == seed and is_run(path / cell.path)]
    if not cells:
        raise ConfigError(
            f"no run of {path} with seed {seed} has begun; compute them with `roundel compare "
            f"--out {path}`"
        )
    for cell in cells:
        words = filter(None, (cell.problem.label, cell.arm.label))
        yield Source(path=path / cell.path, label=", ".join(words))


@contextmanager
def _told() -> Iterator[Callable[[str, int, int], None]]:
    """Yield what shows how far it is, if anybody is looking."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        tasks = {}

        def tell(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=of)
            progress.update(tasks[what], completed=done)

        yield tell


def _shares(found: "Landscape") -> str:
    said = f"the plane holds {_percent(found.paths)} of the variance of the paths"
    if found.clients is None:
        return said
    return f"{said}, the other one {_percent(found.clients)} of that of the clients' steps"


def _percent(view: "View") -> str:
    return f"{100 * view.share:.0f} %"
