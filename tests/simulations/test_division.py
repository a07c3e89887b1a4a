"""Clients come from the task, or from a pool of which the server may keep some."""

from typing import Any

import pytest
import torch
from torch import nn

from roundel.core.config import Experiment
from roundel.core.data import Examples, InMemoryPopulation
from roundel.core.errors import ConfigError
from roundel.core.task import Task
from roundel.simulations.division import population_of
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
