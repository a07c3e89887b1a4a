"""The median and the trimmed mean, by hand and against sorted lists."""

import json
import random
import statistics

import pytest
import torch

from roundel.core.errors import CompositionError, RoundAborted
from roundel.core.messages import BUFFERS, PARAMS
from roundel.strategies.compose import compose
from roundel.strategies.coordinatewise import median, trimmed_mean
from roundel.strategies.fedopt import fedavgm
from roundel.strategies.scaffold import scaffold
from tests.federations import Quadratic, federate, quadratic_task
from tests.strategies.rules import aggregate, drawn, matrix
from tests.strategies.updates import points, update, vec


def test_the_median_is_taken_of_each_coordinate():
    rows = matrix([1, 10, 0], [2, 9, 1], [3, 8, -1], [100, -50, 5], [2.5, 8.5, 0.5])
    assert aggregate(median(), rows).tolist() == [2.5, 8.5, 0.5]


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two():
    assert aggregate(median(), matrix([1], [2], [4], [100])).tolist() == [3]


def test_the_median_of_one_update_is_that_update():
    assert aggregate(median(), matrix([7, -2])).tolist() == [7, -2]


def test_weights_play_no_part():
    rows = matrix([0], [1], [5])
    for part, expected in ((median(), 1.0), (trimmed_mean(f=1), 1.0), (trimmed_mean(f=0), 2.0)):
        assert aggregate(part, rows, weights=[1, 1, 1000]).tolist() == [expected]


def test_the_trimmed_mean_leaves_out_f_at_either_end_of_each_coordinate():
    rows = matrix([1, 9], [2, 1], [6, 2], [100, 3], [4, -7])
    assert aggregate(trimmed_mean(f=1), rows).tolist() == [4, 2]
    assert aggregate(trimmed_mean(f=2), rows).tolist() == [4, 2]
    assert aggregate(trimmed_mean(f=0), rows).tolist() == [22.6, 1.6]


def test_ties_are_left_out_like_other_values():
    assert aggregate(trimmed_mean(f=1), matrix([5], [5], [5], [1])).tolist() == [5]


def test_a_fraction_is_of_the_updates_that_arrived():
    rows = matrix(*([float(k)] for k in (0, 1, 2, 3, 4, 5, 6, 7, 18, 90)))
    assert aggregate(trimmed_mean(), rows).tolist() == [4.5]  # two of ten at either end
    assert aggregate(trimmed_mean(), rows[:9]).tolist() == [4]  # one of nine
    assert aggregate(trimmed_mean(fraction=0.4), rows[:5]).tolist() == [2]


@pytest.mark.parametrize("seed", range(10))
def test_both_are_what_sorting_each_column_gives(seed):
    draw = random.Random(seed)
    count, size = draw.randint(1, 15), draw.randint(1, 40)
    rows = drawn(count, size, seed)
    rows[:, 0] = rows[:, 0].round()  # ties
    f = draw.randint(0, (count - 1) // 2)
    columns = [sorted(column) for column in rows.t().tolist()]
    torch.testing.assert_close(
        aggregate(median(), rows), vec(*(statistics.median(c) for c in columns))
    )
    kept = [c[f : count - f] for c in columns]
    torch.testing.assert_close(
        aggregate(trimmed_mean(f=f), rows), vec(*(statistics.fmean(c) for c in kept))
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_trimmed_mean_is_that_of_scipy(seed):
    stats = pytest.importorskip("scipy.stats")
    draw = random.Random(seed)
    fraction = draw.uniform(0, 0.49)
    rows = drawn(draw.randint(1, 30), 7, seed)
    torch.testing.assert_close(
        aggregate(trimmed_mean(fraction=fraction, if_nothing="mean"), rows),
        torch.from_numpy(stats.trim_mean(rows.numpy(), fraction)),
    )


def test_a_trim_that_trims_nothing_is_an_error_unless_it_is_asked_for():
    rows = matrix([1], [2], [6])
    with pytest.raises(CompositionError, match=r"fraction = 0\.2 of the 3 updates that arrived"):
        aggregate(trimmed_mean(), rows)
    assert aggregate(trimmed_mean(if_nothing="mean"), rows).tolist() == [3]
    assert aggregate(trimmed_mean(fraction=0.0), rows).tolist() == [3]
    assert aggregate(trimmed_mean(f=0), rows).tolist() == [3]


def test_a_trim_of_everything_is_an_error():
    assert aggregate(trimmed_mean(f=2), matrix([1], [2], [3], [4], [9])).tolist() == [3]
    with pytest.raises(CompositionError, match="f = 2 needs at least 5 updates, and 4 arrived"):
        aggregate(trimmed_mean(f=2), matrix([1], [2], [3], [4]))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"f": -1}, "f = -1"),
        ({"fraction": 0.5}, "fraction = 0.5"),
        ({"if_nothing": "median"}, "if_nothing = 'median' must be one of 'error', 'mean'"),
    ],
)
def test_what_is_out_of_range_is_named(knobs, message):
    with pytest.raises(CompositionError, match=message):
        trimmed_mean(**knobs)


def test_the_rule_replaces_the_mean_in_every_channel_of_floats():
    aggregators = compose(trimmed_mean(f=1), scaffold()).aggregators
    assert aggregators["control"] is aggregators[PARAMS] is aggregators[BUFFERS]
    rows = matrix([1], [2], [300])
    assert aggregate(compose(trimmed_mean(f=1), scaffold()), rows, channel="control").item() == 2


def test_a_server_optimizer_steps_along_the_median():
    strategy = compose(median(), fedavgm(momentum=0.5))
    each = [update(0, 1.0), update(1, 2.0), update(2, 900.0)]
    assert points(strategy, vec(0), each, each) == [[2.0], [5.0]]


def test_scaffold_trims_controls_as_well_as_parameters(tmp_path):
    # F_k = (w - e)**2 / 2 from w = 0; one step of 1/4: delta = e / 4, dc = -e. Of e = 4, 8, 12 and
    # 1e6 the trimmed mean is 10: w = 2.5, c = -10, and each client has c_k = -e.
    # Round 2: each gradient w - e + c - c_k is 2.5 - e - 10 + e = -7.5: w = 2.5 + 7.5 / 4.
    clients = [Quadratic.of([1.0], [e]).examples() for e in (4.0, 8.0, 12.0, 1e6)]
    strategy = compose(scaffold(), trimmed_mean(f=1))
    client = {"lr": 0.25, "steps": 1, "batch_size": "full"}
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    task = quadratic_task(vec(0))
    first = federate(tmp_path / "1", strategy, task, clients, rounds=1, **client)
    second = federate(tmp_path / "2", strategy, task, clients, rounds=2, **client)
    assert first.model["w"].tolist() == [2.5]
    assert second.model["w"].tolist() == [4.375]


def test_a_round_with_too_few_updates_for_the_rule_ends_the_run_and_says_why(tmp_path):
    clients = [Quadratic.of([1.0], [e]).examples(count) for e, count in ((4, 1), (8, 1), (9, 0))]
    with pytest.raises(RoundAborted) as raised:
        federate(tmp_path, compose(trimmed_mean(f=1)), quadratic_task(vec(0)), clients, steps=1)
    assert str(raised.value) == (
        "round 1 has 2 accepted of 3 updates and needs 3: every client answered or was lost; "
        "trimmed_mean with f = 1 needs at least 3 updates, and 2 arrived; lower f or fraction, or "
        "raise cohort.size or cohort.quorum; client 2: there are no training examples: give the "
        "client some, or leave it out"
    )
    assert [record.status for record in raised.value.clients] == ["accepted", "accepted", "failed"]
    lines = (tmp_path / "clients.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["client"] for line in lines] == [0, 1, 2]
    assert "needs at least 3 updates" in (tmp_path / "failed.txt").read_text(encoding="utf-8")


def test_a_cohort_that_is_too_small_for_the_rule_is_refused_before_anything_starts(tmp_path):
    clients = [Quadratic.of([1.0], [e]).examples() for e in (4.0, 8.0)]
    with pytest.raises(CompositionError) as raised:
        federate(tmp_path, compose(trimmed_mean(f=1)), quadratic_task(vec(0)), clients, steps=1)
    assert str(raised.value) == (
        "cohort.size = 2 is too small, even if all answer: trimmed_mean with f = 1 needs at least "
        "3 updates, and 2 arrived; lower f or fraction, or raise cohort.size or cohort.quorum"
    )
    assert list(tmp_path.iterdir()) == []
