"""Intervals cover as often as they say, differences agree with scipy, and nothing is dropped."""

from math import inf, nan

import numpy as np
import pytest
from scipy import stats

from roundel.reports.statistics import (
    SEEDS_FOR_P,
    Reached,
    final,
    holm,
    interval,
    median_to_target,
    paired,
    split_diverged,
    to_target,
)

ONE = {0: 0.91, 1: 0.93, 2: 0.88, 3: 0.95, 4: 0.90, 5: 0.92}
OTHER = {0: 0.88, 1: 0.91, 2: 0.87, 3: 0.91, 4: 0.89, 5: 0.90}


def test_the_final_figure_is_the_mean_of_the_last_twentieth() -> None:
    assert final([float(n) for n in range(1, 41)]) == 39.5
    assert final([1.0, 2.0, 4.0]) == 4.0


def test_rounds_without_a_figure_do_not_count() -> None:
    assert final([1.0, None, 5.0, None], tail=0.5) == 5.0
    assert final([3.0, None, None], tail=0.1) == 3.0
    assert final([None]) is None
    assert final([]) is None


def test_a_figure_that_is_not_finite_stays_so() -> None:
    assert final([1.0, inf]) == inf


def test_an_interval_is_that_of_students_t() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    # 4.302653 is the 97.5 % quantile with 2 degrees of freedom; s / sqrt(3) = 0.577350.
    assert found.low == pytest.approx(2.0 - 4.302653 * 0.577350, abs=1e-5)
    assert found.high == pytest.approx(2.0 + 4.302653 * 0.577350, abs=1e-5)


def test_one_seed_has_no_interval() -> None:
    found = interval([0.5])
    assert (found.mean, found.low, found.high, found.count) == (0.5, None, None, 1)


@pytest.mark.parametrize("count", [3, 5, 10])
def test_intervals_cover_at_the_nominal_rate(count: int) -> None:
    rng, runs = np.random.default_rng(count), 2_000
    covered = 0
    for values in rng.normal(0.7, 0.1, (runs, count)):
        found = interval(values.tolist())
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.7 <= found.high
    assert abs(covered / runs - 0.95) < 0.015  # three standard errors


@pytest.mark.slow
@pytest.mark.parametrize(("count", "least"), [(6, 0.83), (20, 0.88)])
def test_bootstrap_intervals_come_near_it_with_many_seeds(count: int, least: float) -> None:
    rng, runs = np.random.default_rng(count), 250
    covered = 0
    for values in rng.normal(0.1, 1.0, (runs, count)):
        found = paired(dict(enumerate(values.tolist())), dict.fromkeys(range(count), 0.0))
        assert found.resampled is not None
        covered += found.resampled[0] <= 0.1 <= found.resampled[1]
    assert covered / runs > least


def test_a_paired_difference_agrees_with_scipy() -> None:
    found = paired(ONE, OTHER)
    expected = stats.ttest_rel(list(ONE.values()), list(OTHER.values()))
    low, high = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.difference.mean == pytest.approx(0.13 / 6)
    assert (found.difference.low, found.difference.high) == pytest.approx((low, high))
    assert found.resampled is not None
    assert found.resampled[0] < 0.13 / 6 < found.resampled[1]


def test_the_bootstrap_interval_is_bca() -> None:
    """The formula of Efron (1987), with resamples of our own."""
    one = np.array([0.10, 0.12, 0.13, 0.11, 0.35, 0.14, 0.12, 0.90])
    rng = np.random.default_rng(1)
    means = np.sort(one[rng.integers(0, 8, (40_000, 8))].mean(axis=1))
    left_out = (one.sum() - one) / 7
    gaps = left_out.mean() - left_out
    acceleration = (gaps**3).sum() / (6 * (gaps**2).sum() ** 1.5)
    bias = stats.norm.ppf((means < one.mean()).mean())

    def end(share: float) -> float:
        z = bias + stats.norm.ppf(share)
        return float(np.quantile(means, stats.norm.cdf(bias + z / (1 - acceleration * z))))

    found = paired(dict(enumerate(one.tolist())), dict.fromkeys(range(8), 0.0)).resampled
    assert found == pytest.approx((end(0.025), end(0.975)), abs=0.01)


def test_seeds_are_paired_by_number_and_not_by_place() -> None:
    turned = dict(reversed(OTHER.items()))
    assert paired(ONE, turned) == paired(ONE, OTHER)
    assert paired(ONE, {3: 0.91}).difference.mean == pytest.approx(0.04)


def test_strategies_without_a_common_seed_are_not_compared() -> None:
    with pytest.raises(ValueError, match="no seed is in both"):
        paired({0: 1.0}, {1: 1.0})


def test_a_strategy_against_itself_shows_no_difference() -> None:
    found = paired(ONE, dict(ONE))
    assert (found.difference.low, found.difference.mean, found.difference.high) == (0.0, 0.0, 0.0)
    assert found.p == 1.0
    assert found.resampled == (0.0, 0.0)


def test_differences_that_are_all_the_same_have_the_p_value_of_a_sign_test() -> None:
    lifted = {seed: value + 0.01 for seed, value in ONE.items()}
    found = paired(lifted, ONE)
    assert found.p == 2**-5  # six equal signs, either way
    assert found.resampled == pytest.approx((0.01, 0.01))


def test_too_few_seeds_carry_no_p_value() -> None:
    few = {seed: ONE[seed] for seed in range(SEEDS_FOR_P - 1)}
    found = paired(few, OTHER)
    assert found.p is None
    assert found.resampled is None
    assert found.difference.low is not None


def test_holm_multiplies_step_by_step() -> None:
    # 3 * 0.01, then 2 * 0.02, then max(0.04, 1 * 0.03).
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_the_familys_error_rate() -> None:
    rng, runs = np.random.default_rng(0), 4_000
    wrong = sum(min(holm(ps.tolist())) <= 0.05 for ps in rng.random((runs, 4)))
    assert wrong / runs < 0.06


def test_a_target_is_reached_once() -> None:
    costs, series = [10.0, 20.0, 30.0], [0.5, 0.9, 0.7]
    assert to_target(costs, series, 0.8, "max") == Reached(20.0)
    assert to_target(costs, [3.0, None, 1.0], 1.0, "min") == Reached(30.0)


def test_a_target_that_was_not_reached_is_censored_where_the_run_ended() -> None:
    assert to_target([1.0, 2.0], [0.5, nan], 0.8, "max") == Reached(2.0, censored=True)


def test_censored_runs_count_in_the_median() -> None:
    never = Reached(50.0, censored=True)
    assert median_to_target([Reached(3.0), never, Reached(9.0)]) == 9.0
    assert median_to_target([Reached(3.0), never]) is None
    assert median_to_target([never, never, Reached(1.0)]) is None


def test_diverged_seeds_are_counted_and_not_dropped() -> None:
    assert split_diverged({0: 0.9, 1: nan, 2: None, 3: inf}) == ({0: 0.9}, [1, 2, 3])
