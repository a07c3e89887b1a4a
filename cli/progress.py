"""What a run shows while it runs: a live view, one line a round, or one JSON object a round."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from roundel.core.files import json_line
from roundel.core.records import ClientRecord, RoundReport
from roundel.core.runfiles import is_run
from roundel.core.status import NodeState, Snapshot
from roundel.reports.federation import Change, Line, change_lines, changes, federation_lines
from roundel.reports.summary import byte_count, health_figures, privacy_figures, round_line

if TYPE_CHECKING:
    from roundel.simulations.partitions import PartitionReport

_PLAIN_WIDTH = 100
_LEAST_LINES = 6
_BELOW_NODES = 5
"""Lines of a terminal for the figures of the run and of the last round, and the cursor."""


class View(Protocol):
    """Shows how the examples lie at the clients, and one round after another."""

    def begin(self, report: "PartitionReport") -> None:
        """Show the partition of a new run."""
        ...

    def show(self, report: RoundReport) -> None:
        """Show a round, unless it was shown before the run was interrupted."""
        ...

    def status(self, snapshot: Snapshot) -> None:
        """Show what the nodes are doing; may be called from another thread."""
        ...


@contextmanager
def watching(rounds: int, done: int, *, as_json: bool) -> Iterator[View]:
    """Yield the view that fits where the output goes.

    Args:
        rounds: How many rounds the run has.
        done: How many were done before.
        as_json: Whether a program reads the output.
    """
    console = Console()
    if as_json:
        yield _JsonView()
    elif console.is_terminal:
        view = _LiveView(console, rounds, done)
        with view.live:
            yield view
    else:
        yield _PlainView(rounds)


@contextmanager
def interruptible(hint: Callable[[], str]) -> Iterator[None]:
    """Say how to go on when the user interrupts, and exit with 130."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"roundel: interrupted; {hint()}", err=True)
        raise typer.Exit(130) from None


@contextmanager
def resumable(path: Path, verb: str = "resume") -> Iterator[None]:
    """Say how to go on with the run in this directory when the user interrupts it.

    Args:
        path: The run directory.
        verb: What goes on with such a run.
    """

    def hint() -> str:
        return f"go on with `roundel {verb} {path}`" if is_run(path) else "nothing was run yet"

    with interruptible(hint):
        yield


class _Troubles:
    """Reports each kind of client failure once, and each time that memory was short."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()
        self._width: int | None = None

    def new_in(self, report: RoundReport) -> Iterator[str]:
        number, width = report.record.round, report.record.width
        if width != self._width:
            self._width = width
            yield f"round {number}: memory is short; {width} clients at most are trained at once"
        for client in report.clients:
            kind = (client.location, client.reason if not client.location else "")
            if client.status in ("failed", "rejected") and kind not in self._seen:
                self._seen.add(kind)
                yield _failure_line(client)


class _Changes:
    """Tells what has happened since the last look."""

    def __init__(self) -> None:
        self._before: Snapshot | None = None

    def until(self, snapshot: Snapshot) -> list[Change]:
        before, self._before = self._before, snapshot
        return changes(before, snapshot)


def _picture(report: "PartitionReport", width: int) -> str:
    from roundel.simulations.partitions import picture_text

    return f"{picture_text(report, width)}\n"


def _failure_line(client: ClientRecord) -> str:
    place = f" at {client.location}" if client.location else ""
    return (
        f"round {client.round}: client {client.client} {client.status}: {client.reason}{place}"
        + (" (traceback in the run directory, failures/)" if client.location else "")
    )


class _JsonView:
    def __init__(self) -> None:
        self._troubles = _Troubles()
        self._changes = _Changes()

    def begin(self, report: "PartitionReport") -> None:
        """Say nothing: the figures are in the run directory."""

    def show(self, report: RoundReport) -> None:
        if report.recomputed:
            return
        for line in self._troubles.new_in(report):
            print(line, file=sys.stderr, flush=True)
        print(json_line(report.record.line()), flush=True)

    def status(self, snapshot: Snapshot) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        for change in self._changes.until(snapshot):
            print(json_line(change.to_json(now)), flush=True)


class _PlainView:
    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._troubles = _Troubles()
        self._changes = _Changes()

    def begin(self, report: "PartitionReport") -> None:
        print(_picture(report, _PLAIN_WIDTH), flush=True)

    def show(self, report: RoundReport) -> None:
        if report.recomputed:
            return
        for line in self._troubles.new_in(report):
            print(line, file=sys.stderr, flush=True)
        print(round_line(report.record, self._rounds), flush=True)

    def status(self, snapshot: Snapshot) -> None:
        for line in change_lines(self._changes.until(snapshot), snapshot.rounds):
            print(line.text, file=sys.stderr, flush=True)


class _LiveView:
    """Lines at the bottom of the terminal.

    What the nodes are doing, if there are any; how far the run is, how the last round went, its
    health.
    """

    def __init__(self, console: Console, rounds: int, done: int) -> None:
        self._progress = Progress(
            TextColumn("round"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
        )
        self._task = self._progress.add_task("", total=rounds, completed=done)
        self._troubles = _Troubles()
        self._changes = _Changes()
        self._failed = self._bytes = 0
        self._accuracy: float | None = None
        self._lock = threading.Lock()
        self._nodes: list[Text] = []
        self._figures = [Text("no round has finished yet")]
        self.live = Live(self._lines(), console=console)

    def begin(self, report: "PartitionReport") -> None:
        console = self.live.console
        console.print(_picture(report, console.width), markup=False, highlight=False)

    def show(self, report: RoundReport) -> None:
        record = report.record
        if report.recomputed:
            self._update(figures=[f"round {record.round} again: it came out the same"])
            return
        for line in self._troubles.new_in(report):
            self.live.console.print(f"[yellow]{escape(line)}[/yellow]")
        self._failed += record.failures
        self._bytes += record.bytes_up + record.bytes_down
        figures = []
        accuracy = record.metrics.get("accuracy")
        if accuracy is not None:
            change = "" if self._accuracy is None else f" ({accuracy - self._accuracy:+.4f})"
            figures.append(f"[bold]accuracy {accuracy:.4f}[/bold]{change}")
            self._accuracy = accuracy
        if "loss" in record.metrics:
            figures.append(f"loss {record.metrics['loss']:.4f}")
        figures += privacy_figures(record.privacy)
        figures += [
            f"failures {self._failed}",
            byte_count(self._bytes),
            f"{record.seconds:.2f} s/round",
        ]
        self._progress.update(self._task, completed=record.round)
        self._update(figures=["  ".join(figures), "  ".join(health_figures(record.health))])

    def status(self, snapshot: Snapshot) -> None:
        console = self.live.console
        for line in change_lines(self._changes.until(snapshot), snapshot.rounds):
            if line.trouble:  # what goes well is seen in the table
                console.print(_styled(line))
        lines = federation_lines(
            snapshot, width=console.width, height=max(_LEAST_LINES, console.height - _BELOW_NODES)
        )
        self._update(nodes=[_styled(line) for line in lines])

    def _update(self, *, nodes: list[Text] | None = None, figures: list[str] | None = None) -> None:
        with self._lock:
            if nodes is not None:
                self._nodes = nodes
            if figures is not None:
                self._figures = [Text.from_markup(markup) for markup in figures]
            self.live.update(self._lines())

    def _lines(self) -> Group:
        return Group(*self._nodes, self._progress, *self._figures)


def _styled(line: Line) -> Text:
    """Colour a line; whoever sees no colours reads the same."""
    if line.trouble:
        return Text(line.text, style="yellow")
    if line.heading:
        return Text(line.text, style="bold")
    return Text(line.text, style="dim" if line.state is NodeState.WAITING else "")
