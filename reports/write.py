"""Write the files of a report: everything is read from directories, and each file appears whole."""

from collections.abc import Sequence
from pathlib import Path

from roundel.core.errors import ConfigError
from roundel.core.files import write_atomic, writing
from roundel.reports.comparison import ComparisonReport, read_report
from roundel.reports.curves import comparison_figure, comparison_strips, strips_figure
from roundel.reports.look import save, styles
from roundel.reports.page import comparison_page, run_page
from roundel.reports.pictures import comparison_pictures, run_pictures, run_strips
from roundel.reports.run_report import read_runs
from roundel.reports.tables import csv_text, latex, markdown

PAGE = "report.html"
CURVES = "curves"


def write_comparison(directory: Path, out: Path | None = None) -> ComparisonReport:
    """Write tables, figures and the page of a comparison, from its files alone.

    Args:
        directory: The comparison's, finished or not.
        out: Where to write; by default there.

    Returns:
        What was read.

    Raises:
        RunDirectoryError: There is no comparison, or a file cannot be written.
    """
    report = read_report(directory)
    place = _made(out or directory)
    tables = {"table.csv": csv_text, "table.md": markdown, "table.tex": latex}
    for name, text in tables.items():
        write_atomic(place / name, text(report).encode())
    if comparison_strips(report):
        save(comparison_figure(report), place / CURVES)
    page = comparison_page(report, comparison_pictures(report))
    write_atomic(place / PAGE, page.encode())
    return report


def write_runs(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Write figures and a page of runs, finished or not.

    Args:
        paths: At least one.
        out: Where to write; by default into the directory of the run, if it is the only one.

    Returns:
        The page.

    Raises:
        ConfigError: There are several runs and no place.
        RunDirectoryError: One of them is no run, or a file cannot be written.
    """
    if out is None and len(paths) > 1:
        raise ConfigError(
            f"{len(paths)} runs make one report, which belongs to none of them; say where it goes "
            "with --out DIR"
        )
    runs = read_runs(paths)
    place = _made(out or paths[0])
    if strips := run_strips(runs):
        save(strips_figure(strips, styles([run.label for run in runs])), place / CURVES)
    write_atomic(place / PAGE, run_page(runs, run_pictures(runs)).encode())
    return place / PAGE


def _made(place: Path) -> Path:
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
    return place
