"""A node's end of the wire: dials a coordinator, asks for work, sends answers."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
    PROTOCOL,
    evaluate_from_wire,
    failure_to_wire,
    metrics_to_wire,
    ticket_to_wire,
    train_from_wire,
    update_to_wire,
)
from roundel.core.wire.payload import MESSAGE_LIMITS, Receiver, pack, unpack

JOIN_TIMEOUT_S = 60.0
MAX_BROADCAST = 1 << 34

Prepare = Callable[[Experiment], Hosted]
"""From the experiment that the coordinator runs to what this node brings to it."""

Say = Callable[[str], None]


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
    with grpc.insecure_channel(address, options=MESSAGE_LIMITS) as channel, _sentences(address):
        stub = pb_grpc.FederationStub(channel)
        joined = stub.Join(
            pb.JoinRequest(protocol=PROTOCOL, node=name, version=roundel_version()),
            wait_for_ready=True,
            timeout=JOIN_TIMEOUT_S,
        )
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
    """One node's loop over work."""

    def __init__(self, stub: pb_grpc.FederationStub, session: str, node: Node, say: Say) -> None:
        self._stub = stub
        self._session = session
        self._node = node
        self._say = say
        self._payload: tuple[bytes, bytearray] = (b"", bytearray())

    def work(self) -> str:
        """Do everything that comes; return why it ended."""
        while True:
            work: pb.Work = self._stub.Poll(pb.PollRequest(session=self._session))
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
            self._stub.Fail(failure_to_wire(answer, self._session))
            return
        packed = pack(answer.channels)
        payload = pb.Payload(size=len(packed.data), sha256=packed.sha256)

        def parts() -> Iterator[pb.UploadPart]:
            yield pb.UploadPart(header=update_to_wire(answer, self._session, payload))
            for chunk in packed.chunks():
                yield pb.UploadPart(data=chunk)

        if self._stub.Upload(parts()).accepted:
            self._node.stage(answer.ticket.client_id, state)

    def _evaluate(self, work: pb.Evaluate) -> None:
        data = self._download(work.payload)
        if data is None:
            return
        request = evaluate_from_wire(work, unpack(data))
        answer = self._node.evaluate(request)
        if isinstance(answer, ClientFailure):
            self._stub.Fail(failure_to_wire(answer, self._session))
            return
        self._stub.Report(
            pb.EvaluationReport(
                session=self._session,
                ticket=ticket_to_wire(answer.ticket),
                metrics=metrics_to_wire(answer.metrics),
            )
        )

    def _download(self, payload: pb.Payload) -> bytearray | None:
        """Return a payload, or None if it is offered no longer; the one at hand is kept."""
        if self._payload[0] != payload.sha256:
            receiver = Receiver(payload.size, payload.sha256, MAX_BROADCAST)
            request = pb.DownloadRequest(session=self._session, sha256=payload.sha256)
            try:
                for chunk in self._stub.Download(request):
                    receiver.take(chunk.data)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    return None
                raise
            self._payload = (payload.sha256, receiver.finish())
        return self._payload[1]


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
