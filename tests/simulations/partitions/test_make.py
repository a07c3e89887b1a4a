"""The section `partition` of an experiment decides which division is made, and with what."""

from hashlib import sha256

import numpy as np
import pytest
import torch

from roundel.core.config import PartitionConfig
from roundel.core.data import Examples
from roundel.core.errors import ConfigError, DataError
from roundel.simulations.partitions.archive import save_partition
from roundel.simulations.partitions.classes import classes, shards
from roundel.simulations.partitions.dirichlet import class_prior, dirichlet
from roundel.simulations.partitions.labels import targets_sha256
from roundel.simulations.partitions.make import make_partition
from roundel.simulations.partitions.partition import TEST, VALIDATION, Partition
from roundel.simulations.partitions.quantity import iid, lognormal, power_law

LABELS = torch.arange(1000) % 4
POOL = Examples(torch.zeros(1000, 1), LABELS, torch.arange(1000) % 50)
REGRESSION = Examples(torch.zeros(100, 1), torch.rand(100, 2))


def made(pool: Examples = POOL, seed: int = 4, **settings: object) -> Partition:
    return make_partition(PartitionConfig.model_validate(settings), pool, seed)


def same(one: Partition, other: Partition) -> bool:
    return np.array_equal(one.order, other.order) and np.array_equal(one.offsets, other.offsets)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"kind": "iid"}, iid(1000, 7, 4)),
        ({"kind": "dirichlet", "alpha": 0.2}, dirichlet(LABELS, 7, 0.2, 3, 4)),
        ({"kind": "class-prior", "alpha": 0.2}, class_prior(LABELS, 7, 0.2, 3, 4)),
        ({"kind": "shards", "shards": 5}, shards(LABELS, 7, 5, 3, 4)),
        ({"kind": "classes", "classes": 3}, classes(LABELS, 7, 3, 3, 4)),
        ({"kind": "lognormal", "sigma": 0.5}, lognormal(1000, 7, 0.5, 3, 4)),
        ({"kind": "power-law", "exponent": 2.0}, power_law(1000, 7, 2.0, 3, 4)),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_each_kind_takes_its_parameters_from_the_experiment(settings, expected):
    partition = made(clients=7, min_examples=3, **settings)
    assert same(partition, expected)
    assert partition.kind == settings["kind"]


def test_a_hundred_clients_share_a_pool_unless_the_experiment_says_how_many():
    assert made(kind="iid").clients == 100


def test_the_data_says_how_many_users_there_are():
    partition = made(kind="natural")
    assert (partition.clients, partition.kind) == (50, "natural")


@pytest.mark.parametrize(
    ("partition", "expected"),
    [
        (iid(1000, 10, 0), "70c109646a39a180"),
        (dirichlet(LABELS, 10, 0.3, 0, 0), "2bb280d778ff5001"),
        (dirichlet(LABELS, 10, 0.3, 60, 0), "53e1cc50a0439c3a"),
        (class_prior(LABELS, 10, 0.3, 0, 0), "4a56918cec10978c"),
        (shards(LABELS, 10, 2, 0, 0), "e5468b2565259d01"),
        (classes(LABELS, 10, 2, 0, 0), "812a5f771b13e11f"),
        (lognormal(1000, 10, 1.0, 0, 0), "70234e20083eae16"),
        (power_law(1000, 10, 1.0, 0, 0), "d2dfe4f3364f3e80"),
    ],
)
def test_divisions_are_the_same_in_every_version(partition, expected):
    assignment = partition.offsets.tobytes() + partition.order.tobytes()
    assert sha256(assignment).hexdigest()[:16] == expected


def test_examples_are_held_out_as_the_experiment_says():
    parts = made(kind="iid", clients=10, validation=0.2, test=0.1).parts
    assert [(parts == p).sum() for p in (VALIDATION, TEST)] == [200, 100]


def test_the_same_seed_holds_out_the_same_examples_and_another_seed_others():
    one, same_seed, other = (made(seed=seed, kind="natural") for seed in (1, 1, 2))
    assert one.sha256 == same_seed.sha256
    assert same(one, other)
    assert one.sha256 != other.sha256


@pytest.mark.parametrize(
    "kind", ["iid", "dirichlet", "class-prior", "shards", "classes", "lognormal", "power-law"]
)
def test_more_clients_than_examples_are_an_error_with_the_figures(kind):
    with pytest.raises(DataError, match=r"clients = 1001 .* need 1001 examples .* has 1000"):
        made(kind=kind, clients=1001)


@pytest.mark.parametrize("kind", ["iid", "lognormal", "power-law"])
def test_targets_need_not_be_classes_where_labels_do_not_count(kind):
    assert made(REGRESSION, kind=kind, clients=5).sizes.sum() == 100


@pytest.mark.parametrize("kind", ["dirichlet", "class-prior", "shards", "classes"])
def test_targets_must_be_classes_where_labels_count(kind):
    with pytest.raises(DataError, match="are not class numbers"):
        made(REGRESSION, kind=kind, clients=5)


# ---- from a file


@pytest.fixture
def file(tmp_path):
    partition = made(kind="shards", clients=8, test=0.25)
    save_partition(partition, targets_sha256(LABELS), tmp_path / "partition.npz")
    return tmp_path / "partition.npz"


def test_a_partition_of_another_run_is_used_as_it_is_with_what_it_held_out(file):
    read = made(kind="file", path=file, test=0.5, seed=9)
    assert read.sha256 == made(kind="shards", clients=8, test=0.25).sha256
    assert read.kind == "shards"


def test_the_directory_of_a_run_stands_for_its_file(file):
    read = made(kind="file", path=file.parent)
    assert read.sha256 == made(kind="file", path=file).sha256


def test_a_file_says_how_many_clients_there_are(file):
    assert made(kind="file", path=file, clients=8).clients == 8
    with pytest.raises(ConfigError, match=r"clients = 9, and .*npz divides the pool over 8; leave"):
        made(kind="file", path=file, clients=9)


def test_a_partition_of_other_data_is_an_error(file):
    with pytest.raises(DataError, match="other targets than this one"):
        made(Examples(POOL.inputs, LABELS.flip(0)), kind="file", path=file)


def test_a_file_must_be_named():
    with pytest.raises(ConfigError, match=r"'file' needs partition.path"):
        made(kind="file")


def test_examples_that_nodes_bring_are_not_divided():
    with pytest.raises(ConfigError, match=r"'own' divides no pool: every node brings its own"):
        made(kind="own", clients=3)
