"""What a node brings, and what both sides say of it when it registers: a fingerprint."""

import hashlib
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from pydantic_core import to_jsonable_python

from roundel.client.node import Hosted, honest
from roundel.core.config import Experiment
from roundel.core.environment import roundel_version
from roundel.core.fingerprint import Fingerprint, hashed
from roundel.core.learning import Learner
from roundel.core.params import Entry, bytes_of, tensors_sha256
from roundel.simulations.partitions.labels import targets_sha256
from roundel.simulations.partitions.own import OWN
from roundel.simulations.population import PartitionedPopulation
from roundel.simulations.prepare import Simulation
from roundel.strategies.registry import FLOWER


def hosted_by(simulation: Simulation, client_ids: Sequence[int]) -> Hosted:
    """Return what a node brings that hosts some of a simulation's clients.

    Args:
        simulation: As the node has made it.
        client_ids: The clients; none if the coordinator is to say which one it is.
    """
    return Hosted(
        plan=simulation.plan,
        learner=simulation.learner,
        population=simulation.clients,
        client_ids=client_ids,
        fingerprint=registration(simulation),
        tamper=simulation.adversary.tamper if simulation.adversary else honest,
        own_data=simulation.plan.experiment.partition.kind == OWN,
    )


def registration(simulation: Simulation) -> str:
    """Return the text of an experiment's fingerprint, as this side has made it."""
    experiment = simulation.plan.experiment
    knobs = to_jsonable_python(experiment.task.knobs)
    examples, partition = _data(simulation)
    spec = simulation.learner.spec
    return Fingerprint(
        task=experiment.task.name,
        knobs={name: hashed(value) for name, value in knobs.items()},
        code=code_of(own_functions(experiment)) | packages_of(simulation),
        layout=spec.fingerprint[:16],
        tensors=tuple(map(_tensor, (*spec.entries, *spec.integers))),
        kept=_kept(simulation.learner),
        examples=examples,
        partition=partition,
        versions={
            "roundel": roundel_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
        },
    ).text()


def own_functions(experiment: Experiment) -> list[str]:
    """Return the functions of the user's own that an experiment names."""
    strategy = experiment.strategy
    parts = [part if isinstance(part, str) else part["name"] for part in strategy.parts]
    ours_or_own = [name for name in (strategy.name, *parts) if not name.startswith(FLOWER)]
    named = [experiment.task.name, *experiment.evaluation.metrics, *ours_or_own]
    return [name for name in named if ":" in name]


def packages_of(simulation: Simulation) -> dict[str, str]:
    """Return the packages that its strategy is of, as `code_of` does."""
    found = [part.packages for part in simulation.plan.strategy.parts]
    return {name: f"{name} {release}" for each in found for name, release in each.items()}


def code_of(functions: list[str]) -> dict[str, str]:
    """Return which version of the user's modules is at hand.

    Args:
        functions: As ``package.module:function``; their modules have been imported.

    Returns:
        By module: the name and version of the installed distribution that it belongs to, or else a
        hash of its file.
    """
    modules = sorted({name.partition(":")[0] for name in functions})
    owners = packages_distributions() if modules else {}  # which reads what all of them list
    return {
        module: _distribution(owners.get(module.partition(".")[0], [])) or _file(module)
        for module in modules
    }


def _distribution(names: list[str]) -> str:
    try:
        return ", ".join(f"{name} {version(name)}" for name in sorted(set(names)))
    except PackageNotFoundError:
        return ""


def _file(module: str) -> str:
    """Return a hash of a module's source."""
    path = getattr(sys.modules.get(module), "__file__", None)
    if path is None:
        return "a module without a file"
    return f"a file with the hash {hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]}"


def _tensor(entry: Entry) -> str:
    """Describe a tensor; what is usual is left unsaid."""
    shape = "x".join(map(str, entry.shape)) or "scalar"
    said = [entry.name, shape]
    said += [] if entry.dtype is torch.float32 else [str(entry.dtype).removeprefix("torch.")]
    said += [] if entry.trainable else ["buffer"]
    said += ["personal"] if entry.personal else []
    return " ".join(said)


def _kept(learner: Learner) -> str:
    """Return a hash of the weights that are in no message, if there are any."""
    frozen = {n: p for n, p in learner.model.named_parameters() if not p.requires_grad}
    personal = learner.initial[learner.spec.personal]
    if not frozen and not len(personal):
        return ""
    return tensors_sha256({**frozen, "personal layers": personal})[:16]


def _data(simulation: Simulation) -> tuple[str, str]:
    """Return hashes of the examples of a pool, and of who holds them."""
    if simulation.plan.experiment.partition.kind == OWN:
        return "", OWN
    if not isinstance(simulation.population, PartitionedPopulation):
        return "", ""
    partition, pool = simulation.population.partition, simulation.population.pool
    inputs = crc32(bytes_of(pool.inputs))  # against mistakes, not against malice; it is quick
    return hashed([targets_sha256(pool.targets), inputs]), partition.sha256[:16]
