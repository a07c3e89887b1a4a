"""The figures of a division: exact for a pool, of a sample for populations made on demand."""

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from roundel.core.data import ClientData, Examples, InMemoryPopulation
from roundel.simulations.partitions.own import Elsewhere
from roundel.simulations.partitions.partition import Partition
from roundel.simulations.partitions.report import SAMPLED, describe
from roundel.simulations.partitions.skew import FeatureSkew
from roundel.simulations.population import PartitionedPopulation

TARGETS = torch.tensor([0, 0, 0, 1, 1, 3])
POOL = Examples(torch.zeros(6, 4), TARGETS)
PARTITION = Partition.of(np.array([0, 0, 1, 1, 1, 3]), 4, "classes").holding_out(
    validation=0, test=0.5, seed=0
)


def divided(pool: Examples = POOL, **more: FeatureSkew) -> PartitionedPopulation:
    return PartitionedPopulation(pool=pool, partition=PARTITION, **more)


@dataclass
class MadeOnDemand:
    """Client k has ``1 + k % 3`` examples of class 0."""

    size: int
    make: Callable[[int], ClientData] | None = None
    asked: list[int] = field(default_factory=list[int])

    def client(self, client_id: int) -> ClientData:
        self.asked.append(client_id)
        if self.make is not None:
            return self.make(client_id)
        return InMemoryPopulation.of([zeros(1 + client_id % 3)]).client(0)


def zeros(count: int) -> Examples:
    return Examples(torch.zeros(count, 1), torch.zeros(count, dtype=torch.int64))


def test_the_figures_of_a_divided_pool_are_worked_out_by_hand():
    """Client 0 has classes 0, 0; client 1 has 0, 1, 1; client 2 nothing; client 3 class 3.

    Sizes 2, 3, 0 and 1: mean 1.5, variance (0.25 + 2.25 + 2.25 + 0.25) / 4 = 1.25. Shares of all
    are (3, 2, 0, 1) / 6, so the distances of clients 0, 1 and 3 are 1/2, 1/3 and 5/6.
    """
    line = describe(divided(), 0).line()
    assert (line["kind"], line["clients"], line["examples"]) == ("classes", 4, 6)
    assert line["parts"] == {"train": 4, "validation": 0, "test": 2}
    assert line["empty"] == 1
    assert line["sizes"] == pytest.approx(
        {"min": 0, "p10": 0.3, "p50": 1.5, "p90": 2.7, "max": 3, "mean": 1.5, "std": 1.25**0.5}
    )
    assert line["labels"] == [3, 2, 0, 1]
    assert line["distance"] == pytest.approx(
        {"mean": 5 / 9, "p10": 1 / 3 + 1 / 30, "p50": 1 / 2, "p90": 23 / 30, "max": 5 / 6}
    )
    assert line["sha256"] == PARTITION.sha256
    assert line["skew"] == {"noise": 0.0, "rotations": 1}
    assert (line["sampled"], line["unreadable"]) == (None, [])


def test_figures_can_be_written_as_json():
    line = describe(divided(), 0).line()
    assert json.loads(json.dumps(line, allow_nan=False)) == line


def test_the_hash_of_the_targets_is_kept_for_those_who_use_the_partition_again():
    archive = describe(divided(), 0).archive
    assert archive is not None
    assert archive.partition is PARTITION
    content = b"<i8 (6,)\n" + np.array([0, 0, 0, 1, 1, 3], dtype="<i8").tobytes()
    assert archive.targets_sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("targets", [torch.rand(6), torch.rand(6, 2), torch.zeros(6, 9).long()])
def test_without_class_numbers_there_are_no_figures_of_labels(targets):
    line = describe(divided(Examples(POOL.inputs, targets)), 0).line()
    assert line["labels"] is None
    assert line["distance"] is None
    assert line["sizes"]["max"] == 3


def test_what_is_done_to_inputs_is_said():
    line = describe(divided(skew=FeatureSkew(noise=0.5, rotations=4)), 0).line()
    assert line["skew"] == {"noise": 0.5, "rotations": 4}


# ---- populations that divide no pool


def test_a_small_population_is_looked_at_whole():
    line = describe(MadeOnDemand(4), 0).line()
    assert (line["kind"], line["clients"], line["sampled"]) == ("on demand", 4, None)
    assert line["examples"] == 1 + 2 + 3 + 1
    assert line["labels"] == [7]
    assert line["distance"]["max"] == 0
    assert line["sha256"] is None


def test_of_a_large_population_a_sample_is_looked_at_and_no_one_else_is_made():
    population = MadeOnDemand(10**9)
    line = describe(population, 0).line()
    assert (line["clients"], line["sampled"]) == (10**9, SAMPLED)
    assert len(set(population.asked)) == len(population.asked) == SAMPLED


def test_the_seed_decides_who_is_looked_at():
    def asked(seed: int) -> list[int]:
        population = MadeOnDemand(1000)
        describe(population, seed)
        return population.asked

    assert asked(1) == asked(1)
    assert asked(1) != asked(2)


def test_a_client_whose_data_cannot_be_made_is_named_and_ends_nothing():
    def make(client_id: int) -> ClientData:
        if client_id == 2:
            raise SystemExit("the disk is on fire")
        return InMemoryPopulation.of([zeros(5)]).client(0)

    line = describe(MadeOnDemand(4, make), 0).line()
    assert line["unreadable"] == [2]
    assert line["examples"] == 15


def test_a_client_that_is_not_client_data_ends_nothing():
    population = MadeOnDemand(2, lambda _client_id: "examples")  # type: ignore[arg-type, return-value]
    assert describe(population, 0).line()["unreadable"] == [0, 1]


def test_a_population_of_which_nothing_can_be_read_has_no_figures():
    def make(_client_id: int) -> ClientData:
        raise OSError("the disk is on fire")

    line = describe(MadeOnDemand(3, make), 0).line()
    assert line["unreadable"] == [0, 1, 2]
    assert (line["examples"], line["sizes"], line["labels"]) == (0, {}, None)


def test_looking_does_not_move_the_global_generators():
    def make(_client_id: int) -> ClientData:
        torch.rand(1)
        random.random()
        return InMemoryPopulation.of([zeros(1)]).client(0)

    before = torch.get_rng_state().tolist(), random.getstate()
    describe(MadeOnDemand(3, make), 0)
    assert (torch.get_rng_state().tolist(), random.getstate()) == before


def test_of_clients_that_bring_their_own_examples_their_number_is_known():
    line = describe(Elsewhere(3), 0).line()
    assert (line["kind"], line["clients"], line["sampled"]) == ("own", 3, 0)
    assert (line["examples"], line["sizes"], line["labels"], line["sha256"]) == (0, {}, None, None)
    assert line["unreadable"] == []
