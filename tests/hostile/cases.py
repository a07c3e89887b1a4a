"""What a hostile peer may send: cases drawn from a seed, without any networking.

Each kind is a function from dice and a `Scene` to a `Case`; `KINDS` lists them with their weights.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache
from math import inf, nan
from random import Random
from typing import Any

import torch
from google.protobuf.message import Message
from torch import Tensor

from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire.limits import CHUNK
from roundel.core.wire.payload import digest_of, pack
from roundel.core.wire.versions import OURS

FEDERATION, OPERATOR, ENROLMENT = (
    f"/{pb.DESCRIPTOR.services_by_name[name].full_name}/"
    for name in ("Federation", "Operator", "Enrolment")
)

UNARY = ("Join", "Host", "Poll", "Beat", "Progress", "Fail", "Report", "Renew")
ALL = (*UNARY, "Upload", "Download")
STREAMS_IN = ("Upload",)
STREAMS_OUT = ("Download",)

LATER = 7
"""So many rounds on, no round will be open before the case is over."""

EDGES = (0, 1, 2, 7, 2**31 - 1, 2**31, 2**32 - 1, 2**53 + 1, 2**63 - 1)
NAMES = (
    *("", ".", "..", "../../x", "/etc/passwd", "/tmp/roundel-hostile", "a/b", "a\\b", "C:\\x"),
    *("nul\0nul", "line\nline", "\x1b[31mred", "%s%n{0}", "'; DROP TABLE nodes; --", "$(id)"),
    *("\u202eedge", "\uff45dge", "\U0001f600" * 20, "a" * 65, "a" * 10_000, ".hidden", " ", "-rf"),
)


MANY_ENTRIES = json.dumps({str(i): {} for i in range(5_000)}).encode()
MANY_TENSORS = {f"n{i}": torch.zeros(1) for i in range(300)}
MANY_FIGURES = pb.Metrics(sums={f"m{i}": 1.0 for i in range(2_000)}, count=1)
MANY_STATES = [
    pb.HeldState(client_id=i, committed=2**32 - 1, pending=2**32 - 1)
    for i in range(-10_000, 10_000)
]


class Due(Enum):
    """How a case may end."""

    REFUSED = "refused"
    """By a status, or by a verdict that does not accept."""
    ANYHOW = "anyhow"
    """By a reply or a status; nothing is accepted that would change the run."""
    ACCEPTED = "accepted"
    """It is right, and must be answered as such."""


class Peer(Enum):
    """Who sends it."""

    INSIDER = "insider"
    """A node of the federation: it hosts clients."""
    GUEST = "guest"
    """One that may join, and hosts nothing."""
    GHOST = "ghost"
    """Another such, which never calls again."""
    NOBODY = "nobody"
    """Without a certificate."""
    STRANGER = "stranger"
    """Likewise, where nodes enrol."""
    FOREIGN = "foreign"
    """With the certificate of another authority."""
    EXPIRED = "expired"
    """With one whose time is over."""
    REVOKED = "revoked"
    """With one that was taken back."""
    OPERATOR = "operator"
    """The operator, by mistake."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a hostile peer knows of the federation as it is now.

    Attributes:
        run: The run's identity.
        round: The round that is open.
        population: How many clients there are.
        fingerprint: With which a node may host clients.
        size: Length of the parameters.
        session: Of the insider.
        clients: Of the insider; all are in the cohort.
        guest: Session of a node that has joined and hosts nothing.
        victim: Name of an honest node.
        victim_session: Its session.
        victim_clients: Its clients.
        broadcast: What the cohort is sent.
        strict: Whether nodes are told by their certificates.
    """

    run: str
    round: int
    population: int
    fingerprint: str
    size: int
    session: str
    clients: Sequence[int]
    guest: str
    victim: str
    victim_session: str
    victim_clients: Sequence[int]
    broadcast: pb.Payload
    strict: bool = False


@dataclass(frozen=True, kw_only=True)
class Case:
    """One call.

    Attributes:
        kind: What it tries.
        path: Of the call.
        messages: What is sent, in order.
        due: How it may end.
        peer: Who sends it.
        gzip: Whether it is compressed.
        metadata: Headers of the call.
        stalls: Whether the call is left open behind its last message.
    """

    kind: str = ""
    path: str
    messages: tuple[bytes, ...]
    due: Due = Due.REFUSED
    peer: Peer = Peer.INSIDER
    gzip: bool = False
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    stalls: bool = False


Make = Callable[[Random, Scene], Case]


def draw(dice: Random, scene: Scene, kinds: Collection[str] = ()) -> Case:
    """Draw one case, of any kind unless some are named."""
    wanted = [kind for kind in KINDS if not kinds or kind in kinds]
    (kind,) = dice.choices(wanted, [KINDS[kind][0] for kind in wanted])
    return replace(KINDS[kind][1](dice, scene), kind=kind)


# ---- pieces


def call(method: str, *messages: Message | bytes, **how: Any) -> Case:
    """Return a case of the federation's service."""
    raw = tuple(m if isinstance(m, bytes) else m.SerializeToString() for m in messages)
    return Case(path=FEDERATION + method, messages=raw, **how)


def mine(dice: Random, scene: Scene, **changes: Any) -> pb.Ticket:
    """Return a ticket of one of the insider's clients in the open round."""
    right = {"run": scene.run, "round": scene.round, "client_id": dice.choice(scene.clients)}
    return pb.Ticket(**{**right, **changes})


def header(
    dice: Random, scene: Scene, data: bytes, announced: Mapping[str, Any] | None = None, **how: Any
) -> pb.UploadPart:
    """Return a header that fits a payload, but for the changes."""
    payload = {"size": len(data), "digest": digest_of(data), **(announced or {})}
    fields = {
        "session": scene.session,
        "ticket": mine(dice, scene),
        "base_version": scene.round - 1,
        "num_examples": 10,
        "num_steps": 1,
        "seconds": 0.1,
        "payload": pb.Payload(**payload),
    }
    return pb.UploadPart(header=pb.UpdateHeader(**{**fields, **how}))


def data_parts(data: bytes, piece: int = CHUNK) -> list[pb.UploadPart]:
    """Cut a payload into parts."""
    return [pb.UploadPart(data=data[at : at + piece]) for at in range(0, len(data), piece)]


def poison(scene: Scene) -> bytes:
    """Return a payload that no gate lets through: all of it is NaN."""
    return _constant(scene.size, nan)


def sound(scene: Scene) -> bytes:
    """Return a payload that would count, if anything else were right."""
    return _constant(scene.size, 0.0)


@lru_cache
def _constant(size: int, value: float) -> bytes:
    return pack({"params": torch.full((size,), value)}).data


def upload(dice: Random, scene: Scene, data: bytes, **how: Any) -> Case:
    """Return a whole upload."""
    return call("Upload", header(dice, scene, data, **how), *data_parts(data))


def valid(dice: Random, scene: Scene, method: str) -> bytes:
    """Return a well-formed message of a call that would change nothing."""
    ticket = mine(dice, scene, round=scene.round + LATER)
    messages: dict[str, Message] = {
        "Join": pb.JoinRequest(protocol=OURS.major, minor=OURS.minor, node="ghost"),
        "Host": pb.HostRequest(
            session=scene.guest, population=scene.population, fingerprint=scene.fingerprint
        ),
        "Poll": pb.PollRequest(session="0" * 32, taken=3),
        "Beat": pb.BeatRequest(
            session=scene.session, activity=pb.Activity(client_id=1, what="train")
        ),
        "Progress": pb.ProgressRequest(session=scene.session, ticket=ticket, digest=b"d" * 32),
        "Fail": pb.FailureReport(session=scene.session, ticket=ticket, stage="train", error="no"),
        "Report": pb.EvaluationReport(
            session=scene.session, ticket=ticket, metrics=pb.Metrics(sums={"loss": 0.5}, count=2)
        ),
        "Renew": pb.RenewRequest(request=b"\x30\x82" + dice.randbytes(60)),
        "Upload": header(dice, scene, poison(scene), {"digest": b"x" * 32}),
        "Download": pb.DownloadRequest(session=scene.guest, digest=b"d" * 32),
    }
    return messages[method].SerializeToString()


def garbled(method: str, *messages: bytes) -> Case:
    """Return a call whose message may be anything, from whom its session belongs to."""
    peers = {"Join": Peer.GHOST, "Host": Peer.GUEST, "Download": Peer.GUEST}
    return call(method, *messages, peer=peers.get(method, Peer.INSIDER), due=Due.ANYHOW)


def odd_text(dice: Random) -> str:
    """Return a text that somebody may stumble over."""
    return dice.choice(
        [
            *NAMES,
            "x" * dice.choice([100, 5_000, 300_000, CHUNK]),
            "\ud7ff\ue000\uffff" * 100,
            "\n" * 1000,
            "".join(chr(dice.randrange(32, 0x2FFF)) for _ in range(40)),
        ]
    )


def odd_number(dice: Random, bits: int = 64) -> int:
    """Return a whole number at an edge."""
    return dice.choice([n for n in (*EDGES, 2**64 - 1) if n < 2**bits])


def odd_double(dice: Random) -> float:
    """Return a number that no sum should meet."""
    return dice.choice([nan, inf, -inf, -1.0, 1e308, -1e308, 5e-324, -0.0])


# ---- bytes that are no messages


def random_bytes(dice: Random, scene: Scene) -> Case:
    """Send noise in place of a message."""
    noise = dice.randbytes(dice.choice([0, 1, 2, 5, 20, 200, 5_000]))
    return garbled(dice.choice(ALL), noise)


def truncated(dice: Random, scene: Scene) -> Case:
    """Cut a good message off."""
    method = dice.choice(ALL)
    whole = valid(dice, scene, method)
    return garbled(method, whole[: dice.randrange(len(whole))])


def flipped(dice: Random, scene: Scene) -> Case:
    """Flip bits of a good message."""
    method = dice.choice(ALL)
    raw = bytearray(valid(dice, scene, method))
    for _ in range(dice.choice([1, 1, 2, 8])):
        raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
    return garbled(method, bytes(raw))


def spliced(dice: Random, scene: Scene) -> Case:
    """Send a message of another call, or two of them as one."""
    method, other = dice.choice(ALL), dice.choice(ALL)
    raw = valid(dice, scene, other) + dice.choice([b"", valid(dice, scene, method)])
    return garbled(method, raw)


def odd_fields(dice: Random, scene: Scene) -> Case:
    """Add fields that are unknown, of another type, endless or nested without end."""
    method = dice.choice(ALL)
    tails = [
        b"\xf8\xff\xff\xff\x0f\x01",  # the largest field number
        b"\x08" + b"\xff" * 9 + b"\x01",  # the largest number
        b"\x08" + b"\xff" * 11,  # a number that does not end
        b"\x0a\xff\xff\xff\xff\x0f",  # a text longer than the message
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x0b" * 1000,  # groups within groups
        b"\x12" + b"\x7f" * 126,
        b"\x0d\x00\x00\x00\x00" * 50,  # 32 bits where there is a text
        b"\x00\x00\x00\x00",  # field number 0
        b"\x0f",  # wire type 7
        b"\xfa\x3f\x03abc" * 2000,  # many unknown ones
        b"\x0a\x04\xff\xfe\xfd\xfc",  # a text that is not UTF-8
    ]
    return garbled(method, valid(dice, scene, method) + dice.choice(tails))


def empty(dice: Random, scene: Scene) -> Case:
    """Send an empty message, or none at all."""
    method = dice.choice(ALL)
    return call(method, *([b""] if method in UNARY or dice.random() < 0.5 else []))


def oversized(dice: Random, scene: Scene) -> Case:
    """Send more than a message may have."""
    size = CHUNK + (1 << 16) + dice.choice([1, 1000, 1 << 20, 3 << 20])
    return call(dice.choice(ALL), bytes(size))


def bomb(dice: Random, scene: Scene) -> Case:
    """Send many zeros, compressed to few bytes."""
    return call(dice.choice(ALL), bytes(dice.choice([100, 1 << 20, 4 << 20])), gzip=True)


# ---- the order of an upload


def out_of_order(dice: Random, scene: Scene) -> Case:
    """Send the parts of an upload in another order, some twice or not at all."""
    data = poison(scene)
    head, body = header(dice, scene, data), data_parts(data, piece=4096)
    orders: list[Sequence[Message]] = [
        [pb.UploadPart()],
        body[:1],
        [*body, head],
        [head, head, *body],
        [head, *body[:2], head],
        [head],
        [head, *body[:-1]],
        [head, *body, *body],
        [head, *body, pb.UploadPart(data=b"more")],
        [head, pb.UploadPart(), *body],
        [head, *[pb.UploadPart(data=b"")] * 50],
    ]
    return call("Upload", *dice.choice(orders))


def lying_size(dice: Random, scene: Scene) -> Case:
    """Announce another size than that of what follows."""
    data = poison(scene)
    lies = [0, 1, 7, 8, len(data) - 1, len(data) + 1, 2**20, 2**31, 2**32, 2**48, 2**63, 2**64 - 1]
    return upload(dice, scene, data, announced={"size": dice.choice(lies)})


def lying_digest(dice: Random, scene: Scene) -> Case:
    """Announce another digest."""
    lies = [b"", b"x", bytes(31), bytes(32), bytes(33), dice.randbytes(32), bytes(100_000)]
    return upload(dice, scene, sound(scene), announced={"digest": dice.choice(lies)})


def lying_offset(dice: Random, scene: Scene) -> Case:
    """Go on with an upload that nobody began, or at another place."""
    data = poison(scene)
    return upload(dice, scene, data, offset=dice.choice([1, 8, len(data), 2**63, 2**64 - 1]))


def slow(dice: Random, scene: Scene) -> Case:
    """Send an upload in crumbs."""
    data = poison(scene)
    crumbs = data_parts(data[:150], piece=1)
    return call("Upload", header(dice, scene, data), *crumbs)


def half_open(dice: Random, scene: Scene) -> Case:
    """Begin a call and leave it."""
    data = poison(scene)
    starts: list[Case] = [
        call("Upload", header(dice, scene, data), *data_parts(data[:100])),
        call("Upload", header(dice, scene, data, {"size": 2**20})),
        call("Upload"),
        garbled("Poll", pb.PollRequest(session=scene.session).SerializeToString()),
        garbled("Download", valid(dice, scene, "Download")),
    ]
    return replace(dice.choice(starts), stalls=True, due=Due.ANYHOW)


# ---- payloads


def laid_out(text: bytes, body: bytes, length: int | None = None) -> bytes:
    """Return a payload with this header."""
    length = len(text) if length is None else length
    return length.to_bytes(8, "little") + text + body


def malformed_payload(dice: Random, scene: Scene) -> Case:
    """Send a payload whose header is not one."""
    body = bytes(dice.choice([0, 4, 64, 4 * scene.size]))

    def entry(**how: Any) -> bytes:
        right = {"dtype": "F32", "shape": [len(body) // 4], "data_offsets": [0, len(body)]}
        text = json.dumps({"params": {**right, **how}}).encode()
        return text + b" " * (-len(text) % 8)

    texts = [
        b"",
        b"{",
        b"[]",
        b"null",
        b"1e999",
        b"NaN",
        b'"params"',
        b"\xff\xfe{}",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"params": null}',
        b'{"params": []}',
        b'{"params": {"dtype": ["F32"], "shape": [], "data_offsets": [0, 4]}}',
        b'{"params": {"dtype": "F32", "shape": [1]}}',
        b'{"params": 1, "params": 2}',
        b"9" * 60_000,
        MANY_ENTRIES,
        entry(dtype=dice.choice(["F33", "", None, 7, {}, "U64", "C64", "__class__"])),
        entry(shape=dice.choice([None, {}, "12", [1.5], [True], [-1], [[1]], [2**63], [10**400]])),
        entry(shape=[2**16] * dice.choice([4, 5, 8, 9, 1000])),
        entry(shape=[0] * 8),
        entry(data_offsets=dice.choice([None, [], [0], [0, 1, 2], [4, 0], [-4, 0], [0, 2**63]])),
        entry(data_offsets=dice.choice([[0, 1e308], [0.0, 4.0], ["0", "4"], {"a": 0, "b": 4}])),
        entry(dtype="F64", shape=[1], data_offsets=[0, 8]),
        entry(dtype="BOOL", shape=[len(body)]),
    ]
    text = dice.choice(texts)
    lengths = [None, None, None, 0, len(text) + 1, 2**16 + 1, 2**31, 2**63, 2**64 - 1]
    data = laid_out(text, body, dice.choice(lengths))
    return upload(dice, scene, data)


def random_payload(dice: Random, scene: Scene) -> Case:
    """Send noise in place of a payload, with the right digest."""
    return upload(dice, scene, dice.randbytes(dice.choice([8, 9, 100, 20_000])))


def wrong_tensors(dice: Random, scene: Scene) -> Case:
    """Send tensors that no gate lets through."""
    size = scene.size
    right = torch.zeros(size)

    def holding(value: float) -> Tensor:
        tensor = right.clone()
        tensor[dice.randrange(size)] = value
        return tensor

    choices: list[dict[str, Tensor]] = [
        {},
        {"parms": right},
        {"params": right, "more": right},
        {"params": right[:-1]},
        {"params": right.view(1, -1)},
        {"params": torch.zeros(0)},
        {"params": right.double()},
        {"params": right.half()},
        {"params": right.bool()},
        {"params": right.long()},
        {"params": holding(nan)},
        {"params": holding(inf)},
        {"params": holding(-inf)},
        {"params": holding(3e38)},
        {"params": right, **MANY_TENSORS},
        {"../../x": right},
        {"integers": torch.tensor([2**62])},
    ]
    return upload(dice, scene, pack(dice.choice(choices)).data)


def wrong_header(dice: Random, scene: Scene) -> Case:
    """Send figures that cannot be true."""
    wrong: list[dict[str, Any]] = [
        {"num_examples": dice.choice([0, 2**40 + 1, 2**63, 2**64 - 1])},
        {"num_steps": 0},
        {"seconds": dice.choice([nan, inf, -inf, -1.0])},
        {"base_version": scene.round + odd_number(dice, 63)},
        {"scalars": {odd_text(dice)[:100]: dice.choice([nan, inf, -inf])}},
        {"metrics": pb.Metrics(sums={"loss": dice.choice([nan, inf, -inf])}, count=1)},
        {"metrics": MANY_FIGURES},
        {"metrics": pb.Metrics(sums={"loss": 1.0}, count=dice.choice([2**63, 2**64 - 1]))},
        {"metrics": pb.Metrics(sums={"clipped": -1.0}, count=1)},
        {"metrics": pb.Metrics(sums={"accuracy": 2.0}, count=1)},
        {"metrics": pb.Metrics(sums={"confusion/../x": 1.0}, count=1)},
    ]
    return upload(dice, scene, sound(scene), **dice.choice(wrong))


# ---- somebody else's


def wrong_ticket(dice: Random, scene: Scene) -> Case:
    """Answer work that nobody has given, with an update that is right otherwise."""
    other = [n for n in range(-1, scene.population + 2) if n not in scene.clients]
    wrong: list[dict[str, Any]] = [
        {"run": dice.choice(["", "r", "0" * 32, odd_text(dice)])},
        {"round": dice.choice([0, scene.round + LATER, 2**32 - 1])},
        {"round": max(0, scene.round - 1)},
        {"stage": dice.choice([1, 2, 2**32 - 1])},
        {"attempt": dice.choice([1, 2, 2**32 - 1])},
        {"client_id": dice.choice([*other, 2**63 - 1, -(2**63)])},
    ]
    ticket = mine(dice, scene, **dice.choice(wrong))
    match dice.randrange(4):
        case 0:
            report = pb.FailureReport(session=scene.session, ticket=ticket, error="no")
            return call("Fail", report)
        case 1:
            metrics = pb.Metrics(sums={"loss": 0.1}, count=1)
            asked = pb.EvaluationReport(session=scene.session, ticket=ticket, metrics=metrics)
            return call("Report", asked)
        case 2:
            asked = pb.ProgressRequest(session=scene.session, ticket=ticket, digest=bytes(32))
            return call("Progress", asked, due=Due.ANYHOW)
        case _:
            return upload(dice, scene, sound(scene), ticket=ticket)


def wrong_session(dice: Random, scene: Scene) -> Case:
    """Speak in a session that does not exist, or is another node's."""
    ticket = mine(dice, scene, client_id=dice.choice(scene.victim_clients))
    session = dice.choice(["", "0" * 32, scene.guest, scene.session, odd_text(dice)])
    if scene.strict and dice.random() < 0.5:
        session = scene.victim_session
    data = sound(scene)
    calls = [
        lambda: upload(dice, scene, data, session=session, ticket=ticket),
        lambda: call("Fail", pb.FailureReport(session=session, ticket=ticket, error="no")),
        lambda: call("Report", pb.EvaluationReport(session=session, ticket=ticket)),
        lambda: call("Progress", pb.ProgressRequest(session=session, ticket=ticket)),
    ]
    return dice.choice(calls)()


def stolen_session(dice: Random, scene: Scene) -> Case:
    """Use a session of a name that is not one's own, or that does not exist."""
    session = scene.victim_session if scene.strict else dice.choice(["", "f" * 32, "x" * 5_000])
    requests: dict[str, Message] = {
        "Host": pb.HostRequest(
            session=session, population=scene.population, fingerprint=scene.fingerprint
        ),
        "Poll": pb.PollRequest(session=session, taken=odd_number(dice)),
        "Beat": pb.BeatRequest(session=session),
        "Download": pb.DownloadRequest(session=session, digest=scene.broadcast.digest),
    }
    method = dice.choice(list(requests))
    return call(method, requests[method], peer=dice.choice([Peer.INSIDER, Peer.GUEST]))


def wrong_certificate(dice: Random, scene: Scene) -> Case:
    """Call with a certificate that is worth nothing, or with none."""
    peers = [Peer.NOBODY, Peer.FOREIGN, Peer.EXPIRED, Peer.REVOKED]
    if not scene.strict:
        return stolen_session(dice, scene)
    method = dice.choice(UNARY)
    return call(method, valid(dice, scene, method), peer=dice.choice(peers))


def enrols(dice: Random, scene: Scene) -> Case:
    """Ask for a certificate without the right to one."""
    wrong = pb.EnrolRequest(
        token_id=dice.choice([dice.randbytes(4).hex(), odd_text(dice)[:15_000]]),
        secret=dice.randbytes(dice.choice([0, 16, 16, 17, 10_000])),
        node=dice.choice(["mallory-3", scene.victim, *NAMES]),
        request=dice.choice([b"", dice.randbytes(300), b"\x30\x82\xff\xff" + bytes(100)]),
    )
    raw = dice.choice([wrong.SerializeToString(), dice.randbytes(50), bytes(100_000)])
    return Case(path=f"{ENROLMENT}Enrol", messages=(raw,), peer=Peer.STRANGER)


# ---- joining, hosting, asking


def joins(dice: Random, scene: Scene) -> Case:
    """Join under a name that is no name, or with a version that is none."""
    strange = pb.JoinRequest(
        protocol=dice.choice([OURS.major, OURS.major, odd_number(dice, 32)]),
        minor=dice.choice([OURS.minor, OURS.minor, odd_number(dice, 32)]),
        node=dice.choice(NAMES),
        version=odd_text(dice)[:100_000],
        capabilities=pb.Capabilities(
            cores=odd_number(dice, 32),
            memory_bytes=odd_number(dice),
            device=odd_text(dice)[:50_000],
            machine=odd_text(dice)[:50_000],
        ),
    )
    return call("Join", strange, peer=Peer.GHOST, due=Due.ANYHOW)


def joins_and_leaves(dice: Random, scene: Scene) -> Case:
    """Join, and never call again."""
    name = "ghost" if scene.strict else f"ghost-{dice.randrange(10**9)}"
    request = pb.JoinRequest(protocol=OURS.major, minor=OURS.minor, node=name)
    return call("Join", request, peer=Peer.GHOST, due=Due.ANYHOW)


def hosts(dice: Random, scene: Scene) -> Case:
    """Host clients that are others', that do not exist, or far too many."""
    taken = [dice.choice(scene.victim_clients), *scene.clients]
    wrong: list[dict[str, Any]] = [
        {"client_ids": taken[:1]},
        {"client_ids": taken * 20_000},
        {"client_ids": [-1]},
        {"client_ids": [scene.population]},
        {"client_ids": [2**63 - 1, -(2**63)]},
        {"client_ids": range(-50_000, 50_000)},
        {"client_ids": taken[:1], "population": odd_number(dice)},
        {"client_ids": taken[:1], "fingerprint": odd_text(dice)},
        {"client_ids": taken[:1], "fingerprint": "[" * 4000},
        {
            "client_ids": taken[:1],
            "states": MANY_STATES,
        },
    ]
    right = {
        "session": scene.guest,
        "population": scene.population,
        "fingerprint": scene.fingerprint,
    }
    return call("Host", pb.HostRequest(**{**right, **dice.choice(wrong)}), peer=Peer.GUEST)


def asks(dice: Random, scene: Scene) -> Case:
    """Download what is not there, from places that are none."""
    digests = [b"", b"x", bytes(32), bytes(500_000), scene.broadcast.digest]
    request = pb.DownloadRequest(
        session=scene.guest, digest=dice.choice(digests), offset=odd_number(dice)
    )
    return call("Download", request, peer=Peer.GUEST, due=Due.ANYHOW)


def tells(dice: Random, scene: Scene) -> Case:
    """Beat or fail or report with more than anybody wants to know."""
    ticket = mine(dice, scene, round=scene.round + LATER)
    metrics = pb.Metrics(
        sums={
            odd_text(dice)[:5_000] + str(i): odd_double(dice) for i in range(dice.choice([1, 20]))
        },
        count=odd_number(dice),
    )
    requests: dict[str, Message] = {
        "Beat": pb.BeatRequest(
            session=scene.session,
            activity=pb.Activity(
                client_id=dice.choice([-1, -(2**63), 2**63 - 1]),
                round=odd_number(dice, 32),
                what=odd_text(dice)[:900_000],
                done=odd_number(dice),
                total=odd_number(dice),
            ),
        ),
        "Fail": pb.FailureReport(
            session=scene.session,
            ticket=ticket,
            stage=odd_text(dice)[:200_000],
            error=odd_text(dice)[:200_000],
            location=odd_text(dice)[:200_000],
            traceback=odd_text(dice)[:300_000],
        ),
        "Report": pb.EvaluationReport(session=scene.session, ticket=ticket, metrics=metrics),
    }
    method = dice.choice(list(requests))
    due = Due.ANYHOW if method == "Beat" else Due.REFUSED
    return call(method, requests[method], due=due)


# ---- calls that are not a node's


def other_calls(dice: Random, scene: Scene) -> Case:
    """Call what is the operator's, the authority's, or nobody's."""
    # Without certificates, whoever is on this machine may operate.
    victim = scene.victim if scene.strict else dice.choice(NAMES)
    due = Due.REFUSED if scene.strict else Due.ANYHOW
    requests: dict[str, Message] = {
        f"{OPERATOR}Status": pb.StatusRequest(),
        f"{OPERATOR}Drain": pb.DrainRequest(node=victim),
        f"{OPERATOR}Revoke": pb.RevokeRequest(node=victim, reason=odd_text(dice)[:1000]),
        f"{OPERATOR}IssueToken": pb.IssueTokenRequest(seconds=odd_double(dice), uses=1),
        f"{OPERATOR}RevokeToken": pb.RevokeTokenRequest(id=odd_text(dice)[:1000]),
        f"{ENROLMENT}Enrol": pb.EnrolRequest(
            token_id=odd_text(dice)[:1000], secret=dice.randbytes(16), node=dice.choice(NAMES)
        ),
        f"{FEDERATION}Nothing": pb.Done(),
        "/": pb.Done(),
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": pb.Done(),
        f"/{'x' * 4000}/y": pb.Done(),
    }
    path = dice.choice(list(requests))
    return Case(path=path, messages=(requests[path].SerializeToString(),), due=due)


def operates(dice: Random, scene: Scene) -> Case:
    """Operate on what does not exist, with numbers that are none."""
    node = dice.choice([*NAMES, odd_text(dice)[:2_000]])
    seconds, uses = odd_double(dice), odd_number(dice, 32)
    requests: dict[str, Message] = {
        f"{OPERATOR}Status": pb.StatusRequest(),
        f"{OPERATOR}Drain": pb.DrainRequest(node=node),
        f"{OPERATOR}Revoke": pb.RevokeRequest(node=node, reason=odd_text(dice)[:2_000]),
        f"{OPERATOR}IssueToken": pb.IssueTokenRequest(seconds=seconds, uses=uses),
        f"{OPERATOR}RevokeToken": pb.RevokeTokenRequest(id=odd_text(dice)[:2_000]),
        f"{FEDERATION}Join": pb.JoinRequest(protocol=OURS.major, node="operator"),
    }
    path = dice.choice(list(requests)[: None if scene.strict else -1])
    raw = dice.choice([requests[path].SerializeToString(), dice.randbytes(20)])
    return Case(path=path, messages=(raw,), peer=Peer.OPERATOR, due=Due.ANYHOW)


def odd_metadata(dice: Random, scene: Scene) -> Case:
    """Send headers that are long, many or strange with a call that is refused."""
    headers: list[tuple[tuple[str, str | bytes], ...]] = [
        (("x-long", "x" * 20_000),),
        tuple((f"x-{i}", "y") for i in range(500)),
        (("x-bin", dice.randbytes(3_000)),),
        (("grpc-timeout", "99999999H"),),
        (("grpc-encoding", "snappy"),),
        (("te", "x"), ("content-type", "text/html")),
        (("authorization", "Bearer x"), ("x-forwarded-for", "127.0.0.1")),
    ]
    request = pb.BeatRequest(session="0" * 32)
    return call("Beat", request, metadata=dice.choice(headers))


@dataclass(frozen=True)
class Noise:
    """Bytes for a bare socket, which are no call at all."""

    kind: str
    data: bytes = field(repr=False)


_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(
    kind: int, flags: int, stream: int, body: bytes = b"", length: int | None = None
) -> bytes:
    """Return a frame of HTTP/2."""
    size = len(body) if length is None else length
    return size.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def draw_noise(dice: Random) -> Noise:
    """Draw what a bare socket sends."""
    opened = _PREFACE + frame(4, 0, 0)
    resets = b"".join(
        frame(1, 4, 2 * i + 1, b"\x82\x86\x84") + frame(3, 0, 2 * i + 1, bytes(4))
        for i in range(200)
    )
    tries = {
        "socket: noise": dice.randbytes(dice.choice([1, 100, 10_000])),
        "socket: HTTP/1.1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "socket: TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + dice.randbytes(500),
        "socket: frame of noise": opened + dice.randbytes(500),
        "socket: huge frame": opened + frame(0, 0, 1, b"x", length=2**24 - 1),
        "socket: settings": _PREFACE + frame(4, 0, 0, b"\x00\x04\xff\xff\xff\xff") * 500,
        "socket: pings": opened + frame(6, 0, 0, bytes(8)) * 1000,
        "socket: quick resets": opened + resets,
        "socket: endless headers": opened + frame(1, 0, 1, b"\x00" * 100) + frame(9, 0, 1) * 500,
        "socket: stream 0": opened + frame(0, 0, 0, b"x"),
    }
    kind = dice.choice(list(tries))
    return Noise(kind, tries[kind])


KINDS: Mapping[str, tuple[float, Make]] = {
    "random bytes": (10, random_bytes),
    "truncated message": (10, truncated),
    "flipped bits": (10, flipped),
    "another call's message": (5, spliced),
    "odd fields": (8, odd_fields),
    "empty message": (3, empty),
    "oversized message": (1, oversized),
    "compressed bomb": (1, bomb),
    "parts out of order": (6, out_of_order),
    "lying size": (4, lying_size),
    "lying digest": (3, lying_digest),
    "lying offset": (2, lying_offset),
    "slow upload": (0.5, slow),
    "half-open call": (0.5, half_open),
    "malformed payload": (8, malformed_payload),
    "random payload": (2, random_payload),
    "wrong tensors": (2, wrong_tensors),
    "wrong figures": (2, wrong_header),
    "wrong ticket": (6, wrong_ticket),
    "wrong session": (4, wrong_session),
    "stolen session": (4, stolen_session),
    "wrong certificate": (2, wrong_certificate),
    "enrolling": (2, enrols),
    "odd names": (4, joins),
    "sessions never used": (5, joins_and_leaves),
    "clients of others": (3, hosts),
    "odd downloads": (3, asks),
    "odd reports": (5, tells),
    "calls of others": (3, other_calls),
    "operator's mistakes": (2, operates),
    "odd metadata": (2, odd_metadata),
}
