"""Clients of LEAF's synthetic data have the sizes and the skew of its recipe."""

from typing import Any

import numpy as np
import pytest
import torch

from roundel.core.data import Examples, Population
from roundel.core.errors import ConfigError
from roundel.simulations import simulate
from roundel.simulations.tasks.leaf import leaf


def population(clients: int = 1_000, seed: int = 0, **knobs: Any) -> Population:
    make = leaf(**knobs).population
    assert make is not None
    return make(clients, seed)


def everything(people: Population, client: int) -> Examples:
    data = people.client(client)
    return Examples(
        torch.cat([data.train.inputs, data.test.inputs]),
        torch.cat([data.train.targets, data.test.targets]),
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sizes_are_five_and_a_log_normal_number_up_to_a_thousand(seed):
    people = population(1_000, seed, dimension=1)
    sizes = np.array([len(everything(people, k)) for k in range(1_000)])
    assert (sizes.min(), sizes.max()) == (5, 1_000)
    # Quartiles: floor(e^(3 - 1.349)) = 5, floor(e^3) = 20, floor(e^(3 + 1.349)) = 77.
    assert np.quantile(sizes, [0.25, 0.5, 0.75]) == pytest.approx([10, 25, 82], rel=0.25)
    assert (sizes == 1_000).mean() == pytest.approx(0.0255, abs=0.015)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_labels_are_skewed_by_client_and_not_in_the_federation(seed):
    people = population(300, seed)
    counts = np.array([np.bincount(everything(people, k).targets, minlength=5) for k in range(300)])
    large = counts[counts.sum(axis=1) >= 20]
    shares = large / large.sum(axis=1, keepdims=True)
    assert np.median(shares.max(axis=1)) > 0.6
    assert shares.mean(axis=0).max() < 0.5


def test_one_cluster_shares_its_truth():
    """What is learned from some clients holds for others, who may have any inputs."""
    people = population(400, 0)
    train = [everything(people, k) for k in range(300)]
    x = torch.cat([part.inputs for part in train]).double()
    y = torch.cat([part.targets for part in train])
    design = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    fits = torch.linalg.lstsq(design, torch.nn.functional.one_hot(y, 5).double()).solution
    fresh = [everything(people, k) for k in range(300, 400)]
    x = torch.cat([part.inputs for part in fresh]).double()
    scores = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], dim=1) @ fits
    right = scores.argmax(dim=1) == torch.cat([part.targets for part in fresh])
    # The truth's strength differs from client to client, so a linear fit is right most of the time.
    assert float(right.double().mean()) > 0.6


def test_a_client_depends_on_the_data_seed_and_its_number_alone():
    few, many, other = population(30), population(1_000_000), population(30, seed=1)
    assert torch.equal(everything(few, 7).inputs, everything(many, 7).inputs)
    assert torch.equal(everything(few, 7).targets, everything(many, 7).targets)
    assert not torch.equal(everything(few, 7).inputs[:5], everything(other, 7).inputs[:5])


def test_a_run_reaches_the_stated_figure(tmp_path):
    run = simulate(
        settings=[
            "task.name=leaf-synthetic",
            "client.epochs=1",
            "client.lr=0.05",
            "rounds=20",
            "evaluation.clients_every=20",
        ],
        out=tmp_path / "run",
    )
    assert run.rounds[-1]["accuracy"] > 0.7


def test_shapes_follow_the_knobs():
    task = leaf(clusters=3, dimension=4, classes=3)
    train = population(clusters=3, dimension=4, classes=3).client(0).train
    assert task.new_model(0)(train.inputs).shape == (len(train), 3)
    assert sum(p.numel() for p in leaf().new_model(0).parameters()) == 305


@pytest.mark.parametrize(("knob", "value"), [("clusters", 0), ("dimension", 0), ("classes", 1)])
def test_a_knob_out_of_range_is_an_error(knob, value):
    with pytest.raises(ConfigError, match=rf"^task.{knob} = {value} is out of range"):
        leaf(**{knob: value})
