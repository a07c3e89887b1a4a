"""A task: what is learned, from which examples, judged how."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from roundel.core.config import PartitionKind
from roundel.core.data import Examples, Population
from roundel.core.errors import ConfigError, DataError
from roundel.core.metrics import classification
from roundel.core.params import ParamSpec
from roundel.core.seeds import derive, isolated_rng
from roundel.core.training import TrainFunction

Loss = Callable[[Tensor, Tensor], Tensor]
"""Outputs and targets of a batch to the mean loss over its examples, a scalar."""

MetricSums = Callable[[Tensor, Tensor], Mapping[str, Tensor]]
"""Outputs and targets of a batch to sums over its examples, by name."""

Loader = Callable[[Path | None], Examples]
"""A path (None: the data that ships with the task) to examples."""

Augment = Callable[[Examples], Examples]
"""A training batch to a changed one. It draws from torch's global generator, which is seeded."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Everything about the problem that does not depend on how it is federated.

    Attributes:
        name: What the experiment file calls it.
        model: Makes a new model; drawn under a seed, so it needs none itself.
        loss: Mean loss of a batch.
        metrics: Further sums over a batch's examples; each is reported as a mean.
        load: Reads the examples to learn from: a path, or None for data that ships with the task.
            The same function reads a simulated pool and a node's own data. None if a population
            brings its own examples.
        load_test: Reads global test examples that no client ever sees; None to evaluate on
            clients alone.
        load_all: Reads every example of a path in its order, to predict, and as a node's own; only
            for tasks whose `load` leaves some out.
        population: Makes the clients themselves, from their number and the data seed, for data
            that exists client by client and not as a pool.
        partition: Which kind of `partition.kind` divides the pool unless the experiment says.
        augment: Changes each training batch; evaluation sees examples as they are.
        train: The user's own local training; None for the learning loop.
        personal: Tells from a parameter's name whether it stays with the client.
        private: Each names further tensors of a model that stay with the client.
        fresh: Each tells from a name whether a file of parameters to start from may lack it.
        knobs: What the experiment file says beside the task's name once everything is settled:
            defaults, and what the task found out from its data. Given back, they make the task
            again.
    """

    name: str
    model: Callable[[], nn.Module]
    loss: Loss = functional.cross_entropy
    metrics: MetricSums = classification
    load: Loader | None = None
    load_test: Loader | None = None
    load_all: Loader | None = None
    population: Callable[[int, int], Population] | None = None
    partition: PartitionKind = "dirichlet"
    augment: Augment | None = None
    train: TrainFunction | None = None
    personal: Callable[[str], bool] | None = None
    private: tuple[Callable[[nn.Module], Collection[str]], ...] = ()
    fresh: tuple[Callable[[str], bool], ...] = ()
    knobs: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def new_model(self, seed: int) -> nn.Module:
        """Make the initial model, the same for the same seed.

        Args:
            seed: The experiment's model seed.

        Raises:
            ConfigError: What the task makes is no model.
        """
        with isolated_rng(derive(seed, "model")):
            model: object = self.model()
        if not isinstance(model, nn.Module):
            raise ConfigError(
                f"the model of the task {self.name!r} is of type {type(model).__name__} and not a "
                "torch.nn.Module; let the function that makes it return one"
            )
        return model

    def spec(self, model: nn.Module) -> ParamSpec:
        """Return the layout of this task's parameter vectors."""
        private = frozenset[str]().union(*(names(model) for names in self.private))
        named = self.personal or private.__contains__
        return ParamSpec.of(model, lambda name: name in private or named(name))


def check_finite(examples: Examples, source: str) -> Examples:
    """Return `examples` if their inputs are finite.

    Raises:
        DataError: They are not; the sentence names the first offender.
    """
    if examples.inputs.is_floating_point() and not bool(torch.isfinite(examples.inputs).all()):
        bad = ~torch.isfinite(examples.inputs).reshape(len(examples), -1).all(dim=1)
        raise DataError(
            f"{source}: example {int(bad.nonzero()[0])} holds a value that is not finite; "
            "remove or impute it"
        )
    return examples


def check_labels(examples: Examples, classes: int, source: str) -> Examples:
    """Return `examples` if inputs are finite and labels are in ``range(classes)``.

    Raises:
        DataError: They are not; the sentence names the first offender.
    """
    check_finite(examples, source)
    if examples.targets.is_floating_point():
        raise DataError(f"{source}: labels of dtype {examples.targets.dtype} are not class numbers")
    outside = (examples.targets < 0) | (examples.targets >= classes)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise DataError(
            f"{source}: example {row} has the label {int(examples.targets[row])}, but labels are "
            f"0 to {classes - 1}"
        )
    return examples
