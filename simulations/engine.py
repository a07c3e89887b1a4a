"""Which executor, how wide, on how many workers: decided once, before the first round.

Results depend on the executor, its width, the threads inside an operation and the kind of device,
so ``auto`` is a fixed rule of things that the experiment says, never a measurement of speed, and
what was chosen stands in the run's ``environment.json``. They do not depend on the workers.

The rule of ``engine.executor = "auto"`` and ``engine.width = "auto"``, with M trainable parameters:

- what cannot be batched is trained by the loop (see `roundel.simulations.vectorized`);
- a chain of linear layers, whose step is written by hand, is vectorized; its width is the largest
  power of two up to 64 with which all models together have at most 2**21 parameters, or 1;
- so is one with convolutions of more than 2**15 parameters on a CPU, 1 wide: its images fill the
  cache;
- any other model is vectorized up to 2**15 parameters, 32 wide, since only there does a batched
  step cost less than the single steps that it replaces;
- everything else fills the cache by itself and is trained by the loop.

These numbers are those at which the contenders of ``benchmarks/simulation.py`` and
``benchmarks/scale.py`` cross on a CPU.

The rule of ``engine.workers = "auto"``: one, unless a run has so much to compute that it takes some
seconds, then one for each core; always one on a GPU.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch

from roundel.client.trainer import Trainer
from roundel.core.clientstate import ClientStore
from roundel.core.data import Examples, Population
from roundel.core.errors import ConfigError
from roundel.core.learning import Learner
from roundel.core.ranks import ALONE, Ranks
from roundel.core.threads import available_cores
from roundel.core.usercode import one_line
from roundel.server.loop import Clients
from roundel.simulations.blocks import Cost, Widths
from roundel.simulations.clients import BlockClients
from roundel.simulations.devices import name_of, settled
from roundel.simulations.executor import LoopClients
from roundel.simulations.population import PartitionedPopulation
from roundel.simulations.prepare import Simulation
from roundel.simulations.states import SharedStates
from roundel.simulations.vectorized import (
    LARGEST_TRANSFORMED,
    Stack,
    convolves,
    evaluate_together,
    layers_of,
    why_not,
)

Executor = Literal["loop", "vectorized"]

_WIDEST = 64
_MOST_TOGETHER = 1 << 21
_TRANSFORMED = 32
_FEW = 2
_TYPICAL = 300.0
_TRIED = 64
_SHORT = 5e10
"""Multiplications in a run that one worker does in some seconds."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """How a run is computed.

    Attributes:
        executor: Whether clients are trained one after another or many at once.
        width: The most clients of a block; 1 for the loop.
        workers: Processes that share the work.
        threads: Threads inside one operation.
        device: Where models are trained and judged: on the ``cpu`` or on a GPU, ``cuda``.
        gpu: Which GPU; empty on the CPU.
        why: Why clients that the user wants to be trained at once are not; empty if they are.
    """

    executor: Executor = "loop"
    width: int = 1
    workers: int = 1
    threads: int = 1
    device: str = "cpu"
    gpu: str = ""
    why: str = ""

    def line(self) -> dict[str, Any]:
        """Return what ``environment.json`` says."""
        return {key: value for key, value in vars(self).items() if value != ""}

    @classmethod
    def recorded(cls, line: Mapping[str, Any]) -> "Engine":
        """Return the engine of a run from its ``environment.json``."""
        return cls(**{key: line[key] for key in cls.__dataclass_fields__ if key in line})


@dataclass(frozen=True, kw_only=True)
class Legacy:
    """What earlier rounds of a run have left behind, as all of its ranks must know it.

    Attributes:
        stateful: Whether any client has a state by now, on whatever rank.
        narrowed: The rounds since which fewer clients are trained at once, and how many then; see
            `roundel.simulations.blocks.Widths`.
    """

    stateful: bool = False
    narrowed: Mapping[int, int] = field(default_factory=dict[int, int])


def choose(simulation: Simulation) -> Engine:
    """Return the engine of an experiment, by the rule of this module.

    Args:
        simulation: The experiment with its data at hand.

    Raises:
        ConfigError: It asks for a GPU, and there is none or it cannot be computed there.
    """
    experiment = simulation.plan.experiment
    said = experiment.engine
    fixed = Engine(threads=said.threads)
    if experiment.topology.kind != "star":
        if said.device == "cuda":
            raise ConfigError(
                f"topology.kind = {experiment.topology.kind!r} is computed on the CPU; set "
                "engine.device to 'auto' or 'cpu'"
            )
        return replace(fixed, why=_unless(said.executor, "clients do not stand around one server"))
    device = settled(said.device)
    fixed = replace(fixed, device=device, gpu=name_of(device))
    adversary = simulation.adversary
    if adversary is not None and adversary.plots:
        why = f"clients that attack by {adversary.attack.name!r} look at the updates of others"
        return replace(fixed, why=_unless(said.executor, why))
    executor, width, why = _executor(simulation, device)
    workers = _workers(simulation, said.workers, device)
    return replace(fixed, executor=executor, width=width, why=why, workers=workers)


def _unless(asked: str, why: str) -> str:
    """Return why clients are not vectorized, if the user asked for that."""
    return why if asked == "vectorized" else ""


def _executor(simulation: Simulation, device: str) -> tuple[Executor, int, str]:
    """Return the executor, its width, and why it is not the vectorized one if it might be."""
    said, learner = simulation.plan.experiment.engine, simulation.learner
    if said.executor == "loop":
        return "loop", 1, ""
    width = _width(learner, device) if said.width == "auto" else said.width
    if said.executor == "auto" and not width:
        return "loop", 1, ""
    examples = _some_examples(simulation.population)
    if examples is None:
        return "loop", 1, "no client's examples could be read to try it with"
    try:
        why = why_not(simulation.plan, examples)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - user code may raise anything, and will
        return "loop", 1, f"a trial of it failed ({one_line(error)})"
    if why:
        return "loop", 1, why
    return "vectorized", width or _FEW, ""


def _some_examples(population: Population) -> Examples | None:
    """Return a few examples; None if the first client, who should have some, fails to."""
    if isinstance(population, PartitionedPopulation):
        return population.pool.take(torch.arange(min(_TRIED, len(population.pool))))
    try:
        return population.client(0).train or None
    except (Exception, SystemExit):  # noqa: BLE001 - user code may raise anything; rounds report it
        return None


def _width(learner: Learner, device: str) -> int:
    """Return how many models of this kind are trained at once; 0 if the loop is as fast."""
    where = learner.spec.trainable
    size = max(1, where.stop - where.start)
    layers = layers_of(learner.model, torch.device(device))
    if layers is None:
        return _TRANSFORMED if size <= LARGEST_TRANSFORMED else 0
    if convolves(layers):
        return 1
    width = 1
    while width < _WIDEST and 2 * width * size <= _MOST_TOGETHER:
        width *= 2
    return width


def _workers(simulation: Simulation, asked: int | Literal["auto"], device: str) -> int:
    if asked != "auto":
        return asked
    if device == "cuda":
        return 1
    return available_cores() if hasattr(os, "fork") and _work(simulation) > _SHORT else 1


def _work(simulation: Simulation) -> float:
    """Return about how many multiplications the training of the whole run takes."""
    experiment, where = simulation.plan.experiment, simulation.learner.spec.trainable
    client = experiment.client
    examples = _typical_size(simulation.population)
    batch: float = examples if client.batch_size == "full" else client.batch_size
    seen = examples * (client.epochs or 1) if client.steps is None else client.steps * batch
    clients = experiment.rounds * experiment.cohort.size
    return float(3 * clients * seen * (where.stop - where.start))


def _typical_size(population: Population) -> float:
    if isinstance(population, PartitionedPopulation):
        return sum(population.train_sizes) / population.size
    return _TYPICAL  # to count would be to make a client's data before the run has begun


def cost_of(simulation: Simulation) -> Cost:
    """Return about how much work each client is: its examples, where they decide and are known."""
    steps, population = simulation.plan.experiment.client.steps, simulation.population
    if steps is None and isinstance(population, PartitionedPopulation):
        return population.train_sizes.__getitem__
    return lambda _client_id: 1


def clients_of(
    simulation: Simulation,
    engine: Engine,
    trainer: Trainer,
    store: ClientStore,
    ranks: Ranks = ALONE,
    legacy: Legacy = Legacy(),
) -> Clients:
    """Return the simulated population of a run.

    Args:
        simulation: The experiment with its data at hand.
        engine: How it is computed.
        trainer: Trains and evaluates clients.
        store: Their states; those of rank 0 are the run's.
        ranks: Those that compute it together.
        legacy: What is left of earlier rounds.
    """
    adversary = simulation.adversary
    if adversary is not None and adversary.plots:
        return LoopClients(trainer, simulation.clients, store, adversary)
    learner = simulation.learner
    vectorized = engine.executor == "vectorized"
    limit = simulation.plan.experiment.engine.state_memory_bytes
    return BlockClients(
        trainer=trainer,
        population=simulation.clients,
        store=SharedStates(
            ranks,
            store,
            lambda: ClientStore(limit_bytes=limit // ranks.size),
            any_yet=legacy.stateful,
        ),
        adversary=adversary,
        cost=cost_of(simulation),
        widths=Widths(engine.width, dict(legacy.narrowed)),
        together=Stack(learner).train if vectorized else None,
        judge=partial(evaluate_together, learner) if vectorized else None,
        ranks=ranks,
    )
