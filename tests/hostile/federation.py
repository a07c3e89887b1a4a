"""What is attacked: a coordinator in a process of its own, and nodes that go on with their work."""

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from queue import Queue
from random import Random
from types import TracebackType
from typing import Self

import grpc
import torch

from roundel.core.configfile import load_experiment
from roundel.core.messages import ClientUpdate, Evaluation, Ticket
from roundel.core.metrics import Metrics
from roundel.core.tokens import parse_token
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire.channel import Identity, dial
from roundel.core.wire.convert import ticket_from_wire
from roundel.simulations.deployed import share_of
from roundel.simulations.prepare import prepare
from tests.commands import Command, start
from tests.server.fake_node import FakeNode

POPULATION = 12
HONEST: Mapping[str, tuple[int, ...]] = {"honest-1": (0, 1, 2, 3), "honest-2": (4, 5, 6, 7)}
INSIDERS: Mapping[str, tuple[int, ...]] = {"mallory": (8, 9, 10, 11)}
GUEST = "guest"
QUORUM = sum(map(len, HONEST.values()))

_BROKEN = (
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,  # the insider, whose calls the hostile ones go with
)

BEAT_S = 0.25
PATIENCE_S = 60.0


def settings(rounds: int) -> list[str]:
    """Return the experiment: every client is in every cohort, the honest ones suffice."""
    return [
        f"rounds={rounds}",
        f"partition.clients={POPULATION}",
        f"cohort.size={POPULATION}",
        f"cohort.quorum={QUORUM}",
        "client.epochs=1",
        "evaluation.clients=6",
        "engine.executor=loop",
    ]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What nodes must know to take part.

    Attributes:
        fingerprint: Of the task.
        size: Length of the parameters.
    """

    fingerprint: str
    size: int


@cache
def terms_of(rounds: int) -> Terms:
    """Make the task, as a node does, and return what it says about itself."""
    experiment = load_experiment(None, settings(rounds))
    hosted = share_of(prepare(experiment, load_test=False), 1, 1)
    (size, _), *_ = hosted.plan.strategy.channels(hosted.learner.spec).values()
    return Terms(fingerprint=hosted.fingerprint, size=size)


class Target:
    """A coordinator's process.

    Attributes:
        address: Where nodes call it.
        enrolment: Where they enrol; empty if they do not.
        run: Its run directory.
    """

    def __init__(self, command: Command, address: str, enrolment: str, run: Path) -> None:
        self.address = address
        self.enrolment = enrolment
        self.run = run
        self.command = command

    def resident_bytes(self) -> int:
        """Return its resident memory now."""
        return self._status("VmRSS")

    def peak_bytes(self) -> int:
        """Return the largest resident memory since `forget_peak`."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        """Begin to watch for the peak."""
        Path(f"/proc/{self.command.pid}/clear_refs").write_text("5")

    def _status(self, name: str) -> int:
        with suppress(OSError):
            text = Path(f"/proc/{self.command.pid}/status").read_text()
            if found := re.search(rf"{name}:\s+(\d+) kB", text):
                return int(found[1]) * 1024
        return 0


def serving(directory: Path, rounds: int, authority: Path | None) -> Target:
    """Start a coordinator in an empty directory.

    Args:
        directory: Where it runs.
        rounds: How many its run has.
        authority: Whose certificates count; None, and nobody proves anything.
    """
    options = [part for setting in settings(rounds) for part in ("-s", setting)]
    token = directory / "token"
    secure = ["--authority", authority, "--token-file", token, "--enrol-port", 0]
    command = start(
        *("serve", *options, "--listen", "127.0.0.1:0", "--out", "run"),
        *(secure if authority else ["--insecure"]),
        cwd=directory,
        env={"HOME": str(directory)},
    )
    address = command.wait_for(r"listening on ([^;\s]+)")[1]
    enrolment = f"127.0.0.1:{parse_token(token.read_text()).port}" if authority else ""
    return Target(command, address, enrolment, directory / "run")


@dataclass
class Beats:
    """How an honest node's heartbeats and polls were answered.

    Attributes:
        count: How many.
        slowest_s: How long the slowest took.
        failed: What was said of those that were refused.
    """

    count: int = 0
    slowest_s: float = 0.0
    failed: list[str] = field(default_factory=list)


class LightNode:
    """A node that answers when it is told to, with updates that depend on client and round alone.

    Attributes:
        name: What it calls itself.
        clients: Those it hosts; all are in every cohort.
        wire: Its calls.
        beats: How its heartbeats were answered.
    """

    def __init__(
        self,
        address: str,
        name: str,
        clients: Sequence[int],
        terms: Terms,
        *,
        figures: Callable[[], Metrics],
        identity: Identity | None = None,
    ) -> None:
        """Join a coordinator.

        Args:
            address: The coordinator's.
            name: What to be called.
            clients: Which to host.
            terms: The task's.
            figures: What to answer when it is asked to evaluate.
            identity: What to prove the name with.
        """
        self.name, self.clients = name, clients
        self.beats = Beats()
        self._channel = dial(address, identity)
        self.wire = FakeNode(self._channel)
        self._terms, self._figures = terms, figures
        self._work: Queue[pb.Train | None] = Queue()
        self._over = threading.Event()
        self.wire.join(name)
        self.wire.host(clients, population=POPULATION, fingerprint=terms.fingerprint)
        self._threads = [
            threading.Thread(target=run, name=f"{run.__name__} {name}", daemon=True)
            for run in (self._poll, self._beat)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        self._channel.close()

    def next_round(self) -> list[pb.Train]:
        """Wait for the work of one round; nothing if the run is over."""
        work = [self._work.get(timeout=PATIENCE_S) for _ in self.clients]
        return [train for train in work if train is not None]

    def update(self, train: pb.Train) -> ClientUpdate:
        """Return the update that this work gets."""
        ticket = ticket_from_wire(train.ticket)
        generator = torch.Generator().manual_seed(1000 * ticket.round + ticket.client_id)
        return ClientUpdate(
            ticket=ticket,
            base_version=train.base_version,
            num_examples=10 + ticket.client_id,
            num_steps=1,
            channels={"params": 0.01 * torch.randn(self._terms.size, generator=generator)},
            metrics=Metrics({"loss": 3.0}, 2),
        )

    def _poll(self) -> None:
        while not self._over.is_set():
            try:
                work = self.wire.poll()
                if work.HasField("evaluate"):
                    self._evaluate(ticket_from_wire(work.evaluate.ticket))
            except grpc.RpcError as error:
                if error.code() in _BROKEN:
                    self._over.wait(BEAT_S)
                    continue
                self.beats.failed.append(str(error))
                break
            if work.HasField("train"):
                self._work.put(work.train)
            elif work.HasField("over"):
                break
        for _ in self.clients:
            self._work.put(None)

    def _evaluate(self, ticket: Ticket) -> None:
        self.wire.report(Evaluation(ticket=ticket, metrics=self._figures())).result(PATIENCE_S)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            began = time.monotonic()
            try:
                self.wire.beat()
            except grpc.RpcError as error:
                if not self._over.is_set():
                    self.beats.failed.append(str(error))
            self.beats.count += 1
            self.beats.slowest_s = max(self.beats.slowest_s, time.monotonic() - began)


def sound_figures() -> Metrics:
    """Return an honest client's figures."""
    return Metrics({"loss": 1.0, "accuracy": 1.0}, 2)


def absurd_figures(dice: Random) -> Metrics:
    """Return figures that cannot be true."""
    return dice.choice(
        [
            Metrics({"loss": float("nan"), "accuracy": 1.0}, 2),
            Metrics({"loss": float("-inf")}, 2),
            Metrics({"loss": 1.0, "accuracy": 3.0}, 2),
            Metrics({"loss": 1.0}, 2**63),
        ]
    )


@dataclass(frozen=True, kw_only=True)
class Members:
    """Who has joined.

    Attributes:
        honest: Nodes whose updates count.
        insider: A node that hosts clients as well.
        guest: A node that hosts nothing.
    """

    honest: Sequence[LightNode]
    insider: LightNode
    guest: FakeNode


@contextmanager
def federation(
    target: Target, terms: Terms, dice: Random, nodes: Mapping[str, Identity]
) -> Iterator[Members]:
    """Yield the members, once all have joined.

    Args:
        target: The coordinator.
        terms: The task's.
        dice: Decide what the insider answers when it is asked to evaluate.
        nodes: What members prove their names with; nothing if nobody does.
    """

    def absurd() -> Metrics:
        return absurd_figures(dice)

    with ExitStack() as stack:
        joined = [
            stack.enter_context(
                LightNode(
                    target.address, name, clients, terms, figures=figures, identity=nodes.get(name)
                )
            )
            for clients_of, figures in ((HONEST, sound_figures), (INSIDERS, absurd))
            for name, clients in clients_of.items()
        ]
        guest = FakeNode(stack.enter_context(dial(target.address, nodes.get(GUEST))))
        yield Members(honest=joined[:-1], insider=joined[-1], guest=guest)
