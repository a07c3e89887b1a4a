"""Clients of Synthetic(alpha, beta) have the sizes, the skew and the truths of the recipe."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from roundel.core.config import TaskConfig
from roundel.core.data import Population
from roundel.core.errors import ConfigError
from roundel.simulations import simulate
from roundel.simulations.tasks.registry import make_task
from roundel.simulations.tasks.synthetic import SIZES, synthetic


def population(clients: int = 1_000, seed: int = 0, **knobs: Any) -> Population:
    make = synthetic(**knobs).population
    assert make is not None
    return make(clients, seed)


def label_entropy(people: Population, clients: int) -> float:
    """Return the mean over clients of the entropy of their labels, in nats."""
    total = 0.0
    for client in range(clients):
        counts = people.client(client).train.targets.bincount()
        shares = counts / counts.sum()
        total -= float((shares * shares.clamp(min=1e-30).log()).sum())
    return total / clients


def centres(people: Population, clients: int) -> torch.Tensor:
    return torch.stack([people.client(k).train.inputs.mean(dim=0) for k in range(clients)])


# ---- clients on demand


def test_a_client_depends_on_the_data_seed_and_its_number_alone():
    few, many = population(30), population(1_000_000)
    assert torch.equal(few.client(7).train.inputs, many.client(7).train.inputs)
    assert torch.equal(few.client(7).test.targets, many.client(7).test.targets)
    assert not torch.equal(few.client(7).train.inputs[:40], few.client(8).train.inputs[:40])
    other = population(30, seed=1)
    assert not torch.equal(few.client(7).train.inputs[:40], other.client(7).train.inputs[:40])


def test_a_population_of_a_million_is_as_good_as_one_of_thirty():
    people = population(1_000_000)
    assert people.size == 1_000_000
    assert len(people.client(999_999).train) >= 45


def test_a_draw_never_changes():
    client = population(30).client(0)
    assert (len(client.train), len(client.test)) == (324, 37)
    assert client.train.targets.bincount(minlength=10).tolist() == [241, 82, 1, 0, 0, 0, 0, 0, 0, 0]
    assert client.train.inputs[0, :2].tolist() == pytest.approx([1.5546592, 3.0711899])


def test_a_run_asks_the_clients_for_their_figures(tmp_path):
    run = simulate(
        settings=[
            "task.name=synthetic",
            "partition.clients=12",
            "cohort.size=3",
            "client.steps=2",
            "rounds=2",
        ],
        out=tmp_path / "run",
    )
    assert [line["completed"] for line in run.rounds] == [3, 3]
    assert run.rounds[-1]["clients"]["answered"] == 12
    assert run.rounds[-1]["accuracy"] is not None


# ---- the statistics of the recipe


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sizes_are_fifty_and_a_log_normal_number(seed):
    people = population(600, seed, dimension=1, classes=2)
    clients = [people.client(k) for k in range(600)]
    sizes = np.array([len(c.train) + len(c.test) for c in clients])
    assert all(len(c.train) == n * 9 // 10 for c, n in zip(clients, sizes, strict=True))
    assert sizes.min() >= 50
    logs = np.log(sizes[sizes > 60] - 49.5)  # what is rounded down most tells least
    assert np.median(sizes) == pytest.approx(50 + np.exp(4), rel=0.2)
    # Above 2.3 = ln 10.5, N(4, 2) is a normal distribution cut off 0.85 deviations below its mean.
    assert logs.mean() == pytest.approx(4 + 2 * 0.346, abs=0.25)
    assert logs.std() == pytest.approx(2 * 0.765, abs=0.15)


def test_sizes_end_at_twenty_thousand():
    rng = np.random.default_rng(0)
    sizes = [SIZES.draw(rng) for _ in range(100_000)]
    assert max(sizes) == 20_000
    assert sizes.count(20_000) == pytest.approx(100_000 / 630, rel=0.25)


def test_labels_of_a_client_are_skewed_and_more_so_with_beta():
    entropies = [
        np.mean([label_entropy(population(40, seed, **knobs), 40) for seed in range(3)])
        for knobs in ({"iid": True}, {"beta": 0.0}, {"beta": 1.0}, {"beta": 4.0})
    ]
    assert all(more > less + 0.05 for more, less in pairwise(entropies)), entropies
    assert entropies[0] < np.log(10)


def test_beta_is_the_spread_of_the_clients_centres():
    for beta in (0.0, 1.0, 3.0):
        means = centres(population(150, beta=beta), 150).mean(dim=1)
        # B_k itself, and the mean of 60 numbers of deviation 1.
        assert float(means.std()) == pytest.approx((beta**2 + 1 / 60) ** 0.5, rel=0.2)


def test_alpha_changes_no_example():
    """The same number is added to the scores of all classes, and argmax does not see it."""
    without, with_alpha = population(30, alpha=0.0), population(30, alpha=5.0)
    for client in range(30):
        one, other = without.client(client).train, with_alpha.client(client).train
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)


def test_iid_clients_share_centre_and_truth():
    people = population(60, iid=True)
    assert float(centres(people, 60).mean(dim=0).abs().max()) < 0.05
    pooled = [people.client(k).train for k in range(60)]
    x = torch.cat([part.inputs for part in pooled]).double()
    y = torch.cat([part.targets for part in pooled])
    fits = torch.linalg.lstsq(x, torch.nn.functional.one_hot(y, 10).double()).solution
    fresh = population(1_000, iid=True).client(999).test
    right = (fresh.inputs.double() @ fits).argmax(dim=1) == fresh.targets
    assert float(right.double().mean()) > 0.5


def test_alpha_and_beta_play_no_part_among_iid_clients():
    plain, other = population(iid=True), population(iid=True, alpha=3.0, beta=3.0)
    assert torch.equal(plain.client(0).train.inputs, other.client(0).train.inputs)


# ---- knobs


def test_shapes_follow_dimension_and_classes():
    task = synthetic(dimension=3, classes=4)
    train = population(dimension=3, classes=4).client(0).train
    assert task.new_model(0)(train.inputs).shape == (len(train), 4)
    assert int(train.targets.max()) < 4


def test_the_model_has_610_parameters_and_no_global_test_set():
    task = synthetic()
    assert sum(p.numel() for p in task.new_model(0).parameters()) == 610
    assert task.load_test is None


@pytest.mark.parametrize(
    ("knob", "value"), [("alpha", -1.0), ("beta", float("inf")), ("dimension", 0), ("classes", 1)]
)
def test_a_knob_out_of_range_is_an_error(knob, value):
    with pytest.raises(ConfigError, match=rf"^task.{knob} = .* is out of range"):
        synthetic(**{knob: value})


def test_knobs_come_from_the_experiment_file():
    task = make_task(TaskConfig.model_validate({"name": "synthetic", "beta": 0.5, "iid": True}))
    assert dict(task.knobs) == {
        "alpha": 1.0,
        "beta": 0.5,
        "iid": True,
        "dimension": 60,
        "classes": 10,
    }
