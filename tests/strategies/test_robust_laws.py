"""Laws of all robust rules."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import pytest
import torch
from torch import Tensor

from roundel.core.errors import CompositionError
from roundel.core.messages import PARAMS
from roundel.strategies.bulyan import bulyan
from roundel.strategies.centred_clipping import centred_clipping
from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.coordinatewise import median, trimmed_mean
from roundel.strategies.fltrust import fltrust
from roundel.strategies.geometric_median import geometric_median, rfa
from roundel.strategies.krum import krum, multi_krum
from roundel.strategies.mixing import bucketing, nnm
from roundel.strategies.registry import make_strategy
from roundel.strategies.selectors import poisson
from tests.strategies.rules import aggregate, drawn
from tests.strategies.updates import CONTEXT, vec

NAME = attrgetter("name")

SHIFTED = [
    median(),
    trimmed_mean(),
    krum(),
    krum(convention="lpd-epfl"),
    multi_krum(),
    multi_krum(f=1, m=3, convention="flower"),
    bulyan(),
    bulyan(f=2, selection="one-shot"),
    geometric_median(),
    rfa(),
    compose(nnm(), krum()),
    compose(nnm(), trimmed_mean()),
    nnm(f=3),
    compose(bucketing(), median()),
]
"""Those that follow their updates wherever these go."""

TIED = [centred_clipping(tau=1.0), fltrust(), geometric_median(init="zero", iterations=3)]
"""Those that also look at where the model is."""

rules = pytest.mark.parametrize("part", SHIFTED + TIED, ids=NAME)
free = pytest.mark.parametrize("part", SHIFTED, ids=NAME)


def around(size: int) -> Mapping[str, Any]:
    """Return what the rules that are tied to something are tied to."""
    first = torch.zeros(size, dtype=torch.float64)
    first[0] = 1.0
    return {"root": {PARAMS: first}, "states": {"centred_clipping": {"v": first}}, "seed": 3}


def ruled(part: Part | Strategy, rows: Tensor) -> Tensor:
    return aggregate(part, rows, **around(rows.shape[1]))


@pytest.mark.parametrize("part", [p for p in SHIFTED + TIED if "buck" not in p.name], ids=NAME)
@pytest.mark.parametrize("seed", [1, 2])
def test_who_sends_which_update_is_no_matter(part, seed):
    # But for buckets, which are of client numbers.
    rows = drawn(12, 5, seed)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(ruled(part, rows[order]), ruled(part, rows))


@free
@pytest.mark.parametrize("seed", [3, 4])
def test_a_shift_of_all_updates_shifts_the_step(part, seed):
    rows = drawn(12, 5, seed)
    shift = 10 * drawn(1, 5, seed + 50)
    torch.testing.assert_close(ruled(part, rows + shift), ruled(part, rows) + shift[0])


@free
@pytest.mark.parametrize("factor", [1e-3, 3.0, 1e4])
def test_a_scale_of_all_updates_scales_the_step(part, factor):
    # A smallest distance in the unit of updates is the one thing that does not scale.
    rows = drawn(12, 5, seed=5)
    torch.testing.assert_close(ruled(part, factor * rows), factor * ruled(part, rows))


@rules
def test_equal_updates_are_the_step(part):
    rows = vec(1, 0, 0).expand(12, 3).clone()
    torch.testing.assert_close(ruled(part, rows), vec(1, 0, 0))


@rules
def test_updates_are_left_as_they_are(part):
    rows = drawn(12, 6, seed=6)
    before = rows.clone()
    aggregator = compose(part).aggregators[PARAMS]
    accumulator = aggregator.start(6, torch.float64)
    for client_id, row in enumerate(rows):
        accumulator.add(client_id, row, 1.0)
    ruled(part, rows)
    assert rows.equal(before)


@rules
def test_no_update_at_all_is_no_step(part):
    assert ruled(part, torch.zeros(0, 4, dtype=torch.float64)).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "part",
    [
        median(),
        trimmed_mean(),
        krum(),
        krum(convention="lpd-epfl"),
        multi_krum(),
        bulyan(fraction=0.2),
        bulyan(fraction=0.2, selection="one-shot"),
        geometric_median(),
        compose(nnm(), krum()),
        compose(nnm(), trimmed_mean()),
        compose(bucketing(), median()),
    ],
    ids=NAME,
)
@pytest.mark.parametrize("far", [-1e3, 1e9])
def test_a_fifth_far_away_is_kept_out(part, far):
    rows = drawn(15, 5, seed=7)
    honest = rows.mean(dim=0)
    rows[::5] = far
    assert (ruled(part, rows) - honest).norm() < 3


@pytest.mark.parametrize(
    "name",
    [
        *("median", "trimmed_mean", "krum", "multi_krum", "bulyan", "geometric_median", "rfa"),
        *("centred_clipping", "nnm", "bucketing"),
    ],
)
def test_without_knobs_each_works_for_a_cohort_of_ten(name):
    rows = drawn(10, 4, seed=8)
    found = ruled(make_strategy(name, {}), rows)
    assert 0 < found.norm() < rows.norm(dim=1).max()


def test_several_readings_of_the_unweighted_mean_agree():
    rows = drawn(9, 4, seed=9)
    weights = [float(k + 1) for k in range(9)]
    expected = rows.mean(dim=0)
    for part in (
        trimmed_mean(f=0),
        multi_krum(m=9),
        bulyan(f=0),
        geometric_median(iterations=0, init="mean"),
        bucketing(s=3),
        bucketing(s=9),
        nnm(f=0),
        centred_clipping(tau=1e6),
    ):
        found = aggregate(part, rows, weights, **around(4))
        torch.testing.assert_close(found, expected, msg=part.name)


def test_updates_of_32_bits_are_ruled_in_64():
    # In 32 bits -1 + 2**-25 is -1, and nothing would be left of the mean of the middle three.
    accumulator = compose(trimmed_mean(f=1)).aggregators[PARAMS].start(1, torch.float32)
    for client_id, value in enumerate((-9.0, -1.0, 2.0**-25, 1.0, 9.0)):
        accumulator.add(client_id, torch.tensor([value]), 1.0)
    found = accumulator.finish(None, CONTEXT)
    assert found.dtype == torch.float32
    assert found.tolist() == [torch.tensor(2.0**-25 / 3).item()]


@pytest.mark.parametrize(
    ("part", "least"),
    [
        (krum(f=2), 7),
        (multi_krum(f=1), 5),
        (multi_krum(f=1, m=9), 9),
        (bulyan(f=1), 7),
        (trimmed_mean(f=3), 7),
        (krum(fraction=0.2), 5),
        (median(), 1),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_the_smallest_cohort_is_the_fewest_updates_that_a_rule_can_do_with(part, least):
    strategy = compose(part)
    strategy.check_cohort(least)
    strategy.check_cohort(least + 1)
    assert strategy.least_updates(60) == (least if least > 1 else 0)
    if least > 1:
        with pytest.raises(CompositionError, match=f"{least - 1} arrived|{least - 1} updates that"):
            strategy.check_cohort(least - 1)


def test_a_cohort_of_which_fewer_may_do_is_not_refused():
    # Of 52 updates 25 may lie, for which 53 are needed; of 51 it is 24, for which they are enough.
    rule = krum(fraction=0.49)
    with pytest.raises(CompositionError, match="f = 25 needs at least 53"):
        aggregate(rule, torch.zeros(52, 1, dtype=torch.float64))
    compose(rule).check_cohort(52)
    assert compose(rule).least_updates(52) == 51


def test_cohorts_of_any_size_that_chance_makes_are_not_refused():
    compose(krum(f=2), poisson()).check_cohort(1)
    assert compose(krum(f=2), poisson()).least_updates(10) == 0


def test_what_a_rule_can_do_with_after_mixing_is_found_out_in_the_round():
    compose(bucketing(), krum(f=2)).check_cohort(1)
    assert compose(bucketing(), krum(f=2)).least_updates(10) == 0
