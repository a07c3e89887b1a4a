"""Messages to protobuf and back."""

from math import inf

import pytest
import torch

from roundel.core.broadcast import broadcast_tensors
from roundel.core.errors import ProtocolError
from roundel.core.messages import ClientFailure, ClientUpdate, Evaluation, Ticket
from roundel.core.metrics import Metrics
from roundel.core.printable import LINE, TRACEBACK
from roundel.core.status import Activity, Capabilities
from roundel.core.wire import roundel_pb2 as pb
from roundel.core.wire.convert import (
    MAX_WORD,
    activity_from_wire,
    activity_to_wire,
    capabilities_from_wire,
    capabilities_to_wire,
    evaluate_from_wire,
    evaluation_from_wire,
    failure_from_wire,
    failure_to_wire,
    metrics_from_wire,
    metrics_to_wire,
    ticket_from_wire,
    ticket_to_wire,
    train_from_wire,
    update_from_wire,
    update_to_wire,
)

TICKET = Ticket(run="f00", round=3, client_id=1 << 40, stage=1 << 16, attempt=2)
UPDATE = ClientUpdate(
    ticket=TICKET,
    base_version=2,
    num_examples=1 << 40,
    num_steps=7,
    channels={"params": torch.tensor([1.0, -0.0]), "integers": torch.tensor([3])},
    scalars={"steps": 0.1, "huge": 1e308},
    metrics=Metrics({"loss": 0.1 + 0.2}, 9),
    seconds=0.25,
)
FAILURE = ClientFailure(
    ticket=TICKET,
    stage="train",
    error="ValueError: größer als ∞",
    location="/home/me/task.py:7",
    traceback="Traceback (most recent call last):\n  ...\n",
)


def over_the_wire(message):
    """Send a message through its bytes."""
    return type(message).FromString(message.SerializeToString())


@pytest.mark.parametrize(
    "ticket",
    [TICKET, Ticket(run="", round=0, client_id=0), Ticket(run="r", round=2**32 - 1, client_id=1)],
)
def test_a_ticket_comes_back_equal(ticket):
    assert ticket_from_wire(over_the_wire(ticket_to_wire(ticket))) == ticket


def test_an_update_comes_back_equal_with_its_channels():
    payload = pb.Payload(size=8, digest=b"x")
    header = over_the_wire(update_to_wire(UPDATE, "session", payload))
    assert (header.session, header.payload) == ("session", payload)
    assert update_from_wire(header, UPDATE.channels) == UPDATE


def test_an_update_with_nothing_optional_comes_back_equal():
    bare = ClientUpdate(
        ticket=TICKET, base_version=0, num_examples=1, num_steps=1, channels=UPDATE.channels
    )
    header = over_the_wire(update_to_wire(bare, "session", pb.Payload()))
    assert update_from_wire(header, bare.channels) == bare


def test_a_failure_comes_back_equal():
    report = over_the_wire(failure_to_wire(FAILURE, "session"))
    assert report.session == "session"
    assert failure_from_wire(report) == FAILURE


def test_texts_without_end_are_cut_off_when_they_are_read():
    report = pb.FailureReport(
        ticket=pb.Ticket(run="r" * 10**5),
        stage="s" * 10**5,
        error="e" * 10**5,
        location="l" * 10**5,
        traceback="t" * 10**6,
    )
    failure = failure_from_wire(report)
    lengths = [len(t) for t in (failure.ticket.run, failure.stage, failure.error, failure.location)]
    assert lengths == [MAX_WORD, LINE, LINE, LINE]
    assert len(failure.traceback) == TRACEBACK


@pytest.mark.parametrize("metrics", [Metrics(), Metrics({"loss": inf, "a": -0.5}, 3)])
def test_metrics_and_evaluations_come_back_equal(metrics):
    assert metrics_from_wire(over_the_wire(metrics_to_wire(metrics))) == metrics
    report = pb.EvaluationReport(
        session="s", ticket=ticket_to_wire(TICKET), metrics=metrics_to_wire(metrics)
    )
    expected = Evaluation(ticket=TICKET, metrics=metrics)
    assert evaluation_from_wire(over_the_wire(report)) == expected


def test_a_training_request_is_made_of_the_work_and_its_payload():
    params, integers, control = torch.ones(3), torch.tensor([4]), torch.zeros(2)
    tensors = broadcast_tensors(params, integers, {"control": control, "params": params + 1})
    work = over_the_wire(pb.Train(ticket=ticket_to_wire(TICKET), base_version=2))
    request = train_from_wire(work, tensors)
    assert (request.ticket, request.base_version) == (TICKET, 2)
    assert request.params is params
    assert request.integers is integers
    assert request.channels.keys() == {"control", "params"}
    assert request.channels["control"] is control


def test_an_evaluation_request_is_made_of_the_work_and_its_payload():
    tensors = broadcast_tensors(torch.ones(3), torch.tensor([4]), {})
    work = pb.Evaluate(ticket=ticket_to_wire(TICKET), split="validation")
    request = evaluate_from_wire(over_the_wire(work), tensors)
    assert (request.ticket, request.split) == (TICKET, "validation")
    assert request.params.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("missing", ["params", "integers"])
def test_a_broadcast_without_its_parameters_is_refused(missing):
    tensors = broadcast_tensors(torch.ones(3), torch.tensor([4]), {})
    del tensors[missing]
    with pytest.raises(ProtocolError, match=f"^a broadcast has no tensor '{missing}'$"):
        train_from_wire(pb.Train(), tensors)
    with pytest.raises(ProtocolError, match=f"^a broadcast has no tensor '{missing}'$"):
        evaluate_from_wire(pb.Evaluate(), tensors)


@pytest.mark.parametrize(
    "activity", [None, Activity(what="send", client=1 << 40, round=3, done=1 << 33, total=1 << 34)]
)
def test_what_a_node_does_comes_back_equal(activity):
    assert activity_from_wire(over_the_wire(activity_to_wire(activity))) == activity


def test_what_a_node_computes_with_comes_back_equal():
    one = Capabilities(
        cores=4,
        memory_bytes=1 << 33,
        device="cpu",
        machine="aarch64",
        python="3.11.2",
        torch="2.13.0",
    )
    assert capabilities_from_wire(over_the_wire(capabilities_to_wire(one))) == one


def test_words_that_would_flood_a_table_are_cut_off():
    long = Capabilities(device="x" * 1000, machine="y" * 1000)
    read = capabilities_from_wire(capabilities_to_wire(long))
    assert (len(read.device), len(read.machine)) == (MAX_WORD, MAX_WORD)


def test_what_a_node_says_moves_no_cursor_and_makes_no_lines():
    failure = ClientFailure(
        ticket=TICKET,
        stage="train",
        error="\x1b[2Jgone\nround 9: all is well",
        location="a\rb",
        traceback="Traceback\n\tline \x07",
    )
    read = failure_from_wire(failure_to_wire(failure, "s"))
    assert read.error == "\ufffd[2Jgone\ufffdround 9: all is well"
    assert read.location == "a\ufffdb"
    assert read.traceback == "Traceback\n\tline \ufffd"
