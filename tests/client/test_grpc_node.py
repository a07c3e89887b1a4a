"""A node's end of the wire, against a coordinator that a test scripts."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
import torch

from roundel.client import grpc_link, grpc_node
from roundel.client.grpc_node import Joining, Prepare, run_node
from roundel.client.journal import Journal, NodeDirectory
from roundel.client.node import Hosted, HostedClients, Node
from roundel.core.broadcast import broadcast_tensors
from roundel.core.clientstate import ClientState
from roundel.core.configfile import parse_experiment
from roundel.core.data import InMemoryPopulation
from roundel.core.environment import describe_computer, roundel_version
from roundel.core.errors import ProtocolError, RunDirectoryError, RunFailed
from roundel.core.learning import Learner
from roundel.core.messages import (
    ClientFailure,
    ClientUpdate,
    EvaluateRequest,
    Evaluation,
    TrainRequest,
)
from roundel.core.metrics import Metrics
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire import roundel_pb2_grpc as pb_grpc
from roundel.core.wire.convert import (
    capabilities_to_wire,
    evaluation_from_wire,
    failure_from_wire,
    ticket_to_wire,
    update_from_wire,
)
from roundel.core.wire.limits import CHUNK
from roundel.core.wire.payload import Packed, Receiver, pack, unpack
from roundel.core.wire.versions import OURS, Version
from roundel.strategies.plan import Plan
from roundel.strategies.scaffold import scaffold
from tests.server.toys import ROWS, SPEC, STRATEGY, TASK, bits, experiment_of, ticket_of, update_of

WAIT_S = 30.0
OVER = pb.Work(over=pb.RunOver(reason="the run is over"))
BROADCAST = pack(broadcast_tensors(torch.tensor([10.0, 1.0, 2.0]), torch.tensor([3]), {}))
NO_HEARTBEAT_S = 1000.0
LOST = (grpc.StatusCode.FAILED_PRECONDITION, "this node is not known here; join anew")


@dataclass
class Script(pb_grpc.FederationServicer):
    """A coordinator that hands out its works in order and writes down what comes.

    Attributes:
        works: What polls return, one after another.
        payloads: What can be downloaded.
        log: What the node said, in order; heartbeats apart.
        refuse: What to refuse a call with, by its name.
        once: The same, for the first time only.
        settled: What the node is told about the states it names.
        run: The run's identity.
        rounds: How many the experiment has.
        sessions: How many were begun; the last is ``"s"`` and this number.
        hosted: How often clients were hosted.
        cuts: After how many bytes to break uploads off, one after another.
        arrived: What arrived of payloads.
        verdicts: What uploads are told; accepted once there are no more.
        heartbeat_s: How often the node shall call.
    """

    works: list[pb.Work] = field(default_factory=lambda: [OVER])
    payloads: list[Packed] = field(default_factory=lambda: [BROADCAST])
    log: list[Any] = field(default_factory=list[Any])
    refuse: dict[str, tuple[grpc.StatusCode, str]] = field(default_factory=dict)
    once: dict[str, tuple[grpc.StatusCode, str]] = field(default_factory=dict)
    settled: list[pb.SettledState] = field(default_factory=list)
    run: str = "r"
    rounds: int = 7
    sessions: int = 0
    hosted: int = 0
    cuts: list[int] = field(default_factory=list)
    arrived: dict[bytes, Receiver] = field(default_factory=dict)
    verdicts: list[pb.Verdict] = field(default_factory=list)
    heartbeat_s: float = NO_HEARTBEAT_S
    activities: list[pb.Activity] = field(default_factory=list)
    beats: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def _check(self, name: str, context: Any) -> None:
        if reason := self.once.pop(name, self.refuse.get(name)):
            context.abort(*reason)

    def _check_session(self, session: str, context: Any) -> None:
        if session != f"s{self.sessions}":
            context.abort(*LOST)

    def Join(self, request: pb.JoinRequest, context: Any) -> pb.JoinReply:  # noqa: N802
        self.log.append(request)
        self._check("Join", context)
        self.sessions += 1
        experiment = experiment_of(f"rounds={self.rounds}", "client.steps=1")
        return pb.JoinReply(
            run=self.run,
            session=f"s{self.sessions}",
            experiment=experiment.model_dump_json(exclude_none=True),
        )

    def Host(self, request: pb.HostRequest, context: Any) -> pb.HostReply:  # noqa: N802
        self.log.append(request)
        self._check("Host", context)
        self.hosted += 1
        return pb.HostReply(heartbeat_s=self.heartbeat_s, settled=self.settled)

    def Poll(self, request: pb.PollRequest, context: Any) -> pb.Work:  # noqa: N802
        self._check_session(request.session, context)
        self._check("Poll", context)
        return self.works.pop(0)

    def Beat(self, request: pb.BeatRequest, context: Any) -> pb.BeatReply:  # noqa: N802
        self.activities.append(request.activity)
        self.beats.release()
        self._check("Beat", context)
        return pb.BeatReply()

    def Download(self, request: pb.DownloadRequest, context: Any) -> Iterator[pb.Chunk]:  # noqa: N802
        self.log.append(f"download {request.digest[:2].hex()}")
        for packed in self.payloads:
            if packed.digest == request.digest:
                yield from (pb.Chunk(data=chunk) for chunk in packed.chunks(request.offset))
                return
        context.abort(grpc.StatusCode.NOT_FOUND, "this payload is not offered, or no longer")

    def Upload(self, request_iterator: Iterator[pb.UploadPart], context: Any) -> pb.Verdict:  # noqa: N802
        header = next(request_iterator).header
        self._check_session(header.session, context)
        self._check("Upload", context)
        payload = header.payload
        if not header.offset:
            self.arrived[payload.digest] = Receiver(payload.size, payload.digest, 1 << 24)
        receiver = self.arrived[payload.digest]
        assert receiver.filled == header.offset
        cut = self.cuts.pop(0) if self.cuts else None
        for part in request_iterator:
            receiver.take(part.data)
            if cut is not None and receiver.filled >= cut:
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut")
        self.log.append(update_from_wire(header, unpack(receiver.finish())))
        return self.verdicts.pop(0) if self.verdicts else pb.Verdict(accepted=True)

    def Progress(self, request: pb.ProgressRequest, context: Any) -> pb.ProgressReply:  # noqa: N802
        self._check_session(request.session, context)
        self._check("Progress", context)
        found = self.arrived.get(request.digest)
        self.log.append(("progress", found.filled if found else 0))
        return pb.ProgressReply(offset=found.filled if found else 0)

    def Fail(self, request: pb.FailureReport, context: Any) -> pb.Verdict:  # noqa: N802
        self.log.append(failure_from_wire(request))
        return pb.Verdict(accepted=True)

    def Report(self, request: pb.EvaluationReport, context: Any) -> pb.Verdict:  # noqa: N802
        self.log.append(evaluation_from_wire(request))
        return pb.Verdict(accepted=True)


class FakeNode:
    """Takes the place of the clients: what it is asked and what it answers is the test's."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log
        self.answer: Callable[[TrainRequest], ClientUpdate | ClientFailure] = lambda request: (
            update_of(request.ticket.client_id, ticket=request.ticket)
        )
        self.figures: Callable[[EvaluateRequest], Evaluation | ClientFailure] = lambda request: (
            Evaluation(ticket=request.ticket, metrics=Metrics({"loss": 0.1}, 3))
        )

    def train(self, request: TrainRequest) -> tuple[ClientUpdate | ClientFailure, ClientState]:
        self.log.append(("train", request))
        return self.answer(request), {"state": torch.tensor(request.ticket.client_id)}

    def evaluate(self, request: EvaluateRequest) -> Evaluation | ClientFailure:
        self.log.append(("evaluate", request))
        return self.figures(request)


@pytest.fixture(autouse=True)
def _quick(monkeypatch) -> None:
    monkeypatch.setattr(grpc_link, "_FIRST_PAUSE_S", 0.001)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def address(script) -> Iterator[str]:
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        pb_grpc.add_FederationServicer_to_server(script, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(grace=0).wait(WAIT_S)


@pytest.fixture
def node(script, monkeypatch) -> FakeNode:
    fake = FakeNode(script.log)
    monkeypatch.setattr(Node, "train", lambda _node, request: fake.train(request))
    monkeypatch.setattr(Node, "evaluate", lambda _node, request: fake.evaluate(request))
    return fake


HOSTED = Hosted(
    plan=Plan.of(experiment_of("client.steps=1", "client.lr=0.1"), TASK, STRATEGY),
    learner=Learner(TASK, seed=0),
    population=InMemoryPopulation.of([ROWS] * 4),
    client_ids=[1, 3],
    fingerprint=SPEC.fingerprint,
)


def prepare(_experiment: str, journal: Journal, hosted: Hosted = HOSTED) -> HostedClients:
    return Node(hosted, journal.state, journal.secret)


def rounds_of(experiment: str) -> int:
    return parse_experiment(json.loads(experiment)).rounds


@pytest.fixture
def joining(address, tmp_path) -> Joining:
    return Joining(address=address, name="edge", state=tmp_path / "state", wait_s=0.2)


def run(joining: Joining, prepare: Prepare = prepare) -> list[str]:
    said: list[str] = []
    run_node(joining, prepare, said.append)
    return said


def payload_of(packed: Packed) -> pb.Payload:
    return pb.Payload(size=len(packed.data), digest=packed.digest)


def train(client_id: int, round: int = 1, packed: Packed = BROADCAST, **changes: Any) -> pb.Work:
    payload = changes.get("payload", payload_of(packed))
    ticket = ticket_to_wire(ticket_of(client_id, round=round))
    return pb.Work(train=pb.Train(ticket=ticket, base_version=round - 1, payload=payload))


def evaluate(client_id: int, split: str = "test") -> pb.Work:
    ticket = ticket_to_wire(ticket_of(client_id))
    return pb.Work(evaluate=pb.Evaluate(ticket=ticket, payload=payload_of(BROADCAST), split=split))


def commit(round: int, *clients: int) -> pb.Work:
    return pb.Work(commit=pb.Commit(round=round, client_ids=clients))


def kinds(log: list[Any]) -> list[str]:
    return [entry[0] if isinstance(entry, tuple) else type(entry).__name__ for entry in log]


# ---- joining and leaving


def test_a_node_introduces_itself_hosts_its_clients_and_leaves_when_told(script, joining):
    prepared = []

    def note(experiment: str, journal: Journal) -> HostedClients:
        prepared.append(rounds_of(experiment))
        return prepare(experiment, journal)

    said: list[str] = []
    run_node(joining, note, said.append)
    assert script.log == [
        pb.JoinRequest(
            protocol=OURS.major,
            minor=OURS.minor,
            node="edge",
            version=roundel_version(),
            capabilities=capabilities_to_wire(describe_computer()),
        ),
        pb.HostRequest(session="s1", client_ids=[1, 3], population=4, fingerprint=SPEC.fingerprint),
    ]
    assert prepared == [7]
    assert said == [
        f"joined {joining.address} as 'edge', hosting 2 clients",
        "left: the run is over",
    ]


def test_a_node_refuses_a_coordinator_that_is_too_old_to_know(script, joining, monkeypatch):
    monkeypatch.setattr(grpc_node, "OURS", Version(1, 2))
    with pytest.raises(ProtocolError, match="upgrade Roundel on the coordinator"):
        run(joining)
    assert [type(said) for said in script.log] == [pb.JoinRequest]


@pytest.mark.parametrize("call", ["Join", "Host", "Poll"])
def test_a_node_that_is_refused_says_why(script, joining, call):
    script.refuse[call] = (grpc.StatusCode.INVALID_ARGUMENT, "upgrade the older one")
    with pytest.raises(ProtocolError) as caught:
        run(joining)
    assert (
        str(caught.value) == f"the coordinator at {joining.address} refuses: upgrade the older one"
    )


def test_a_coordinator_that_is_not_there_is_an_error_with_the_remedy(joining):
    with pytest.raises(RunFailed) as caught:
        run(replace(joining, address="127.0.0.1:1"))
    assert str(caught.value).startswith(
        "the coordinator at 127.0.0.1:1 cannot be reached (unavailable: "
    )
    assert str(caught.value).endswith(
        "), after 0.2 s of trying; check that `roundel serve` runs there, and join again"
    )


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED]
)
def test_a_coordinator_that_stays_away_is_given_up_on(script, joining, node, code):
    script.refuse["Poll"] = (code, "gone")
    with pytest.raises(RunFailed, match=rf"cannot be reached \({code.name.lower()}: gone\)"):
        run(joining)


def test_an_error_while_the_task_is_made_ends_the_node_before_it_hosts(script, joining):
    def broken(_experiment: str, _journal: Journal) -> HostedClients:
        raise ValueError("no data here")

    with pytest.raises(ValueError, match="no data here"):
        run(joining, broken)
    assert kinds(script.log) == ["JoinRequest"]


# ---- training


def test_a_request_arrives_as_it_was_sent_and_the_update_goes_back(script, joining, node):
    packed = pack(
        broadcast_tensors(torch.tensor([1.0, -0.0]), torch.tensor([3]), {"c": torch.ones(1)})
    )
    script.payloads = [packed]
    script.works = [train(3, 5, packed), OVER]
    run(joining)
    _, _, download, (_, request), update = script.log
    assert download == f"download {packed.digest[:2].hex()}"
    assert (request.ticket, request.base_version) == (ticket_of(3, round=5), 4)
    assert bits({"p": request.params, "i": request.integers, **request.channels}) == bits(
        {"p": torch.tensor([1.0, -0.0]), "i": torch.tensor([3]), "c": torch.ones(1)}
    )
    expected = update_of(3, ticket=ticket_of(3, round=5))
    assert update.ticket == expected.ticket
    assert bits(update.channels) == bits(expected.channels)
    assert (update.metrics, update.num_examples) == (expected.metrics, 2)


def test_a_payload_is_downloaded_once_for_all_clients_of_a_round(script, joining, node):
    other = pack(broadcast_tensors(torch.zeros(3), torch.tensor([3]), {}))
    script.payloads = [BROADCAST, other]
    script.works = [train(1), train(3), train(1, 2, other), train(3, 2, other), OVER]
    run(joining)
    assert [entry for entry in script.log if isinstance(entry, str)] == [
        f"download {packed.digest[:2].hex()}" for packed in (BROADCAST, other)
    ]
    assert kinds(script.log).count("train") == 4


def test_an_update_larger_than_a_chunk_is_sent_in_pieces(script, joining, node):
    large = {"params": torch.arange(CHUNK * 5 // 8, dtype=torch.float32)}
    node.answer = lambda request: update_of(1, ticket=request.ticket, channels=large)
    script.works = [train(1), OVER]
    run(joining)
    (update,) = [entry for entry in script.log if isinstance(entry, ClientUpdate)]
    assert bits(update.channels) == bits(large)


def test_a_refused_update_is_no_reason_to_stop(script, joining, node):
    script.verdicts = [pb.Verdict(accepted=False, reason="it is late")]
    script.works = [train(1), train(3), commit(1, 3), OVER]
    said = run(joining)
    assert kinds(script.log)[3:] == ["train", "ClientUpdate", "train", "ClientUpdate"]
    assert said[1:-1] == ["round 1: 1 of my clients took part"]


def test_a_failing_client_is_reported_and_the_others_go_on(script, joining, node):
    failure = ClientFailure(
        ticket=ticket_of(1),
        stage="train",
        error="ValueError: no",
        location="task.py:7",
        traceback="Traceback ...",
    )
    fine = node.answer
    node.answer = lambda request: failure if request.ticket.client_id == 1 else fine(request)
    script.works = [train(1), train(3), OVER]
    run(joining)
    assert script.log[4] == failure
    assert kinds(script.log)[4:] == ["ClientFailure", "train", "ClientUpdate"]


def test_a_poll_that_comes_back_empty_is_asked_again(script, joining, node):
    script.works = [pb.Work(), pb.Work(), train(1), OVER]
    run(joining)
    assert kinds(script.log)[-1] == "ClientUpdate"


def test_work_that_is_given_out_twice_is_done_once(script, joining, node):
    script.works = [train(1), train(1), OVER]
    run(joining)
    assert kinds(script.log).count("train") == len(updates(script)) == 1


def test_work_whose_payload_is_gone_is_passed_over(script, joining, node):
    gone = pb.Payload(size=100, digest=b"gone")
    script.works = [train(1, payload=gone), train(3), OVER]
    said = run(joining)
    assert [entry.ticket for entry in script.log if isinstance(entry, ClientUpdate)] == [
        ticket_of(3)
    ]
    assert said[1] == "round 1: over before client 1 began"


def test_a_payload_that_is_not_what_was_announced_ends_the_node(script, joining, node):
    script.payloads = [Packed((memoryview(BROADCAST.data[:-1] + b"x"),), BROADCAST.digest)]
    script.works = [train(1)]
    with pytest.raises(ProtocolError, match="digest differs"):
        run(joining)


def test_a_payload_beyond_all_bounds_is_not_downloaded(script, joining, node):
    script.works = [train(1, payload=pb.Payload(size=1 << 60, digest=b"x"))]
    with pytest.raises(ProtocolError, match="a payload of 1152921504606846976 bytes is not"):
        run(joining)
    assert not any(isinstance(entry, str) for entry in script.log)


def test_what_really_trains_is_the_nodes_own_clients(script, joining):
    script.works = [train(1), OVER]
    run(joining)
    (update,) = [entry for entry in script.log if isinstance(entry, ClientUpdate)]
    # One step of 0.1 on the mean squared error; its gradient at (1, 2) is (0, -2).
    assert update.channels["params"].tolist() == pytest.approx([0.0, 0.2])
    assert update.num_examples == 2


# ---- coordinators that go away

AWAY = (grpc.StatusCode.UNAVAILABLE, "away")


def again(work: pb.Work) -> pb.Work:
    """The same work, given out for the second time."""
    repeated = pb.Work()
    repeated.CopyFrom(work)
    repeated.train.ticket.attempt = 1
    return repeated


def updates(script: Script) -> list[ClientUpdate]:
    return [entry for entry in script.log if isinstance(entry, ClientUpdate)]


def test_a_short_absence_is_not_worth_a_line(script, joining, node):
    script.once["Poll"] = AWAY
    assert len(run(joining)) == 2


def test_a_longer_absence_is_told_once_and_so_is_its_end(script, joining, node, monkeypatch):
    monkeypatch.setattr(grpc_link, "QUIET_S", 0.0)
    script.once["Join"] = AWAY
    joined, left = f"joined {joining.address} as 'edge', hosting 2 clients", "left: the run is over"
    assert run(joining) == [
        f"waiting for {joining.address} (unavailable: away) ...",
        f"{joining.address} is back",
        joined,
        left,
    ]


def test_a_coordinator_that_has_forgotten_the_node_is_joined_anew(script, joining, node):
    prepared = []
    script.once["Poll"] = LOST
    script.works = [train(1), OVER]
    said = run(joining, lambda *what: prepared.append(what) or prepare(*what))
    assert said[1:3] == [
        f"{joining.address} does not know this node, or no longer: joining again",
        said[0],
    ]
    assert script.sessions == 2
    assert len(prepared) == 1
    assert len(updates(script)) == 1


def test_a_node_whose_certificate_is_to_be_renewed_joins_again_with_what_it_has(
    script, joining, node, monkeypatch
):
    ends = iter([datetime(2000, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)])
    monkeypatch.setattr(grpc_node, "fresh_until", lambda _identity, _now: next(ends))
    prepared = []
    script.works = [train(1), OVER]
    said = run(joining, lambda *what: prepared.append(what) or prepare(*what))
    assert said[1] == f"joining {joining.address} again, for the certificate is to be renewed"
    assert (script.sessions, len(prepared), len(updates(script))) == (2, 1, 1)


@pytest.mark.parametrize("changed", [{"run": "another"}, {"rounds": 9}])
def test_another_run_or_experiment_is_prepared_afresh(script, joining, node, changed):
    prepared = []
    script.once["Poll"] = LOST

    def note(experiment: str, journal: Journal) -> HostedClients:
        prepared.append(rounds_of(experiment))
        vars(script).update(changed)
        return prepare(experiment, journal)

    run(joining, note)
    assert prepared == [7, changed.get("rounds", 7)]


def test_what_was_trained_before_the_session_was_lost_is_sent_in_the_next(script, joining, node):
    script.once["Upload"] = LOST
    script.works = [train(1), again(train(1)), train(3), OVER]
    run(joining)
    assert kinds(script.log).count("train") == 2
    first, second = updates(script)
    assert first.ticket == ticket_of(1, attempt=1)
    assert bits(first.channels) == bits(update_of(1).channels)
    assert second.ticket == ticket_of(3)


def test_what_was_trained_before_the_node_ended_is_sent_by_the_next_process(script, joining, node):
    script.refuse["Upload"] = AWAY
    script.works = [train(1)]
    with pytest.raises(RunFailed):
        run(joining)
    del script.refuse["Upload"]
    script.works = [again(train(1)), train(1, 2), OVER]
    run(joining)
    assert kinds(script.log).count("train") == 2
    assert [update.ticket for update in updates(script)] == [
        ticket_of(1, attempt=1),
        ticket_of(1, round=2),
    ]


def test_what_was_trained_from_another_broadcast_is_trained_again(script, joining, node):
    other = pack(broadcast_tensors(torch.zeros(3), torch.tensor([3]), {}))
    script.payloads = [BROADCAST, other]
    script.once["Upload"] = LOST
    script.works = [train(1), train(1, packed=other), OVER]
    run(joining)
    assert kinds(script.log).count("train") == 2
    assert len(updates(script)) == 1


def test_what_is_damaged_on_the_disk_is_trained_again(script, joining, node):
    script.refuse["Upload"] = AWAY
    script.works = [train(1)]
    with pytest.raises(RunFailed):
        run(joining)
    (kept,) = (joining.state / "runs" / "r").glob("*.update")
    kept.write_bytes(kept.read_bytes().replace(b"params", b"parans"))
    del script.refuse["Upload"]
    script.works = [train(1), OVER]
    run(joining)
    assert kinds(script.log).count("train") == 2
    assert bits(updates(script)[0].channels) == bits(update_of(1).channels)


@pytest.mark.parametrize("killed", [False, True])
def test_an_upload_goes_on_where_it_broke_off(script, joining, node, killed):
    large = {"params": torch.arange(CHUNK, dtype=torch.float32)}  # about four chunks
    node.answer = lambda request: update_of(1, ticket=request.ticket, channels=large)
    script.works = [train(1), OVER]
    script.cuts = [CHUNK + 1]
    if killed:
        script.refuse["Progress"] = AWAY
        with pytest.raises(RunFailed):
            run(joining)
        del script.refuse["Progress"]
        script.works = [again(train(1)), OVER]
    run(joining)
    assert script.log[-2] == ("progress", 2 * CHUNK)
    assert bits(updates(script)[0].channels) == bits(large)


def test_an_update_that_has_been_taken_leaves_the_disk(script, joining, node):
    script.works = [train(1), OVER]
    run(joining)
    assert list((joining.state / "runs" / "r").iterdir()) == []


# ---- clients with states

CONTROL = pack(
    broadcast_tensors(
        torch.tensor([10.0, 1.0, 2.0]), torch.tensor([3]), {"control": torch.tensor([0.5, -0.5])}
    )
)


def prepare_scaffold(experiment: str, journal: Journal) -> HostedClients:
    plan = Plan.of(experiment_of("client.steps=1", "client.lr=0.1"), TASK, scaffold())
    return prepare(experiment, journal, replace(HOSTED, plan=plan))


def with_states(*works: pb.Work, script: Script) -> None:
    script.payloads = [CONTROL]
    script.works = [*works, OVER]


def deltas(script: Script) -> list[list[float]]:
    return [update.channels["params"].tolist() for update in updates(script)]


def settled(client_id: int, round: int) -> pb.SettledState:
    return pb.SettledState(client_id=client_id, round=round)


def held(script: Script) -> list[pb.HeldState]:
    """What the node said of its states when it hosted last."""
    return list([entry for entry in script.log if isinstance(entry, pb.HostRequest)][-1].states)


ROUNDS = [train(1, 1, CONTROL), commit(1, 1), train(1, 2, CONTROL), commit(2, 1)]


def test_states_outlive_the_process(script, joining):
    with_states(*ROUNDS, train(1, 3, CONTROL), script=script)
    run(joining, prepare_scaffold)
    whole = deltas(script)
    script.log.clear()
    other = replace(joining, state=joining.state / "other")
    for round, works in ((1, ROUNDS[:2]), (2, ROUNDS[2:]), (3, [train(1, 3, CONTROL)])):
        with_states(*works, script=script)
        run(other, prepare_scaffold)
        script.settled = [settled(1, round)]
    assert deltas(script) == whole
    assert whole[0] != whole[1]
    assert held(script) == [pb.HeldState(client_id=1, committed=2)]


@pytest.mark.parametrize("counted", [True, False])
def test_a_state_whose_fate_the_node_missed_is_settled_when_it_comes_back(script, joining, counted):
    with_states(*ROUNDS[:3], script=script)  # round 2 ends while it is away
    run(joining, prepare_scaffold)
    first, second = deltas(script)
    script.settled = [settled(1, 2 if counted else 1)]
    script.log.clear()
    with_states(train(1, 2, CONTROL), script=script)
    run(joining, prepare_scaffold)
    assert held(script) == [pb.HeldState(client_id=1, committed=1, pending=2)]
    (third,) = deltas(script)
    assert (third == second) is not counted
    assert first != second


def test_a_state_that_is_not_the_one_that_counts_ends_the_node(script, joining):
    with_states(*ROUNDS[:2], script=script)
    run(joining, prepare_scaffold)
    script.settled = [settled(1, 5)]
    with pytest.raises(RunDirectoryError, match="counts on that of round 5"):
        run(joining, prepare_scaffold)


def test_a_strategy_without_states_keeps_none(script, joining):
    script.works = [train(1), commit(1, 1), OVER]
    run(joining)
    assert list((joining.state / "runs" / "r").iterdir()) == []


def test_a_node_with_examples_of_its_own_is_told_which_client_it_is(script, joining):
    own = replace(HOSTED, client_ids=[], own_data=True)
    said = run(joining, lambda experiment, journal: prepare(experiment, journal, own))
    (hosting,) = [entry for entry in script.log if isinstance(entry, pb.HostRequest)]
    assert (hosting.own_data, list(hosting.client_ids)) == (True, [])
    assert said[0].endswith("as 'edge', hosting client 0 with examples of its own")


# ---- evaluating


def test_figures_go_back(script, joining, node):
    script.works = [evaluate(3, "validation"), OVER]
    run(joining)
    (_, request), evaluation = script.log[-2:]
    assert (request.ticket, request.split) == (ticket_of(3), "validation")
    assert evaluation == Evaluation(ticket=ticket_of(3), metrics=Metrics({"loss": 0.1}, 3))


def test_a_client_that_cannot_be_evaluated_is_reported(script, joining, node):
    failure = ClientFailure(ticket=ticket_of(3), stage="evaluate", error="ValueError: no")
    node.figures = lambda _request: failure
    script.works = [evaluate(3), OVER]
    run(joining)
    assert script.log[-1] == failure


def test_an_evaluation_whose_payload_is_gone_is_passed_over(script, joining, node):
    script.payloads = []
    script.works = [evaluate(3), OVER]
    run(joining)
    assert kinds(script.log)[-1] == "str"


# ---- heartbeats


def wait_for_beats(script: Script, count: int) -> None:
    for _ in range(count):
        assert script.beats.acquire(timeout=WAIT_S)


def test_a_node_shows_that_it_is_alive_while_it_trains(script, joining, node):
    def slow(request: TrainRequest) -> ClientUpdate:
        wait_for_beats(script, 3)
        return update_of(request.ticket.client_id, ticket=request.ticket)

    node.answer = slow
    script.heartbeat_s = 0.01
    script.works = [train(1), OVER]
    assert run(joining)[-1] == "left: the run is over"
    assert script.activities[0] == pb.Activity(client_id=1, round=1, what="train")


def test_a_heartbeat_that_is_not_heard_is_followed_by_the_next(script, joining, node):
    def slow(request: TrainRequest) -> ClientUpdate:
        wait_for_beats(script, 3)
        return update_of(request.ticket.client_id, ticket=request.ticket)

    node.answer = slow
    script.refuse["Beat"] = (grpc.StatusCode.UNAVAILABLE, "too busy")
    script.heartbeat_s = 0.01
    script.works = [train(1), OVER]
    assert run(joining)[-1] == "left: the run is over"


class Slow(list[pb.Work]):
    """Work that comes a while after it was asked for."""

    def pop(self, index: Any = -1) -> pb.Work:
        time.sleep(0.05)
        return super().pop(index)


def test_a_node_that_calls_all_the_time_sends_no_heartbeat(script, joining, node, monkeypatch):
    contacts: list[float] = []
    monkeypatch.setattr(NodeDirectory, "note_contact", lambda _self, now_s: contacts.append(now_s))
    script.heartbeat_s = 0.8
    script.works = Slow([*[pb.Work(commit=pb.Commit(round=1))] * 20, OVER])
    assert run(joining)[-1] == "left: the run is over"
    assert script.activities == []
    assert contacts  # it was reached all the same


def waits_for_session(script: Script, number: int):
    """Return a training that lasts until a session has begun."""

    def slow(request: TrainRequest) -> ClientUpdate:
        limit_s = time.monotonic() + WAIT_S
        while script.hosted < number:
            assert time.monotonic() < limit_s
            time.sleep(0.002)
        return update_of(request.ticket.client_id, ticket=request.ticket)

    return slow


def test_a_node_that_is_forgotten_while_it_trains_joins_again_meanwhile(script, joining, node):
    wait = waits_for_session(script, 2)

    def forgotten(request: TrainRequest) -> ClientUpdate:
        script.once["Beat"] = LOST
        return wait(request)

    node.answer = forgotten
    script.heartbeat_s = 0.01
    script.works = [train(1), train(1), OVER]  # given out again, since it was not answered
    said = run(joining)
    assert len(said) == 2
    assert script.sessions == 2
    assert kinds(script.log).count("train") == len(updates(script)) == 1


def test_a_coordinator_that_runs_something_else_by_then_is_joined_afterwards(script, joining, node):
    def slow(request: TrainRequest) -> ClientUpdate:
        script.run = "another"
        wait_for_beats(script, 3)
        return update_of(request.ticket.client_id, ticket=request.ticket)

    node.answer = slow
    script.heartbeat_s = 0.01
    script.refuse["Beat"] = LOST
    script.works = [train(1), OVER]
    said = run(joining)
    assert said[1:] == [
        f"{joining.address} does not know this node, or no longer: joining again",
        said[0],
        "left: the run is over",
    ]


@pytest.mark.parametrize("refused", [False, True])
def test_the_heart_stops_with_the_node(script, joining, node, refused):
    script.heartbeat_s = 0.01
    if refused:
        script.refuse["Poll"] = (grpc.StatusCode.UNAVAILABLE, "gone")
        with pytest.raises(RunFailed):
            run(joining)
    else:
        run(joining)
    assert not any(thread.name == "heartbeat" for thread in threading.enumerate())
