"""Clients come from the task, or from a pool of which the server may keep some."""

from typing import Any

import pytest
import torch
from torch import nn

from roundel.core.config import Experiment
from roundel.core.data import Examples, InMemoryPopulation
from roundel.core.errors import ConfigError, DataError
from roundel.core.task import Task
from roundel.simulations.division import at_hand, check_at_hand, check_own, population_of
from roundel.simulations.partitions.own import Elsewhere
from roundel.simulations.population import PartitionedPopulation

POOL = Examples(torch.arange(40.0).view(20, 2), torch.arange(20))
TASK = Task(name="toy", model=lambda: nn.Linear(2, 2), load=lambda _path: POOL)


def divided_by(**partition: Any) -> Experiment:
    return Experiment.model_validate({"partition": partition})


def test_a_task_that_makes_its_clients_makes_a_hundred_unless_told_otherwise():
    asked = []

    def population(clients: int, seed: int) -> InMemoryPopulation:
        asked.append((clients, seed))
        return InMemoryPopulation.of([POOL])

    made = Task(name="made", model=lambda: nn.Linear(2, 2), population=population)
    assert population_of(Experiment(), made)[0] is None
    population_of(divided_by(clients=7), made)
    assert asked == [(100, 0), (7, 0)]


def test_what_the_server_keeps_is_at_no_client():
    root, clients = population_of(divided_by(kind="iid", clients=3, min_examples=1), TASK, held=5)
    assert isinstance(clients, PartitionedPopulation)
    assert root is not None
    kept, rest = root.targets.tolist(), clients.pool.targets.tolist()
    assert len(kept) == 5
    assert sorted(kept + rest) == list(range(20))
    assert kept == sorted(kept)
    assert clients.pool.inputs[:, 0].tolist() == [2.0 * row for row in rest]


def test_the_server_cannot_keep_everything():
    with pytest.raises(ConfigError, match="leaves nothing of the 20 examples"):
        population_of(divided_by(kind="iid", clients=3), TASK, held=20)


def test_a_task_without_examples_asks_for_a_population():
    bare = Task(name="bare", model=lambda: nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="brings no examples to divide; give a population"):
        population_of(Experiment(), bare)


# ---- clients that bring their own examples


def test_clients_with_examples_of_their_own_are_elsewhere_and_nothing_is_read():
    def load(_path: object) -> Examples:
        raise AssertionError("it was read")

    task = Task(name="toy", model=lambda: nn.Linear(2, 2), load=load)
    assert population_of(divided_by(kind="own", clients=3), task) == (None, Elsewhere(3))


def test_the_server_keeps_as_much_of_its_own_pool_as_it_needs():
    own = divided_by(kind="own", clients=3)
    for held, count in ((5, 5), (20, 20), (100, 20)):
        root, _ = population_of(own, TASK, held=held)
        assert root is not None
        assert len(root) == count


def test_a_server_without_a_pool_keeps_nothing():
    def load(path: object) -> Examples:
        raise DataError(f"nothing in {path}")

    task = Task(name="toy", model=lambda: nn.Linear(2, 2), load=load)
    own = divided_by(kind="own", clients=3)
    assert population_of(own, task, held=5) == (None, Elsewhere(3))
    there = Experiment.model_validate({"task": {"path": "pool.npz"}})
    with pytest.raises(DataError, match=r"^nothing in pool\.npz$"):
        at_hand(load, there, task, "load")
    assert at_hand(None, there, task, "load_test") is None


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"noise": 0.5}, "partition.noise = '0.5' is about a pool that is divided, and with "),
        ({"rotations": 4}, "partition.rotations = '4' is about a pool that is divided, and with "),
        ({"path": "runs/first"}, "partition.path = 'runs/first' is about a pool that is divided, "),
    ],
)
def test_what_would_change_a_pool_is_refused_for_examples_of_ones_own(settings, sentence):
    own = divided_by(kind="own", clients=3, **settings).partition
    with pytest.raises(ConfigError) as caught:
        check_own(own, TASK)
    assert str(caught.value).startswith(sentence)


def test_a_task_that_reads_nothing_cannot_read_a_nodes_own():
    bare = Task(name="bare", model=lambda: nn.Linear(2, 2))
    with pytest.raises(ConfigError, match=r"^the task 'bare' reads no examples from a path, and "):
        check_own(divided_by(kind="own", clients=3).partition, bare)


def test_examples_at_nodes_are_not_at_hand():
    check_at_hand(divided_by(kind="iid"), "a simulation")
    with pytest.raises(ConfigError) as caught:
        check_at_hand(divided_by(kind="own", clients=3), "a simulation")
    assert str(caught.value) == (
        "partition.kind = 'own' leaves the clients' examples at their nodes, and a simulation "
        "needs them here; deploy it with `roundel serve`, or bring all examples together and "
        "divide them by another kind"
    )
