"""Centred clipping, by hand and against a loop."""

import pytest
import torch

from roundel.core.errors import CompositionError
from roundel.core.messages import PARAMS
from roundel.strategies.centred_clipping import centred_clipping
from roundel.strategies.compose import compose
from roundel.strategies.fedopt import fedavgm
from roundel.strategies.mixing import bucketing
from roundel.strategies.scaffold import scaffold
from tests.federations import drawn_to
from tests.strategies.rules import aggregate, drawn, matrix
from tests.strategies.updates import points, rounds, update, vec


def around(*centre: float):
    return {"centred_clipping": {"v": vec(*centre)}}


def test_updates_are_clipped_around_the_last_aggregate():
    # From (1, 0): differences (3, 4), of length 5, and (0, 1), which is short enough.
    rows = matrix([4, 4], [1, 1])
    found = aggregate(centred_clipping(tau=2.5), rows, states=around(1, 0))
    assert found.tolist() == [1 + 0.75, 0 + 1.5]


def test_further_iterations_begin_where_the_last_has_ended():
    # 0 and 8 around 0: 0 and 2, so 1. Around 1: -1 and 2, so 1.5.
    states = around(0)
    rows = matrix([0], [8])
    assert aggregate(centred_clipping(tau=2), rows, states=states).tolist() == [1]
    assert aggregate(centred_clipping(tau=2, iterations=2), rows, states=states).tolist() == [1.5]


def test_the_last_aggregate_stays_from_round_to_round():
    # Around 0: 2 and 2. Around 2: 0 and 2, so 3.
    each = [update(0, 2.0), update(1, 9.0)]
    states = rounds(compose(centred_clipping(tau=2.0)), vec(0), each, each)
    assert [s.transforms["centred_clipping"]["v"].tolist() for s in states] == [[0], [2], [3]]
    assert [s.params.tolist() for s in states] == [[0], [2], [5]]


@pytest.mark.parametrize("seed", range(5))
def test_it_is_what_a_loop_gives(seed):
    rows, centre = drawn(7, 5, seed), drawn(1, 5, seed + 50)[0]
    expected = centre
    for _ in range(3):
        moves = [(x - expected) * min(1, 1.5 / float((x - expected).norm())) for x in rows]
        expected = expected + sum(moves) / 7
    found = aggregate(
        centred_clipping(tau=1.5, iterations=3), rows, states=around(*centre.tolist())
    )
    torch.testing.assert_close(found, expected)


def test_a_large_tau_is_the_unweighted_mean():
    rows = drawn(5, 3, seed=0)
    found = aggregate(
        centred_clipping(tau=1e9), rows, weights=[1, 2, 3, 4, 5], states=around(1, 2, 3)
    )
    torch.testing.assert_close(found, rows.mean(dim=0))


def test_an_update_at_the_centre_stays_there():
    assert aggregate(centred_clipping(tau=1), matrix([3], [3]), states=around(3)).tolist() == [3]


def test_one_client_moves_it_by_no_more_than_tau_over_n():
    rows = matrix([0, 0], [0, 0], [0, 0], [3e30, 4e30])
    found = aggregate(centred_clipping(tau=10), rows, states=around(0, 0))
    torch.testing.assert_close(found, vec(1.5, 2))


def test_every_other_channel_takes_the_median():
    strategy = compose(scaffold(), centred_clipping())
    assert aggregate(strategy, matrix([1], [2], [900]), channel="control").tolist() == [2]


def test_what_a_server_optimizer_makes_of_it_is_not_the_next_centre():
    # Around 0: 2 and 2; momentum steps by 2, then by 3 + 0.5 * 2.
    strategy = compose(centred_clipping(tau=2.0), fedavgm(momentum=0.5))
    each = [update(0, 2.0), update(1, 9.0)]
    assert points(strategy, vec(0), each, each) == [[2.0], [6.0]]
    with pytest.raises(CompositionError, match="name it first"):
        compose(fedavgm(momentum=0.5), centred_clipping())


def test_a_round_without_updates_keeps_the_centre():
    (link,) = centred_clipping().server
    states = rounds(compose(centred_clipping()), vec(0), [update(0, 4.0)], [])
    assert [s.transforms["centred_clipping"]["v"].tolist() for s in states] == [[0], [4], [4]]
    assert states[-1].params.tolist() == [4]
    assert link.name == "centred_clipping"


def test_updates_are_mixed_before_they_are_clipped():
    # One bucket of both: 5, clipped to 2.
    strategy = compose(centred_clipping(tau=2.0), bucketing(s=2))
    assert points(strategy, vec(0), [update(0, 1.0), update(1, 9.0)]) == [[2.0]]
    assert strategy.aggregators[PARAMS].traits == {"set"}


def test_it_runs_and_keeps_its_centre_in_a_simulation(tmp_path):
    # F_k = (w - e)**2 / 2, one step of 1/2: deltas (e - w) / 2. Round 1, e = 4 and 40: 2 and 20,
    # clipped to 2 and 4: v = 3. Round 2 from w = 3: 0.5 and 18.5 around 3: -2.5 and 4, v = 3.75.
    strategy = compose(centred_clipping(tau=4.0))
    ran = drawn_to([4.0, 40.0], tmp_path, strategy, rounds=2, lr=0.5)
    assert ran.model["w"].tolist() == [6.75]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"tau": 0.0}, "tau = 0.0 must be a finite number above 0"),
        ({"tau": float("inf")}, "tau = inf must be a finite number above 0"),
        ({"iterations": 0}, "iterations = 0 must be a whole number of at least 1"),
    ],
)
def test_what_is_out_of_range_is_named(knobs, message):
    with pytest.raises(CompositionError, match=message):
        centred_clipping(**knobs)
