"""The tables of a comparison's page."""

from collections.abc import Iterator, Mapping, Sequence

from roundel.core.comparison import ReportSpec
from roundel.reports.arms import Row, ToTarget
from roundel.reports.interval_text import p_text, places
from roundel.reports.page_table import (
    Head,
    Line,
    PageTable,
    Value,
    bytes_value,
    figure_value,
    interval_value,
    number_value,
    seconds_value,
)
from roundel.reports.statistics import Interval
from roundel.reports.text import short


def results(rows: Sequence[Row], spec: ReportSpec, caption: str) -> PageTable:
    """Return the main table of a problem: an arm a row."""
    compared = any(_difference(row, metric) for row in rows for metric in spec.metrics)
    tested = any(_p(row, spec.metrics[0]) is not None for row in rows)
    digits = {
        metric: (
            places(row.figures.get(metric) for row in rows),
            places(_difference(row, metric) for row in rows),
        )
        for metric in spec.metrics
    }
    return PageTable(
        caption=caption,
        heads=tuple(_result_heads(spec, compared=compared, tested=tested)),
        lines=tuple(_result(row, digits, compared=compared, tested=tested) for row in rows),
    )


def _result_heads(spec: ReportSpec, *, compared: bool, tested: bool) -> Iterator[Head]:
    yield Head(text="arm", number=False)
    for place, metric in enumerate(spec.metrics):
        yield Head(text=metric, hint="mean over seeds, and its 95 % interval")
        if compared:
            which = f"{metric} " if len(spec.metrics) > 1 else ""
            hint = "mean of the differences seed by seed, and its 95 % interval"
            yield Head(text=f"{which}minus {spec.baseline}", hint=hint)
        if tested and place == 0:
            hint = "paired t test, two-sided, corrected by Holm for all differences shown"
            yield Head(text="p (Holm)", hint=hint)
    yield Head(text="bytes a round", hint="sent and received by clients")
    yield Head(text="seconds a round *", hint="evaluation included; differs from run to run")
    yield Head(text="seeds", hint="finished, of those planned")


def _difference(row: Row, metric: str) -> Interval | None:
    versus = row.versus.get(metric)
    return versus.paired.difference if versus else None


def _p(row: Row, metric: str) -> float | None:
    versus = row.versus.get(metric)
    return versus.holm if versus else None


def _result(
    row: Row, digits: Mapping[str, tuple[int, int]], *, compared: bool, tested: bool
) -> Line:
    said = [word for word, is_so in (("baseline", row.baseline), ("tuned", row.tuned)) if is_so]
    cells = [Value(text=row.arm, small=", ".join(said))]
    for place, (metric, (of_figures, of_differences)) in enumerate(digits.items()):
        best = row.best and place == 0
        cells.append(interval_value(row.figures.get(metric), of_figures, strong=best))
        if compared:
            cells.append(interval_value(_difference(row, metric), of_differences, signed=True))
        if tested and place == 0:
            cells.append(Value(text=p_text(_p(row, metric)), value=_p(row, metric)))
    cells += [
        bytes_value(row.bytes_per_round),
        seconds_value(row.seconds_per_round),
        Value(text=str(row.seeds), small=_trouble(row), value=row.seeds),
    ]
    return Line(cells=tuple(cells), first=row.baseline)


def _trouble(row: Row) -> str:
    said = (
        ("failed", len(row.failed)),
        ("diverged", len(row.diverged)),
        ("unfinished", len(row.unfinished)),
    )
    return ", ".join(f"{count} {word}" for word, count in said if count)


def to_targets(rows: Sequence[Row], caption: str) -> PageTable | None:
    """Return what it cost to reach each target: medians over seeds; None without targets."""
    if not any(row.targets for row in rows):
        return None
    heads = (
        Head(text="arm", number=False),
        Head(text="target", number=False),
        Head(text="rounds", hint="median over seeds"),
        Head(text="bytes", hint="sent and received by clients, median over seeds"),
        Head(text="seconds *", hint="median over seeds; differs from run to run"),
        Head(text="seeds", hint="that reached it, of those that have run"),
    )
    lines = (
        Line(cells=_to_target(row.arm, target), first=row.baseline)
        for row in rows
        for target in row.targets
    )
    return PageTable(caption=caption, heads=heads, lines=tuple(lines))


def _to_target(arm: str, found: ToTarget) -> tuple[Value, ...]:
    return (
        Value(text=arm),
        Value(text=f"{found.metric} {short(found.target)}"),
        Value(text="not reached") if found.rounds is None else number_value(found.rounds),
        bytes_value(found.bytes),
        seconds_value(found.seconds),
        Value(text=f"{found.reached} of {found.of}", value=found.reached),
    )


def spreads(rows: Sequence[Row], caption: str) -> PageTable | None:
    """Return how the clients fare; None if their own examples were not evaluated."""
    if not any(row.spread for row in rows):
        return None
    names = ("worst tenth", "p10", "median", "p90", "variance")
    keys = ("worst10", "p10", "p50", "p90", "variance")
    lines = (
        Line(
            cells=(
                Value(text=row.arm),
                *(figure_value(getattr(row.spread, key) if row.spread else None) for key in keys),
            ),
            first=row.baseline,
        )
        for row in rows
    )
    heads = (Head(text="arm", number=False), *(Head(text=name) for name in names))
    return PageTable(caption=caption, heads=heads, lines=tuple(lines))


def every_seed(rows: Sequence[Row], metric: str, seeds: Sequence[int], caption: str) -> PageTable:
    """Return the final figure of each run: an arm a row, a seed a column."""
    heads = (Head(text="arm", number=False), *(Head(text=f"seed {seed}") for seed in seeds))
    lines = (
        Line(
            cells=(Value(text=row.arm), *(_of_seed(row, metric, seed) for seed in seeds)),
            first=row.baseline,
        )
        for row in rows
    )
    return PageTable(caption=caption, heads=heads, lines=tuple(lines))


def _of_seed(row: Row, metric: str, seed: int) -> Value:
    marks = [
        ("failed", seed in row.failed),
        ("diverged", seed in row.diverged),
        ("unfinished", seed in row.unfinished),
    ]
    small = ", ".join(word for word, is_so in marks if is_so)
    value = figure_value(row.finals.get(metric, {}).get(seed))
    return Value(text=value.text, small=small, value=value.value)


def failed_runs(rows: Sequence[Row]) -> PageTable | None:
    """Return why runs failed; None if none did."""
    lines = [
        Line(
            cells=(
                Value(text=row.arm, small=row.problem),
                Value(text=str(seed), value=seed),
                Value(text=why),
            )
        )
        for row in rows
        for seed, why in row.failed.items()
    ]
    if not lines:
        return None
    heads = (Head(text="arm", number=False), Head(text="seed"), Head(text="why", number=False))
    return PageTable(caption="They count as failed, not as absent", heads=heads, lines=tuple(lines))
