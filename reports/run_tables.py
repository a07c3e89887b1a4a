"""The tables of a page of runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from roundel.reports.bands import Band
from roundel.reports.page_table import (
    Head,
    Line,
    PageTable,
    Value,
    bytes_value,
    figure_value,
    number_value,
    seconds_value,
)
from roundel.reports.run_report import RunReport
from roundel.reports.text import NONE


def overview(runs: Sequence[RunReport]) -> PageTable:
    """Return a row for each run of a page."""
    metrics = list(dict.fromkeys(band.metric for run in runs for band in run.bands))
    heads = (
        Head(text="run", number=False),
        *(Head(text=name, hint="the last one that was measured") for name in metrics),
        Head(text="rounds"),
        Head(text="sent", hint="by clients, in all rounds"),
        Head(text="received", hint="by clients, in all rounds"),
        Head(text="updates lost", hint="they failed, were refused or came too late"),
        Head(text="seconds *", hint="all rounds; differs from run to run"),
    )
    return PageTable(
        caption="After the last round. * Times differ from run to run; all else is reproduced.",
        heads=heads,
        lines=tuple(_run_line(run, metrics) for run in runs),
    )


def _run_line(run: RunReport, metrics: Sequence[str]) -> Line:
    found = run.found
    last = {band.metric: _last(band) for band in run.bands}
    done, of = found["rounds"]["done"], found["rounds"]["of"]
    return Line(
        cells=(
            Value(text=run.label, small=found["state"]),
            *(figure_value(last.get(name)) for name in metrics),
            Value(text=str(done), small=f"of {of}" if done < of else "", value=done),
            bytes_value(run.bytes_up),
            bytes_value(run.bytes_down),
            Value(text=str(run.lost), value=run.lost),
            seconds_value(found["seconds"]),
        )
    )


def _last(band: Band) -> float | None:
    return next((value for value in reversed(band.mean) if value is not None), None)


def own_examples(clients: Mapping[str, Any] | None) -> PageTable | None:
    """Return how a run's clients fare on their own examples; None if they were not asked."""
    if clients is None:
        return None
    kinds = {name: v for name, v in clients.items() if isinstance(v, Mapping)}
    keys = list(dict.fromkeys(key for kind in kinds.values() for key in kind))
    if not keys:
        return None
    heads = (Head(text="", number=False), *(Head(text=key.replace("_", " ")) for key in keys))
    lines = (
        Line(cells=(Value(text=name), *(figure_value(kind.get(key)) for key in keys)))
        for name, kind in kinds.items()
    )
    caption = (
        f"Clients on their own examples after round {clients['round']}: "
        f"{clients.get('answered')} of {clients.get('asked')} answered"
    )
    return PageTable(caption=caption, heads=heads, lines=tuple(lines))


def lost_updates(failures: Sequence[Mapping[str, Any]]) -> PageTable | None:
    """Return each kind of update that did not count; None if all did."""
    if not failures:
        return None
    heads = (
        Head(text="what", number=False),
        Head(text="times"),
        Head(text="first in round"),
        Head(text="client"),
        Head(text="why", number=False),
    )
    lines = tuple(
        Line(
            cells=(
                Value(text=str(each["status"])),
                number_value(each["count"]),
                number_value(each["round"]),
                number_value(each["client"]),
                Value(text=str(each["reason"] or NONE), small=str(each["location"] or "")),
            )
        )
        for each in failures
    )
    return PageTable(caption="The most frequent first", heads=heads, lines=lines)


def by_class(classes: Sequence[Mapping[str, Any]]) -> PageTable | None:
    """Return precision and recall of each class; None if they are not known."""
    if not classes:
        return None
    heads = (
        Head(text="class"),
        Head(text="examples"),
        Head(text="precision", hint="of what was taken for it, the share that was it"),
        Head(text="recall", hint="of what was it, the share that was taken for it"),
        Head(text="mostly mistaken for"),
    )
    lines = tuple(
        Line(
            cells=(
                number_value(line["class"]),
                number_value(line["examples"]),
                figure_value(line["precision"]),
                figure_value(line["recall"]),
                number_value(line["taken_for"]),
            )
        )
        for line in classes
    )
    return PageTable(caption="Test examples in the last round", heads=heads, lines=lines)
