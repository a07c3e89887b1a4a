"""The pictures of a page, drawn or found in a run, each with words for those who do not see it."""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from roundel.reports.comparison import ComparisonReport
from roundel.reports.curves import (
    SEEDS_FOR_A_BAND,
    Strip,
    column_figure,
    comparison_strips,
    comparison_styles,
    rows_figure,
)
from roundel.reports.dots import differences_figure, spread_figure
from roundel.reports.heat import heat_figure
from roundel.reports.look import Style, styles, svg
from roundel.reports.run_report import RunReport, read_picture


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of a page.

    Attributes:
        svg: The document.
        narrow: The same for a narrow screen; empty for none.
        words: What it shows, for those who do not see it.
        caption: What stands below it.
    """

    svg: str
    words: str
    caption: str = ""
    narrow: str = ""

    @property
    def source(self) -> str:
        """The address that is the picture itself."""
        return _address(self.svg)

    @property
    def narrow_source(self) -> str:
        """The same for a narrow screen; empty for none."""
        return _address(self.narrow) if self.narrow else ""


def _address(document: str) -> str:
    return f"data:image/svg+xml;base64,{b64encode(document.encode()).decode()}"


@dataclass(frozen=True, kw_only=True)
class ComparisonPictures:
    """The pictures of a comparison's page, in the order of problems."""

    curves: tuple[Picture, ...]
    differences: tuple[Picture, ...]
    spreads: tuple[Picture, ...]
    partitions: tuple[Picture, ...]


@dataclass(frozen=True, kw_only=True)
class RunPictures:
    """The pictures of a page of runs; one of each kind a run, None where there is none."""

    curves: tuple[Picture, ...]
    heats: tuple[Picture | None, ...]
    partitions: tuple[Picture | None, ...]


def run_strips(runs: Sequence[RunReport]) -> list[Strip]:
    """Return the curves of all runs, metric by metric."""
    bands = [band for run in runs for band in run.bands]
    metrics = dict.fromkeys(band.metric for band in bands)
    return [
        Strip(title="", metric=metric, bands=tuple(b for b in bands if b.metric == metric))
        for metric in metrics
    ]


def comparison_pictures(report: ComparisonReport) -> ComparisonPictures:
    """Draw what the page of a comparison shows."""
    comparison, spec = report.comparison, report.comparison.report
    found = comparison_styles(report)
    baseline, metric = spec.baseline, spec.metrics[0]
    labels = [problem.label for problem in comparison.problems]
    rows = {label: [row for row in report.rows if row.problem == label] for label in labels}
    return ComparisonPictures(
        curves=tuple(_curves(strip, found) for strip in comparison_strips(report)),
        differences=tuple(
            _picture(
                figure,
                _on(
                    p,
                    f"How far each arm is from {baseline} in {metric}: small dots are seeds, the "
                    "mark above them is their mean, and the line its 95 % interval.",
                ),
            )
            for p in labels
            if (figure := differences_figure(rows[p], metric, baseline, found))
        ),
        spreads=tuple(
            _picture(
                figure,
                _on(
                    p,
                    "The model on the clients' own examples at the end: a line goes "
                    "from the 10th to the 90th of 100 clients, its mark is the median, and the "
                    "cross the mean of the worst tenth.",
                ),
            )
            for p in labels
            if (figure := spread_figure(rows[p], found))
        ),
        partitions=tuple(_partitions(report)),
    )


def _curves(strip: Strip, found: Mapping[str, Style]) -> Picture:
    drawn = (
        "mean over seeds, with its 95 % interval"
        if any(b.seeds >= SEEDS_FOR_A_BAND for b in strip.bands)
        else ""
    )
    across = "the dotted line is the target" if strip.target is not None else ""
    said = [strip.title, drawn, across]
    caption = f"{strip.metric}: {'; '.join(filter(None, said))}." if any(said) else ""
    words = f"Curves of {strip.metric} against rounds, bytes and time, {len(strip.bands)} lines"
    wide, narrow = rows_figure([strip], found), column_figure(strip, found)
    return Picture(svg=svg(wide, words), narrow=svg(narrow, words), words=words, caption=caption)


def _picture(figure: Figure, caption: str) -> Picture:
    return Picture(svg=svg(figure, caption), words=caption, caption=caption)


def _on(problem: str, words: str) -> str:
    return f"{problem}: {words}" if problem else words


def _partitions(report: ComparisonReport) -> list[Picture]:
    """Return the picture of each problem's first run that has one."""
    pictures = []
    for problem in report.comparison.problems:
        for cell in report.comparison.cells():
            if cell.problem.label != problem.label:
                continue
            if content := read_picture(report.path / cell.path):
                words = _on(
                    problem.label, f"Examples and classes of each client, with seed {cell.seed}"
                )
                pictures.append(_given(content, f"{words}; all arms have the same."))
                break
    return pictures


def _given(content: bytes, caption: str) -> Picture:
    svg_text = content.decode("utf-8", errors="replace")
    return Picture(svg=svg_text, words=caption, caption=caption)


def run_pictures(runs: Sequence[RunReport]) -> RunPictures:
    """Draw what a page of runs shows."""
    found = styles([run.label for run in runs])
    return RunPictures(
        curves=tuple(_curves(strip, found) for strip in run_strips(runs)),
        heats=tuple(
            _picture(
                heat_figure(run.heat),
                "Training loss of each client in each round that it "
                "was asked in; a cross is an update that did not count.",
            )
            if run.heat
            else None
            for run in runs
        ),
        partitions=tuple(_each_once([run.picture for run in runs])),
    )


def _each_once(documents: Sequence[bytes | None]) -> Iterator[Picture | None]:
    """Yield the picture of each run that has another one than the runs before it."""
    seen: set[bytes] = set()
    for content in documents:
        if content is None or content in seen:
            yield None
            continue
        seen.add(content)
        yield _given(content, "Examples and classes of each client.")
