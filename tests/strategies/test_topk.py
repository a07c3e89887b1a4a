"""The largest numbers, and the memory of the others."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roundel.core.errors import CompositionError, ParameterError
from roundel.core.messages import PARAMS
from roundel.strategies.compose import compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.quantisation import qsgd
from roundel.strategies.scaffold import scaffold
from roundel.strategies.topk import count_of, largest, topk
from tests.federations import Quadratic, federate, quadratic_task
from tests.strategies.codecs import decoded, decoding_of, encoded, nbytes
from tests.strategies.toys import cohorts
from tests.strategies.updates import vec


def test_the_largest_are_sent_in_order_with_their_places_and_the_rest_is_kept():
    sent, kept = encoded(topk(share=0.5), {PARAMS: vec(1, -3, 0.5, 2)})
    assert sent[PARAMS].tolist() == [-3, 2]
    assert sent["params/places"].tolist() == [1, 3]
    assert sent["params/places"].dtype == torch.int32
    assert kept["topk.params"].tolist() == [1, 0, 0.5, 0]
    found = decoded(topk(share=0.5), sent, decoding_of(4, dtype=torch.float64))
    assert {name: v.tolist() for name, v in found.items()} == {PARAMS: [0, -3, 0, 2]}


def test_what_was_kept_is_added_before_the_choice():
    state = {"topk.params": vec(1, 0, 0.5, 2)}
    sent, kept = encoded(topk(share=0.25), {PARAMS: vec(0.5, 0.5, 0.5, 0.5)}, state)
    assert (sent[PARAMS].tolist(), sent["params/places"].tolist()) == ([2.5], [3])
    assert kept["topk.params"].tolist() == [1.5, 0.5, 1, 0]


def test_without_error_feedback_the_rest_is_lost():
    part = topk(share=0.25, error_feedback=False)
    state = {"topk.params": vec(9, 9, 9, 9)}
    sent, kept = encoded(part, {PARAMS: vec(1, -3, 0.5, 2)}, state)
    assert sent[PARAMS].tolist() == [-3]
    assert kept == {}
    assert "error feedback" in topk().traits
    assert "error feedback" not in part.traits


@pytest.mark.parametrize(
    ("vector", "places"),
    [
        (vec(1, 1, 1, 1), [0, 1]),
        (vec(0, 0, 0, 0), [0, 1]),
        (vec(1, -2, 2, -2), [1, 2]),
        (vec(2, 1, -1, 3), [0, 3]),
        (vec(1, 3, -1, 1), [0, 1]),
    ],
)
def test_of_equal_numbers_the_first_are_sent(vector, places):
    assert largest(vector, 2).tolist() == places


@given(
    numbers=st.lists(st.integers(-4, 4), min_size=1, max_size=30),
    share=st.floats(0.01, 1),
)
@settings(max_examples=80, deadline=None)
def test_the_choice_is_that_of_a_full_sort(numbers: list[int], share: float):
    count = count_of(share, len(numbers))
    by_size = sorted(range(len(numbers)), key=lambda place: (-abs(numbers[place]), place))
    assert largest(vec(*numbers), count).tolist() == sorted(by_size[:count])


@pytest.mark.parametrize(
    ("share", "size", "count"),
    [(0.01, 4810, 48), (0.01, 10, 1), (0.5, 3, 2), (0.07, 100, 7), (1.0, 9, 9)],
)
def test_the_share_is_rounded_and_is_one_number_at_least(share, size, count):
    assert count_of(share, size) == count


@given(seed=st.integers(0, 1000), share=st.floats(0.01, 1), size=st.integers(1, 60))
@settings(max_examples=30, deadline=None)
def test_what_was_sent_and_what_is_kept_add_up_to_all_deltas(seed: int, share: float, size: int):
    generator = torch.Generator().manual_seed(seed)
    part, decoding = topk(share=share), decoding_of(size, dtype=torch.float64)
    wanted, through = torch.zeros(2, size, dtype=torch.float64)
    state = {}
    for _ in range(12):
        delta = torch.randn(size, generator=generator, dtype=torch.float64)
        sent, state = encoded(part, {PARAMS: delta}, state)
        wanted += delta
        through += decoded(part, sent, decoding)[PARAMS]
    torch.testing.assert_close(through + state["topk.params"], wanted, rtol=0, atol=1e-12)


def test_each_channel_is_shortened_and_remembered_on_its_own():
    channels = {PARAMS: vec(1, 5), "control": vec(7, 2)}
    sent, kept = encoded(topk(share=0.5), channels)
    assert sent["params/places"].tolist() == [1]
    assert sent["control/places"].tolist() == [0]
    assert kept["topk.params"].tolist() == [1, 0]
    assert kept["topk.control"].tolist() == [0, 2]
    decoding = decoding_of(2, PARAMS, "control", dtype=torch.float64)
    found = decoded(topk(share=0.5), sent, decoding)
    assert {name: v.tolist() for name, v in found.items()} == {PARAMS: [0, 5], "control": [7, 0]}


@pytest.mark.parametrize(
    ("instead", "reason"),
    [
        ({"params/places": torch.tensor([1, 1]).int()}, "are not different places below 4"),
        ({"params/places": torch.tensor([2, 1]).int()}, "are not different places below 4"),
        ({"params/places": torch.tensor([-1, 1]).int()}, "are not different places below 4"),
        ({"params/places": torch.tensor([1, 4]).int()}, "are not different places below 4"),
        ({"params/places": torch.tensor([1, 2])}, "the dtype torch.int64"),
        ({"params/places": torch.tensor([1]).int(), PARAMS: vec(1)}, r"has the shape \(1,\)"),
        ({"params/places": torch.zeros(10**6).int()}, "not one axis of 1 to 4"),
        ({PARAMS: torch.ones(4, dtype=torch.float64)}, r"has the shape \(4,\)"),
    ],
)
def test_places_and_numbers_that_nobody_encodes_are_refused(instead, reason):
    sent, _ = encoded(topk(share=0.5), {PARAMS: vec(1, -3, 0.5, 2)})
    with pytest.raises(ParameterError, match=reason):
        decoded(topk(share=0.5), {**sent, **instead}, decoding_of(4, dtype=torch.float64))


@pytest.mark.parametrize("share", [0, -0.1, 1.1, float("nan")])
def test_a_share_is_above_0_and_at_most_1(share):
    with pytest.raises(CompositionError, match="must be above 0 and at most 1"):
        topk(share=share)


def test_the_choice_is_made_once():
    with pytest.raises(CompositionError) as raised:
        compose(topk(), topk(share=0.1))
    assert str(raised.value) == (
        "topk(share=0.01) and topk(share=0.1) cannot be combined: both choose what to send; use "
        "one of them"
    )


def test_a_few_levels_of_the_largest_take_few_bytes():
    # 100 of 10,000: 4 bytes each for the places, 4 bits for the levels and one norm.
    sent, _ = encoded(compose(topk(), qsgd()), {PARAMS: torch.linspace(-1, 2, 10_000)})
    assert nbytes(sent) == 400 + 50 + 4


def test_a_client_that_sits_out_keeps_its_memory(tmp_path):
    # One step of 1/2 from w leads half of the way to e; the larger of two coordinates is sent.
    # Round 1, client 0 with e = (8, 4) from 0: delta (4, 2). Sent (4, 0), kept (0, 2). w = (4, 0).
    # Round 2, client 1 with e = (0, 6): delta (-2, 3). Sent (0, 3), kept (-2, 0). w = (4, 3).
    # Round 3, client 0: delta (2, 0.5) + (0, 2) = (2, 2.5). Sent (0, 2.5). w = (4, 5.5).
    clients = [Quadratic.of([1.0, 1.0], e).examples() for e in ([8.0, 4.0], [0.0, 6.0])]
    ran = federate(
        tmp_path,
        compose(fedavg(), topk(share=0.5), cohorts([0], [1], [0])),
        quadratic_task(vec(0, 0)),
        clients,
        rounds=3,
        cohort=1,
        lr=0.5,
        steps=1,
        batch_size="full",
    )
    assert ran.model["w"].tolist() == [4, 5.5]
    kept = {k: state["topk.params"].tolist() for k, state in ran.clients.items()}
    assert kept == {0: [2, 0], 1: [-2, 0]}
    # A number of 8 bytes and a place of 4.
    assert ran.history.series("bytes_up") == [12, 12, 12]


def test_control_variates_are_shortened_too(tmp_path):
    # Two steps of 1/4 from 0: deltas 7/16 e; (e1, e2) = (16, 8) gives (7, 3.5), controls -2 of it.
    client = Quadratic.of([1.0, 1.0], [16.0, 8.0]).examples()
    ran = federate(
        tmp_path,
        compose(scaffold(), topk(share=0.5)),
        quadratic_task(vec(0, 0)),
        [client],
        lr=0.25,
        steps=2,
        batch_size="full",
    )
    assert ran.model["w"].tolist() == [7, 0]
    state = {name: value.tolist() for name, value in ran.clients[0].items()}
    assert state == {
        "scaffold.control": [-14, 0],  # what was left out of it is in the next change
        "topk.params": [0, 3.5],
    }
    assert ran.history.series("bytes_up") == [24]
