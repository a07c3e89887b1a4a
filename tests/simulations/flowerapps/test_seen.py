"""What can be seen of an app from outside."""

import pytest

from roundel.simulations.flowerapps.parcels import Answer, Parcel, Task, Trouble
from roundel.simulations.flowerapps.seen import Exchange, Rounds, mean_figures, odd_reply


def reply(loss=1.0, examples=1, shape=(3,)):
    return Parcel(
        records=[
            ["arrays", "arrays", [["w", "float32", shape, "numpy.ndarray"]]],
            ["metrics", "metrics", {"loss": loss, "num-examples": examples, "each": [1, 2]}],
        ],
        buffers=[b"1234"],
    )


def exchange(kind, *replies, group="", round=None, began=0.0):
    records = [["config", "config", [["server-round", "", round]]]] if round else []
    tasks = [
        Task(
            client=client,
            number=1,
            metadata={"message_type": kind, "group_id": group},
            content=Parcel(records=records, buffers=[b"12"]),
            state=Parcel(),
        )
        for client in range(len(replies))
    ]
    answers = [
        Answer(content=each) if each else Answer(trouble=Trouble(code=2, reason="no"))
        for each in replies
    ]
    return Exchange(tasks=tasks, answers=answers, began_s=began, ended_s=began + 1)


def test_messages_of_a_round_become_one_line():
    rounds = Rounds()
    assert rounds.add(exchange("train", reply(1.0, 3), None, reply(2.0, 1), round=1)) is None
    assert rounds.add(exchange("evaluate", reply(4.0), round=1, began=5.0)) is None
    line = rounds.add(exchange("train", reply(), round=2))
    assert line == {
        "round": 1,
        "train": {
            "messages": 3,
            "replies": 2,
            "failures": 1,
            "metrics": {"loss": 1.25, "num-examples": 4},
        },
        "evaluate": {
            "messages": 1,
            "replies": 1,
            "failures": 0,
            "metrics": {"loss": 4.0, "num-examples": 1},
        },
        "bytes_up": 12,
        "bytes_down": 8,
        "seconds": 6.0,
    }
    assert (rounds.finish() or {})["round"] == 2
    assert rounds.finish() is None


def test_the_group_says_the_round_too():
    rounds = Rounds()
    rounds.add(exchange("train.stage", reply(), group="4"))
    assert (rounds.finish() or {})["round"] == 4


@pytest.mark.parametrize("said", ["first", [1, 2], 1.5, True, "7"])
def test_what_an_app_means_by_something_else_than_a_number_is_no_round(said):
    assert exchange("train", reply(), round=said).round is None


@pytest.mark.parametrize("group", ["0", "9" * 5000, "\u00b2"])
def test_groups_that_are_no_number_of_a_round_say_none(group):
    assert exchange("train", reply(), group=group).round is None


def test_without_a_round_each_wave_of_training_counts_as_one():
    rounds = Rounds()
    kinds = ["query", "train", "evaluate", "train", "train"]
    lines = [rounds.add(exchange(kind, reply())) for kind in kinds] + [rounds.finish()]
    assert [line["round"] for line in lines if line] == [1, 2, 3]
    assert {"query", "train", "evaluate"} <= set(lines[3] or {})


def test_rounds_in_which_nobody_replied_are_noted():
    rounds = Rounds()
    rounds.add(exchange("train", None, None, round=1))
    rounds.add(exchange("train", None, reply(), round=2))
    rounds.finish()
    assert rounds.lost == [(1, "train")]


def test_means_are_plain_where_not_all_say_how_many_examples_they_have():
    plain = Parcel(records=[["m", "metrics", {"loss": 3.0}]])
    assert mean_figures([plain, reply(1.0, 9)]) == {"loss": 2.0}
    assert mean_figures([]) == {}


def test_a_reply_that_differs_from_the_first_is_named():
    assert odd_reply(exchange("train", reply(), reply())) == ""
    assert odd_reply(exchange("train", reply(), None, reply(shape=(2, 1)))) == (
        "client 2 replied with the array 'arrays.w' in the shape [2, 1], client 0 in the shape [3]"
    )
    bare = Parcel(records=[["arrays", "arrays", []]])
    assert odd_reply(exchange("train", reply(), bare)) == (
        "the reply of client 1 to 'train' has no metrics"
    )
