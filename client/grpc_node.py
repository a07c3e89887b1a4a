"""A node's end of the wire: dials a coordinator, asks for work, sends answers."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import TypeVar

import grpc

from roundel.client.node import Hosted, Node
from roundel.core.config import Experiment
from roundel.core.configfile import parse_experiment
from roundel.core.environment import roundel_version
from roundel.core.errors import ProtocolError, RunFailed
from roundel.core.messages import ClientFailure
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire import roundel_pb2_grpc as pb_grpc
from roundel.core.wire.convert import (
    evaluate_from_wire,
    failure_to_wire,
    metrics_to_wire,
    ticket_to_wire,
    train_from_wire,
    update_to_wire,
)
from roundel.core.wire.payload import MESSAGE_LIMITS, Packed, Receiver, pack, unpack
from roundel.core.wire.versions import OURS, Version, mismatch

JOIN_TIMEOUT_S = 60.0
POLL_TIMEOUT_S = 60.0
"""A poll is answered sooner than that, with or without work."""

PATIENCE_S = 15.0
"""How long a coordinator may be out of reach; then it takes the node for lost."""

_LONGEST_WAIT_S = 2.0
_BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_KEEPALIVE = [("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_timeout_ms", 5_000)]
"""So that a connection which is silently dead is found out while a call waits."""

MAX_BROADCAST = 1 << 34

Prepare = Callable[[Experiment], Hosted]
"""From the experiment that the coordinator runs to what this node brings to it."""

Say = Callable[[str], None]
ReplyT = TypeVar("ReplyT")


def run_node(address: str, name: str, prepare: Prepare, say: Say) -> None:
    """Join a coordinator and work for it until the run is over.

    Args:
        address: ``host:port`` of the coordinator.
        name: What this node calls itself.
        prepare: Makes the task and the data.
        say: Is told, in one line each, what happens.

    Raises:
        ProtocolError: The coordinator refuses the node, or speaks another protocol.
        RunFailed: The coordinator cannot be reached, or went away.
    """
    options = [*MESSAGE_LIMITS, *_KEEPALIVE]
    with grpc.insecure_channel(address, options=options) as channel, _sentences(address):
        stub = pb_grpc.FederationStub(channel)
        joined = stub.Join(
            pb.JoinRequest(
                protocol=OURS.major, minor=OURS.minor, node=name, version=roundel_version()
            ),
            wait_for_ready=True,
            timeout=JOIN_TIMEOUT_S,
        )
        if problem := mismatch(name, OURS, Version(OURS.major, joined.minor)):
            raise ProtocolError(problem)
        hosted = prepare(parse_experiment(json.loads(joined.experiment)))
        reply = stub.Host(
            pb.HostRequest(
                session=joined.session,
                client_ids=hosted.client_ids,
                population=hosted.population.size,
                fingerprint=hosted.fingerprint,
            )
        )
        say(f"joined {address} as {name!r}, hosting {len(hosted.client_ids)} clients")
        with _heartbeat(stub, joined.session, reply.heartbeat_s):
            reason = _Worker(stub, joined.session, Node(hosted), say).work()
        say(f"left: {reason}")


class _Worker:
    """One node's loop over work.

    A connection may break at any time. What was asked is asked again over the next one, so every
    call can be repeated.
    """

    def __init__(self, stub: pb_grpc.FederationStub, session: str, node: Node, say: Say) -> None:
        self._stub = stub
        self._session = session
        self._node = node
        self._say = say
        self._taken = 0
        self._payload: tuple[bytes, bytearray] = (b"", bytearray())

    def work(self) -> str:
        """Do everything that comes; return why it ended."""
        while True:
            work = self._persistently(
                lambda: self._stub.Poll(
                    pb.PollRequest(session=self._session, taken=self._taken), timeout=POLL_TIMEOUT_S
                )
            )
            self._taken = max(self._taken, work.number)
            match work.WhichOneof("kind"):
                case "train":
                    self._train(work.train)
                case "evaluate":
                    self._evaluate(work.evaluate)
                case "commit":
                    self._node.commit(work.commit.client_ids)
                    count = len(work.commit.client_ids)
                    self._say(f"round {work.commit.round}: {count} of my clients took part")
                case "over":
                    return str(work.over.reason)
                case _:
                    pass

    def _train(self, work: pb.Train) -> None:
        data = self._download(work.payload)
        if data is None:
            self._say(
                f"round {work.ticket.round}: over before client {work.ticket.client_id} began"
            )
            return
        request = train_from_wire(work, unpack(data))
        answer, state = self._node.train(request)
        if isinstance(answer, ClientFailure):
            self._fail(answer)
            return
        packed = pack(answer.channels)
        header = update_to_wire(
            answer, self._session, pb.Payload(size=len(packed.data), digest=packed.digest)
        )
        if self._upload(header, packed).accepted:
            self._node.stage(answer.ticket.client_id, state)

    def _upload(self, header: pb.UpdateHeader, packed: Packed) -> pb.Verdict:
        """Send an update; after a broken connection, what has not arrived of it."""

        def parts() -> Iterator[pb.UploadPart]:
            yield pb.UploadPart(header=header)
            for chunk in packed.chunks(header.offset):
                yield pb.UploadPart(data=chunk)

        again = False

        def attempt() -> pb.Verdict:
            nonlocal again
            if again:
                asked = pb.ProgressRequest(
                    session=self._session, ticket=header.ticket, digest=packed.digest
                )
                header.offset = self._stub.Progress(asked).offset
            again = True
            verdict: pb.Verdict = self._stub.Upload(parts())
            return verdict

        return self._persistently(attempt)

    def _fail(self, failure: ClientFailure) -> None:
        report = failure_to_wire(failure, self._session)
        self._persistently(lambda: self._stub.Fail(report))

    def _evaluate(self, work: pb.Evaluate) -> None:
        data = self._download(work.payload)
        if data is None:
            return
        request = evaluate_from_wire(work, unpack(data))
        answer = self._node.evaluate(request)
        if isinstance(answer, ClientFailure):
            self._fail(answer)
            return
        report = pb.EvaluationReport(
            session=self._session,
            ticket=ticket_to_wire(answer.ticket),
            metrics=metrics_to_wire(answer.metrics),
        )
        self._persistently(lambda: self._stub.Report(report))

    def _download(self, payload: pb.Payload) -> bytearray | None:
        """Return a payload, or None if it is offered no longer; the one at hand is kept."""
        if self._payload[0] != payload.digest:
            receiver = Receiver(payload.size, payload.digest, MAX_BROADCAST)

            def attempt() -> None:
                request = pb.DownloadRequest(
                    session=self._session, digest=payload.digest, offset=receiver.filled
                )
                for chunk in self._stub.Download(request):
                    receiver.take(chunk.data)

            try:
                self._persistently(attempt)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    return None
                raise
            self._payload = (payload.digest, receiver.finish())
        return self._payload[1]

    def _persistently(self, call: Callable[[], ReplyT]) -> ReplyT:
        """Make a call again while the coordinator cannot be reached, but not for ever."""
        wait_s, gives_up_s = 0.05, inf
        while True:
            try:
                return call()
            except grpc.RpcError as error:
                now_s = time.monotonic()
                gives_up_s = min(gives_up_s, now_s + PATIENCE_S)
                if error.code() not in _BROKEN or now_s + wait_s > gives_up_s:
                    raise
            time.sleep(wait_s)
            wait_s = min(_LONGEST_WAIT_S, 2.0 * wait_s)


@contextmanager
def _heartbeat(stub: pb_grpc.FederationStub, session: str, every_s: float) -> Iterator[None]:
    """Tell the coordinator, all through the block, that this node is alive."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(every_s):
            try:
                stub.Beat(pb.BeatRequest(session=session), timeout=every_s)
            except grpc.RpcError:
                continue  # the loop over work meets the same trouble and reports it

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def _sentences(address: str) -> Iterator[None]:
    """Turn gRPC's errors into sentences."""
    try:
        yield
    except grpc.RpcError as error:
        code, details = error.code(), error.details()
        if code == grpc.StatusCode.INVALID_ARGUMENT:
            raise ProtocolError(f"the coordinator at {address} refuses: {details}") from error
        raise RunFailed(
            f"the coordinator at {address} cannot be reached ({code.name.lower()}); check that "
            "`roundel serve` runs there, and join again"
        ) from error
