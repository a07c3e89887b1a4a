"""What a comparison shows before and while it runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from textwrap import wrap
from typing import Protocol

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from roundel.core.comparison import Cell, leaves, settings_text
from roundel.core.files import json_line
from roundel.reports.text import figure
from roundel.simulations.cells import Event, RoundDone, RunEnded
from roundel.simulations.compare import Plan
from roundel.simulations.pace import Pace
from roundel.simulations.partitions import picture_text

_PLAIN_WIDTH = 100
_MOST_PICTURES = 3
_MOST_FIGURES = 2
_LONG = 120
"""Seconds or minutes that are better said in a larger unit."""
_MOST_LINES = 16
"""Of a terminal, for the runs of the moment."""


class View(Protocol):
    """Shows the plan, then what happens to its runs."""

    def begin(self, plan: Plan) -> None:
        """Show what is about to be computed."""
        ...

    def show(self, event: Event) -> None:
        """Show that a round is done, or that a run has ended."""
        ...


@contextmanager
def watching_runs(*, as_json: bool) -> Iterator[View]:
    """Yield the view that fits where the output goes.

    Args:
        as_json: Whether a program reads the output.
    """
    console = Console()
    if as_json:
        yield _JsonView()
    elif console.is_terminal:
        view = _LiveView(console)
        try:
            yield view
        finally:
            view.live.stop()
    else:
        yield _PlainView()


def plan_lines(plan: Plan, width: int) -> list[str]:
    """Say what is about to be computed, and how the examples lie at the clients.

    Args:
        plan: What it is.
        width: Of the pictures, in characters.
    """
    comparison = plan.comparison
    arms, seeds, problems = comparison.arms, comparison.seeds, comparison.problems
    count = len(arms) * len(seeds) * len(problems)
    factors = [_count(len(arms), "arm"), _count(len(seeds), "seed")]
    if len(problems) > 1:
        factors.insert(0, _count(len(problems), "problem"))
    lines = [f"{' x '.join(factors)} = {_count(count, 'run')}{_of_rounds(plan)}"]
    baseline = comparison.report.baseline
    labels = [f"{a.label} (baseline)" if a.label == baseline else a.label for a in arms]
    lines += wrap(f"arms: {', '.join(labels)}", width, subsequent_indent="      ")
    if base := leaves(comparison.base):
        lines += wrap(f"all with: {settings_text(base)}", width, subsequent_indent="      ")
    if len(problems) > 1:
        lines.append(f"problems: {'; '.join(problem.label for problem in problems)}")
    if len(plan.jobs) < count:
        lines.append(f"here: {_count(len(plan.jobs), 'run')} of this shard")
    left = len(plan.jobs) - len(plan.finished)
    if plan.finished:
        lines.append(f"already finished: {len(plan.finished)}; to go: {left}")
    if left:
        beside = f"{plan.workers} at a time" if plan.workers > 1 else "one after another"
        lines.append(f"{beside}; how long that takes is said after the first rounds")
    lines.append(f"directory: {plan.path}")
    for label, report in list(plan.divisions.items())[:_MOST_PICTURES]:
        head = f"partition with seed {seeds[0]}" + (f", {label}" if label else "")
        lines += ["", f"{head}: {picture_text(report, width)}"]
    return [*lines, ""]


def estimate(pace: Pace, workers: int) -> str:
    """Say how long what is left will take; empty as long as nobody knows."""
    left, each = pace.left_s, pace.round_s
    if not left or each is None:
        return ""
    beside = f", {workers} runs at a time" if workers > 1 else ""
    return f"about {duration(left)} to go ({each:.2g} s a round{beside})"


def duration(seconds: float) -> str:
    """Say a time as people do.

    >>> duration(0.2), duration(41.7), duration(600), duration(9000)
    ('1 s', '42 s', '10 min', '2 h 30 min')
    """
    whole = max(1, round(seconds))
    if whole < _LONG:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < _LONG:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def ended_line(cell: Cell, event: RunEnded) -> str:
    """Say in one line how a run has ended."""
    name = cell_name(cell)
    if event.status == "failed":
        return f"{name} failed: {event.reason}"
    if event.status == "elsewhere":
        return f"{name} is being computed by another process"
    return f"{name}{_figures(event)}  {_count(event.rounds, 'round')}  {event.seconds:.1f} s"


def cell_name(cell: Cell) -> str:
    """Name a run in words."""
    where = f", {cell.problem.label}" if cell.problem.label else ""
    return f"{cell.arm.label}{where}, seed {cell.seed}"


def _figures(event: Event) -> str:
    first = list(event.metrics.items())[:_MOST_FIGURES]
    return "".join(f"  {key} {figure(value)}" for key, value in first)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"


def _of_rounds(plan: Plan) -> str:
    rounds = sorted({job.experiment.rounds for job in plan.jobs})
    if not rounds:
        return ""
    return (
        f" of {_count(rounds[0], 'round')}"
        if len(rounds) == 1
        else f" of up to {rounds[-1]} rounds"
    )


def _pace(plan: Plan) -> Pace:
    left = [
        0 if number in plan.finished else job.experiment.rounds
        for number, job in enumerate(plan.jobs)
    ]
    kinds = [(cell.problem.label, cell.arm.label) for cell in plan.cells]
    return Pace(left, kinds, workers=plan.workers)


class _JsonView:
    def __init__(self) -> None:
        self._cells: Sequence[Cell] = ()

    def begin(self, plan: Plan) -> None:
        self._cells = plan.cells

    def show(self, event: Event) -> None:
        if isinstance(event, RoundDone):
            return
        cell = self._cells[event.job]
        line = {
            "problem": cell.problem.label,
            "arm": cell.arm.label,
            "seed": cell.seed,
            "run": str(cell.path),
            "status": event.status,
            "rounds": event.rounds,
            "seconds": event.seconds,
            **event.metrics,
        }
        print(json_line(line | ({"reason": event.reason} if event.reason else {})), flush=True)


class _PlainView:
    def __init__(self) -> None:
        self._plan: Plan | None = None
        self._pace: Pace | None = None
        self._ended = 0
        self._told = False

    def begin(self, plan: Plan) -> None:
        self._plan, self._pace = plan, _pace(plan)
        self._ended = len(plan.finished)
        print("\n".join(plan_lines(plan, _PLAIN_WIDTH)), flush=True)

    def show(self, event: Event) -> None:
        plan, pace = self._plan, self._pace
        if plan is None or pace is None:
            return
        pace.hear(event)
        if not self._told and (words := estimate(pace, plan.workers)):
            self._told = True
            print(words, flush=True)
        if isinstance(event, RunEnded):
            self._ended += 1
            line = f"[{self._ended}/{len(plan.jobs)}] {ended_line(plan.cells[event.job], event)}"
            typer.echo(line, err=event.status == "failed")


class _LiveView:
    """Lines at the bottom of the terminal: how far all is, and each run of the moment."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("runs"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}")
        )
        self._all = self._progress.add_task("", total=None)
        self._running: dict[int, Text] = {}
        self._plan: Plan | None = None
        self._pace: Pace | None = None
        self.live = Live(console=console)

    def begin(self, plan: Plan) -> None:
        self._plan, self._pace = plan, _pace(plan)
        console = self.live.console
        text = "\n".join(plan_lines(plan, min(console.width, _PLAIN_WIDTH)))
        console.print(text, markup=False, highlight=False)
        self._progress.update(self._all, total=len(plan.jobs), completed=len(plan.finished))
        self.live.start()
        self._update()

    def show(self, event: Event) -> None:
        plan, pace = self._plan, self._pace
        if plan is None or pace is None:
            return
        pace.hear(event)
        cell = plan.cells[event.job]
        if isinstance(event, RoundDone):
            rounds = plan.jobs[event.job].experiment.rounds
            line = f"{cell_name(cell)}  round {event.round}/{rounds}{_figures(event)}"
            self._running[event.job] = Text(line, no_wrap=True, overflow="ellipsis")
        else:
            self._running.pop(event.job, None)
            style = "yellow" if event.status == "failed" else ""
            self.live.console.print(Text(ended_line(cell, event), style=style))
            self._progress.advance(self._all)
        known = pace.left_s is not None
        words = estimate(pace, plan.workers) if known else "measuring"
        self._progress.update(self._all, description=words)
        self._update()

    def _update(self) -> None:
        lines = list(self._running.values())[:_MOST_LINES]
        self.live.update(Group(self._progress, *lines))
