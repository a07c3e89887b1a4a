"""The models of a recorded run: the global one round by round, and those of a round's clients."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roundel.core.data import Examples
from roundel.core.errors import ConfigError, RunFailed
from roundel.core.messages import BUFFERS, INTEGERS, PARAMS
from roundel.core.params import ParamSpec
from roundel.core.seeds import derive, isolated_rng, sample
from roundel.core.usercode import user_code
from roundel.server.aggregation import ServerState, reported
from roundel.server.loop import Clients
from roundel.simulations.overheard import Overheard
from roundel.simulations.prepare import Pieces, Simulation
from roundel.simulations.recompute import Recorded, Rerun

MOST_EXAMPLES = 2_000
"""On which a loss is measured, however large the test set is."""

MOST_NUMBERS = 1 << 25
"""In all models of a kind that are kept, which is 256 MB; of longer paths some rounds are kept."""

_FEWEST = 3
"""Models of a path that show where it went."""

Array = NDArray[np.float64]

Tell = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True, kw_only=True)
class Models:
    """Some models of a run.

    Attributes:
        numbers: Which they are: rounds or clients.
        points: Their shared trainable parameters, shape ``(P, T)``.
        losses: Shape ``(P,)``.
    """

    numbers: Sequence[int]
    points: Array
    losses: Array

    def last(self, count: int) -> "Models":
        """Return the last so many of them."""
        return Models(
            numbers=self.numbers[-count:], points=self.points[-count:], losses=self.losses[-count:]
        )


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Measures the loss of models of one run.

    Personal layers are as a new client has them.

    Attributes:
        rerun: The run.
        examples: On which it is measured.
    """

    rerun: Rerun
    examples: Examples

    @classmethod
    def of(cls, rerun: Rerun) -> "Judge":
        """Measure on the global test set, or on what clients hold out where there is none.

        Raises:
            ConfigError: There is neither.
        """
        return cls(rerun=rerun, examples=_examples(rerun.simulation, rerun.path))

    def loss(self, shared: Tensor, integers: Tensor) -> float:
        """Return the mean loss.

        Args:
            shared: The shared part of the vector, shape ``(S,)``.
            integers: The shared integer buffers.

        Raises:
            RunFailed: The user's code failed.
        """
        simulation = self.rerun.simulation
        learner = simulation.learner
        whole = learner.completed(shared, integers)
        seed = derive(simulation.plan.experiment.seed_for("training"), "landscape")
        what = f"evaluating a model of {self.rerun.path}"
        with isolated_rng(seed), user_code(what, RunFailed):
            return learner.evaluate(*whole, self.examples).means()["loss"]


@dataclass(frozen=True, kw_only=True)
class Walk:
    """A run as it went.

    Attributes:
        judge: Measures losses of its models.
        final: The shared part of its model after the last of the rounds, shape ``(S,)``.
        integers: The integer buffers of that model.
        path: The global model after the rounds, from 0; not all of them if there are many, but
            always the last two.
        clients: What the clients of the last round made of what they were sent, if it counted.
    """

    judge: Judge
    final: Tensor
    integers: Tensor
    path: Models
    clients: Models

    @property
    def end(self) -> Array:
        """The last point of its path, shape ``(T,)``."""
        point: Array = self.path.points[-1]
        return point

    @property
    def spec(self) -> ParamSpec:
        """The layout of its model."""
        return self.judge.rerun.simulation.learner.spec


def walk(
    path: Path,
    *,
    round: int | None,
    runs: int,
    tell: Tell,
    pieces: Pieces = Pieces(),
) -> Walk:
    """Compute a run again, and keep its models.

    Args:
        path: The run directory; nothing is written there.
        round: After which round to stop; by default after the last one that it recorded.
        runs: How many runs share the memory.
        tell: Hears how far it is.
        pieces: The same pieces that the run began with.

    Raises:
        ConfigError: It has no such round, diverged before it, or cannot be computed again here.
        RunDirectoryError: The directory is not a run's, or it is damaged.
        RunFailed: A round came out with another hash than the recorded one.
    """
    recorded = Recorded.read(path, "a landscape")
    last = _last_round(recorded, round)
    rerun = Rerun.of(recorded, last, pieces, load_test=True)
    spec, strategy = rerun.simulation.learner.spec, rerun.simulation.plan.strategy
    most = max(_FEWEST, MOST_NUMBERS // (runs * spec.size))
    kept = _evenly(last + 1, most) | {last - 1}
    judge = Judge.of(rerun)
    clients = Overheard(
        clients=rerun.clients(rerun.store({})), strategy=strategy, spec=spec, round=last
    )
    points, losses = [], []
    sent = state = rerun.server.initial_state()
    with rerun.computing():
        for state in _states(rerun, clients, last):
            tell(f"computing {path} again", state.round, last)
            if state.round in kept:
                shown = reported(strategy, spec, state)
                points.append(_point(spec, shown))
                losses.append(judge.loss(shown, state.integers))
            if state.round == last - 1:
                sent = state
        theirs = _models_of(clients, judge, sent, most)
    _check_finite(path, sorted(kept), points)
    return Walk(
        judge=judge,
        final=reported(strategy, spec, state),
        integers=state.integers,
        path=Models(numbers=sorted(kept), points=np.stack(points), losses=np.array(losses)),
        clients=theirs,
    )


def _last_round(recorded: Recorded, wanted: int | None) -> int:
    last = recorded.last_round
    if not last:
        raise ConfigError(f"{recorded.path} has recorded no round; draw it once it has")
    if wanted is not None and wanted > last:
        raise ConfigError(
            f"{recorded.path} has recorded {last} rounds, and round {wanted} was asked for; "
            "choose an earlier one with --round"
        )
    return wanted or last


def _states(rerun: Rerun, clients: Clients, last: int) -> Iterator[ServerState]:
    """Yield the initial state, and the one after each round."""
    start = rerun.server.initial_state()
    yield start
    for state, _ in rerun.rounds(clients, start):
        yield state
        if state.round == last:
            return


def _models_of(clients: Overheard, judge: Judge, sent: ServerState, most: int) -> Models:
    """Return what clients made of a state."""
    spec = judge.rerun.simulation.learner.spec
    heard = sorted(clients.heard.items())
    shown = [heard[place] for place in sorted(_evenly(len(heard), most))]
    points, losses = (
        np.empty((len(shown), spec.shared_trainable.stop - spec.shared_trainable.start)),
        np.empty(len(shown)),
    )
    for place, (_, channels) in enumerate(shown):
        shared = sent.params.clone()
        shared[spec.shared_trainable] += channels[PARAMS]
        if BUFFERS in channels:
            shared[spec.shared_buffers] += channels[BUFFERS]
        points[place] = _point(spec, shared)
        losses[place] = judge.loss(shared, channels.get(INTEGERS, sent.integers))
    return Models(numbers=[number for number, _ in shown], points=points, losses=losses)


def _check_finite(path: Path, rounds: Sequence[int], points: Sequence[Array]) -> None:
    for number, point in zip(rounds, points, strict=True):
        if not np.isfinite(point).all():
            raise ConfigError(
                f"{path} diverged: after round {number} its parameters are not finite; draw what "
                "came before with --round"
            )


def _evenly(count: int, most: int) -> frozenset[int]:
    """Return at most so many of ``range(count)``, the first and the last among them."""
    kept = min(count, most)
    return frozenset(round(place * (count - 1) / max(1, kept - 1)) for place in range(kept))


def _point(spec: ParamSpec, shared: Tensor) -> Array:
    point: Array = shared[spec.shared_trainable].double().numpy()
    return point


def _examples(simulation: Simulation, path: Path) -> Examples:
    seed = derive(simulation.plan.experiment.seed_for("data"), "landscape")
    if simulation.test is not None:
        rows = sample(len(simulation.test), min(len(simulation.test), MOST_EXAMPLES), seed)
        return simulation.test.take(torch.tensor(rows))
    inputs, targets, count = [], [], 0
    for client in range(simulation.population.size):
        held = simulation.population.client(client).test
        if len(held):
            inputs.append(held.inputs)
            targets.append(held.targets)
        count += len(held)
        if count >= MOST_EXAMPLES:
            break
    if not count:
        raise ConfigError(
            f"{path} has no examples to measure a loss on: its task has no test set and its "
            "clients hold nothing out; set partition.test in a run that is to be drawn"
        )
    return Examples(torch.cat(inputs)[:MOST_EXAMPLES], torch.cat(targets)[:MOST_EXAMPLES])
