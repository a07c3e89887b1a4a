"""``roundel tune``: find each strategy's best settings, with equal budgets."""

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roundel.cli.compare import Jobs, RunSettings, RunsJson, split

if TYPE_CHECKING:
    from rich.table import Table

    from roundel.simulations.tuning import Trial, Tuned

TRIALS = "trials.csv"
TUNED = "tuned.toml"


class Search(StrEnum):
    """How configurations are found."""

    random = "random"
    grid = "grid"
    optuna = "optuna"


def tune(
    arms: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STRATEGY]... [FILE.toml]",
            help="What is tuned: names, each with the values to try if it is quoted, such as "
            "`'fedprox mu=0.01,0.1 client.lr=0.1,0.2'`; and the file of an experiment.",
            show_default=False,
        ),
    ] = None,
    trials: Annotated[
        int, typer.Option("--trials", min=1, help="How many configurations each strategy tries.")
    ] = 8,
    search: Annotated[
        Search, typer.Option(help="How they are found; `optuna` needs that package.")
    ] = Search.random,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Rounds of each trial; by default those of the experiment.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds each trial has.")] = 1,
    settings: RunSettings = None,
    *,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="What is to be best on the clients' validation examples; by default accuracy.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Its directory; by default a new one under `runs/`. One that was begun by the "
            "same command goes on.",
            show_default=False,
        ),
    ] = None,
    jobs: Jobs = None,
    as_json: RunsJson = False,
) -> None:
    """Find the best settings of each strategy, with equal budgets.

    Each strategy tries the same number of configurations for the same number of rounds. The best
    one is that with the best figure on the clients' validation examples; no test example has a say.
    Learning rates are tuned for all, and what else matters for each: docs/compare.md lists it.

    It ends with a table, trials.csv, and tuned.toml, a comparison of the best of each strategy with
    seeds that no trial has seen: the command that runs it is the last line.

    For example:

        roundel tune fedavg fedprox --trials 8
        roundel tune scaffold fedadam --search grid --trials 12 --rounds 30 -s partition.alpha=0.1
        roundel tune 'fedavg client.lr=0.05,0.1,0.2' 'fedprox mu=0.01,0.1,1.0' --trials 3
    """
    from roundel.cli.comparing import watching_runs
    from roundel.cli.progress import interruptible
    from roundel.core.comparisonfile import (
        Said,
        dump_comparison,
        load_comparison,
        without_file,
    )
    from roundel.core.files import write_atomic
    from roundel.simulations.simulate import new_run_path
    from roundel.simulations.tune import tune as run
    from roundel.simulations.tuning import Tuning

    file, names = split(arms or ())
    said = Said(
        arms=names,
        settings=without_file(settings or ()) if file is None else tuple(settings or ()),
        metrics=[metric] if metric else [],
    )
    tuning = Tuning(
        comparison=load_comparison(file, said),
        trials=trials,
        search=search.value,
        rounds=rounds,
        seeds=seeds,
    )
    path = out or new_run_path("tuning")

    def hint() -> str:
        again = [] if out else ["--out", str(path)]
        command = shlex.join(["roundel", *sys.argv[1:], *again])
        return f"go on with `{command}`" if path.exists() else "nothing was run yet"

    with interruptible(hint), watching_runs(as_json=as_json) as view:
        tuned = run(tuning, out=path, workers=jobs, on_plan=view.begin, on_event=view.show)
    write_atomic(path / TRIALS, trials_csv(tuned).encode())
    write_atomic(path / TUNED, dump_comparison(tuned.comparison).encode())
    _conclude(tuned, path, as_json=as_json)


def trials_csv(tuned: "Tuned") -> str:
    """Return one line for each trial and seed, numbers to their last digit."""
    import csv
    import io

    from roundel.core.files import json_line

    metric, known = tuned.tuning.metric, _varied(tuned)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["strategy", "settings", "seed", f"validation {metric}", "best"])
    for trial in tuned.trials:
        for seed, score in trial.scores.items():
            value = "" if score is None else repr(score)
            writer.writerow(
                [trial.strategy, json_line(known[trial.arm.label]), seed, value, int(trial.best)]
            )
    return text.getvalue()


def _varied(tuned: "Tuned") -> dict[str, dict[str, Any]]:
    """Return by each trial's label its values of what was tuned."""
    from roundel.simulations.tuning import varied

    found: dict[str, dict[str, Any]] = {}
    for title in dict.fromkeys(trial.strategy for trial in tuned.trials):
        own = [trial for trial in tuned.trials if trial.strategy == title]
        keys = varied(own)
        found |= {t.arm.label: {key: t.arm.settings[key] for key in keys} for t in own}
    return found


def _conclude(tuned: "Tuned", path: Path, *, as_json: bool) -> None:
    from rich.console import Console

    console = Console(stderr=as_json)
    console.print(_table(tuned))
    for sentence in tuned.edges:
        typer.echo(f"note: {sentence}", err=as_json)
    seeds = tuned.comparison.seeds
    typer.echo(
        "selected on validation examples; compare the best of each with seeds that no trial has "
        f"seen ({seeds[0]} to {seeds[-1]}):\n    roundel compare {path / TUNED}",
        err=as_json,
    )


def _table(tuned: "Tuned") -> "Table":
    """Return the trials, the best of each strategy first and in bold."""
    from rich.table import Table
    from rich.text import Text

    from roundel.core.comparison import settings_text
    from roundel.core.goals import goal_of
    from roundel.reports.text import figure

    sign = -1.0 if goal_of(tuned.tuning.metric) == "max" else 1.0

    def worth(trial: "Trial") -> tuple[bool, float]:
        return trial.score is None, sign * (trial.score or 0.0)

    known = _varied(tuned)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("strategy")
    table.add_column("settings")
    table.add_column(f"validation {tuned.tuning.metric}", justify="right")
    for title in dict.fromkeys(trial.strategy for trial in tuned.trials):
        own = [trial for trial in tuned.trials if trial.strategy == title]
        for trial in sorted(own, key=lambda trial: (not trial.best, *worth(trial))):
            style = "bold" if trial.best else ""
            score = "failed" if trial.score is None else figure(trial.score)
            cells = [title if trial.best else "", settings_text(known[trial.arm.label]), score]
            table.add_row(*(Text(cell, style) for cell in cells))
    return table
