"""A comparison in tables: for a terminal, a spreadsheet, a README and a paper.

A figure is a mean over seeds with its 95 % interval, ``0.912 [0.901, 0.923]``. One is bold only if
its arm is shown to be better than each of the others, by intervals that hold for all pairs at once.
"""

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from roundel.reports.arms import OF_CLIENTS, Row, ToTarget
from roundel.reports.comparison import ComparisonReport
from roundel.reports.interval_text import decimal, p_text, places, with_interval
from roundel.reports.statistics import Interval
from roundel.reports.summary import byte_count
from roundel.reports.text import NONE, short

_ARM = "arm"
_OF_SHARES = 3
_WHOLE_SECONDS = 100.0
_MOST_OF_A_HEADING, _LEAST_OF_LABELS = 26, 8

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table in words, whatever it is written for.

    Attributes:
        problem: Label of the problem; empty if there is only one.
        title: What the table shows.
        head: Of each column; the first one names arms.
        rows: The cells of each row.
        bold: Rows whose second cell is shown to be the best.
    """

    problem: str
    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bold: frozenset[int] = frozenset()

    @property
    def caption(self) -> str:
        """The title with the problem before it."""
        return f"{self.problem}: {self.title}" if self.problem else self.title


def sheets(report: ComparisonReport) -> Iterator[Sheet]:
    """Yield the tables of a comparison, problem by problem.

    One a metric, then what it cost, then one a target, then the clients if they were measured.
    """
    spec = report.comparison.report
    for problem in report.comparison.problems:
        rows = [row for row in report.rows if row.problem == problem.label]
        for metric in spec.metrics:
            yield _figures(report, rows, metric)
        yield _costs(rows)
        for place in range(len(spec.targets)):
            yield _targets(rows, place)
        if any(row.spread for row in rows):
            yield _clients(rows)


def _figures(report: ComparisonReport, rows: Sequence[Row], metric: str) -> Sheet:
    spec = report.comparison.report
    differences = [_difference(row, metric) for row in rows]
    digits = places(row.figures[metric] for row in rows), places(differences)
    holm = [found.holm if (found := row.versus[metric]) else None for row in rows]
    compared, tested = len(rows) > 1, any(p is not None for p in holm)
    head = [_ARM, metric]
    head += [f"difference from {spec.baseline}"] if compared else []
    head += ["Holm p"] if tested else []
    cells = []
    for row, difference, p in zip(rows, differences, holm, strict=True):
        line = [row.arm, with_interval(row.figures[metric], digits[0])]
        shown = with_interval(difference, digits[1], signed=True)
        line += ["baseline" if row.baseline else shown] if compared else []
        line += [p_text(p)] if tested else []
        cells.append(tuple(line))
    seeds = len(report.comparison.seeds)
    return Sheet(
        problem=rows[0].problem,
        title=f"{metric}, mean of the last {spec.tail:.0%} of the rounds; "
        + (f"95% intervals over {seeds} seeds" if seeds > 1 else "one seed"),
        head=tuple(head),
        rows=tuple(cells),
        bold=frozenset(
            place for place, row in enumerate(rows) if row.best and metric == spec.metrics[0]
        ),
    )


def _difference(row: Row, metric: str) -> Interval | None:
    found = row.versus[metric]
    return None if found is None else found.paired.difference


def _costs(rows: Sequence[Row]) -> Sheet:
    return _sheet(
        rows,
        "what it took",
        {
            "seeds": _seeds,
            "rounds": lambda row: short(row.rounds),
            "bytes a round": lambda row: _bytes(row.bytes_per_round),
            "seconds a round": lambda row: _seconds(row.seconds_per_round),
        },
    )


def _targets(rows: Sequence[Row], place: int) -> Sheet:
    def of(show: Callable[[ToTarget], str]) -> Callable[[Row], str]:
        return lambda row: show(row.targets[place])

    first = rows[0].targets[place]
    return _sheet(
        rows,
        f"until {first.metric} {first.target:g} was reached, median over seeds; a dash if half of "
        "them or more never did",
        {
            "reached": of(lambda to: f"{to.reached} of {to.of}"),
            "rounds": of(lambda to: short(to.rounds)),
            "bytes": of(lambda to: _bytes(to.bytes)),
            "seconds": of(lambda to: _seconds(to.seconds)),
        },
    )


def _clients(rows: Sequence[Row]) -> Sheet:
    def of(name: str, digits: int = _OF_SHARES) -> Callable[[Row], str]:
        return lambda row: decimal(getattr(row.spread, name, None), digits)

    return _sheet(
        rows,
        "accuracy over clients, each by its own held-out examples",
        {
            "worst tenth": of("worst10"),
            "p10": of("p10"),
            "median": of("p50"),
            "p90": of("p90"),
            "variance": of("variance", _OF_SHARES + 1),
        },
    )


def _sheet(rows: Sequence[Row], title: str, columns: dict[str, Callable[[Row], str]]) -> Sheet:
    return Sheet(
        problem=rows[0].problem,
        title=title,
        head=(_ARM, *columns),
        rows=tuple((row.arm, *(show(row) for show in columns.values())) for row in rows),
    )


def _seeds(row: Row) -> str:
    missing = {"failed": row.failed, "diverged": row.diverged, "to run": row.unfinished}
    told = [f"{len(seeds)} {what}" for what, seeds in missing.items() if seeds]
    return ", ".join([str(row.seeds), *told])


def _bytes(count: float | None) -> str:
    return NONE if count is None else byte_count(round(count))


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    return f"{seconds:.0f}" if seconds >= _WHOLE_SECONDS else f"{seconds:.3g}"


def terminal(report: ComparisonReport) -> Group:
    """Return the tables for a terminal, and below them what was found, in words."""
    shown = [part for sheet in sheets(report) for part in _rich(sheet)]
    noted = [f"note: {sentence}" for sentence in report.notes]
    return Group(*shown, *map(Text, report.findings), *map(Text, noted))


def _rich(sheet: Sheet) -> tuple[Text, Table, Text]:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for place, heading in enumerate(sheet.head):
        right = place > 0
        table.add_column(
            _fitting(heading),
            justify="right" if right else "left",
            no_wrap=right,
            min_width=None if right else _LEAST_OF_LABELS,
            overflow="fold",
        )
    for place, (arm, figure, *others) in enumerate(sheet.rows):
        style = "bold" if place in sheet.bold else ""
        table.add_row(Text(arm, style), Text(figure, style), *map(Text, others))
    return Text(sheet.caption, "bold"), table, Text()


def _fitting(heading: str) -> Text:
    """Return a heading that leaves room for the figures below it."""
    text = Text(heading)
    text.truncate(_MOST_OF_A_HEADING, overflow="ellipsis")
    return text


def markdown(report: ComparisonReport) -> str:
    """Return the tables, what was found and what is to note, in Markdown."""
    blocks = [_pipes(sheet) for sheet in sheets(report)]
    blocks += [_bullets(report.findings), _bullets(report.notes)]
    blocks.append(f"Made again by:\n\n    {report.command}\n")
    return "\n".join(block for block in blocks if block)


def _pipes(sheet: Sheet) -> str:
    rule = ["---", *["---:"] * (len(sheet.head) - 1)]
    lines = [[_plain(cell) for cell in sheet.head], rule]
    for place, (arm, figure, *others) in enumerate(sheet.rows):
        first = [_plain(arm), figure]
        bold = [f"**{cell}**" for cell in first] if place in sheet.bold else first
        lines.append([*bold, *map(_plain, others)])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{_plain(sheet.caption)}\n\n{table}\n"


def _plain(text: str) -> str:
    """Escape what Markdown would take for more than text."""
    return re.sub(r"([\\|*_`<\[\]])", r"\\\1", text)


def _bullets(sentences: Sequence[str]) -> str:
    return "".join(f"- {_plain(sentence)}\n" for sentence in sentences)


def latex(report: ComparisonReport) -> str:
    """Return the tables for LaTeX, which needs the package booktabs."""
    return "\n".join(
        ["% Needs \\usepackage{booktabs}. One tabular a table.", *map(_tabular, sheets(report))]
    )


def _tabular(sheet: Sheet) -> str:
    lines = [f"% {sheet.caption}", f"\\begin{{tabular}}{{l{'r' * (len(sheet.head) - 1)}}}"]
    lines += ["\\toprule", _latex_line(sheet.head), "\\midrule"]
    lines += [_latex_line(row, bold=place in sheet.bold) for place, row in enumerate(sheet.rows)]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])


def _latex_line(cells: Sequence[str], *, bold: bool = False) -> str:
    written = [_latex(cell) for cell in cells]
    if bold:
        written[:2] = [f"\\textbf{{{cell}}}" for cell in written[:2]]
    return f"{' & '.join(written)} \\\\"


def _latex(text: str) -> str:
    """Escape a cell; a bracket in front would be an argument of the end of the line before."""
    escaped = "".join(_LATEX.get(character, character) for character in text)
    signed = re.sub(r"(?<!\w)-(?=\d)|^-$", "$-$", escaped)
    return f"{{}}{signed}" if signed.startswith("[") else signed


def csv_text(report: ComparisonReport) -> str:
    """Return one row an arm and problem, with all digits, as CSV (RFC 4180).

    Whatever a clock has measured has ``seconds`` in its name; all else is the same each time.
    """
    rows = [dict(_columns(report, row)) for row in report.rows]
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _columns(report: ComparisonReport, row: Row) -> Iterator[tuple[str, object]]:
    yield "problem", row.problem
    yield "arm", row.arm
    yield from ((name, int(getattr(row, name))) for name in ("baseline", "tuned", "best"))
    yield "seeds", len(report.comparison.seeds)
    yield "finished", row.seeds
    for name in ("unfinished", "failed", "diverged"):
        yield name, " ".join(map(str, getattr(row, name)))
    for metric in report.comparison.report.metrics:
        yield from _metric_columns(report, row, metric)
    for to in row.targets:
        suffix = f"to_{to.metric}_{to.target:g}"
        yield f"reached_{suffix}", to.reached
        yield from ((f"{name}_{suffix}", getattr(to, name)) for name in _COSTS)
    for name, key in OF_CLIENTS.items():
        yield key.replace(".", "_"), getattr(row.spread, name, None)
    yield "rounds", row.rounds
    yield "bytes_per_round", row.bytes_per_round
    yield "seconds_per_round", row.seconds_per_round


_COSTS = ("rounds", "bytes", "seconds")


def _metric_columns(
    report: ComparisonReport, row: Row, metric: str
) -> Iterator[tuple[str, object]]:
    yield from _interval_columns(metric, row.figures[metric])
    found = row.versus[metric]
    yield from _interval_columns(f"{metric}_difference", _difference(row, metric))
    low, high = (found.paired.resampled if found else None) or (None, None)
    yield f"{metric}_difference_bootstrap_low", low
    yield f"{metric}_difference_bootstrap_high", high
    yield f"{metric}_p", found.paired.p if found else None
    yield f"{metric}_p_holm", found.holm if found else None
    for seed in report.comparison.seeds:
        yield f"{metric}_seed_{seed}", row.finals[metric].get(seed)


def _interval_columns(name: str, found: Interval | None) -> Iterator[tuple[str, object]]:
    yield name, found.mean if found else None
    yield f"{name}_low", found.low if found else None
    yield f"{name}_high", found.high if found else None
    yield f"{name}_over", found.count if found else 0
