"""A node's end of the wire, against a coordinator that a test scripts."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
import torch

from roundel.client import grpc_node
from roundel.client.grpc_node import run_node
from roundel.client.node import Hosted
from roundel.core.clientstate import ClientState
from roundel.core.config import Experiment
from roundel.core.data import InMemoryPopulation
from roundel.core.environment import roundel_version
from roundel.core.errors import ProtocolError, RunFailed
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
    broadcast_tensors,
    evaluation_from_wire,
    failure_from_wire,
    ticket_to_wire,
    update_from_wire,
)
from roundel.core.wire.payload import CHUNK, Packed, Receiver, pack, unpack
from roundel.core.wire.versions import OURS, Version
from roundel.strategies.plan import Plan
from tests.server.toys import ROWS, SPEC, STRATEGY, TASK, bits, experiment_of, ticket_of, update_of

WAIT_S = 30.0
OVER = pb.Work(over=pb.RunOver(reason="the run is over"))
BROADCAST = pack(broadcast_tensors(torch.tensor([10.0, 1.0, 2.0]), torch.tensor([3]), {}))
NO_HEARTBEAT_S = 1000.0


@dataclass
class Script(pb_grpc.FederationServicer):
    """A coordinator that hands out its works in order and writes down what comes.

    Attributes:
        works: What polls return, one after another.
        payloads: What can be downloaded.
        log: What the node said, in order; heartbeats apart.
        refuse: What to refuse a call with, by its name.
        verdicts: What uploads are told; accepted once there are no more.
        heartbeat_s: How often the node shall call.
    """

    works: list[pb.Work] = field(default_factory=lambda: [OVER])
    payloads: list[Packed] = field(default_factory=lambda: [BROADCAST])
    log: list[Any] = field(default_factory=list[Any])
    refuse: dict[str, tuple[grpc.StatusCode, str]] = field(default_factory=dict)
    verdicts: list[pb.Verdict] = field(default_factory=list)
    heartbeat_s: float = NO_HEARTBEAT_S
    beats: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def _check(self, name: str, context: Any) -> None:
        if name in self.refuse:
            context.abort(*self.refuse[name])

    def Join(self, request: pb.JoinRequest, context: Any) -> pb.JoinReply:  # noqa: N802
        self.log.append(request)
        self._check("Join", context)
        experiment = experiment_of("rounds=7", "client.steps=1").model_dump_json(exclude_none=True)
        return pb.JoinReply(run="r", session="s", experiment=experiment)

    def Host(self, request: pb.HostRequest, context: Any) -> pb.HostReply:  # noqa: N802
        self.log.append(request)
        self._check("Host", context)
        return pb.HostReply(heartbeat_s=self.heartbeat_s)

    def Poll(self, request: pb.PollRequest, context: Any) -> pb.Work:  # noqa: N802
        assert request.session == "s"
        self._check("Poll", context)
        return self.works.pop(0)

    def Beat(self, request: pb.BeatRequest, context: Any) -> pb.BeatReply:  # noqa: N802
        assert request.session == "s"
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
        receiver = Receiver(header.payload.size, header.payload.digest, 1 << 24)
        for part in request_iterator:
            receiver.take(part.data)
        self.log.append(update_from_wire(header, unpack(receiver.finish())))
        return self.verdicts.pop(0) if self.verdicts else pb.Verdict(accepted=True)

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

    def stage(self, client_id: int, state: ClientState) -> None:
        assert state["state"].item() == client_id
        self.log.append(("stage", client_id))

    def commit(self, accepted: Sequence[int]) -> None:
        self.log.append(("commit", list(accepted)))


@pytest.fixture(autouse=True)
def _impatient(monkeypatch) -> None:
    monkeypatch.setattr(grpc_node, "PATIENCE_S", 0.2)


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
    monkeypatch.setattr(grpc_node, "Node", lambda _hosted: fake)
    return fake


def prepare(_experiment: Experiment) -> Hosted:
    return Hosted(
        plan=Plan.of(experiment_of("client.steps=1", "client.lr=0.1"), TASK, STRATEGY),
        learner=Learner(TASK, seed=0),
        population=InMemoryPopulation.of([ROWS] * 4),
        client_ids=[1, 3],
        fingerprint=SPEC.fingerprint,
    )


def run(address: str) -> list[str]:
    said: list[str] = []
    run_node(address, "edge", prepare, said.append)
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


def test_a_node_introduces_itself_hosts_its_clients_and_leaves_when_told(script, address):
    prepared = []

    def note(experiment: Experiment) -> Hosted:
        prepared.append(experiment)
        return prepare(experiment)

    said: list[str] = []
    run_node(address, "edge", note, said.append)
    assert script.log == [
        pb.JoinRequest(
            protocol=OURS.major, minor=OURS.minor, node="edge", version=roundel_version()
        ),
        pb.HostRequest(session="s", client_ids=[1, 3], population=4, fingerprint=SPEC.fingerprint),
    ]
    assert [experiment.rounds for experiment in prepared] == [7]
    assert said == [
        f"joined {address} as 'edge', hosting 2 clients",
        "left: the run is over",
    ]


def test_a_node_refuses_a_coordinator_that_is_too_old_to_know(script, address, monkeypatch):
    monkeypatch.setattr(grpc_node, "OURS", Version(1, 2))
    with pytest.raises(ProtocolError, match="upgrade Roundel on the coordinator"):
        run_node(address, "edge", prepare, [].append)
    assert [type(said) for said in script.log] == [pb.JoinRequest]


@pytest.mark.parametrize("call", ["Join", "Host", "Poll"])
def test_a_node_that_is_refused_says_why(script, address, call):
    script.refuse[call] = (grpc.StatusCode.INVALID_ARGUMENT, "upgrade the older one")
    with pytest.raises(ProtocolError) as caught:
        run(address)
    assert str(caught.value) == f"the coordinator at {address} refuses: upgrade the older one"


def test_a_coordinator_that_is_not_there_is_an_error_with_the_remedy(monkeypatch):
    monkeypatch.setattr(grpc_node, "JOIN_TIMEOUT_S", 0.05)
    with pytest.raises(RunFailed) as caught:
        run("127.0.0.1:1")
    assert str(caught.value) == (
        "the coordinator at 127.0.0.1:1 cannot be reached (deadline_exceeded); check that "
        "`roundel serve` runs there, and join again"
    )


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN, grpc.StatusCode.CANCELLED]
)
def test_a_coordinator_that_goes_away_ends_the_node(script, address, node, code):
    script.refuse["Poll"] = (code, "gone")
    with pytest.raises(RunFailed, match=rf"cannot be reached \({code.name.lower()}\)"):
        run(address)


def test_an_error_while_the_task_is_made_ends_the_node_before_it_hosts(script, address):
    def broken(_experiment: Experiment) -> Hosted:
        raise ValueError("no data here")

    with pytest.raises(ValueError, match="no data here"):
        run_node(address, "edge", broken, lambda _line: None)
    assert kinds(script.log) == ["JoinRequest"]


# ---- training


def test_a_request_arrives_as_it_was_sent_and_the_update_goes_back(script, address, node):
    packed = pack(
        broadcast_tensors(torch.tensor([1.0, -0.0]), torch.tensor([3]), {"c": torch.ones(1)})
    )
    script.payloads = [packed]
    script.works = [train(3, 5, packed), OVER]
    run(address)
    _, _, download, (_, request), update, staged = script.log
    assert download == f"download {packed.digest[:2].hex()}"
    assert (request.ticket, request.base_version) == (ticket_of(3, round=5), 4)
    assert bits({"p": request.params, "i": request.integers, **request.channels}) == bits(
        {"p": torch.tensor([1.0, -0.0]), "i": torch.tensor([3]), "c": torch.ones(1)}
    )
    expected = update_of(3, ticket=ticket_of(3, round=5))
    assert update.ticket == expected.ticket
    assert bits(update.channels) == bits(expected.channels)
    assert (update.metrics, update.num_examples) == (expected.metrics, 2)
    assert staged == ("stage", 3)


def test_a_payload_is_downloaded_once_for_all_clients_of_a_round(script, address, node):
    other = pack(broadcast_tensors(torch.zeros(3), torch.tensor([3]), {}))
    script.payloads = [BROADCAST, other]
    script.works = [train(1), train(3), train(1, 2, other), train(3, 2, other), OVER]
    run(address)
    assert [entry for entry in script.log if isinstance(entry, str)] == [
        f"download {packed.digest[:2].hex()}" for packed in (BROADCAST, other)
    ]
    assert kinds(script.log).count("train") == 4


def test_an_update_larger_than_a_chunk_is_sent_in_pieces(script, address, node):
    large = {"params": torch.arange(CHUNK * 5 // 8, dtype=torch.float32)}
    node.answer = lambda request: update_of(1, ticket=request.ticket, channels=large)
    script.works = [train(1), OVER]
    run(address)
    (update,) = [entry for entry in script.log if isinstance(entry, ClientUpdate)]
    assert bits(update.channels) == bits(large)


def test_a_refused_update_is_not_staged(script, address, node):
    script.verdicts = [pb.Verdict(accepted=False, reason="it is late")]
    script.works = [train(1), train(3), commit(1, 3), OVER]
    said = run(address)
    assert kinds(script.log)[3:] == [
        *("train", "ClientUpdate"),
        *("train", "ClientUpdate", "stage", "commit"),
    ]
    assert script.log[-2:] == [("stage", 3), ("commit", [3])]
    assert said[1:-1] == ["round 1: 1 of my clients took part"]


def test_a_failing_client_is_reported_and_the_others_go_on(script, address, node):
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
    run(address)
    assert script.log[4] == failure
    assert kinds(script.log)[4:] == ["ClientFailure", "train", "ClientUpdate", "stage"]


def test_a_poll_that_comes_back_empty_is_asked_again(script, address, node):
    script.works = [pb.Work(), pb.Work(), train(1), OVER]
    run(address)
    assert kinds(script.log)[-1] == "stage"


def test_work_whose_payload_is_gone_is_passed_over(script, address, node):
    gone = pb.Payload(size=100, digest=b"gone")
    script.works = [train(1, payload=gone), train(3), OVER]
    said = run(address)
    assert [entry.ticket for entry in script.log if isinstance(entry, ClientUpdate)] == [
        ticket_of(3)
    ]
    assert said[1] == "round 1: over before client 1 began"


def test_a_payload_that_is_not_what_was_announced_ends_the_node(script, address, node):
    script.payloads = [Packed(BROADCAST.data[:-1] + b"x", BROADCAST.digest)]
    script.works = [train(1)]
    with pytest.raises(ProtocolError, match="digest differs"):
        run(address)


def test_a_payload_beyond_all_bounds_is_not_downloaded(script, address, node):
    script.works = [train(1, payload=pb.Payload(size=1 << 60, digest=b"x"))]
    with pytest.raises(ProtocolError, match="a payload of 1152921504606846976 bytes is not"):
        run(address)
    assert not any(isinstance(entry, str) for entry in script.log)


def test_what_really_trains_is_the_nodes_own_clients(script, address):
    script.works = [train(1), OVER]
    run(address)
    (update,) = [entry for entry in script.log if isinstance(entry, ClientUpdate)]
    # One step of 0.1 on the mean squared error; its gradient at (1, 2) is (0, -2).
    assert update.channels["params"].tolist() == pytest.approx([0.0, 0.2])
    assert update.num_examples == 2


# ---- evaluating


def test_figures_go_back(script, address, node):
    script.works = [evaluate(3, "validation"), OVER]
    run(address)
    (_, request), evaluation = script.log[-2:]
    assert (request.ticket, request.split) == (ticket_of(3), "validation")
    assert evaluation == Evaluation(ticket=ticket_of(3), metrics=Metrics({"loss": 0.1}, 3))


def test_a_client_that_cannot_be_evaluated_is_reported(script, address, node):
    failure = ClientFailure(ticket=ticket_of(3), stage="evaluate", error="ValueError: no")
    node.figures = lambda _request: failure
    script.works = [evaluate(3), OVER]
    run(address)
    assert script.log[-1] == failure


def test_an_evaluation_whose_payload_is_gone_is_passed_over(script, address, node):
    script.payloads = []
    script.works = [evaluate(3), OVER]
    run(address)
    assert kinds(script.log)[-1] == "str"


# ---- heartbeats


def wait_for_beats(script: Script, count: int) -> None:
    for _ in range(count):
        assert script.beats.acquire(timeout=WAIT_S)


def test_a_node_shows_that_it_is_alive_while_it_trains(script, address, node):
    def slow(request: TrainRequest) -> ClientUpdate:
        wait_for_beats(script, 3)
        return update_of(request.ticket.client_id, ticket=request.ticket)

    node.answer = slow
    script.heartbeat_s = 0.01
    script.works = [train(1), OVER]
    assert run(address)[-1] == "left: the run is over"


def test_a_heartbeat_that_is_not_heard_is_followed_by_the_next(script, address, node):
    def slow(request: TrainRequest) -> ClientUpdate:
        wait_for_beats(script, 3)
        return update_of(request.ticket.client_id, ticket=request.ticket)

    node.answer = slow
    script.refuse["Beat"] = (grpc.StatusCode.UNAVAILABLE, "too busy")
    script.heartbeat_s = 0.01
    script.works = [train(1), OVER]
    assert run(address)[-1] == "left: the run is over"


@pytest.mark.parametrize("refused", [False, True])
def test_the_heart_stops_with_the_node(script, address, node, refused):
    script.heartbeat_s = 0.01
    if refused:
        script.refuse["Poll"] = (grpc.StatusCode.UNAVAILABLE, "gone")
        with pytest.raises(RunFailed):
            run(address)
    else:
        run(address)
    assert not any(thread.name == "heartbeat" for thread in threading.enumerate())
