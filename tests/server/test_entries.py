"""What the journal keeps comes back from JSON as it was."""

import json

from roundel.core.messages import ClientFailure, Evaluation
from roundel.core.metrics import Metrics
from roundel.server.entries import (
    answer_from_json,
    answer_to_json,
    outcomes_from_json,
    outcomes_to_json,
)
from roundel.server.round import Outcome, Status
from tests.server.toys import ticket_of


def test_outcomes_come_back_in_their_order_with_their_failures():
    failure = ClientFailure(
        ticket=ticket_of(4, run="", round=2, attempt=1),
        stage="train",
        error="ValueError: no",
        location="task.py:3",
        traceback="Traceback\n",
    )
    outcomes = {
        9: Outcome(Status.LOST, 0, "its node is away"),
        4: Outcome(Status.FAILED, 1, "ValueError: no", failure),
        7: Outcome(Status.ACCEPTED),
    }
    again = outcomes_from_json(outcomes_to_json(outcomes), round=2, stage=0)
    assert again == outcomes
    assert list(again) == [9, 4, 7]


def test_answers_come_back_to_the_bit():
    ticket = ticket_of(2, round=0, stage=5)
    for answer in (
        Evaluation(ticket=ticket, metrics=Metrics({"loss": 0.1, "bad": float("inf")}, 3)),
        ClientFailure(ticket=ticket, stage="evaluate", error="its node is gone"),
    ):
        assert answer_from_json(json.loads(json.dumps(answer_to_json(answer)))) == answer
