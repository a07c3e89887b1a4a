"""A comparison is read from its files alone, and finds what is known to be there."""

from pathlib import Path

import pytest

from roundel.core.comparison import Comparison
from roundel.core.comparisonfile import FILE, dump_comparison
from roundel.core.errors import RunDirectoryError
from roundel.reports.comparison import read_report
from roundel.reports.tables import csv_text
from roundel.simulations.simulate import simulate
from tests.reports.made_cells import comparison
from tests.reports.made_runs import make_run, record


def written(directory: Path, comparison: Comparison) -> Comparison:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / FILE).write_text(dump_comparison(comparison))
    return comparison


def simulated(directory: Path, comparison: Comparison) -> None:
    written(directory, comparison)
    for cell in comparison.cells():
        simulate(comparison.experiment(cell), out=directory / cell.path)


def test_a_report_is_made_of_the_files(tmp_path: Path) -> None:
    made = written(tmp_path, comparison("fedavg", "fedprox", seeds="2", targets=["accuracy=0.2"]))
    for cell in list(made.cells())[:3]:
        end = 0.5 + cell.seed / 10
        make_run(tmp_path / cell.path, record(1), record(2, metrics={"loss": 1, "accuracy": end}))
    report = read_report(tmp_path)
    assert (report.cells, report.finished, report.comparison) == (4, 3, made)
    fedavg, fedprox = report.rows
    assert fedavg.finals["accuracy"] == {0: 0.5, 1: 0.6}
    assert (fedprox.seeds, fedprox.unfinished) == (1, (1,))
    assert (fedavg.targets[0].rounds, fedavg.targets[0].of) == (2.0, 2)
    assert [band.arm for band in report.bands] == ["fedavg", "fedprox"]
    assert report.environment["torch"] == "2.13.0"
    assert report.command.startswith("roundel compare fedavg fedprox --seeds 2")
    assert report.notes[0].startswith("1 of 4 runs have not finished")
    assert report.findings[0].startswith("fedprox differs from fedavg")


def test_what_has_no_comparison_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="is not the directory of a comparison"):
        read_report(tmp_path)


@pytest.mark.slow
def test_a_known_winner_is_found_and_a_strategy_does_not_differ_from_itself(tmp_path: Path) -> None:
    """One class a client and all clients each round: where SCAFFOLD's correction is meant for."""
    simulated(
        tmp_path,
        comparison(
            "fedavg",
            "scaffold",
            "fedavg label=again",
            seeds="5",
            settings=[
                *("rounds=8", "client.epochs=2", "cohort.size=10", "evaluation.clients=0"),
                *("partition.kind=classes", "partition.classes=1", "partition.clients=10"),
            ],
        ),
    )
    report = read_report(tmp_path)
    winner, again = report.findings[:2]
    assert winner.startswith("scaffold is better than fedavg by 0.")
    assert again == "again and fedavg have the same accuracy with each seed"
    versus = report.rows[2].versus["accuracy"]
    assert versus is not None
    assert versus.paired.p == 1.0
    assert versus.paired.resampled == (0.0, 0.0)
    assert report.notes == (
        (
            "with the same seed all arms had the same partition, first model, cohorts, dropouts "
            "and local steps, as their files show"
        ),
    )


def test_all_but_seconds_is_the_same_when_it_is_made_again(tmp_path: Path) -> None:
    small = comparison("fedavg", "fedper", seeds="2", settings=["rounds=2", "partition.clients=12"])
    tables = []
    for name in ("a", "b"):
        simulated(tmp_path / name, small)
        head, *rows = csv_text(read_report(tmp_path / name)).splitlines()
        kept = [at for at, column in enumerate(head.split(",")) if "seconds" not in column]
        tables.append([[row.split(",")[at] for at in kept] for row in rows])
    assert tables[0] == tables[1]
