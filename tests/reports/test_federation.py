"""A federation as lines of text, and what changes in it."""

from dataclasses import replace

import pytest

from roundel.core.status import Activity, NodeState, NodeStatus, RoundStatus, Snapshot
from roundel.reports.federation import (
    WIDE,
    Change,
    Line,
    change_lines,
    changes,
    federation_lines,
)

TRAINING = NodeStatus(
    name="edge7-1of3",
    state=NodeState.TRAINING,
    clients=34,
    round=7,
    silent_s=0.4,
    unanswered=3,
    activity=Activity(what="train", client=12, round=7, done=50, total=100),
    bytes_up=1_500_000,
    bytes_down=500_000,
)
WAITING = NodeStatus(
    name="edge10-2of3", state=NodeState.WAITING, clients=33, round=7, silent_s=3, bytes_up=900
)
AWAY = NodeStatus(
    name="edge9-3of3",
    state=NodeState.AWAY,
    clients=33,
    round=6,
    silent_s=125,
    unanswered=4,
    failures=2,
)
ROUND = RoundStatus(round=7, cohort=16, accepted=9, target=16, quorum=12, elapsed_s=65, left_s=42.9)
THREE = Snapshot(
    run="r",
    rounds=50,
    done=6,
    population=100,
    hosted=67,
    open_round=replace(ROUND, missing=("edge9-3of3",)),
    nodes=(WAITING, TRAINING, AWAY),
)


def text(snapshot: Snapshot, *, width: int = 80, height: int = 24) -> list[str]:
    return [line.text for line in federation_lines(snapshot, width=width, height=height)]


def joined(*nodes: NodeStatus, opened: RoundStatus | None = None) -> Snapshot:
    return replace(THREE, nodes=nodes, open_round=opened)


def crowd(count: int, *others: NodeStatus) -> Snapshot:
    return joined(*(replace(WAITING, name=f"node{i}") for i in range(count)), *others)


# ---- the table


def test_on_80_columns_the_table_says_all_there_is():
    assert text(THREE) == [
        "round 7/50   9 of 16 updates   quorum 12   open for 1:05   0:42 left",
        "3 nodes, 67 of 100 clients: 1 away, 1 training, 1 waiting",
        "round 7 waits for edge9-3of3, away: 3 updates short of its quorum",
        "node         state     round  open  progress      bytes  failed   seen",
        "edge7-1of3   training      7  3/34  ███░░░  50%  2.0 MB       -    0 s",
        "edge9-3of3   away          6  4/33                  0 B       2  2 min",
        "edge10-2of3  waiting       7  0/33                900 B       -    3 s",
    ]


def test_with_more_columns_it_says_more():
    _, _, _, heading, first, *others = text(THREE, width=WIDE)
    assert heading.split() == [
        *("node", "state", "round", "clients", "open"),
        *("progress", "up", "down", "failed", "seen"),
    ]
    assert "7       34     3  ██████░░░░░░  50%  client 12  1.5 MB  500.0 kB" in first
    assert [len(line) for line in (heading, first, *others)] == [len(heading)] * 4


def test_what_it_is_about_is_told_apart_from_the_text_for_whoever_colours_it():
    lines = federation_lines(THREE, width=80, height=24)
    assert [line.heading for line in lines] == [False] * 3 + [True] + [False] * 3
    assert [line.trouble for line in lines] == [False, False, True, False, False, True, False]
    assert [line.state for line in lines[4:]] == ["training", "away", "waiting"]


@pytest.mark.parametrize("width", [80, 100, WIDE, 120, 200])
@pytest.mark.parametrize("height", [6, 24, 50])
def test_it_is_never_larger_than_the_screen(width, height):
    long = [
        replace(node, name=f"{node.name}.a-host-with-a-very-long-name.example.org-{i}of200")
        for i, node in enumerate([TRAINING, WAITING, AWAY] * 60)
    ]
    lines = text(
        joined(*long, opened=replace(ROUND, missing=tuple(node.name for node in long))),
        width=width,
        height=height,
    )
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_a_name_that_is_too_long_keeps_its_end():
    long = replace(WAITING, name="a-host-with-a-long-name.example.org-17of200")
    last = text(joined(long))[-1]
    assert last.startswith("a-host-with-")
    assert "…" in last
    assert "17of200  waiting" in last


def test_of_many_nodes_those_in_trouble_come_first_and_the_rest_are_counted():
    failing = replace(TRAINING, name="failing", failures=1)
    lines = text(crowd(198, AWAY, failing), height=8)
    assert lines[1] == "200 nodes, 67 of 100 clients: 1 away, 1 training, 198 waiting"
    assert [line.split()[0] for line in lines[3:]] == [
        *("edge9-3of3", "failing", "node0", "node1", "and"),
    ]
    assert lines[-1] == "and 196 more: 196 waiting"


def test_nodes_that_fit_keep_their_places_by_name_and_number():
    assert [line.split()[0] for line in text(crowd(11, AWAY))[3:]] == [
        "edge9-3of3",
        *(f"node{i}" for i in range(11)),
    ]


def test_without_a_measure_of_progress_at_least_the_client_is_named():
    unmeasured = replace(TRAINING, activity=Activity(what="train", client=12, round=7))
    assert "  3/34  client 12    2.0 MB" in text(joined(unmeasured))[-1]


def test_a_node_that_is_away_is_not_shown_at_work():
    away = replace(TRAINING, state=NodeState.AWAY)
    assert "50%" in text(joined(TRAINING))[-1]
    assert "50%" not in text(joined(away))[-1]


def test_before_anybody_has_joined_it_says_how_many_clients_wait_to_be_hosted():
    assert text(joined()) == [
        "6 of 50 rounds done",
        "no node has joined; there are 100 clients to host",
    ]


@pytest.mark.parametrize(
    ("opened", "first"),
    [
        (
            replace(ROUND, quorum=16, left_s=None),
            "round 7/50   9 of 16 updates   open for 1:05",
        ),
        (
            replace(ROUND, elapsed_s=3_725, left_s=-1.0),
            "round 7/50   9 of 16 updates   quorum 12   open for 1:02:05   deadline passed",
        ),
    ],
)
def test_the_first_line_says_what_matters(opened, first):
    assert text(joined(WAITING, opened=opened))[0] == first


def test_where_nobody_knows_how_many_rounds_there_are_none_are_named():
    opened = replace(joined(WAITING, opened=replace(ROUND, quorum=16, left_s=None)), rounds=0)
    assert text(opened)[0] == "round 7   9 of 16 updates   open for 1:05"
    between = replace(joined(WAITING), rounds=0, done=6)
    assert text(between)[0] == "6 rounds done"
    (line,) = change_lines(changes(between, opened), 0)
    assert line.text == "round 7 asks 16 clients"


def test_a_name_cannot_command_the_terminal():
    assert "\x1b" not in "".join(text(joined(replace(WAITING, name="a\x1b[2Jb"))))


# ---- what changes


def told(before: Snapshot | None, after: Snapshot) -> list[str]:
    return [line.text for line in change_lines(changes(before, after), after.rounds)]


def test_nothing_is_told_twice():
    assert changes(THREE, THREE) == []


def test_a_node_has_joined_once_it_hosts_clients():
    joining = replace(WAITING, state=NodeState.JOINING, clients=0)
    assert told(None, joined(joining)) == []
    assert told(joined(joining), joined(WAITING)) == ["edge10-2of3 joined with 33 clients"]
    assert told(joined(WAITING), joined(replace(WAITING, state=NodeState.TRAINING))) == []


def test_a_node_goes_away_and_comes_back():
    gone = replace(WAITING, state=NodeState.AWAY)
    assert told(joined(WAITING), joined(gone)) == ["edge10-2of3 is away with 33 clients"]
    assert told(joined(gone), joined(WAITING)) == ["edge10-2of3 is back with 33 clients"]
    assert told(None, joined(gone)) == ["edge10-2of3 is away with 33 clients"]


def test_a_node_that_is_drained_or_seen_no_longer_has_left():
    drained = replace(WAITING, state=NodeState.DRAINED)
    assert told(joined(WAITING), joined(drained)) == ["edge10-2of3 left with 33 clients"]
    assert told(joined(drained), joined()) == []
    assert told(joined(WAITING), joined()) == ["edge10-2of3 left with 33 clients"]
    assert told(joined(drained), joined(WAITING)) == ["edge10-2of3 joined with 33 clients"]


def test_nodes_that_do_the_same_at_once_share_a_line():
    assert told(None, crowd(2)) == ["node0 and node1 joined with 66 clients"]
    assert told(None, crowd(200)) == [
        "node0, node1, node2, node3 and 196 more joined with 6600 clients"
    ]
    gone = joined(*(replace(node, state=NodeState.AWAY) for node in crowd(2).nodes))
    assert told(crowd(2), gone) == ["node0 and node1 are away with 66 clients"]


def test_a_round_begins():
    opened = joined(WAITING, opened=ROUND)
    held = joined(WAITING, opened=replace(ROUND, missing=("edge9", "edge10")))
    assert told(joined(WAITING), opened) == ["round 7/50 asks 16 clients"]
    assert told(opened, held) == told(held, opened) == told(opened, joined(WAITING)) == []
    assert told(opened, joined(WAITING, opened=replace(ROUND, round=8))) == [
        "round 8/50 asks 16 clients"
    ]


def test_a_client_that_nobody_ever_hosted_waits_for_a_node():
    lines = text(joined(WAITING, opened=replace(ROUND, missing=("",))))
    assert lines[2] == "round 7 waits for a node, away: 3 updates short of its quorum"


def test_what_should_be_looked_at_is_marked():
    marked = change_lines(
        changes(joined(WAITING), joined(replace(WAITING, state=NodeState.AWAY), TRAINING)), 50
    )
    assert marked == [
        Line(text="edge7-1of3 joined with 34 clients"),
        Line(text="edge10-2of3 is away with 33 clients", trouble=True),
    ]


def test_as_json_each_change_is_an_object_of_its_own_with_its_time():
    found = changes(None, joined(WAITING, opened=replace(ROUND, missing=("edge9",))))
    assert [change.to_json("12:00") for change in found] == [
        {"event": "node_joined", "time": "12:00", "node": "edge10-2of3", "clients": 33},
        {"event": "round_started", "time": "12:00", "round": 7, "cohort": 16, "quorum": 12},
        {
            "event": "round_waits",
            "time": "12:00",
            "round": 7,
            "nodes": ["edge9"],
            "accepted": 9,
            "quorum": 12,
        },
    ]
    assert found[0] == Change(event="node_joined", facts={"node": "edge10-2of3", "clients": 33})
