"""An attack on a federation from its first round to its last, and what is held against it.

While hostile calls come in, honest nodes go on with their rounds. The run must end with the bits of
one that nobody attacked, and the coordinator must stay alive, answer in time, accept nothing that
it should not, and keep its memory and its directories as they are.
"""

import asyncio
import math
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import grpc

from roundel.core.history import History, read_history
from roundel.core.messages import Ticket
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire.convert import ticket_from_wire
from tests.hostile.cases import Case, Due, Peer, Scene, draw, draw_noise
from tests.hostile.federation import (
    GUEST,
    HONEST,
    INSIDERS,
    PATIENCE_S,
    POPULATION,
    QUORUM,
    LightNode,
    Members,
    Target,
    Terms,
    federation,
    serving,
    terms_of,
)
from tests.hostile.identities import Identities, identities
from tests.hostile.sender import Ended, Sender, left_open, send_noise
from tests.server.fake_node import FakeNode

BOUND_BYTES = 128 << 20
"""By how much the coordinator's resident memory may grow, at its peak, while it is attacked: what
is on its way in at a time, and what allocators hold back of it. It does not grow with the cases."""

ANSWER_S = 2.0
"""How long an honest heartbeat may take."""

SOCKETS_PER_ROUND, IDLE = 10, 200
"""Bare sockets that say something odd, and those that stay open and say nothing."""

GHOST = "ghost"
NAMES = (*HONEST, *INSIDERS, GUEST, GHOST)
PEERS = {Peer.INSIDER: next(iter(INSIDERS)), Peer.GUEST: GUEST, Peer.GHOST: GHOST}

_FINE = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNAVAILABLE,
    }
)
"""With which a coordinator may refuse; UNKNOWN and INTERNAL are its own mistakes."""


@dataclass
class Figures:
    """What was seen.

    Attributes:
        endings: How many cases of each kind ended in which way.
        slowest_s: The slowest answer to cases of each kind.
        due: Honest answers that had to be accepted, each of them twice.
        refused: How many of them were not.
        defects: What should not have been.
        beats: Heartbeats of honest nodes, and the slowest of them in seconds.
        memory: Resident bytes of the coordinator before, after and at the peak.
        rounds: How many rounds ended meanwhile.
    """

    endings: dict[str, Counter[str]] = field(default_factory=dict)
    slowest_s: dict[str, float] = field(default_factory=dict)
    due: int = 0
    refused: int = 0
    defects: list[str] = field(default_factory=list)
    beats: tuple[int, float] = (0, 0.0)
    memory: tuple[int, int, int] = (0, 0, 0)
    rounds: int = 0

    def count(self, kind: str, ending: str, seconds: float = 0.0) -> None:
        """Count a case."""
        self.endings.setdefault(kind, Counter())[ending] += 1
        self.slowest_s[kind] = max(self.slowest_s.get(kind, 0.0), seconds)

    @property
    def cases(self) -> int:
        """How many cases there were."""
        return sum(counter.total() for counter in self.endings.values())


def attack(
    directory: Path,
    *,
    cases: int,
    rounds: int,
    seed: int,
    kinds: Collection[str] = (),
    tls: bool = True,
    on_round: Callable[[Figures], None] = lambda _figures: None,
) -> Figures:
    """Run a federation twice, the second time under attack, and compare.

    Args:
        directory: An empty one; all that the coordinator writes must be in it.
        cases: How many hostile calls.
        rounds: Over how many rounds, of which the first and the last are left in peace.
        seed: Of the dice.
        kinds: Which kinds of cases; all by default.
        tls: Whether everybody must prove who it is.
        on_round: Is shown the figures after each round.
    """
    terms = terms_of(rounds)
    proofs = identities(directory / "authority", NAMES, PEERS) if tls else None
    quiet = _run(directory / "quiet", terms, rounds, _Campaign(rounds, 0, seed), proofs)
    campaign = _Campaign(rounds, cases, seed, kinds, on_round)
    attacked = _run(directory / "attacked", terms, rounds, campaign, proofs)
    figures = campaign.figures
    figures.defects += _differences(quiet, attacked)
    figures.defects += _strays(directory)
    campaign.judge()
    return figures


def _run(
    directory: Path, terms: Terms, rounds: int, campaign: "_Campaign", proofs: Identities | None
) -> History:
    directory.mkdir(parents=True)
    target = serving(directory, rounds, directory.with_name("authority") if proofs else None)
    nodes = proofs.nodes if proofs else {}
    sender = Sender(target.address, target.enrolment, proofs.credentials() if proofs else None)
    idle = left_open(target.address, campaign.idle)
    with federation(target, terms, Random(campaign.seed), nodes) as members, idle:
        campaign.go(target, terms, members, sender)
    if not target.command.ends_within(PATIENCE_S):
        campaign.figures.defects.append("the coordinator did not end with its run")
        target.command.send(signal.SIGKILL)
    ended = target.command.wait()
    if ended.code != 0:
        campaign.figures.defects.append(
            f"the coordinator ended with code {ended.code}: {ended.err[-500:]}"
        )
    if "Traceback" in ended.out + ended.err:
        campaign.figures.defects.append(f"it met an exception: {_last_traceback(ended.err)}")
    return read_history(target.run)


class _Campaign:
    """One attack.

    Attributes:
        seed: Of all dice.
        idle: How many connections are left open besides.
        figures: What was seen.
    """

    def __init__(
        self,
        rounds: int,
        cases: int,
        seed: int,
        kinds: Collection[str] = (),
        on_round: Callable[[Figures], None] = lambda _figures: None,
    ) -> None:
        self.seed = seed
        self.idle = IDLE if cases else 0
        self.figures = Figures()
        self._dice = Random(seed)
        self._rounds = rounds
        self._per_round = math.ceil(cases / max(1, rounds - 2))
        self._kinds = kinds
        self._on_round = on_round
        self._before = 0

    def go(self, target: Target, terms: Terms, members: Members, sender: Sender) -> None:
        """Attack in every round but the first, which warms up, and the last, which ends the run."""
        honest = members.honest
        with asyncio.Runner() as loop, ThreadPoolExecutor(len(honest)) as threads:

            def attack(scene: Scene, count: int) -> None:
                loop.run(self._batch(sender, scene, count))

            while all(work := [node.next_round() for node in honest]):
                round = work[0][0].ticket.round
                last = round == self._rounds
                count = 0 if last or round == 1 else self._per_round
                guest = _joined(members.guest) if count else ""
                scene = _scene(work[0][0], terms, members, guest, strict=bool(target.enrolment))
                self._look(target, honest)
                attack(scene, count // 2)
                answers = [
                    threads.submit(_answer, node, trains, again=not last)
                    for node, trains in zip(honest, work, strict=True)
                ]
                attack(scene, count - count // 2)
                for answer in answers:
                    self._hold(answer.result(PATIENCE_S))
                if count:
                    self._noise(target)
                self._give_up(members.insider, ticket_from_wire(work[0][0].ticket))
                self._on_round(self.figures)
            loop.run(sender.close())

    async def _batch(self, sender: Sender, scene: Scene, count: int) -> None:
        cases = [draw(self._dice, scene, self._kinds) for _ in range(count)]
        for case, ended in zip(cases, await sender.send(cases), strict=True):
            self.figures.count(case.kind, _name_of(ended), 0.0 if ended.patient else ended.seconds)
            if defect := _defect(case, ended):
                self.figures.defects.append(f"{case.kind}, {case.path}: {defect}")

    def _hold(self, said: Sequence[str]) -> None:
        """Insist that honest updates are accepted, also when they are sent again."""
        self.figures.due += len(said)
        self.figures.refused += sum(map(bool, said))
        self.figures.defects += [f"an honest update was refused: {why}" for why in said if why]

    def _give_up(self, insider: LightNode, ticket: Ticket) -> None:
        """Let the insider's work of this round come to nothing, so that the round ends."""
        for client in insider.clients:
            try:
                insider.wire.fail(replace(ticket, client_id=client)).result(PATIENCE_S)
            except grpc.RpcError as error:
                self.figures.defects.append(f"a failure report was refused: {error}")

    def _noise(self, target: Target) -> None:
        for _ in range(SOCKETS_PER_ROUND):
            noise = draw_noise(self._dice)
            send_noise(target.address, noise)
            self.figures.count(noise.kind, "sent")

    def _look(self, target: Target, honest: Sequence[LightNode]) -> None:
        """Look at the coordinator's process and at how it treated the honest."""
        if self.figures.rounds <= 1:  # nothing was hostile yet
            target.forget_peak()
            self._before = target.resident_bytes()
        figures, beats = self.figures, [node.beats for node in honest]
        figures.rounds += 1
        figures.memory = (self._before, target.resident_bytes(), target.peak_bytes())
        figures.beats = (sum(b.count for b in beats), max(b.slowest_s for b in beats))
        figures.defects += [
            f"an honest node was refused: {said}" for b in beats for said in b.failed
        ]
        if target.command.poll() is not None:
            figures.defects.append(f"the coordinator ended in round {figures.rounds}")

    def judge(self) -> None:
        """Hold the figures as a whole against what they may be."""
        figures, (before, _, peak) = self.figures, self.figures.memory
        if peak - before > BOUND_BYTES:
            figures.defects.append(f"its memory grew by {(peak - before) >> 20} MiB at its peak")
        if figures.beats[1] > ANSWER_S:
            figures.defects.append(f"a heartbeat was answered after {figures.beats[1]:.1f} s")


def _answer(node: LightNode, work: Sequence[pb.Train], *, again: bool) -> list[str]:
    """Send honest updates, perhaps again; return what was said of each, empty if it counts."""
    said: list[str] = []
    for train in work:
        parts = node.wire.parts(node.update(train))
        for _ in range(2 if again else 1):
            try:
                verdict: pb.Verdict = node.wire.upload_parts(parts).result(PATIENCE_S)
                said.append("" if verdict.accepted else verdict.reason or "for no reason")
            except grpc.RpcError as error:
                said.append(str(error))
    return said


def _joined(guest: FakeNode) -> str:
    """Return a new session of the guest, who waits if it has joined too often lately."""
    limit_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return guest.join(GUEST).session
        except grpc.RpcError as error:
            often = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            if not often or time.monotonic() > limit_s:
                raise
        time.sleep(1.0)


def _scene(train: pb.Train, terms: Terms, members: Members, guest: str, *, strict: bool) -> Scene:
    victim, insider = members.honest[0], members.insider
    return Scene(
        run=train.ticket.run,
        round=train.ticket.round,
        population=POPULATION,
        fingerprint=terms.fingerprint,
        size=terms.size,
        session=insider.wire.session,
        clients=insider.clients,
        guest=guest,
        victim=victim.name,
        victim_session=victim.wire.session,
        victim_clients=victim.clients,
        broadcast=train.payload,
        strict=strict,
    )


def _name_of(ended: Ended) -> str:
    """Return how a case ended in a word."""
    if ended.code is None:
        return "cut off"
    if ended.code is grpc.StatusCode.OK:
        return "accepted" if ended.accepted else "answered"
    return ended.code.name.lower()


def _defect(case: Case, ended: Ended) -> str:
    """Say what is wrong with how a case ended; empty if nothing is."""
    if ended.code is grpc.StatusCode.OK:
        counted = ended.accepted and (case.due is Due.REFUSED or case.path.endswith("Upload"))
        return "it was accepted" if counted else ""
    if ended.code is None or ended.code in _FINE:
        return ""
    if ended.code is grpc.StatusCode.DEADLINE_EXCEEDED and ended.patient:
        return ""
    return f"{ended.code.name} after {ended.seconds:.1f} s: {ended.details[:300]}"


def _differences(quiet: History, attacked: History) -> Iterator[str]:
    if attacked.hashes != quiet.hashes:
        yield f"the parameters differ from those of a run that was left alone: {attacked.hashes}"
    if any(completed != QUORUM for completed in attacked.series("completed")):
        yield f"other updates than the honest ones counted: {attacked.series('completed')}"
    for key in ("accuracy", "loss", "cohort"):
        if attacked.series(key) != quiet.series(key):
            yield f"the figures {key!r} differ: {attacked.series(key)}, not {quiet.series(key)}"


_EXPECTED = {"quiet", "attacked", "run", "token", "authority", "foreign"}


def _strays(directory: Path) -> Iterator[str]:
    """Name what lies where the coordinator has no business."""
    places = [*directory.iterdir(), *(directory / "attacked").iterdir()]
    for path in places:
        if not path.match("command-*.*") and path.name not in _EXPECTED:
            yield f"{path} was written"
    if Path("/tmp/roundel-hostile").exists():
        yield "/tmp/roundel-hostile was written"


def _last_traceback(log: str) -> str:
    return "Traceback" + log.rpartition("Traceback")[2][-1500:]
