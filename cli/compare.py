"""``roundel compare``: several strategies with the same seeds, side by side."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from roundel.cli.comparing import View
    from roundel.core.comparison import Comparison
    from roundel.core.comparisonfile import Said
    from roundel.simulations.compare import Shard

TARGET = ("accuracy=0.9",)
"""What is to be reached where nothing is said at all."""

_SHARD = re.compile(r"(\d+)/(\d+)", re.ASCII)

Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        min=1,
        max=1024,
        help="How many runs are computed at once; by default one for each core. With 1 all run in "
        "this process. The result is the same.",
        show_default=False,
    ),
]
RunSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Set any key for all runs, such as `-s rounds=100`. Repeatable.",
        show_default=False,
    ),
]
RunsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object a run, and nothing else.")
]
ShardOf = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Compute the I-th of N parts, on one of N machines that share --out.",
        show_default=False,
    ),
]


def compare(
    arms: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STRATEGY]... [FILE.toml]",
            help="What is compared: names, each with its knobs if it is quoted, such as "
            "`'fedprox mu=0.01,0.1'`; and the file of an experiment or a comparison.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            "--seeds", metavar="N", help="How many seeds, or which: `5` or `0,1,7`. By default 3."
        ),
    ] = None,
    settings: RunSettings = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            "--grid",
            metavar="KEY=V1,V2",
            help="Repeat everything for each value, such as `--grid partition.alpha=0.1,1.0`.",
            show_default=False,
        ),
    ] = None,
    *,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="ARM", help="What the others are compared to; by default the first."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="KEY",
            help="What is reported, the most important first; by default accuracy. Repeatable.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="METRIC=VALUE",
            help="Report after how many rounds, bytes and seconds it is reached. Repeatable.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Its directory; by default a new one under `runs/`. One that was begun goes on.",
            show_default=False,
        ),
    ] = None,
    jobs: Jobs = None,
    shard: ShardOf = None,
    as_json: RunsJson = False,
) -> None:
    """Compare strategies over several seeds, and report what is found.

    Without arguments: fedavg, fedprox, scaffold and fedadam on the UCI digits, whose classes are
    spread unevenly over 100 clients, with three seeds.

    With the same seed all of them start from the same model, on the same partition, with the same
    cohorts, so that only what is compared differs. It ends with a table, figures and report.html in
    the directory. What was interrupted goes on with `roundel compare --out DIR`.

    For example:

        roundel compare
        roundel compare fedavg 'fedprox mu=0.01,0.1' --seeds 5 -s rounds=30
        roundel compare fedavg scaffold --grid partition.alpha=0.1,1.0 --target accuracy=0.9
        roundel compare comparison.toml --out runs/mine --shard 3/8
    """
    from roundel.cli.comparing import watching_runs
    from roundel.cli.extras import need_report
    from roundel.cli.progress import interruptible
    from roundel.core.comparisonfile import FILE, Said
    from roundel.simulations.simulate import new_run_path

    need_report("roundel compare")
    file, names = split(arms or ())
    said = Said(
        arms=names,
        settings=tuple(settings or ()),
        grid=tuple(grid or ()),
        seeds=seeds,
        baseline=baseline,
        metrics=tuple(metric or ()),
        targets=tuple(target or ()),
    )
    part = shard_of(shard)
    comparison = _said(file, said, out)
    path = out or new_run_path(comparison.name)

    def hint() -> str:
        begun = (path / FILE).exists()
        return f"go on with `{_again(path, shard)}`" if begun else "nothing was run yet"

    with interruptible(hint), watching_runs(as_json=as_json) as view:
        failed = _run(comparison, path, jobs, part, view)
    _conclude(path, as_json=as_json)
    raise typer.Exit(1 if failed else 0)


def shard_of(text: str | None) -> "Shard":
    """Read which part is meant; all if none is.

    Raises:
        ConfigError: It is not of the form I/N.
    """
    from roundel.core.errors import ConfigError
    from roundel.simulations.compare import Shard

    if text is None:
        return Shard()
    found = _SHARD.fullmatch(text)
    if found is None:
        raise ConfigError(f"--shard {text!r} is no part; write which of how many, as in 3/8")
    return Shard(number=int(found[1]), of=int(found[2]))


def split(arguments: Sequence[str]) -> tuple[Path | None, tuple[str, ...]]:
    """Separate the file from the arms.

    Raises:
        ConfigError: There are two files, or a knob has lost its strategy.
    """
    from roundel.core.errors import ConfigError

    files = [Path(text) for text in arguments if _is_file(text)]
    if len(files) > 1:
        raise ConfigError(
            f"{files[0]} and {files[1]} are two files, and one is read; leave one out"
        )
    names = tuple(text for text in arguments if not _is_file(text))
    for name, knob in pairwise(names):
        if re.fullmatch(r"[\w.]+=\S*", knob):
            raise ConfigError(
                f"{knob!r} is no strategy; to set a knob of {name}, quote both: '{name} {knob}'"
            )
    return files[0] if files else None, names


def _is_file(text: str) -> bool:
    """Tell a file from an arm, whose last setting may end like one."""
    return text.endswith(".toml") and re.search(r"\s[\w.+-]+=", text) is None


def _said(file: Path | None, said: "Said", out: Path | None) -> "Comparison":
    """Return the comparison that is asked for: if nothing is said, the one that was begun."""
    from dataclasses import replace

    from roundel.core.comparisonfile import (
        FILE,
        Said,
        load_comparison,
        read_comparison,
        without_file,
    )

    if file is None and said == Said() and out is not None and (out / FILE).exists():
        return read_comparison(out)
    if said == Said() and file is None:
        said = replace(said, targets=TARGET)
    if file is None:
        said = replace(said, settings=without_file(said.settings))
    return load_comparison(file, said)


def _again(path: Path, shard: str | None) -> str:
    return f"roundel compare --out {path}" + (f" --shard {shard}" if shard else "")


def _run(
    comparison: "Comparison", path: Path, jobs: int | None, shard: "Shard", view: "View"
) -> int:
    """Run it; return how many runs have failed."""
    from roundel.simulations.cells import Event, RunEnded
    from roundel.simulations.compare import compare as run

    failed = 0

    def show(event: Event) -> None:
        nonlocal failed
        failed += isinstance(event, RunEnded) and event.status == "failed"
        view.show(event)

    run(comparison, out=path, workers=jobs, shard=shard, on_plan=view.begin, on_event=show)
    return failed


def _conclude(path: Path, *, as_json: bool) -> None:
    """Write the report, once all runs have ended, and show its table."""
    from rich.console import Console

    from roundel.reports.tables import terminal
    from roundel.reports.write import write_comparison
    from roundel.simulations.compare import still_to_run

    if left := still_to_run(path):
        what = "1 run is" if left == 1 else f"{left} runs are"
        typer.echo(f"{what} left to other processes; then `roundel report {path}`", err=as_json)
        return
    report = write_comparison(path)
    typer.echo(err=as_json)
    Console(stderr=as_json).print(terminal(report))
    typer.echo(f"results are in {path}; open {path / 'report.html'}", err=as_json)
