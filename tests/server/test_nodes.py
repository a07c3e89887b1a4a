"""Which nodes there are, which clients they host, and what waits for them."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from roundel.core.errors import ProtocolError, SessionLost
from roundel.core.status import NodeState
from roundel.server.nodes import Nodes
from tests.server.toys import FakeClock

UNKNOWN = "this node is not known here, or was silent for too long; join anew"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def nodes(clock) -> Nodes[str]:
    return Nodes(clock)


ALL = 1 << 60
"""Says that whatever was given has arrived."""


def nobody_waits() -> None:
    raise AssertionError("this poll waits for nothing")


def take_all(nodes: Nodes[str], session: str) -> list[str]:
    taken = []
    while (given := nodes.take(session, ALL, lambda: None)) is not None:
        taken.append(given[1])
    return taken


def test_a_name_that_joins_again_gets_another_session_and_the_one_before_is_fenced(nodes):
    first, second = nodes.join("edge"), nodes.join("edge")
    assert first != second
    assert nodes.seen(second).name == "edge"
    for call in (lambda: nodes.seen(first), lambda: nodes.host(first, [1])):
        with pytest.raises(ProtocolError) as caught:
            call()
        assert not isinstance(caught.value, SessionLost)
        assert str(caught.value) == (
            "another node of this name has joined since; give each node a name of its own with "
            "--name"
        )


def test_clients_of_a_fenced_session_stay_until_the_new_one_says_what_it_hosts(nodes, clock):
    first = nodes.join("edge")
    nodes.host(first, [1, 2])
    other = nodes.join("other")
    clock.now_s += 9
    second = nodes.join("edge")
    assert nodes.hosted() == 2
    with pytest.raises(ProtocolError, match=r"^client 1 is hosted by node 'edge' already"):
        nodes.host(other, [1])
    clock.now_s += 9
    nodes.seen(other)
    assert nodes.remove_silent(10) == []
    nodes.host(second, [2, 3])
    assert [nodes.hosts(second, c) for c in (1, 2, 3)] == [False, True, True]
    nodes.host(other, [1])
    assert nodes.hosted() == 3


def test_a_new_session_that_hosts_nothing_in_time_loses_the_clients_of_the_one_before(nodes, clock):
    nodes.host(nodes.join("edge"), [1])
    second = nodes.join("edge")
    clock.now_s += 11
    assert [node.clients for node in nodes.remove_silent(10)] == [(1,)]
    assert nodes.hosted() == 0
    nodes.host(second, [1])
    assert nodes.hosts(second, 1)


def test_counters_of_a_node_go_on_in_its_next_session(nodes):
    nodes.seen(nodes.join("edge")).bytes_up += 7
    assert nodes.seen(nodes.join("edge")).bytes_up == 7


def test_a_node_that_is_sent_away_does_what_waits_and_gets_no_more(nodes):
    a = nodes.join("a")
    nodes.host(a, [1, 2])
    nodes.send(1, "train")
    assert nodes.dismiss("a", "over")
    assert nodes.send(2, "train") is None
    assert nodes.out_of_reach({1: a, 2: None}) == {2: ("a", "its node 'a' hosts it no longer")}
    assert [nodes.take(a, taken, nobody_waits) for taken in (0, 1)] == [(1, "train"), (2, "over")]
    assert nodes.hosted() == 0
    assert nodes.out_of_reach({1: a}) == {1: ("a", "its node 'a' was sent away")}
    assert not nodes.dismiss("a", "over")


def test_a_node_that_is_expelled_is_gone_at_once(nodes):
    a = nodes.join("a")
    nodes.host(a, [1])
    assert nodes.expel("a", "its node 'a' was revoked")
    assert not nodes.expel("a", "again")
    assert nodes.out_of_reach({1: a, 9: None}) == {
        1: ("a", "its node 'a' was revoked"),
        9: ("", "no node hosts it"),
    }
    with pytest.raises(SessionLost):
        nodes.seen(a)


def test_what_people_are_shown_of_nodes_has_those_that_are_away_too(nodes, clock):
    a, b = nodes.join("a"), nodes.join("b")
    nodes.host(a, [1, 2])
    clock.now_s += 11
    nodes.seen(b)
    nodes.remove_silent(10)
    shown = {s.name: (s.state, s.clients, s.unanswered) for s in nodes.statuses(10, {a: 2})}
    assert shown == {"a": (NodeState.AWAY, 2, 2), "b": (NodeState.JOINING, 0, 0)}


def test_a_session_that_was_never_given_is_refused(nodes):
    for call in (
        lambda: nodes.seen("x"),
        lambda: nodes.host("x", [1]),
        lambda: nodes.take("x", 0, nobody_waits),
    ):
        with pytest.raises(ProtocolError) as caught:
            call()
        assert str(caught.value) == UNKNOWN


def test_a_node_hosts_what_it_says(nodes):
    a, b = nodes.join("a"), nodes.join("b")
    nodes.host(a, [1, 2])
    assert [nodes.hosts(a, 1), nodes.hosts(b, 1), nodes.hosts(a, 3)] == [True, False, False]
    assert nodes.hosted() == 2


def test_a_client_that_another_node_hosts_is_refused_with_all_that_came_with_it(nodes):
    a, b = nodes.join("a"), nodes.join("b")
    nodes.host(a, [1, 2])
    with pytest.raises(ProtocolError) as caught:
        nodes.host(b, [3, 2])
    assert str(caught.value) == (
        "client 2 is hosted by node 'a' already; give node 'b' another share with --partition"
    )
    assert nodes.hosted() == 2
    assert not nodes.hosts(b, 3)


def test_saying_it_again_replaces_what_was_said(nodes):
    a, b = nodes.join("a"), nodes.join("b")
    nodes.host(a, [1, 2])
    nodes.host(a, [2, 3])
    assert nodes.hosted() == 2
    nodes.host(b, [1])
    assert nodes.hosts(b, 1)


def test_a_client_named_twice_is_hosted_once_and_leaves_once(nodes, clock):
    a = nodes.join("a")
    nodes.host(a, [1, 1, 1])
    assert nodes.hosted() == 1
    clock.now_s += 10
    (gone,) = nodes.remove_silent(5)
    assert gone.clients == (1,)
    assert nodes.hosted() == 0


def test_after_a_node_that_said_it_twice_is_gone_nothing_is_left_of_it(nodes, clock):
    a = nodes.join("a")
    nodes.host(a, [1, 2])
    nodes.host(a, [2])
    clock.now_s += 10
    nodes.remove_silent(5)
    assert nodes.hosted() == 0
    assert not nodes.send(1, "work")


def test_work_waits_in_order_for_the_node_of_its_client(nodes):
    a, b = nodes.join("a"), nodes.join("b")
    nodes.host(a, [1, 2])
    nodes.host(b, [3])
    assert [nodes.send(2, "first"), nodes.send(1, "second"), nodes.send(3, "other")] == [a, a, b]
    assert take_all(nodes, a) == ["first", "second"]
    assert take_all(nodes, b) == ["other"]


def test_work_for_a_client_that_nobody_hosts_is_not_sent(nodes):
    nodes.join("a")
    assert not nodes.send(1, "work")


def test_work_can_be_made_for_each_node_from_its_own_clients(nodes):
    a, b, c = nodes.join("a"), nodes.join("b"), nodes.join("c")
    for session, clients in ((a, [0, 2]), (b, [1, 3]), (c, [4])):
        nodes.host(session, clients)
    nodes.send_by_node([3, 2, 1, 9], lambda mine: f"commit {list(mine)}")
    assert [take_all(nodes, session) for session in (a, b, c)] == [
        ["commit [2]"],
        ["commit [3, 1]"],
        [],
    ]


def test_work_for_all_reaches_every_node(nodes):
    a, b = nodes.join("a"), nodes.join("b")
    nodes.send_to_all("over")
    assert take_all(nodes, a) == take_all(nodes, b) == ["over"]


def test_a_poll_that_finds_nothing_is_woken_once_by_the_next_work(nodes):
    a = nodes.join("a")
    nodes.host(a, [1])
    woken = []
    assert nodes.take(a, 0, lambda: woken.append(1)) is None
    nodes.send(1, "first")
    nodes.send(1, "second")
    assert woken == [1]
    assert take_all(nodes, a) == ["first", "second"]


def test_a_poll_that_finds_work_is_not_woken_later(nodes):
    a = nodes.join("a")
    nodes.host(a, [1])
    nodes.send(1, "first")
    assert nodes.take(a, 0, nobody_waits) == (1, "first")
    nodes.send(1, "second")


def test_work_is_given_again_until_the_node_says_that_it_has_got_it(nodes):
    a = nodes.join("a")
    nodes.host(a, [1])
    for work in ("first", "second"):
        nodes.send(1, work)
    assert [nodes.take(a, taken, nobody_waits) for taken in (0, 0, 1, 1)] == [
        *[(1, "first")] * 2,
        *[(2, "second")] * 2,
    ]
    assert nodes.take(a, 2, lambda: None) is None


def test_work_that_was_given_and_is_wanted_no_longer_is_not_given_again(nodes):
    a = nodes.join("a")
    nodes.host(a, [1])
    for work in ("train", "commit"):
        nodes.send(1, work)
    assert nodes.take(a, 0, nobody_waits) == (1, "train")
    nodes.withdraw(lambda work: work == "train")
    assert nodes.take(a, 0, nobody_waits) == (2, "commit")


def test_work_that_is_wanted_no_longer_is_withdrawn(nodes):
    a, b = nodes.join("a"), nodes.join("b")
    nodes.host(a, [1])
    nodes.host(b, [2])
    for client_id in (1, 2):
        nodes.send(client_id, "train")
        nodes.send(client_id, "commit")
    nodes.withdraw(lambda work: work == "train")
    assert take_all(nodes, a) == take_all(nodes, b) == ["commit"]


def test_a_silent_node_is_removed_with_its_clients_and_its_work(nodes, clock):
    a, b = nodes.join("a"), nodes.join("b")
    nodes.host(a, [1, 2])
    nodes.host(b, [3])
    nodes.send(1, "work")
    clock.now_s += 6
    nodes.seen(b)
    clock.now_s += 6
    assert [(node.name, node.clients) for node in nodes.remove_silent(10)] == [("a", (1, 2))]
    assert nodes.remove_silent(10) == []
    assert [nodes.hosts(a, 1), nodes.hosts(b, 3), nodes.hosted()] == [False, True, 1]
    with pytest.raises(ProtocolError, match=UNKNOWN):
        nodes.seen(a)


def test_a_node_that_was_seen_just_in_time_stays(nodes, clock):
    a = nodes.join("a")
    nodes.host(a, [1])
    clock.now_s += 10
    assert nodes.remove_silent(10) == []


def test_a_node_that_still_makes_its_task_is_not_silent(nodes, clock):
    a = nodes.join("a")
    clock.now_s += 1000
    assert nodes.remove_silent(10) == []
    nodes.host(a, [1])


def test_the_clients_of_a_removed_node_can_be_hosted_by_another(nodes, clock):
    a = nodes.join("a")
    nodes.host(a, [1])
    clock.now_s += 11
    nodes.remove_silent(10)
    b = nodes.join("b")
    nodes.host(b, [1])
    assert nodes.hosts(b, 1)


def test_waiting_ends_when_enough_clients_are_hosted(nodes):
    a, b = nodes.join("a"), nodes.join("b")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(nodes.wait_for, 3, 30.0)
        nodes.host(a, [1])
        nodes.host(b, [2, 3])
        assert waiting.result(timeout=30)


def test_waiting_ends_without_them_when_time_is_up(nodes):
    assert not nodes.wait_for(1, timeout_s=0.01)


def test_one_can_wait_until_all_work_is_taken(nodes):
    a, idle = nodes.join("a"), nodes.join("hosts nothing and never polls")
    nodes.host(a, [1])
    nodes.send_to_all("over")
    assert not nodes.wait_until_taken(0.01)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(nodes.wait_until_taken, 30.0)
        assert take_all(nodes, a) == ["over"]
        assert waiting.result(timeout=30)
    assert take_all(nodes, idle) == ["over"]


def test_many_threads_may_send_and_take_at_once(nodes):
    sessions = [nodes.join(str(i)) for i in range(4)]
    for i, session in enumerate(sessions):
        nodes.host(session, [i])

    def send(number: int) -> str | None:
        return nodes.send(number % 4, str(number))

    def take(session: str) -> list[str]:
        taken: list[str] = []
        while len(taken) < 50:
            taken += take_all(nodes, session)
        return taken

    with ThreadPoolExecutor(8) as pool:
        takers = [pool.submit(take, session) for session in sessions]
        assert all(pool.map(send, range(200)))
        taken = [taker.result(timeout=30) for taker in takers]
    assert sorted(int(work) for works in taken for work in works) == list(range(200))


def test_nodes_that_join_and_host_nothing_are_forgotten_when_they_become_too_many(nodes, clock):
    host = nodes.join("host")
    nodes.host(host, [0])
    sessions = []
    for number in range(1001):
        clock.now_s += 1
        sessions.append(nodes.join(f"ghost-{number}"))
    assert len(nodes.statuses(20.0, {})) == 502
    assert nodes.seen(host).clients == (0,)
    assert nodes.seen(sessions[500]).name == "ghost-500"
    with pytest.raises(SessionLost):
        nodes.seen(sessions[499])
