"""What crosses the line between server and client."""

import re
from dataclasses import FrozenInstanceError, fields, is_dataclass
from inspect import getmembers

import pytest
import torch

from roundel.core import messages
from roundel.core.messages import ClientFailure, ClientUpdate, Ticket, TrainRequest
from roundel.core.metrics import Metrics

TICKET = Ticket(run="r", round=3, client_id=7)
RECORDS = [
    kind
    for _, kind in getmembers(messages, is_dataclass)
    if isinstance(kind, type) and kind.__module__ == messages.__name__
]


@pytest.mark.parametrize("kind", RECORDS)
def test_every_field_of_every_message_is_documented_in_order(kind: type) -> None:
    described = re.findall(r"^ {8}(\w+): ", kind.__doc__ or "", re.MULTILINE)
    assert described == [field.name for field in fields(kind)]


def test_another_attempt_or_stage_is_another_ticket() -> None:
    others = [
        Ticket(run="q", round=3, client_id=7),
        Ticket(run="r", round=4, client_id=7),
        Ticket(run="r", round=3, client_id=8),
        Ticket(run="r", round=3, client_id=7, stage=1),
        Ticket(run="r", round=3, client_id=7, attempt=1),
    ]
    assert len({TICKET, *others}) == 6
    assert Ticket(run="r", round=3, client_id=7, stage=0, attempt=0) == TICKET


def test_messages_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        TICKET.round = 4  # type: ignore[misc]


def test_messages_do_not_share_their_defaults() -> None:
    def request() -> TrainRequest:
        return TrainRequest(
            ticket=TICKET, base_version=2, params=torch.zeros(1), integers=torch.zeros(0)
        )

    assert request().channels == {}
    assert request().channels is not request().channels


def test_an_update_needs_no_scalars_metrics_or_seconds() -> None:
    update = ClientUpdate(
        ticket=TICKET,
        base_version=2,
        num_examples=5,
        num_steps=1,
        channels={"params": torch.zeros(1)},
    )
    assert (update.scalars, update.metrics, update.seconds) == ({}, Metrics(), 0.0)


def test_a_failure_is_a_value() -> None:
    assert not issubclass(ClientFailure, BaseException)
    failure = ClientFailure(ticket=TICKET, stage="train", error="ValueError: no")
    assert (failure.location, failure.traceback) == ("", "")
