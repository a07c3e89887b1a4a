"""A comparison as its files tell it: rows with intervals, differences, curves, and what is to note.

Everything here is read from ``comparison.toml`` and the run directories of the cells, so that what
is said about a comparison can be said again by whoever has its files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roundel.core.comparison import Comparison
from roundel.core.comparisonfile import command, read_comparison
from roundel.reports.arms import OF_CLIENTS, Row, make_rows
from roundel.reports.bands import Band, make_bands
from roundel.reports.cells import read_cell
from roundel.reports.fairness import notes
from roundel.reports.findings import findings


@dataclass(frozen=True, kw_only=True)
class ComparisonReport:
    """Everything that a table, a figure or a page says about a comparison.

    Attributes:
        path: Its directory.
        comparison: What was to be run.
        rows: Problem by problem, each with its arms in order.
        bands: Metric by metric, then as the rows.
        findings: What came out, in sentences: each arm against the baseline.
        notes: What a reader has to know before believing it, in sentences.
        environment: Of the first cell that has one.
        command: The line that makes the same comparison.
        cells: How many there are to be.
        finished: How many have finished.
    """

    path: Path
    comparison: Comparison
    rows: tuple[Row, ...]
    bands: tuple[Band, ...]
    findings: tuple[str, ...]
    notes: tuple[str, ...]
    environment: Mapping[str, Any]
    command: str
    cells: int
    finished: int


def read_report(directory: Path) -> ComparisonReport:
    """Read a comparison, finished or not.

    Args:
        directory: Holds ``comparison.toml`` and ``cells/``.

    Raises:
        RunDirectoryError: It holds no comparison.
    """
    comparison = read_comparison(directory)
    spec = comparison.report
    series = [*spec.metrics, *spec.targets, *OF_CLIENTS.values()]
    runs = [read_cell(directory, cell, series, spec.tail) for cell in comparison.cells()]
    rows = make_rows(comparison, runs)
    return ComparisonReport(
        path=directory,
        comparison=comparison,
        rows=rows,
        bands=make_bands(comparison, runs),
        findings=findings(comparison, rows),
        notes=notes(comparison, runs, rows),
        environment=next((run.environment for run in runs if run.environment), {}),
        command=command(comparison),
        cells=len(runs),
        finished=sum(run.state == "finished" for run in runs),
    )
