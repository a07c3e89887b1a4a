"""Failures on purpose are drawn from the seed, the round and the client, and nothing else."""

import pytest

from roundel.core.config import Experiment
from roundel.core.faults import drops, fails

ROUNDS, CLIENTS = range(1, 41), range(50)


def experiment(**faults: float) -> Experiment:
    return Experiment.model_validate({"seed": 3, "faults": faults})


def struck(of: Experiment, fault=drops) -> set[tuple[int, int]]:
    return {(r, c) for r in ROUNDS for c in CLIENTS if fault(of, r, c)}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_so_many_are_struck_as_asked_for_over_many_draws(share):
    # 2,000 draws: four standard deviations are at most 4 * sqrt(0.25 / 2000) = 0.045.
    assert len(struck(experiment(drop=share))) / 2000 == pytest.approx(share, abs=0.045)
    assert len(struck(experiment(fail=share), fails)) / 2000 == pytest.approx(share, abs=0.045)


def test_neither_a_round_nor_a_client_is_struck_more_than_others():
    hit = struck(experiment(drop=0.5))
    by_round = [sum((r, c) in hit for c in CLIENTS) for r in ROUNDS]
    by_client = [sum((r, c) in hit for r in ROUNDS) for c in CLIENTS]
    assert 8 < min(by_round) < max(by_round) < 42  # 25 +- 3.5
    assert 6 < min(by_client) < max(by_client) < 34  # 20 +- 3.2


def test_nobody_at_0_and_everybody_at_1():
    assert struck(experiment()) == set()
    everybody = {(r, c) for r in ROUNDS for c in CLIENTS}
    assert struck(experiment(drop=1.0)) == struck(experiment(fail=1.0), fails) == everybody


def test_a_higher_share_strikes_the_same_and_more():
    assert struck(experiment(drop=0.1)) < struck(experiment(drop=0.3))


def test_dropping_out_and_failing_are_drawn_apart():
    both = experiment(drop=0.5, fail=0.5)
    dropped, failed = struck(both), struck(both, fails)
    assert len(dropped & failed) / 2000 == pytest.approx(0.25, abs=0.045)


def test_the_sampling_seed_decides():
    one = Experiment.model_validate({"faults": {"drop": 0.5}, "seeds": {"sampling": 3}})
    assert struck(one) == struck(experiment(drop=0.5))
    other = Experiment.model_validate({"faults": {"drop": 0.5}, "seeds": {"sampling": 4}})
    assert struck(one) != struck(other)
