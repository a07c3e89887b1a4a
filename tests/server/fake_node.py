"""A node that does nothing by itself: a test speaks through it, well-behaved or not."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc
from torch import Tensor

from roundel.core.messages import ClientFailure, ClientUpdate, Evaluation, Ticket
from roundel.core.metrics import Metrics
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire import roundel_pb2_grpc as pb_grpc
from roundel.core.wire.convert import (
    failure_to_wire,
    metrics_to_wire,
    ticket_to_wire,
    update_to_wire,
)
from roundel.core.wire.payload import Packed, Receiver, pack, unpack
from roundel.core.wire.versions import OURS, Version

TIMEOUT_S = 10.0


class FakeNode:
    """One node's channel to a coordinator.

    Attributes:
        stub: The calls.
        session: Given by `join`.
        taken: The number of the last work it got.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self.stub: Any = pb_grpc.FederationStub(channel)
        self.session = ""
        self.taken = 0

    def join(self, name: str = "edge", version: Version = OURS) -> pb.JoinReply:
        request = pb.JoinRequest(protocol=version.major, minor=version.minor, node=name)
        reply = self.stub.Join(request, timeout=TIMEOUT_S, wait_for_ready=True)
        self.session = reply.session
        return reply

    def host(self, clients: Iterable[int], *, population=4, fingerprint="layout") -> pb.HostReply:
        request = pb.HostRequest(
            session=self.session,
            client_ids=clients,
            population=population,
            fingerprint=fingerprint,
        )
        return self.stub.Host(request, timeout=TIMEOUT_S)

    def poll(self) -> pb.Work:
        request = pb.PollRequest(session=self.session, taken=self.taken)
        work = self.stub.Poll(request, timeout=TIMEOUT_S)
        self.taken = max(self.taken, work.number)
        return work

    def beat(self) -> None:
        self.stub.Beat(pb.BeatRequest(session=self.session), timeout=TIMEOUT_S)

    def download(self, payload: pb.Payload, offset: int = 0) -> bytes:
        request = pb.DownloadRequest(session=self.session, digest=payload.digest, offset=offset)
        return b"".join(chunk.data for chunk in self.stub.Download(request, timeout=TIMEOUT_S))

    def broadcast(self, payload: pb.Payload) -> dict[str, Tensor]:
        receiver = Receiver(payload.size, payload.digest, 1 << 20)
        receiver.take(self.download(payload))
        return unpack(receiver.finish())

    def header(
        self, update: ClientUpdate, packed: Packed | None = None, **announced: Any
    ) -> pb.UploadPart:
        packed = packed or pack(update.channels)
        payload = pb.Payload(**{"size": len(packed.data), "digest": packed.digest, **announced})
        return pb.UploadPart(header=update_to_wire(update, self.session, payload))

    def parts(self, update: ClientUpdate) -> list[pb.UploadPart]:
        packed = pack(update.channels)
        data = [pb.UploadPart(data=chunk) for chunk in packed.chunks()]
        return [self.header(update, packed), *data]

    def upload_parts(self, parts: Iterable[pb.UploadPart]) -> Any:
        """Start an upload; its result is the verdict."""
        return self.stub.Upload.future(iter(list(parts)), timeout=TIMEOUT_S)

    def upload(self, update: ClientUpdate) -> Any:
        return self.upload_parts(self.parts(update))

    def fail(self, ticket: Ticket, error: str = "ValueError: no") -> Any:
        failure = ClientFailure(ticket=ticket, stage="train", error=error)
        report = failure_to_wire(failure, self.session)
        return self.stub.Fail.future(report, timeout=TIMEOUT_S)

    def report(self, evaluation: Evaluation) -> Any:
        report = pb.EvaluationReport(
            session=self.session,
            ticket=ticket_to_wire(evaluation.ticket),
            metrics=metrics_to_wire(evaluation.metrics),
        )
        return self.stub.Report.future(report, timeout=TIMEOUT_S)

    def report_loss(self, ticket: Ticket, loss: float) -> Any:
        return self.report(Evaluation(ticket=ticket, metrics=Metrics({"loss": loss}, 1)))


@contextmanager
def dialling(address: str, clients: Sequence[int] = (), name: str = "edge") -> Iterator[FakeNode]:
    """Yield a node that has joined and hosts these clients."""
    with grpc.insecure_channel(address) as channel:
        node = FakeNode(channel)
        if clients:
            node.join(name)
            node.host(clients)
        yield node


def refusal(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """Make a call that must be refused; return its code and its sentence."""
    try:
        call()
    except grpc.RpcError as error:
        answer: Any = error
        return answer.code(), answer.details()
    raise AssertionError("the call was not refused")
