"""Run a Flower app on workers of ours, and write down what there is to see."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roundel.core.collector import frozen, seldom
from roundel.core.environment import describe_environment
from roundel.core.errors import RoundelError
from roundel.core.flowerversion import installed
from roundel.core.seeds import derive
from roundel.core.threads import available_cores
from roundel.core.usercode import user_code
from roundel.simulations.flowerapps.directory import AppDirectory
from roundel.simulations.flowerapps.flower import KINDS, Final, watched
from roundel.simulations.flowerapps.flower_clients import client_work
from roundel.simulations.flowerapps.flower_grid import WorkerGrid
from roundel.simulations.flowerapps.flower_records import model_file
from roundel.simulations.flowerapps.loading import loaded
from roundel.simulations.flowerapps.nodes import Nodes
from roundel.simulations.flowerapps.parcels import Parcel
from roundel.simulations.flowerapps.project import AppError, Project
from roundel.simulations.flowerapps.seen import Exchange, Line, Rounds, odd_reply
from roundel.simulations.flowerapps.workers import Ask, hired

_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How an app is to be run.

    Attributes:
        project: The app.
        clients: How many clients there are.
        workers: How many processes play them.
        seed: What everything that is drawn comes from.
        out: The run directory.
    """

    project: Project
    clients: int
    workers: int
    seed: int
    out: Path


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came out.

    Attributes:
        rounds: How many there were, as far as they can be told.
        failures: How many messages had no reply.
        arrays: How many final arrays there are.
        source: Where they were found.
    """

    rounds: int
    failures: int
    arrays: int
    source: str


@dataclass(frozen=True, kw_only=True)
class View:
    """Where to show what happens.

    Attributes:
        show: Is given each round that is over.
        warn: Is given a line for each new kind of failure.
    """

    show: Callable[[Line], None]
    warn: Callable[[str], None]


def default_workers(clients: int) -> int:
    """Return how many workers there are unless something else is asked for: one for each core."""
    return max(1, min(clients, available_cores()))


def run_app(plan: Plan, view: View) -> Outcome:
    """Run an app.

    Raises:
        AppError: It is broken, its ServerApp raised, or no client replied in a round.
        RunDirectoryError: The run directory cannot be written.
    """
    # Many apps ask for a GPU when they are imported, and what torch does by default to answer that
    # cannot be forked.
    os.environ.setdefault(_NVML, "1")
    nodes = Nodes.of(plan.seed, plan.project.config, plan.clients)
    with ExitStack() as stack:
        run = stack.enter_context(watched(nodes))
        apps = stack.enter_context(loaded(plan.project, KINDS))
        stack.enter_context(frozen())
        stack.enter_context(seldom())
        work = client_work(apps.client, nodes)
        ask = stack.enter_context(hired(plan.workers, work))
        directory = _directory(plan)
        stack.callback(directory.close)
        stage = Stage(
            project=plan.project,
            nodes=nodes,
            server=apps.server,
            ask=ask,
            directory=directory,
            check=ask.check,
            check_sound=ask.check,
        )
        return conducted(run, stage, view)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What a ServerApp plays on.

    Attributes:
        project: The app.
        nodes: The federation.
        server: The ServerApp.
        ask: Has messages answered.
        directory: Where everything is written down.
        check: Called when the ServerApp has ended; may raise.
        check_sound: Called when it has raised; raises what was wrong beneath it, if anything was.
    """

    project: Project
    nodes: Nodes
    server: Any
    ask: Ask
    directory: AppDirectory
    check: Callable[[], None] = lambda: None
    check_sound: Callable[[], None] = lambda: None


def conducted(run: Callable[[Any, Any], Final], stage: Stage, view: View) -> Outcome:
    """Let a ServerApp run to its end, and write down what there is to see.

    Rounds that are written down already, of which it hears again, are not written again.

    Args:
        run: What `roundel.simulations.flowerapps.flower.watched` has yielded.
        stage: What it plays on.
        view: Where to show what happens.

    Raises:
        AppError: The ServerApp raised, or no client replied in a round.
        RunFailed: Nobody is left to answer.
    """
    log = _Log(stage.directory, view)
    stage.directory.go_on()
    try:
        final = _played(run, stage, log)
        log.finish()
        log.judge()
    except RoundelError as error:
        if isinstance(error, AppError):  # else the round may go on in another process
            log.finish()
        error = log.explained(error)
        stage.directory.fail(str(error))
        raise error from None
    return log.outcome(final)


def _played(run: Callable[[Any, Any], Final], stage: Stage, log: "_Log") -> Final:
    """Let a ServerApp run to its end; what is wrong beneath it goes before what it says itself."""
    try:
        with user_code(f"the ServerApp {stage.project.server}", AppError):
            final = run(WorkerGrid(stage.nodes, stage.ask, log.hear), stage.server)
    except AppError:
        stage.check_sound()
        raise
    stage.check()
    return final


def _directory(plan: Plan) -> AppDirectory:
    engine = {
        "mode": "flower",
        "flwr": installed(),
        "workers": plan.workers,
        "clients": plan.clients,
        "threads": 1,
    }
    run_id = f"{derive(plan.seed, 'flower run'):016x}"
    environment = describe_environment(run_id, engine, {})
    return AppDirectory.create(
        plan.out, described(plan.project, plan.seed, plan.clients), environment
    )


def described(project: Project, seed: int, clients: int) -> dict[str, Any]:
    """Return what a run directory says about what was run."""
    return {
        "app": str(project.root),
        "serverapp": project.server,
        "clientapp": project.client,
        "seed": seed,
        "clients": clients,
        "config": dict(project.config),
    }


class _Log:
    """Hears what is exchanged, writes it down and shows it."""

    def __init__(self, directory: AppDirectory, view: View) -> None:
        self._directory, self._view = directory, view
        self._rounds = Rounds()
        self._finished = self._failures = 0
        self._before = directory.rounds
        self._kinds: set[str] = set()
        self._first = ""
        self._last: Exchange | None = None
        self._sent: Parcel | None = None

    def hear(self, exchange: Exchange) -> None:
        """Take note of an exchange."""
        self._end(self._rounds.add(exchange))
        self._last = exchange
        if any(kind == "arrays" for _, kind, _ in exchange.tasks[0].content.records):
            self._sent = exchange.tasks[0].content
        if any(answer.trouble for answer in exchange.answers):
            self._directory.add_failures(exchange, self._rounds.number)
            self._warn(exchange)

    def finish(self) -> None:
        """End the round that is open."""
        self._end(self._rounds.finish())

    def judge(self) -> None:
        """Refuse a run that went on although nobody replied.

        Raises:
            AppError: In some round no client did.
        """
        if self._rounds.lost:
            number, kind = self._rounds.lost[0]
            raise AppError(
                f"in round {number} no client replied to {kind!r}: {self._first}; tracebacks lie "
                f"in {self._directory.path / 'failures'}"
            )

    def explained(self, error: RoundelError) -> RoundelError:
        """Add to an error of the ServerApp which reply may be the reason."""
        odd = odd_reply(self._last) if self._last and not self._rounds.lost else ""
        reason = odd or self._first
        if not isinstance(error, AppError) or not reason or reason in str(error):
            return error
        head, gap, details = str(error).partition("\n\n")
        return AppError(f"{head}; {reason}{gap}{details}")

    def outcome(self, final: Final) -> Outcome:
        """Write the final arrays, and sum up."""
        arrays, source = final.arrays, final.source
        if arrays is None and self._sent is not None:
            arrays, source = self._sent, "the arrays that were sent last"
        if arrays is not None:
            self._directory.save_model(model_file(arrays))
        self._directory.finish()
        return Outcome(
            rounds=self._finished,
            failures=self._failures,
            arrays=0 if arrays is None else len(arrays.buffers),
            source=source,
        )

    def _end(self, line: Line | None) -> None:
        if line is not None:
            self._finished += 1
            if self._finished > self._before:
                self._directory.add_round(line)
                self._view.show(line)

    def _warn(self, exchange: Exchange) -> None:
        """Show each kind of failure once."""
        for client, answer in exchange.by_client():
            if (trouble := answer.trouble) is None:
                continue
            self._failures += 1
            place = f" ({trouble.location})" if trouble.location else ""
            said = f"client {client} failed: {trouble.reason}{place}"
            self._first = self._first or said
            kind = trouble.location or trouble.reason
            if kind not in self._kinds:
                self._kinds.add(kind)
                if self._finished < self._before:
                    continue  # it was shown when it happened
                details = f"\n\n{trouble.traceback.rstrip()}\n" if trouble.traceback else ""
                self._view.warn(f"round {self._rounds.number}: {said}{details}")
