"""Clients alone, by hand: a step of 1/2 halves the distance to e."""

import pytest
import torch

from roundel.simulations import simulate
from tests.simulations.topologies.runs import TINY, numbers, on_numbers, tiny


def test_each_client_goes_its_own_way_and_nothing_is_sent(tmp_path):
    # After two rounds at 3/4 of 4 and of 12: 3 and 9; their mean is saved.
    ran = on_numbers(tmp_path, numbers([4.0, 12.0]), rounds=2, kind="local")
    assert ran.w == 6.0
    assert [(line["bytes_up"], line["bytes_down"]) for line in ran.lines] == [(0, 0)] * 2
    assert ran.lines[0]["train_loss"] == (4**2 + 12**2) / 2 / 2
    assert ran.lines[1]["train_loss"] == (2**2 + 6**2) / 2 / 2


def test_figures_are_means_over_clients_and_each_clients_own(tmp_path):
    # At 2 and 6 after a round. On the test set, with its minimum at 0: 2, 18. On their own: 2, 18.
    ran = on_numbers(tmp_path, numbers([4.0, 12.0], [1, 3]), kind="local", test=torch.tensor([0.0]))
    (line,) = ran.lines
    assert line["loss"] == (2 + 18) / 2
    assert line["clients"]["loss"]["mean"] == (2 + 3 * 18) / 4
    assert line["clients"]["loss"]["p90"] == pytest.approx(2 + 0.9 * 16)


def test_those_who_are_not_in_the_cohort_keep_what_they_have(tmp_path):
    ran = on_numbers(tmp_path, numbers([8.0] * 4), rounds=3, cohort=1, kind="local")
    turns = [row["client"] for row in ran.history.clients()]
    w = sum(8 * (1 - 0.5 ** turns.count(k)) for k in range(4)) / 4
    assert ran.w == pytest.approx(w, abs=1e-12)


def test_a_lone_client_learns_what_it_learns_in_a_federation_of_one(tmp_path):
    one = ["partition.clients=1", "cohort.size=1"]
    alone = tiny(tmp_path / "alone", *one, kind="local")
    star = simulate(settings=[*TINY, *one], out=tmp_path / "star")
    assert alone.series("train_loss") == pytest.approx(star.series("train_loss"), rel=1e-5)
    assert alone.series("loss") == pytest.approx(star.series("loss"), rel=1e-5)


def test_the_clients_of_the_first_round_train_exactly_as_in_a_federation(tmp_path):
    star = simulate(settings=list(TINY), out=tmp_path / "star")
    local = tiny(tmp_path / "local", kind="local")

    def first(run):
        return [(row["client"], row["update_blake3"]) for row in run.clients() if row["round"] == 1]

    assert first(local) == first(star)
    cohorts = [[r["client"] for r in run.clients()] for run in (local, star)]
    assert cohorts[0] == cohorts[1]
