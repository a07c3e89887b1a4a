"""Run a Flower app over nodes that dial in: its ServerApp here, its ClientApp there."""

import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from roundel.core.collector import frozen
from roundel.core.environment import describe_environment
from roundel.core.errors import ConfigError, RunDirectoryError
from roundel.core.fingerprint import Fingerprint
from roundel.core.flowerversion import installed
from roundel.core.runfiles import APP
from roundel.server.arrivals import Terms
from roundel.server.grpc_coordinator import Coordinator
from roundel.server.store import Store
from roundel.simulations.flowerapps.directory import AppDirectory
from roundel.simulations.flowerapps.flower import KINDS, watched
from roundel.simulations.flowerapps.loading import loaded
from roundel.simulations.flowerapps.nodes import Nodes
from roundel.simulations.flowerapps.project import Project, read_project
from roundel.simulations.flowerapps.run import Outcome, Stage, View, conducted, described
from roundel.simulations.flowerapps.served.carrying import Manner
from roundel.simulations.flowerapps.served.copies import app_fingerprint
from roundel.simulations.flowerapps.served.remote import RemoteAsk
from roundel.simulations.flowerapps.served.replies import Record
from roundel.simulations.flowerapps.served.terms import AppTerms
from roundel.simulations.serving import (
    Patience,
    Serving,
    announce,
    check_free,
    looking,
    nodes_come,
    wait_for_nodes,
)

PATIENCE_S = 60.0
"""How long clients are waited for whose node is away, unless told otherwise."""

REPLY_LIMIT = 1 << 30
"""How many bytes a reply may have, unless told otherwise: what an app replies is not known."""

_ABOUT = 1 << 20
"""Bytes of an update besides what the reply holds."""

_THREADS = 1024
"""So many messages of an older ServerApp go out together, each of which takes a thread: a wave
waits for its slowest node, and how many cores are here says nothing about the nodes."""

_ROOM = 1 << 60
"""Bytes of replies: all are kept, as long as the disk has room."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What is to be run.

    Attributes:
        project: The app.
        clients: How many clients there are.
        seed: What everything that is drawn comes from.
        patience_s: How long clients are waited for whose node is away.
        reply_limit: How many bytes a reply may have.
    """

    project: Project
    clients: int
    seed: int
    patience_s: float = PATIENCE_S
    reply_limit: int = REPLY_LIMIT


def serve_app(deployment: Deployment, out: Path, serving: Serving, view: View) -> Outcome:
    """Run an app over nodes that dial in.

    Args:
        deployment: What to run.
        out: The run directory.
        serving: How the coordinator is reached.
        view: Where to show what happens.

    Raises:
        AppError: The app is broken, its ServerApp raised, or no client replied in a round.
        ConfigError: The address cannot be listened on.
        RunDirectoryError: The directory is taken, or full: then the run can go on.
    """
    serving.check_address()
    check_free(serving.listen)
    with _server_app(deployment) as play:
        environment = describe_environment(
            uuid.uuid4().hex, {**_engine(deployment), **serving.line()}, {}
        )
        about = described(deployment.project, deployment.seed, deployment.clients)
        about["served"] = {
            "patience_s": deployment.patience_s,
            "reply_limit": deployment.reply_limit,
            "fingerprint": app_fingerprint(deployment.project, installed()),
        }
        with closing(AppDirectory.create(out, about, environment)) as directory:
            return play(directory, serving, view)


def resume_app(path: Path, serving: Serving, view: View) -> Outcome | None:
    """Go on with such a run; nodes come back by themselves, or join again.

    The ServerApp starts anew and hears again what it has heard.

    Args:
        path: The run directory.
        serving: How the coordinator is reached.
        view: Where to show what happens.

    Returns:
        What came out; None if the run is over already.

    Raises:
        AppError: As `serve_app` does.
        ConfigError: The run was not served, the app has changed, or the address cannot be used.
        RunDirectoryError: The directory is in use, damaged or full.
        RunFailed: The ServerApp asks something else than it did.
    """
    serving.check_address()
    with closing(AppDirectory.open(path)) as directory:
        if directory.finished:
            return None
        deployment = _deployment(directory)
        with _server_app(deployment) as play:
            return play(directory, serving, view)


Play = Callable[[AppDirectory, Serving, View], Outcome]


@contextmanager
def _server_app(deployment: Deployment) -> Iterator[Play]:
    """Import an app's ServerApp; yield what lets it run."""
    nodes = Nodes.of(deployment.seed, deployment.project.config, deployment.clients)
    with ExitStack() as stack:
        run = stack.enter_context(watched(nodes, _THREADS))
        kinds = {"serverapp": KINDS["serverapp"]}
        server = stack.enter_context(loaded(deployment.project, kinds)).server

        def play(directory: AppDirectory, serving: Serving, view: View) -> Outcome:
            with (
                frozen(),
                _coordinator(deployment, directory, serving) as (running, record),
            ):
                announce(running, serving, "--flower APP", resumed=bool(directory.rounds))
                ask = _ask(deployment, running, record, serving)
                stage = Stage(
                    project=deployment.project,
                    nodes=nodes,
                    server=server,
                    ask=ask,
                    directory=directory,
                    check=ask.check,
                    check_sound=ask.check_sound,
                )
                with looking(running, serving), interrupting(ask.stop):
                    outcome = conducted(run, stage, view)
                running.security.record("run ended", run=running.terms.run)
                return outcome

        yield play


@contextmanager
def _coordinator(
    deployment: Deployment, directory: AppDirectory, serving: Serving
) -> Iterator[tuple[Coordinator, Record]]:
    """Listen for the nodes of an app, and keep all that they send in its directory."""
    project = deployment.project
    said = AppTerms(
        app=project.name,
        seed=deployment.seed,
        clients=deployment.clients,
        config=dict(project.config),
        reply_limit=deployment.reply_limit,
    )
    terms = Terms(
        run=directory.environment["run_id"],
        experiment=said.text(),
        population=deployment.clients,
        fingerprint=directory.app["served"]["fingerprint"],
        update_limit=deployment.reply_limit + _ABOUT,
        stateful=True,
    )
    with closing(Store.open(directory.path, _ROOM)) as store:
        record = Record(store)
        terms = replace(terms, may_keep=record.keepers.may_keep)
        security = serving.security
        with Coordinator(
            terms, serving.listen, time.monotonic, store=store, security=security
        ) as running:
            yield running, record


def _ask(
    deployment: Deployment, running: Coordinator, record: Record, serving: Serving
) -> RemoteAsk:
    """Return what has messages answered; a new run waits for all clients before it begins.

    One that goes on has an app that can do without some, and waits for them no longer than ever.
    """
    patience = Patience(say=serving.say)
    if record.last:
        serving.say(
            f"the ServerApp starts anew and hears again what was answered: {record.last} waves of "
            "messages"
        )
    else:
        wait_for_nodes(running, deployment.clients, patience)

    def wait_again() -> None:
        nodes_come(running, deployment.clients, replace(patience, timeout_s=deployment.patience_s))

    manner = Manner(
        patience_s=deployment.patience_s,
        clock=time.monotonic,
        wall=time.time,
        say=serving.say,
        before=wait_again,
    )
    return RemoteAsk(running, record, manner)


@contextmanager
def interrupting(stop: Callable[[], None]) -> Iterator[None]:
    """Have a function called at once if this process is interrupted in the block.

    Flower waits for threads of its own before an interrupt gets anywhere, and they would go on.
    """
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupted(number: int, frame: FrameType | None) -> None:
        stop()
        before(number, frame)

    signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _deployment(directory: AppDirectory) -> Deployment:
    """Read what a run ran, and refuse to go on with another app.

    Raises:
        ConfigError: It was not served, or the app has changed.
        RunDirectoryError: The directory is damaged.
    """
    path, app = directory.path, directory.app
    served = app.get("served")
    if served is None:
        raise ConfigError(
            f"{path} is a run of a Flower app with simulated clients, which cannot go on; run it "
            f"again with `roundel flower run {app.get('app', 'APP')}`"
        )
    try:
        root, config = Path(app["app"]), app["config"]
        deployment = Deployment(
            project=replace(read_project(root), config=config),
            clients=int(app["clients"]),
            seed=int(app["seed"]),
            patience_s=float(served["patience_s"]),
            reply_limit=int(served["reply_limit"]),
        )
        recorded = str(served["fingerprint"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunDirectoryError(
            f"{path} is damaged: {APP} lacks what a run goes on with; restore it, or start a new "
            "run"
        ) from error
    if changed := _changed(app_fingerprint(deployment.project, installed()), recorded):
        raise ConfigError(
            f"the Flower app in {root} is not what it was when {path} began: {changed} changed; "
            "put it back, or start a new run"
        )
    return deployment


def _changed(now: str, before: str) -> str:
    """Name what differs between two fingerprints of an app; nothing if all is the same."""
    if now == before:
        return ""
    here, there = Fingerprint.of(now), Fingerprint.of(before)
    if here is None or there is None:
        return "something"
    code = {*here.code.items()} ^ {*there.code.items()}
    return ", ".join(sorted({name for name, _ in code})) or "its name"


def _engine(deployment: Deployment) -> dict[str, Any]:
    return {
        "mode": "flower-serve",
        "flwr": installed(),
        "clients": deployment.clients,
        "threads": 1,
    }
