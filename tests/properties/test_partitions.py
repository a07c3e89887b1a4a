"""Laws that every kind of partition obeys, whatever the labels, the clients and the parameters."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from roundel.core.config import PartitionConfig
from roundel.core.data import Examples
from roundel.core.errors import DataError
from roundel.simulations.partitions.archive import load_partition, save_partition
from roundel.simulations.partitions.labels import targets_sha256
from roundel.simulations.partitions.make import make_partition
from roundel.simulations.partitions.partition import TEST, VALIDATION, Partition

extremes = st.sampled_from([5e-324, 1e-6, 0.05, 0.3, 1.0, 100.0, 1e6, 1.7e308])
counts = st.integers(1, 6)
PARAMETERS: Mapping[str, Mapping[str, st.SearchStrategy[float]]] = MappingProxyType(
    {
        "iid": {},
        "dirichlet": {"alpha": extremes},
        "class-prior": {"alpha": extremes},
        "shards": {"shards": counts},
        "classes": {"classes": counts},
        "lognormal": {"sigma": extremes},
        "power-law": {"exponent": extremes},
        "natural": {},
    }
)
"""Each kind that divides a pool, with its parameters."""

every_kind = pytest.mark.parametrize("kind", PARAMETERS)
every_drawn_kind = pytest.mark.parametrize("kind", [k for k in PARAMETERS if k != "natural"])
seeds = st.integers(-(2**63), 2**63 - 1)

USERS = 13
LABELS = torch.arange(1000) % 4
"""250 examples of each of four classes."""


def pool_of(labels: Tensor) -> Examples:
    return Examples(torch.zeros(len(labels), 1), labels, torch.arange(len(labels)) * 7 % USERS)


@st.composite
def problems(draw: st.DrawFn, kind: str) -> tuple[PartitionConfig, Examples]:
    """Draw a pool, and a section `partition` that it has enough examples for."""
    count, classes = draw(st.integers(1, 80)), draw(st.integers(1, 6))
    labels = np.random.default_rng(draw(st.integers(0, 2**32))).integers(0, classes, count)
    section: dict[str, object] = {"kind": kind, "clients": draw(st.integers(1, 30))}
    section |= {name: draw(values) for name, values in PARAMETERS[kind].items()}
    if kind == "classes":  # each client has some of them, and all clients together have all
        present = len(np.unique(labels))
        section["classes"] = draw(st.integers(1, present))
        section["clients"] = draw(st.integers(present, 30))
    most = draw(st.integers(0, 4))
    section["min_examples"] = min(most, guaranteed(section, count))
    section["validation"], section["test"] = draw(SHARES)
    if kind == "natural":
        del section["clients"]
    return PartitionConfig.model_validate(section), pool_of(torch.from_numpy(labels))


SHARES = st.sampled_from([(0.0, 0.0), (0.0, 0.1), (0.2, 0.1), (0.29, 0.57), (0.5, 0.499)])
"""What is held out for validation and for testing."""


def guaranteed(section: Mapping[str, Any], count: int) -> int:
    """The minimum that a division can promise to every client, whatever is drawn."""
    match section:
        case {"kind": "natural"}:
            return count // USERS
        case {"kind": "classes"}:
            return 0
        case {"kind": "shards", "clients": clients, "shards": shards}:
            return shards * (count // (clients * shards))
        case _:
            return count // section["clients"]


def of(kind: str, seed: int, labels: Tensor = LABELS, **settings: object) -> Partition:
    config = PartitionConfig.model_validate({"kind": kind, "clients": 10, **settings})
    return make_partition(config, pool_of(labels), seed)


@every_kind
@given(data=st.data(), seed=seeds)
@settings(max_examples=30, deadline=None)
def test_every_example_is_at_one_client_in_one_part_and_every_client_has_the_minimum(
    kind, data, seed
):
    config, pool = data.draw(problems(kind))
    partition = make_partition(config, pool, seed)
    assert sorted(partition.order.tolist()) == list(range(len(pool)))
    assert partition.offsets[0] == 0
    assert partition.offsets[-1] == len(pool)
    assert partition.clients == (config.clients or min(USERS, len(pool)))
    assert partition.sizes.min() >= config.min_examples
    for client in range(partition.clients):
        rows, parts = partition.rows(client), partition.parts_of(client)
        assert (np.diff(rows) > 0).all()
        assert (parts == VALIDATION).sum() == int(len(rows) * config.validation + 1e-9)
        assert (parts == TEST).sum() == int(len(rows) * config.test + 1e-9)


@every_kind
@given(data=st.data(), seed=seeds)
@settings(max_examples=8, deadline=None)
def test_a_partition_is_a_pure_function_of_data_and_seed(kind, data, seed):
    config, pool = data.draw(problems(kind))
    assert make_partition(config, pool, seed).sha256 == make_partition(config, pool, seed).sha256


@every_drawn_kind
@given(seeds)
@settings(max_examples=5, deadline=None)
def test_another_seed_divides_the_pool_another_way(kind, seed):
    assert not np.array_equal(of(kind, seed).order, of(kind, seed ^ 1).order)


@every_kind
@given(data=st.data(), seed=seeds)
@settings(max_examples=5, deadline=None)
def test_a_partition_that_was_saved_is_loaded_as_it_was(kind, data, seed, tmp_path_factory):
    config, pool = data.draw(problems(kind))
    partition = make_partition(config, pool, seed)
    path: Path = tmp_path_factory.mktemp("saved") / "partition.npz"
    save_partition(partition, targets_sha256(pool.targets), path)
    loaded = make_partition(PartitionConfig(kind="file", path=path), pool, seed ^ 1)
    assert loaded.sha256 == partition.sha256
    assert loaded.kind == kind
    with pytest.raises(DataError, match="other targets"):
        load_partition(path, len(pool), targets_sha256(pool.targets + 1))


@every_drawn_kind
def test_a_hundred_thousand_clients_are_served(kind):
    labels = torch.arange(200_000) % 10
    partition = of(kind, 0, labels, clients=100_000)
    assert partition.clients == 100_000
    assert partition.sizes.min() >= 1
    assert np.array_equal(np.sort(partition.order), np.arange(200_000))
    assert (partition.parts == TEST).sum() == np.floor(partition.sizes * 0.1).sum()


# ---- what each kind promises


def mixes(partition: Partition) -> np.ndarray:
    return partition.label_histograms(LABELS)


PROMISES: Mapping[str, Callable[[int], object]] = MappingProxyType(
    {
        "iid sizes differ by one at most": lambda s: np.ptp(of("iid", s, clients=7).sizes) <= 1,
        "dirichlet with a large alpha has the mix of the pool": lambda s: (
            np.abs(mixes(of("dirichlet", s, alpha=1e9)) - 25).max() <= 1
        ),
        "dirichlet with a small alpha has each class at one client": lambda s: (
            mixes(of("dirichlet", s, alpha=1e-9, min_examples=0)).max(axis=0) == 250
        ).all(),
        "class-prior sizes differ by one at most": lambda s: (
            np.ptp(of("class-prior", s, clients=7, alpha=0.1).sizes) <= 1
        ),
        "class-prior with a small alpha has few classes at a client": lambda s: (
            mixes(of("class-prior", s, alpha=1e-6)).max(axis=1).mean() > 40
        ),
        "class-prior with a large alpha is nearly the mix of the pool": lambda s: (
            np.abs(mixes(of("class-prior", s, alpha=1e6)) - 25).max() <= 25
        ),
        "shards that fit into classes give a client no more classes than shards": lambda s: (
            (mixes(of("shards", s, shards=2)) > 0).sum(axis=1) <= 2
        ).all(),
        "shards across borders give no more classes than shards and borders": lambda s: (
            (mixes(of("shards", s, clients=7, shards=3)) > 0).sum() <= 7 * 3 + 3
        ),
        "classes gives exactly so many, evenly": lambda s: (
            (mixes(of("classes", s, classes=3)) > 0).sum(axis=1) == 3
        ).all(),
        "lognormal sizes have the logarithms of a normal distribution": lambda s: (
            0.5
            < np.log(of("lognormal", s, torch.arange(40_000) % 4, clients=200).sizes).std()
            < 1.5
        ),
        "power-law sizes fall with the rank": lambda s: (
            np.abs(
                np.sort(of("power-law", s).sizes)[::-1] * np.arange(1, 11) / 1000
                - 1 / (1 / np.arange(1, 11)).sum()
            ).max()
            <= 0.01
        ),
    }
)


@pytest.mark.parametrize("promise", PROMISES)
@given(seeds)
@settings(max_examples=5, deadline=None)
def test_each_kind_keeps_its_promise(promise, seed):
    assert PROMISES[promise](seed)
