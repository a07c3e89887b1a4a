"""One learner with everybody's examples."""

import pytest
import torch

from roundel.core.data import Examples, InMemoryPopulation
from roundel.simulations import simulate
from roundel.simulations.topologies.peers import union
from tests.simulations.topologies.runs import numbers, on_numbers, tiny


def test_a_round_takes_the_steps_of_its_cohort_on_all_examples(tmp_path):
    # Examples at 0 and three at 4: a mean of 3. Two clients, one step each: to 1.5, to 2.25.
    ran = on_numbers(tmp_path, numbers([0.0, 4.0], [1, 3]), kind="centralised")
    assert ran.w == 2.25
    assert ran.lines[0]["topology"] == {"steps": 2}
    assert (ran.lines[0]["bytes_up"], ran.lines[0]["bytes_down"]) == (0, 0)
    # Losses before the two steps: 3 * 16 / 2 / 4, and (1.5**2 + 3 * 2.5**2) / 2 / 4.
    assert ran.lines[0]["train_loss"] == pytest.approx((6 + 2.625) / 2)


def test_only_the_cohort_counts_for_the_steps_and_all_count_for_the_examples(tmp_path):
    ran = on_numbers(tmp_path, numbers([0.0, 4.0], [1, 3]), cohort=1, kind="centralised")
    assert (ran.w, ran.lines[0]["topology"]) == (1.5, {"steps": 1})


def test_epochs_make_as_many_steps_as_the_clients_would_take(tmp_path):
    settings = [
        *("rounds=1", "partition.clients=6", "partition.kind=iid", "cohort.size=6"),
        *("evaluation.clients=0", "client.epochs=2", "client.batch_size=50"),
    ]
    both = [
        simulate(settings=[*settings, f"topology.kind={kind}"], out=tmp_path / kind)
        for kind in ("star", "centralised")
    ]
    at_clients = sum(row["num_steps"] for row in both[0].clients())
    assert both[1].rounds[0]["topology"]["steps"] == at_clients == 6 * 2 * 5


def test_the_union_is_in_the_order_of_the_clients():
    clients = [Examples(torch.full((n, 1), float(n)), torch.full((n,), n)) for n in (2, 1)]
    assert union(InMemoryPopulation.of(clients)).targets.tolist() == [2, 2, 1]


def test_it_learns_more_than_the_federation_of_the_same_seed(tmp_path):
    settings = ("rounds=6", "client.steps=10", "partition.alpha=0.1")
    star = tiny(tmp_path / "star", *settings)
    whole = tiny(tmp_path / "whole", *settings, kind="centralised")
    assert whole.rounds[-1]["accuracy"] > star.rounds[-1]["accuracy"] + 0.1
