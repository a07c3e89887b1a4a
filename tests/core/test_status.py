"""The status of a federation, and its JSON."""

import json

import pytest

from roundel.core.status import (
    Activity,
    Capabilities,
    NodeState,
    NodeStatus,
    RoundStatus,
    Snapshot,
)

BUSY = NodeStatus(
    name="edge7-1of3",
    state=NodeState.TRAINING,
    clients=34,
    round=7,
    silent_s=0.5,
    unanswered=3,
    activity=Activity(what="train", client=12, round=7, done=60, total=100),
    bytes_up=1_000,
    bytes_down=2_000,
    failures=1,
    capabilities=Capabilities(cores=4, memory_bytes=1 << 33, device="cpu", machine="aarch64"),
)
FULL = Snapshot(
    run="r1",
    rounds=50,
    done=6,
    population=100,
    hosted=34,
    open_round=RoundStatus(
        round=7, cohort=16, accepted=9, target=16, quorum=12, left_s=42.0, missing=("edge8",)
    ),
    nodes=(BUSY, NodeStatus(name="edge8", state=NodeState.AWAY, clients=33)),
)
EMPTY = Snapshot(run="r1", rounds=50, done=0, population=100, hosted=0)


@pytest.mark.parametrize("snapshot", [FULL, EMPTY], ids=["full", "empty"])
def test_a_snapshot_comes_back_equal_from_its_json(snapshot):
    assert Snapshot.from_json(snapshot.to_json()) == snapshot


def test_its_json_is_one_line_with_the_words_of_the_fields():
    text = FULL.to_json()
    assert "\n" not in text
    fields = json.loads(text)
    assert fields["open_round"]["accepted"] == 9
    assert fields["nodes"][0]["state"] == "training"
    assert fields["nodes"][0]["activity"]["done"] == 60


def test_what_a_later_version_added_is_left_out():
    fields = json.loads(FULL.to_json())
    fields["weather"] = fields["nodes"][0]["mood"] = "fine"
    assert Snapshot.from_json(json.dumps(fields)) == FULL


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", '{"nodes": [{}], "open_round": null}'])
def test_something_else_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        Snapshot.from_json(text)
