"""What a division of examples over clients looks like, in figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from roundel.core.data import ClientData, Examples, Population
from roundel.core.metrics import percentiles
from roundel.core.seeds import derive, isolated_rng, sample
from roundel.simulations.partitions.holdings import Holdings
from roundel.simulations.partitions.labels import targets_sha256
from roundel.simulations.partitions.own import OWN, Elsewhere
from roundel.simulations.partitions.partition import Partition
from roundel.simulations.partitions.skew import FeatureSkew
from roundel.simulations.partitions.view import View, view_of

SAMPLED = 100
"""How many clients are looked at, where they are made on demand."""

ON_DEMAND = "on demand"
"""The kind of a population that divides no pool."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Archive:
    """What is written down of a partition, so that another run can use it.

    Attributes:
        partition: The partition.
        targets_sha256: The hash of the targets of its pool.
    """

    partition: Partition
    targets_sha256: str


@dataclass(frozen=True, kw_only=True, eq=False)
class PartitionReport:
    """How examples are divided over clients.

    Attributes:
        kind: The kind of division, as `partition.kind` calls it; ``on demand`` if there is no pool.
        clients: How many clients there are.
        examples: How many examples there are.
        parts: How many of them are in ``train``, ``validation`` and ``test``.
        empty: How many clients have none.
        sizes: How the clients' numbers of examples are spread: ``min``, ``p10``, ``p50``, ``p90``,
            ``max``, ``mean`` and ``std``, the population's; empty without clients.
        labels: How many examples each class has, from class 0 on; None if targets are no classes.
        distance: How the total variation distances of the clients' label distributions to that of
            all are spread, from 0 (the same) to 1 (no class in common); None without classes.
        view: What a picture shows.
        sampled: How many clients the figures are about; None for all, 0 where each brings its own
            examples.
        unreadable: Those among them whose data could not be made; they are in no figure.
        skew: What is done to inputs.
        archive: The partition itself, if there is one.
    """

    kind: str
    clients: int
    examples: int
    parts: Mapping[str, int]
    empty: int
    sizes: Mapping[str, float]
    labels: Sequence[int] | None
    distance: Mapping[str, float] | None
    view: View
    sampled: int | None = None
    unreadable: Sequence[int] = ()
    skew: FeatureSkew = FeatureSkew()
    archive: Archive | None = None

    def line(self) -> dict[str, Any]:
        """Return the figures as JSON can hold them."""
        return {
            "kind": self.kind,
            "clients": self.clients,
            "sampled": self.sampled,
            "unreadable": list(self.unreadable),
            "examples": self.examples,
            "parts": dict(self.parts),
            "empty": self.empty,
            "sizes": dict(self.sizes),
            "labels": None if self.labels is None else list(self.labels),
            "distance": None if self.distance is None else dict(self.distance),
            "skew": {"noise": self.skew.noise, "rotations": self.skew.rotations},
            "sha256": None if self.archive is None else self.archive.partition.sha256,
        }


@runtime_checkable
class Divided(Population, Protocol):
    """A population that divides a pool, such as `PartitionedPopulation`."""

    @property
    def pool(self) -> Examples:
        """The examples of all clients."""
        ...

    @property
    def partition(self) -> Partition:
        """Which of them are at which client."""
        ...

    @property
    def skew(self) -> FeatureSkew:
        """What is done to each client's inputs."""
        ...


def describe(population: Population, seed: int) -> PartitionReport:
    """Look at how examples are divided over clients.

    Args:
        population: If it divides a pool, all clients are looked at; otherwise up to 100 of them,
            whose data is made for it. Of clients whose examples lie at their nodes nothing is
            known but their number.
        seed: The experiment's data seed; decides which.
    """
    if isinstance(population, Divided):
        partition, targets = population.partition, population.pool.targets
        return replace(
            _figures(Holdings.of_partition(partition, targets), partition.kind, partition.clients),
            skew=population.skew,
            archive=Archive(partition=partition, targets_sha256=targets_sha256(targets)),
        )
    if isinstance(population, Elsewhere):
        return replace(_figures(Holdings.of_clients([], []), OWN, population.size), sampled=0)
    asked = sample(population.size, min(SAMPLED, population.size), derive(seed, "partition report"))
    read = {client: data for client in asked if (data := _made(population, client, seed))}
    return replace(
        _figures(Holdings.of_clients(list(read), list(read.values())), ON_DEMAND, population.size),
        sampled=len(asked) if len(asked) < population.size else None,
        unreadable=[client for client in asked if client not in read],
    )


def _made(population: Population, client: int, seed: int) -> ClientData | None:
    """Return one client's data, or None: a client that fails fails in its round, and by name."""
    with isolated_rng(derive(seed, "partition report", client=client)):
        try:
            data = _without_inputs(population.client(client))
            Holdings.of_clients([client], [data])  # whatever it is, it has examples
        except (Exception, SystemExit):  # noqa: BLE001 - user code may raise anything
            return None
        return data


def _without_inputs(data: ClientData) -> ClientData:
    """Keep what the figures need, so that a hundred large clients fit into memory."""
    train, validation, test = (
        Examples(torch.empty(len(part), 0), part.targets)
        for part in (data.train, data.validation, data.test)
    )
    return ClientData(train=train, validation=validation, test=test)


def _figures(holdings: Holdings, kind: str, clients: int) -> PartitionReport:
    sizes, labels = holdings.sizes, holdings.labels
    train, validation, test = np.bincount(holdings.parts, minlength=3).tolist()
    distance = None
    if labels is not None:
        distance = _spread(holdings.distances(), "mean", "p10", "p50", "p90", "max")
    return PartitionReport(
        kind=kind,
        clients=clients,
        examples=len(holdings.owner),
        parts={"train": train, "validation": validation, "test": test},
        empty=int((sizes == 0).sum()),
        sizes=_spread(sizes, "min", "p10", "p50", "p90", "max", "mean", "std"),
        labels=None if labels is None else np.bincount(labels).tolist(),
        distance=distance,
        view=view_of(holdings),
    )


def _spread(values: NDArray[Any], *figures: str) -> dict[str, float]:
    """Return the named figures of values; none if there are no values."""
    if len(values) == 0:
        return {}
    low, p10, p50, p90, high = percentiles(np.sort(values), 0, 10, 50, 90, 100)
    every = {"min": low, "p10": p10, "p50": p50, "p90": p90, "max": high}
    every |= {"mean": float(values.mean()), "std": float(values.std())}
    return {name: every[name] for name in figures}
