"""What crosses the line between server and client."""

import re
import struct
from dataclasses import FrozenInstanceError, fields, is_dataclass
from inspect import getmembers
from typing import Any

import pytest
import torch
from blake3 import blake3

from roundel.core import messages
from roundel.core.messages import (
    ClientFailure,
    ClientUpdate,
    Ticket,
    TrainRequest,
    update_blake3,
)
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


# ---- the hash of an update


def update(**changes: Any) -> ClientUpdate:
    fields: dict[str, Any] = {
        "ticket": TICKET,
        "base_version": 2,
        "num_examples": 5,
        "num_steps": 1,
        "channels": {"params": torch.tensor([1.0, 2.0]), "integers": torch.tensor([3])},
        "scalars": {"steps": 1.0},
        "metrics": Metrics({"loss": 1.0}, 5),
        "seconds": 0.5,
    }
    return ClientUpdate(**fields | changes)


@pytest.mark.parametrize(
    "change",
    [
        {"num_examples": 6},
        {"num_steps": 2},
        {"scalars": {"steps": 2.0}},
        {"scalars": {"stepz": 1.0}},
        {"channels": {"params": torch.tensor([1.0, 2.5]), "integers": torch.tensor([3])}},
        {"channels": {"params": torch.tensor([[1.0, 2.0]]), "integers": torch.tensor([3])}},
        {"channels": {"params": torch.tensor([1.0, 2.0]), "integers": torch.tensor([4])}},
        {"channels": {"parems": torch.tensor([1.0, 2.0]), "integers": torch.tensor([3])}},
        {"channels": {"params": torch.tensor([1.0, 2.0])}},
    ],
    ids=str,
)
def test_everything_that_aggregation_depends_on_changes_the_hash(change: dict[str, Any]) -> None:
    assert update_blake3(update(**change)) != update_blake3(update())


def test_a_sign_of_zero_and_a_dtype_change_the_hash() -> None:
    kinds = [torch.tensor([0.0]), torch.tensor([-0.0]), torch.tensor([0], dtype=torch.int32)]
    assert len({update_blake3(update(channels={"params": kind})) for kind in kinds}) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"ticket": Ticket(run="q", round=9, client_id=1, attempt=2)},
        {"metrics": Metrics()},
        {"seconds": 9.0},
        {"channels": {"integers": torch.tensor([3]), "params": torch.tensor([1.0, 2.0])}},
    ],
    ids=["ticket", "metrics", "seconds", "the order of channels"],
)
def test_what_aggregation_does_not_depend_on_leaves_the_hash(change: dict[str, Any]) -> None:
    assert update_blake3(update(**change)) == update_blake3(update())


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(0), torch.tensor(1.0), torch.zeros(4)[::2], torch.ones(2, requires_grad=True)],
    ids=["empty", "a scalar", "strided", "with gradients"],
)
def test_tensors_of_any_form_have_a_hash(tensor: torch.Tensor) -> None:
    given = update_blake3(update(channels={"params": tensor}))
    assert given == update_blake3(update(channels={"params": tensor.detach().clone()}))


def test_the_hash_never_changes_between_versions() -> None:
    """Runs record it, and a replay compares with what an earlier version recorded."""
    content = [
        b"(5, 1, [('steps', 1.0)])",
        b"integers torch.int64 [1]\n" + struct.pack("<q", 3),
        b"params torch.float32 [2]\n" + struct.pack("<2f", 1.0, 2.0),
    ]
    assert update_blake3(update()) == blake3(b"".join(content)).hexdigest()
