"""What the sites themselves can do."""

import dataclasses

import pytest
import torch

from roundel.core.params import Entry, ParamSpec
from roundel.strategies.sites import Finished, Synchronous, shared_only, stateless
from tests.strategies.updates import CONTEXT, vec


def spec(*personal: bool) -> ParamSpec:
    """Return the layout of a model with two numbers in each of its tensors."""
    return ParamSpec(
        tuple(
            Entry(
                name=f"t{place}",
                shape=(2,),
                dtype=torch.float64,
                trainable=True,
                personal=is_personal,
            )
            for place, is_personal in enumerate(personal)
        ),
        dtype=torch.float64,
    )


def test_a_change_of_the_shared_part_leaves_personal_layers_alone():
    changed = shared_only(spec(False, True), lambda g: 10 * g, vec(1, 2, 3, 4))
    assert changed.tolist() == [10, 20, 3, 4]


def test_without_personal_layers_the_change_is_of_everything():
    changed = shared_only(spec(False, False), lambda g: 10 * g, vec(1, 2, 3, 4))
    assert changed.tolist() == [10, 20, 30, 40]


def test_a_stack_of_clients_is_changed_row_by_row():
    stack = torch.stack([vec(1, 2, 3, 4), vec(5, 6, 7, 8)])
    changed = shared_only(spec(False, True), lambda g: g + vec(1, -1), stack)
    assert changed.tolist() == [[2, 1, 3, 4], [6, 5, 7, 8]]


def test_a_transform_without_state_starts_with_none():
    assert stateless(vec(1, 2)) == {}


def test_a_round_waits_for_one_update_and_for_ever_by_default():
    assert Synchronous() == Synchronous(quorum=1, deadline_s=None)


def test_a_finishing_step_may_add_nothing():
    assert (Finished().channels, Finished().scalars, Finished().state) == ({}, {}, {})


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONTEXT.round = 2  # type: ignore[misc]
