"""What the coordinator says of its nodes."""

import pytest

from roundel.core.status import Activity, NodeState, NodeStatus
from roundel.server.status import node_state, snapshot

TRAINS = Activity(what="train", client=1, round=1)


def state(**known: object) -> NodeState:
    usual = {"silent_s": 1.0, "lease_s": 20.0, "clients": 3, "unanswered": 1}
    return node_state(**{**usual, "activity": None, "drained": False, **known})


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({}, "working"),
        ({"unanswered": 0}, "waiting"),
        ({"unanswered": 0, "activity": TRAINS}, "waiting"),
        ({"activity": TRAINS}, "training"),
        ({"activity": Activity(what="send", client=1, round=1)}, "sending"),
        ({"activity": Activity(what="evaluate", client=1, round=1)}, "evaluating"),
        ({"activity": Activity(what="sing", client=1, round=1)}, "working"),
        ({"silent_s": 20.0, "activity": TRAINS}, "training"),
        ({"silent_s": 20.1, "activity": TRAINS}, "away"),
        ({"clients": 0}, "joining"),
        ({"clients": 0, "silent_s": 300.0}, "joining"),
        ({"drained": True, "silent_s": 300.0}, "drained"),
    ],
)
def test_the_state_follows_from_what_is_known(known, expected):
    assert state(**known) == expected


def test_clients_of_nodes_that_are_away_or_sent_away_are_not_hosted():
    nodes = [
        NodeStatus(name=name, state=NodeState(state), clients=clients)
        for name, state, clients in [
            ("c", "waiting", 1),
            ("b", "away", 10),
            ("a", "training", 100),
            ("d", "drained", 1000),
        ]
    ]
    seen = snapshot(run="r", rounds=5, done=2, population=2000, nodes=nodes)
    assert seen.hosted == 101
    assert [node.name for node in seen.nodes] == ["a", "b", "c", "d"]
