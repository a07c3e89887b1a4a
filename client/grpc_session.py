"""One session of a node at a coordinator: its calls, and the sign of life between them."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TypeVar

import grpc

from roundel.client.grpc_link import Link
from roundel.core.errors import RoundelError
from roundel.core.messages import ClientFailure, Evaluation
from roundel.core.status import Activity
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire import roundel_pb2_grpc as pb_grpc
from roundel.core.wire.convert import (
    activity_to_wire,
    failure_to_wire,
    metrics_to_wire,
    ticket_to_wire,
)
from roundel.core.wire.frames import chunk_data, download_of, upload_of, upload_part
from roundel.core.wire.limits import CHUNK
from roundel.core.wire.payload import Receiver

ReplyT = TypeVar("ReplyT")

MAX_BROADCAST = 1 << 34
POLL_TIMEOUT_S = 60.0
"""A poll is answered sooner than that, with or without work."""

CALL_TIMEOUT_S = 60.0
"""A small call is answered sooner than that, or the connection is broken."""


class Session:
    """The calls of one session.

    A connection may break at any time. What was asked is asked again over the next one, so every
    call can be repeated.

    The session belongs to whoever works through it, but for the time in which a client trains: the
    sign of life may then find that the coordinator has forgotten the node, and join again.

    Attributes:
        activity: What the node does; the sign of life tells it.
    """

    def __init__(self, channel: grpc.Channel, link: Link, session: str) -> None:
        """Begin it.

        Args:
            channel: To the coordinator.
            link: Makes calls again.
            session: What the coordinator gave the node to identify itself with.
        """
        self.activity: Activity | None = None
        self._stub = pb_grpc.FederationStub(channel)
        self._upload = upload_of(channel)
        self._download = download_of(channel)
        self._link = link
        self._session = session
        self._taken = 0
        self._heard_s = -math.inf  # when the last call began that was answered
        self._turn = threading.Lock()

    def poll(self) -> pb.Work:
        """Return the next work, or none after a while."""
        work: pb.Work = self._insist(
            lambda: self._stub.Poll(
                pb.PollRequest(session=self._session, taken=self._taken), timeout=POLL_TIMEOUT_S
            )
        )
        self._taken = max(self._taken, work.number)
        return work

    def download(self, payload: pb.Payload) -> memoryview:
        """Return a payload.

        Raises:
            NotOffered: It is offered no longer.
            ProtocolError: It is not what was announced.
        """
        receiver = Receiver(payload.size, payload.digest, MAX_BROADCAST)

        def attempt() -> None:
            request = pb.DownloadRequest(
                session=self._session, digest=payload.digest, offset=receiver.filled
            )
            for message in self._download(request):
                receiver.take(chunk_data(message))

        self._insist(attempt)
        return receiver.finish()

    def upload(self, header: pb.UpdateHeader, payload: memoryview, *, begun: bool) -> pb.Verdict:
        """Send an update; after a broken connection, what has not arrived of it.

        Args:
            header: Of the update, but for the session.
            payload: Its tensors, as they travel.
            begun: Whether some of it may have arrived before.
        """
        header.session = self._session
        sending = Activity(
            what="send",
            client=header.ticket.client_id,
            round=header.ticket.round,
            total=len(payload),
        )
        again = begun

        def parts() -> Iterator[bytes]:
            yield pb.UploadPart(header=header).SerializeToString()
            for begin in range(header.offset, len(payload), CHUNK):
                self.activity = replace(sending, done=begin)
                yield upload_part(payload[begin : begin + CHUNK])

        def attempt() -> pb.Verdict:
            nonlocal again
            header.offset = self._arrived(header) if again else 0
            again = True
            return self._upload(parts())

        self.activity = sending
        return self._insist(attempt)

    def fail(self, failure: ClientFailure) -> None:
        """Say that a client's work ended in an exception."""
        report = failure_to_wire(failure, self._session)
        self._insist(lambda: self._stub.Fail(report))

    def report(self, evaluation: Evaluation) -> None:
        """Send a client's figures."""
        report = pb.EvaluationReport(
            session=self._session,
            ticket=ticket_to_wire(evaluation.ticket),
            metrics=metrics_to_wire(evaluation.metrics),
        )
        self._insist(lambda: self._stub.Report(report))

    @contextmanager
    def beating(
        self, every_s: float, reached: Callable[[], None], again: Callable[[], str]
    ) -> Iterator[None]:
        """Tell the coordinator, all through the block, that the node is alive and what it does.

        Any call that is answered tells that as well, so a beat follows only on a while without one.

        Args:
            every_s: How long that is, in seconds.
            reached: Called each time that the coordinator has heard it.
            again: Joins again and returns the new session, or raises. Called from another thread,
                while a client trains.
        """
        done = threading.Event()

        def beat() -> None:
            tried_s = time.monotonic()
            while not done.wait(max(tried_s, self._heard_s) + every_s - time.monotonic()):
                if time.monotonic() < self._heard_s + every_s:
                    with suppress(OSError):
                        reached()  # by another call
                    continue
                tried_s = time.monotonic()
                request = pb.BeatRequest(
                    session=self._session, activity=activity_to_wire(self.activity)
                )
                try:
                    self._stub.Beat(request, timeout=every_s)
                except grpc.RpcError as error:  # the loop over work meets the same and reports it
                    if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                        self._renew(again)
                else:
                    with suppress(OSError):  # of a full disk the loop over work will tell
                        reached()

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        with self._turn:
            thread.start()
            try:
                yield
            finally:
                done.set()
                thread.join()

    @contextmanager
    def training(self) -> Iterator[None]:
        """Let the sign of life renew the session in the block, which makes no calls."""
        self._turn.release()
        try:
            yield
        finally:
            self._turn.acquire()

    def _insist(self, call: Callable[[], ReplyT]) -> ReplyT:
        """Make a call until it is answered, and note when the one began that was."""

        def timed() -> ReplyT:
            began_s = time.monotonic()
            reply = call()
            self._heard_s = began_s
            return reply

        return self._link.insist(timed)

    def _renew(self, again: Callable[[], str]) -> None:
        if self._turn.acquire(blocking=False):  # else the loop over work joins again by itself
            try:
                with suppress(grpc.RpcError, RoundelError):  # likewise, and it says what is wrong
                    self._session, self._taken = again(), 0
            finally:
                self._turn.release()

    def _arrived(self, header: pb.UpdateHeader) -> int:
        """Return how much of an upload has arrived; what fits into one message is sent anew."""
        payload = header.payload
        if payload.size <= CHUNK:
            return 0
        asked = pb.ProgressRequest(
            session=self._session, ticket=header.ticket, digest=payload.digest
        )
        reply: pb.ProgressReply = self._stub.Progress(asked, timeout=CALL_TIMEOUT_S)
        return min(reply.offset, payload.size)
