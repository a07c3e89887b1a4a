"""Light nodes: many in one process, each with a connection, that train nothing.

Each sends the same update back as soon as it has read the broadcast. What it sends and when is what
`roundel join` does: a heartbeat only if no other call was answered for a while, and it joins again
if the coordinator does not know it any more.
"""

import asyncio
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import grpc
from federation import Failed
from grpc import aio

from roundel.client.node import Node
from roundel.core.configfile import load_experiment
from roundel.core.messages import ClientUpdate, Ticket, TrainRequest
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire import roundel_pb2_grpc as pb_grpc
from roundel.core.wire.channel import Identity, dial, proving
from roundel.core.wire.convert import update_to_wire
from roundel.core.wire.frames import chunk_data, download_of, upload_of, upload_part
from roundel.core.wire.limits import CHUNK, MESSAGE_LIMITS
from roundel.core.wire.payload import pack
from roundel.core.wire.versions import OURS
from roundel.simulations.deployed import share_of
from roundel.simulations.prepare import prepare

PROBE = "probe"
PROBE_EVERY_S = 0.02
_REJOIN_S = 10.0
"""How long the coordinator may be away; only joining again has such a deadline."""

_JOIN_AGAIN = frozenset(
    {
        grpc.StatusCode.FAILED_PRECONDITION,  # it does not know the node any more
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNKNOWN,
    }
)
_OPTIONS = [*MESSAGE_LIMITS, ("grpc.use_local_subchannel_pool", 1)]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What every node sends back.

    Attributes:
        header: Without session and ticket.
        parts: The tensors, as messages.
        fingerprint: Of the experiment, as nodes report it.
    """

    header: bytes
    parts: tuple[bytes, ...]
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """The nodes of one process.

    Attributes:
        address: Of the coordinator.
        clients: One for each node.
        population: How many clients there are.
        answer: What all send back.
        identities: By name, if the coordinator asks for certificates.
    """

    address: str
    clients: Sequence[int]
    population: int
    answer: Answer
    identities: Mapping[str, Identity]


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What the nodes of one process have met.

    Attributes:
        join_s: From the first that was let in to the last that hosted its client.
        hosting_s: When that was; the clock is that of all processes of this machine.
        rejoined: How often one had to join again.
    """

    join_s: float
    hosting_s: float
    rejoined: int


@dataclass(frozen=True, kw_only=True)
class Wait:
    """A heartbeat of the probe.

    Attributes:
        at_s: When it was sent.
        waited_s: How long it waited for its answer.
    """

    at_s: float
    waited_s: float


def node_name(client_id: int) -> str:
    """Return what the node of a client calls itself."""
    return f"light-{client_id}"


def answer_to(settings: Sequence[str]) -> Answer:
    """Train one client for real; what it sends is what all will send."""
    experiment = load_experiment(None, list(settings))
    hosted = share_of(prepare(experiment, load_test=False), 1, 1)
    learner = hosted.learner
    request = TrainRequest(
        ticket=Ticket(run="", round=1, client_id=0),
        base_version=0,
        params=learner.initial,
        integers=learner.initial_integers,
        channels={},
    )
    update, _ = Node(hosted).train(request)
    if not isinstance(update, ClientUpdate):
        raise Failed(f"the client that is to be copied failed: {update.error}")
    packed = pack(update.channels)
    described = pb.Payload(size=packed.size, digest=packed.digest)
    header = update_to_wire(replace(update, seconds=0.0), "", described)
    data = memoryview(packed.data)
    pieces = (data[begin : begin + CHUNK] for begin in range(0, len(data), CHUNK))
    return Answer(
        header=header.SerializeToString(),
        parts=tuple(upload_part(piece) for piece in pieces),
        fingerprint=hosted.fingerprint,
    )


class LightNode:
    """One node that sends what it is told to.

    Attributes:
        joined_s: When it was first let in; 0.0 before.
        hosting_s: When it first hosted its client; 0.0 before.
        rejoined: How often it had to join again.
    """

    def __init__(self, crowd: Crowd, client_id: int) -> None:
        self.joined_s = self.hosting_s = 0.0
        self.rejoined = 0
        self._crowd = crowd
        self._client_id = client_id
        self._heard_s = 0.0
        self._state = pb.HeldState(client_id=client_id)  # of which rounds it would have it

    async def run(self) -> None:
        """Join, and work until the run is over."""
        crowd, name = self._crowd, node_name(self._client_id)
        async with _dial(crowd.address, crowd.identities.get(name)) as channel:
            while True:
                try:
                    return await self._session(channel, name)
                except aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                        return None  # there is nobody to join again: the run is over
                    if error.code() not in _JOIN_AGAIN:
                        raise Failed(f"{name}: {error.code().name}: {error.details()}") from error

    async def _session(self, channel: aio.Channel, name: str) -> None:
        stub: Any = pb_grpc.FederationStub(channel)
        joined = await stub.Join(
            pb.JoinRequest(protocol=OURS.major, minor=OURS.minor, node=name),
            wait_for_ready=True,
            timeout=_REJOIN_S if self.joined_s else None,
        )
        self.rejoined += self.joined_s > 0.0
        self.joined_s = self.joined_s or time.monotonic()
        hosting = await stub.Host(
            pb.HostRequest(
                session=joined.session,
                client_ids=[self._client_id],
                population=self._crowd.population,
                fingerprint=self._crowd.answer.fingerprint,
                states=[self._state],
            )
        )
        self.hosting_s = self.hosting_s or time.monotonic()
        beats = asyncio.create_task(self._beat(stub, joined.session, hosting.heartbeat_s))
        try:
            await self._work(channel, stub, joined.session)
        finally:
            beats.cancel()

    async def _work(self, channel: Any, stub: Any, session: str) -> None:  # noqa: ANN401 - untyped stubs
        taken = 0
        while True:
            began_s = time.monotonic()
            work = await stub.Poll(pb.PollRequest(session=session, taken=taken))
            self._heard_s = began_s
            taken = max(taken, work.number)
            match work.WhichOneof("kind"):
                case "train":
                    await self._train(channel, session, work.train)
                case "commit":
                    self._state.committed = work.commit.round
                case "over":
                    return
                case _:
                    pass

    async def _train(self, channel: Any, session: str, work: pb.Train) -> None:  # noqa: ANN401 - of aio
        began_s = time.monotonic()
        request = pb.DownloadRequest(session=session, digest=work.payload.digest)
        received = 0
        async for chunk in download_of(channel)(request):
            received += len(chunk_data(chunk))
        if received != work.payload.size:
            raise Failed(f"{received} of {work.payload.size} bytes of a broadcast came")
        self._heard_s = began_s
        header = pb.UpdateHeader.FromString(self._crowd.answer.header)
        header.session = session
        header.ticket.CopyFrom(work.ticket)
        header.base_version = work.base_version
        self._state.pending = work.ticket.round
        began_s = time.monotonic()
        upload: Any = upload_of(channel)  # which awaits nothing as far as its type knows
        verdict = await upload(self._parts(header))
        self._heard_s = began_s
        if not verdict.accepted:
            raise Failed(f"an update was refused: {verdict.reason}")

    def _parts(self, header: pb.UpdateHeader) -> Iterator[bytes]:
        yield pb.UploadPart(header=header).SerializeToString()
        yield from self._crowd.answer.parts

    async def _beat(self, stub: Any, session: str, every_s: float) -> None:  # noqa: ANN401 - untyped
        """Show that the node is alive, whenever no other call was answered for a while."""
        tried_s = time.monotonic() - every_s * (self._client_id % 97) / 97
        while True:
            due_s = max(tried_s, self._heard_s) + every_s
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            if time.monotonic() < self._heard_s + every_s:
                continue
            tried_s = time.monotonic()
            with suppress(grpc.RpcError):  # the loop over work meets the same
                await stub.Beat(pb.BeatRequest(session=session), timeout=every_s)


def run_crowd(crowd: Crowd, tally: "Connection[Tally, None]") -> None:
    """Run the nodes of this process; hand over what they have met."""

    async def run_all() -> Tally:
        nodes = [LightNode(crowd, client_id) for client_id in crowd.clients]
        async with asyncio.TaskGroup() as group:
            for node in nodes:
                group.create_task(node.run())
        hosting_s = max(node.hosting_s for node in nodes)
        return Tally(
            join_s=hosting_s - min(node.joined_s for node in nodes),
            hosting_s=hosting_s,
            rejoined=sum(node.rejoined for node in nodes),
        )

    try:
        tally.send(asyncio.run(run_all()))
    except* Failed as failed:
        sys.exit(f"{len(failed.exceptions)} light nodes gave up; {failed.exceptions[0]}")


def run_probe(
    address: str, identity: Identity | None, told: "Connection[list[Wait], None]"
) -> None:
    """Send heartbeats until the run is over; hand over how long each waited for its answer."""
    waits: list[Wait] = []
    with dial(address, identity) as channel, suppress(grpc.RpcError):
        stub = pb_grpc.FederationStub(channel)
        request = pb.JoinRequest(protocol=OURS.major, minor=OURS.minor, node=PROBE)
        joined = stub.Join(request, wait_for_ready=True)
        while True:
            began_s = time.monotonic()
            stub.Beat(pb.BeatRequest(session=joined.session))
            waits.append(Wait(at_s=began_s, waited_s=time.monotonic() - began_s))
            time.sleep(PROBE_EVERY_S)
    told.send(waits)


def _dial(address: str, identity: Identity | None) -> aio.Channel:
    if identity is None:
        return aio.insecure_channel(address, options=_OPTIONS)
    credentials, named = proving(identity)
    return aio.secure_channel(address, credentials, options=[*_OPTIONS, named])
