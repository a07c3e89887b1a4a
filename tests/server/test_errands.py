"""Work that clients owe: given to their nodes, again to those that come back, never twice."""

import pytest

from roundel.core.wire import roundel_pb2 as pb
from roundel.server.errands import Errands
from roundel.server.nodes import Nodes
from tests.server.toys import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def nodes(clock) -> Nodes[pb.Work]:
    return Nodes(clock)


def work(client: int) -> pb.Work:
    return pb.Work(train=pb.Train(ticket=pb.Ticket(client_id=client)))


def given(nodes: Nodes[pb.Work], session: str) -> list[int]:
    """The clients for which a session has been given work since the last look."""
    clients = []
    while (taken := nodes.take(session, 1 << 60, lambda: None)) is not None:
        clients.append(taken[1].train.ticket.client_id)
    return clients


def test_work_goes_to_the_node_of_its_client_and_counts_until_it_is_answered(nodes):
    a = nodes.join("a")
    nodes.host(a, [1, 2])
    errands = Errands(nodes)
    for client in (1, 2):
        errands.give(client, work(client))
    assert given(nodes, a) == [1, 2]
    assert (len(errands), errands.unanswered[a], 1 in errands) == (2, 2, True)
    errands.drop(1)
    errands.drop(1)
    assert (len(errands), errands.unanswered[a], 1 in errands) == (1, 1, False)


def test_a_node_that_says_again_what_it_hosts_in_one_session_is_given_nothing_twice(nodes):
    a = nodes.join("a")
    nodes.host(a, [1])
    errands = Errands(nodes)
    errands.give(1, work(1))
    errands.hosted([1])
    assert given(nodes, a) == [1]


def test_a_new_session_is_given_what_is_still_owed(nodes):
    nodes.host(nodes.join("a"), [1, 2])
    errands = Errands(nodes)
    for client in (1, 2):
        errands.give(client, work(client))
    errands.drop(1)
    second = nodes.join("a")
    assert errands.away() == {}  # its name is alive
    nodes.host(second, [1, 2])
    errands.hosted([1, 2])
    assert given(nodes, second) == [2]
    assert errands.unanswered[second] == 1


def test_all_clients_are_looked_at_only_if_one_may_have_lost_its_node(nodes, monkeypatch):
    looked: list[int] = []

    def out_of_reach(given_to):
        looked.append(len(given_to))
        return look(given_to)

    look = nodes.out_of_reach
    monkeypatch.setattr(nodes, "out_of_reach", out_of_reach)
    a = nodes.join("a")
    nodes.host(a, [1, 2])
    errands = Errands(nodes)
    for client in (1, 2, 9):
        errands.give(client, work(client))
    absent = {9: ("", "no node hosts it")}
    assert [errands.away(), errands.away()] == [absent, absent]
    errands.drop(1)
    assert errands.away() == absent
    assert looked == [3]
    nodes.expel("a", "it was expelled")
    assert errands.away() == {2: ("a", "it was expelled"), **absent}
    errands.drop(9)
    errands.drop(2)
    assert errands.away() == {}
    assert looked == [3, 2]


def test_clients_of_a_node_that_is_gone_are_away_until_another_hosts_them(nodes, clock):
    nodes.host(nodes.join("a"), [1])
    errands = Errands(nodes)
    errands.give(1, work(1))
    errands.give(9, work(9))
    assert errands.away() == {9: ("", "no node hosts it")}
    clock.now_s += 11
    nodes.remove_silent(10)
    silent = "its node 'a' was silent for 10 s"
    assert errands.away() == {1: ("a", silent), 9: ("", "no node hosts it")}
    b = nodes.join("b")
    nodes.host(b, [1, 9])
    errands.hosted([1, 9])
    assert errands.away() == {}
    assert given(nodes, b) == [1, 9]
