"""Messages of a ServerApp over nodes that a test speaks through."""

import re
import threading
import time
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest

from roundel.core.errors import RunDirectoryError, RunFailed
from roundel.core.messages import ClientUpdate
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire.convert import ticket_from_wire
from roundel.server import grpc_coordinator
from roundel.server.arrivals import Terms
from roundel.server.grpc_coordinator import Coordinator
from roundel.server.store import Store
from roundel.simulations.flowerapps.parcels import Answer, Parcel, Task
from roundel.simulations.flowerapps.project import AppError
from roundel.simulations.flowerapps.served import remote
from roundel.simulations.flowerapps.served.carrying import Manner
from roundel.simulations.flowerapps.served.remote import RemoteAsk
from roundel.simulations.flowerapps.served.replies import Record
from roundel.simulations.flowerapps.served.wired import reply_tensors, request_of
from tests.server.fake_node import TIMEOUT_S, dialling, refusal

TERMS = Terms(
    run="r",
    experiment="{}",
    population=4,
    fingerprint="layout",
    update_limit=1 << 20,
    stateful=True,
)
LARGE = b"model" * 1000


class Federation:
    """A coordinator, and an app that asks.

    Attributes:
        said: What was said about nodes.
        now_s: The time.
    """

    def __init__(self, directory, stack):
        self.said, self.now_s, self.wall_s = [], 0.0, 100.0
        self.store = stack.enter_context(closing(Store.open(directory, 1 << 30)))
        record = Record(self.store)
        terms = replace(TERMS, may_keep=record.keepers.may_keep)
        self.running = stack.enter_context(
            Coordinator(terms, "127.0.0.1:0", time.monotonic, store=self.store)
        )
        self.manner = Manner(
            patience_s=60.0,
            clock=lambda: self.now_s,
            wall=lambda: self.wall_s,
            say=self.said.append,
        )
        self.app = RemoteAsk(self.running, record, self.manner)

    def ask(self, *tasks, timeout_s=None, alone=True):
        """Let the app ask in a thread of its own; return what becomes of it."""
        future: Future[list[Answer]] = Future()

        def run():
            if alone:
                vars(self.app)["_thread"] = threading.current_thread()
            try:
                future.set_result(self.app(tasks, timeout_s))
            except BaseException as error:  # noqa: BLE001 - the test sees it
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Yield what begins a federation, or goes on with it as another process would."""
    monkeypatch.setattr(grpc_coordinator, "FAREWELL_S", 0.0)
    monkeypatch.setattr(remote, "_TICK_S", 0.01)
    with ExitStack() as stack:
        yield lambda: Federation(tmp_path, stack)


@pytest.fixture
def federation(begin):
    return begin()


@pytest.fixture
def a(federation):
    with dialling(federation.running.address, (0, 2), "a") as node:
        yield node


@pytest.fixture
def b(federation):
    with dialling(federation.running.address, (1, 3), "b") as node:
        yield node


def task(client, number=1, lr=0.5, ttl=1000.0):
    metadata = {
        "run_id": 1,
        "message_id": f"{client}",
        "dst_node_id": 70 + client,
        "created_at": 5.0 + client,
        "ttl": ttl,
        "message_type": "train",
        "group_id": "1",
    }
    content = Parcel(
        records=[["c", "config", [["lr", "", lr], ["m", "bytes", 1]]]], buffers=[LARGE]
    )
    return Task(client=client, number=number, metadata=metadata, content=content, state=Parcel())


def reply(value):
    return Answer(content=Parcel(records=[["m", "metrics", {"loss": value}]]))


def train_of(node):
    work = node.poll()
    assert work.WhichOneof("kind") == "train"
    return work.train


def update(train, value=0.5, **changes):
    about = {
        "ticket": ticket_from_wire(train.ticket),
        "base_version": train.base_version,
        "num_examples": 0,
        "num_steps": 0,
        "channels": reply_tensors(reply(value)),
    }
    return ClientUpdate(**{**about, **changes})


def verdict(call):
    return call.result(TIMEOUT_S).reason


def test_messages_go_out_once_for_each_content_and_replies_come_back_in_order(federation, a, b):
    asked = federation.ask(task(3), task(0, 4), task(1, lr=0.25))
    to_3, to_1 = train_of(b), train_of(b)
    to_0 = train_of(a)
    assert (to_0.base_version, to_3.base_version) == (4, 1)
    assert to_0.payload == to_3.payload != to_1.payload
    assert len(federation.running.payloads) == 2
    tensors = a.broadcast(to_0.payload)
    channels = {name.removeprefix("channel/"): value for name, value in tensors.items()}
    content, metadata = request_of(channels)
    assert content == task(0).content
    assert metadata == {
        "run_id": 1,
        "ttl": 1000.0,
        "message_type": "train",
        "group_id": "1",
        "created_at": 100.0,
    }
    for node, train, value in ((a, to_0, 0.0), (b, to_1, 1.0), (b, to_3, 3.0)):
        assert verdict(node.upload(update(train, value))) == ""
    assert asked.result(TIMEOUT_S) == [reply(3.0), reply(0.0), reply(1.0)]
    assert (a.poll().commit, b.poll().commit) == (
        pb.Commit(round=1, client_ids=[0]),
        pb.Commit(round=1, client_ids=[1, 3]),
    )
    assert federation.running.payloads == {}


def test_a_failure_of_a_client_is_an_answer_and_leaves_its_state(federation, a):
    asked = federation.ask(task(0))
    train = train_of(a)
    assert verdict(a.fail(ticket_from_wire(train.ticket), "ValueError: no")) == ""
    (answer,) = asked.result(TIMEOUT_S)
    assert (answer.trouble.code, answer.trouble.reason) == (2, "ValueError: no")
    federation.ask(task(2))
    assert a.poll().train.ticket.round == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"channels": {}}, "its reply was refused: there is no tensor 'head' of bytes"),
        ({"base_version": 9}, "its reply was refused: it is one to message 9"),
    ],
)
def test_a_reply_that_is_none_is_refused_and_fails_its_client_alone(
    federation, a, b, changes, reason
):
    asked = federation.ask(task(0), task(1))
    good, bad = train_of(a), train_of(b)
    assert verdict(b.upload(update(bad, **changes))) == reason
    assert verdict(a.upload(update(good))) == ""
    first, second = asked.result(TIMEOUT_S)
    assert first == reply(0.5)
    assert (second.trouble.code, second.trouble.reason) == (2, reason)


def test_what_nobody_asked_for_is_refused(federation, a):
    asked = federation.ask(task(0))
    train = train_of(a)
    late = pb.Ticket(run="r", round=7, client_id=0)
    other = pb.Ticket(run="r", round=1, client_id=2)
    for ticket in (late, other):
        stray = update(train, ticket=ticket_from_wire(ticket))
        assert "nobody waits for it" in verdict(a.upload(stray))
    assert verdict(a.upload(update(train))) == ""
    asked.result(TIMEOUT_S)
    again = update(train, 0.75)
    assert "nobody waits for it" in verdict(a.upload(again))


def test_a_client_whose_node_stays_away_is_waited_for_as_long_as_was_said(federation, a):
    asked = federation.ask(task(0), task(1))
    assert verdict(a.upload(update(train_of(a)))) == ""
    wait_until(lambda: federation.said)
    assert federation.said == [
        "waiting for a node: 1 clients are away; after 60 s the run goes on without their replies"
    ]
    federation.now_s = 59.0
    time.sleep(0.05)
    assert not asked.done()
    federation.now_s = 61.0
    _, answer = asked.result(TIMEOUT_S)
    assert (answer.trouble.code, answer.trouble.reason) == (5, "no node hosts it")
    (again,) = federation.ask(task(1, 2)).result(TIMEOUT_S)  # it is known to be away
    assert again == answer
    assert len(federation.said) == 1
    with dialling(federation.running.address, (1, 3), "b") as b:
        asked = federation.ask(task(1, 3))
        assert verdict(b.upload(update(train_of(b)))) == ""
        assert asked.result(TIMEOUT_S) == [reply(0.5)]


def test_a_node_that_comes_in_time_is_asked(federation, a):
    asked = federation.ask(task(1))
    wait_until(lambda: federation.said)
    federation.now_s = 59.0
    with dialling(federation.running.address, (1, 3), "b") as b:
        train = train_of(b)
        federation.now_s = 200.0
        time.sleep(0.05)
        assert verdict(b.upload(update(train))) == ""
    assert asked.result(TIMEOUT_S) == [reply(0.5)]


def test_a_message_expires_and_a_timeout_leaves_no_reply(federation, a, b):
    asked = federation.ask(task(0, ttl=10.0), task(1), timeout_s=20.0)
    train = train_of(a)
    federation.now_s = 11.0
    wait_until(lambda: federation.running.objection_to(ticket_from_wire(train.ticket)) != "")
    assert not asked.done()
    federation.now_s = 21.0
    first, second = asked.result(TIMEOUT_S)
    assert (first.trouble.code, first.trouble.reason) == (5, "its message has expired")
    assert second == Answer(late=True)


def test_what_threads_ask_meanwhile_goes_out_together_unless_it_is_to_the_same_client(
    federation, a, b
):
    first = federation.ask(task(0), alone=False)
    train = train_of(a)
    later = []
    for count, each in enumerate((task(0, 2), task(1), task(0, 3)), start=1):
        later.append(federation.ask(each, alone=False))
        wait_until(lambda count=count: len(vars(federation.app)["_waiting"]) == count)
    trains = [train]
    assert verdict(a.upload(update(train))) == ""
    for node in (b, a, a):
        trains.append(next_train(node))
        assert verdict(node.upload(update(trains[-1]))) == ""
    assert [each.result(TIMEOUT_S) for each in (first, *later)] == [[reply(0.5)]] * 4
    asked = [(t.ticket.round, t.ticket.client_id, t.base_version) for t in trains]
    assert asked == [(1, 0, 1), (2, 1, 1), (2, 0, 2), (3, 0, 3)]


def next_train(node):
    """Return the next message to a node, past commits."""
    while not (work := node.poll()).HasField("train"):
        pass
    return work.train


def test_another_process_goes_on_where_the_first_was_killed(begin):
    before = begin()
    with dialling(before.running.address, (0, 1, 2, 3), "a") as node:
        asked = before.ask(task(0), task(1))
        trains = [train_of(node) for _ in range(2)]
        for number, train in enumerate(trains):
            assert verdict(node.upload(update(train, float(number)))) == ""
        heard = asked.result(TIMEOUT_S)
        before.ask(task(0, 2), task(1, 2))
        commit, third, fourth = node.poll(), train_of(node), train_of(node)
        assert commit.commit.round == 1
        assert verdict(node.upload(update(third, 2.0))) == ""
    after = begin()
    assert after.ask(task(0), task(1)).result(TIMEOUT_S) == heard
    after.wall_s = 900.0
    asked = after.ask(task(0, 2), task(1, 2))
    with dialling(after.running.address, (), "a") as node:
        node.join("a")
        host(
            node,
            pb.HeldState(client_id=0, committed=1, pending=2),
            pb.HeldState(client_id=1, committed=1, pending=2),
        )
        train = train_of(node)
        assert train == fourth  # so that a node which has answered it already need not do so again
        assert verdict(node.upload(update(train, 3.0))) == ""
        assert asked.result(TIMEOUT_S) == [reply(2.0), reply(3.0)]
        assert node.poll().commit == pb.Commit(round=2, client_ids=[0, 1])


def host(node, *states):
    """Let a node that has joined host all clients."""
    request = pb.HostRequest(
        session=node.session,
        client_ids=[0, 1, 2, 3],
        population=4,
        fingerprint="layout",
        states=states,
    )
    node.stub.Host(request, timeout=TIMEOUT_S)


def test_a_node_that_lost_its_disk_may_host_clients_that_never_kept_anything(begin):
    before = begin()
    with dialling(before.running.address, (0, 1), "a") as node:
        asked = before.ask(task(0), task(1))
        assert verdict(node.upload(update(train_of(node)))) == ""
        kept = Answer(content=Parcel(), state=Parcel(records=[["c", "config", []]]))
        channels = reply_tensors(kept)
        assert verdict(node.upload(update(train_of(node), channels=channels))) == ""
        asked.result(TIMEOUT_S)
    for federation in (before, begin()):
        with dialling(federation.running.address, (), "a") as node:
            node.join("a")
            _, sentence = refusal(lambda node=node: node.host([0, 1]))
            assert sentence == (
                "node 'a' holds the state of client 1 as of round 0, and that of round 1 counts; "
                "join with the --state directory of the node that hosted this client"
            )
            node.host([0])
            assert federation.running.nodes.hosted() == 1


def test_an_accepted_reply_stays_what_it_is_when_threads_go_on_at_their_own_pace(begin):
    before = begin()
    with dialling(before.running.address, (0, 1, 2, 3), "a") as node:
        before.ask(task(3, 5), task(2, 2))
        assert verdict(node.upload(update(train_of(node), 5.0))) == ""
    after = begin()
    with vars(after.app)["_turn"]:
        known = after.ask(task(3, 5), alone=False)
        wait_until(lambda: len(vars(after.app)["_waiting"]) == 1)
    assert known.result(TIMEOUT_S) == [reply(5.0)]
    with vars(after.app)["_turn"]:  # both are there before either goes out
        later = [after.ask(task(3, 6), alone=False)]
        wait_until(lambda: len(vars(after.app)["_waiting"]) == 1)
        later.append(after.ask(task(2, 2), alone=False))
        wait_until(lambda: len(vars(after.app)["_waiting"]) == 2)
    with dialling(after.running.address, (), "a") as node:
        node.join("a")
        host(node, pb.HeldState(client_id=3, committed=0, pending=1))
        trains = []
        for value in (2.0, 6.0):
            trains.append(next_train(node))
            assert verdict(node.upload(update(trains[-1], value))) == ""
        assert [each.result(TIMEOUT_S) for each in later] == [[reply(6.0)], [reply(2.0)]]
    asked = [(t.ticket.round, t.ticket.client_id, t.base_version) for t in trains]
    assert asked == [(1, 2, 2), (2, 3, 6)]
    assert after.store.journal.accepted_clients(1) == [2, 3]
    assert begin().ask(task(3, 5)).result(TIMEOUT_S) == [reply(5.0)]


def refused_by_nodes(client):
    content = Parcel(records=[["c", "config", [["a\nb", "", 1]]]])
    return replace(task(client), content=content)


SENTENCE = (
    "the message to client 2 cannot be sent to a node: a name among the settings of 'c' is "
    "'a\\nb' and no printable text of 1024 letters"
)


def test_a_message_that_nodes_refuse_raises_where_it_is_sent_and_goes_nowhere(federation, a):
    with pytest.raises(ValueError, match=re.escape(SENTENCE)):
        federation.ask(task(0), refused_by_nodes(2)).result(TIMEOUT_S)
    asked = federation.ask(task(0))
    assert verdict(a.upload(update(train_of(a)))) == ""
    assert asked.result(TIMEOUT_S) == [reply(0.5)]
    federation.app.check()


def test_a_message_that_nodes_refuse_ends_the_run_of_an_app_with_threads(federation):
    with pytest.raises(AppError):
        federation.ask(refused_by_nodes(2), alone=False).result(TIMEOUT_S)
    with pytest.raises(AppError) as caught:
        federation.app.check()
    assert str(caught.value) == SENTENCE


def test_an_interrupt_ends_the_wait_of_every_thread(federation, a):
    asked = [federation.ask(task(0), alone=False), federation.ask(task(0, 2), alone=False)]
    train_of(a)
    federation.app.stop()
    for each in (*asked, federation.ask(task(2), alone=False)):
        with pytest.raises(RunFailed, match="the run was interrupted"):
            each.result(TIMEOUT_S)


def test_threads_that_ask_at_about_the_same_time_share_a_wave(federation, a, b):
    with vars(federation.app)["_lock"]:  # they come one after the other, when it is let go
        asked = [federation.ask(task(client), alone=False) for client in range(4)]
    trains = [train_of(node) for node in (a, a, b, b)]
    assert [train.ticket.round for train in trains] == [1] * 4
    for node, train in zip((a, a, b, b), trains, strict=True):
        assert verdict(node.upload(update(train))) == ""
    assert [each.result(TIMEOUT_S) for each in asked] == [[reply(0.5)]] * 4


def test_a_timeout_begins_when_a_message_goes_out_and_not_while_it_queues(federation, a):
    first = federation.ask(task(0), alone=False)
    train = train_of(a)
    later = federation.ask(task(0, 2), alone=False, timeout_s=20.0)
    wait_until(lambda: len(vars(federation.app)["_waiting"]) == 1)
    federation.now_s = 50.0
    assert verdict(a.upload(update(train))) == ""
    assert verdict(a.upload(update(next_train(a), 1.5))) == ""
    assert (first.result(TIMEOUT_S), later.result(TIMEOUT_S)) == ([reply(0.5)], [reply(1.5)])


def test_what_cannot_be_kept_ends_the_wait(federation, a):
    asked = federation.ask(task(0))
    federation.running.submit(RunDirectoryError("the disk is full"))
    with pytest.raises(RunDirectoryError, match="the disk is full"):
        asked.result(TIMEOUT_S)
    with pytest.raises(RunDirectoryError, match="the disk is full"):
        federation.app.check()
    with pytest.raises(RunDirectoryError, match="the disk is full"):
        federation.ask(task(2)).result(TIMEOUT_S)


def wait_until(is_so):
    limit_s = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < limit_s
        time.sleep(0.002)
