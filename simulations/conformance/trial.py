"""A federation of a few clients with a small network, run step by step, to try a strategy on.

The model has what strategies ask for: two linear layers, the last of which is a head, and a
BatchNorm with its buffers between them, or a GroupNorm for strategies that refuse buffers. Every
step is a pure function of the client's and the server's, called directly, so that an exception in a
strategy comes through as it is.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from roundel.client.trainer import Tamper, Trainer
from roundel.core.clientstate import ClientState
from roundel.core.config import Experiment
from roundel.core.data import Examples, InMemoryPopulation
from roundel.core.errors import RoundelError
from roundel.core.messages import PARAMS, ClientUpdate, EvaluateRequest, Ticket, TrainRequest
from roundel.core.metrics import Metrics
from roundel.core.noise import key_of, standard_normal
from roundel.core.seeds import derive, isolated_rng, torch_generator
from roundel.core.task import Task
from roundel.server.admission import Admission
from roundel.server.aggregation import (
    ServerState,
    aggregate_updates,
    broadcast_channels,
    initial_state,
    reported,
)
from roundel.server.judging import EVALUATION_STAGE
from roundel.simulations.conformance.observed import Asked, Log, difference
from roundel.simulations.prepare import Pieces, Simulation, prepare
from roundel.strategies.compose import Strategy
from roundel.strategies.sites import RoundContext

POPULATION = 8
COHORT = (0, 1, 2, 3, 4, 6, 7)
"""Seven clients: as many as Bulyan needs against one attacker."""
JUDGES = (COHORT[0], 5)
"""Who evaluates: one of the cohort, and one that is never in it."""
ROUNDS = 2
RUN = "trial"

_FEATURES, _WIDTH, _CLASSES = 6, 8, 3


class Net(nn.Module):
    """A body, a norm, and a head.

    Args:
        features: How many numbers an input has.
        width: Of the hidden layer.
        buffers: Whether the norm is one with float buffers and a counter.
    """

    def __init__(self, features: int, width: int, *, buffers: bool) -> None:
        super().__init__()
        self.body = nn.Linear(features, width)
        self.norm = nn.BatchNorm1d(width) if buffers else nn.GroupNorm(2, width)
        self.head = nn.Linear(width, _CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits ``(B, 3)`` of inputs ``(B, features)``."""
        outputs: Tensor = self.head(self.norm(self.body(inputs)).tanh())
        return outputs


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Where a trial stands between two rounds.

    Attributes:
        state: The server's state.
        clients: The states that clients keep.
    """

    state: ServerState
    clients: Mapping[int, ClientState] = field(default_factory=dict[int, ClientState])


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a cohort sent in one round.

    Attributes:
        before: The moment at which it was asked.
        sent: Client to its update as sent.
        accepted: Client to its update as the admission gate lets it through.
        refused: Client to the reason why its update was refused.
        clients: Client to the state it keeps if it was accepted.
        asked: Client to the names of the state that it was asked for.
        changed: What training changed of what it was given, if anything.
    """

    before: Moment
    sent: Mapping[int, ClientUpdate]
    accepted: Mapping[int, ClientUpdate]
    refused: Mapping[int, str]
    clients: Mapping[int, ClientState]
    asked: Mapping[int, frozenset[str]]
    changed: str = ""


class Trial:
    """One strategy on the small federation.

    Attributes:
        simulation: The experiment with its clients.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        dtype: torch.dtype = torch.float32,
        flat: bool = False,
        width: int | None = None,
        log: Log | None = None,
    ) -> None:
        """Make everything ready.

        Args:
            strategy: What to try.
            dtype: The model's.
            flat: Whether the loss is 0 wherever the model is, so that nothing pushes it.
            width: Of the inputs and of the model's hidden layer; small by default.
            log: Is told which round and client comes next.

        Raises:
            RoundelError: The strategy cannot be used, neither with BatchNorm nor without.
        """
        features, hidden = width or _FEATURES, width or _WIDTH
        root, *clients = _examples(features, dtype)
        experiment = Experiment.model_validate(
            {
                "rounds": ROUNDS,
                "cohort": {"size": len(COHORT)},
                "client": {"steps": 2, "batch_size": 4, "lr": 0.1},
                "evaluation": {"clients": 0},
            }
        )
        task, without = (_task(model, flat=flat) for model in _models(features, hidden, dtype))
        pieces = Pieces(
            task=task,
            strategy=strategy,
            population=InMemoryPopulation.of(clients),
            root=root,
        )
        self.simulation = _prepared(experiment, pieces, without)
        self._flat = flat
        self._log = log or Log()
        self._trainer = Trainer(self.simulation.plan, self.simulation.learner, secret_of_clients)

    @property
    def strategy(self) -> Strategy:
        """The strategy that is tried."""
        return self.simulation.plan.strategy

    def first(self) -> Moment:
        """Return the moment before round 1."""
        learner = self.simulation.learner
        vector, integers = learner.initial, learner.initial_integers
        return Moment(state=initial_state(self.strategy, learner.spec, vector, integers))

    def ask(
        self, moment: Moment, cohort: Sequence[int] = COHORT, tamper: Mapping[int, Tamper] = {}
    ) -> Answers:
        """Let a cohort train; nothing is aggregated yet.

        Args:
            moment: Where the trial stands.
            cohort: Who trains.
            tamper: Changes the updates of some clients before they are encoded.
        """
        state = moment.state
        channels = broadcast_channels(self.strategy, state)
        gate = Admission(
            strategy=self.strategy,
            spec=self.simulation.learner.spec,
            base_version=state.round,
            selected=len(cohort),
            broadcast=channels,
            integers=state.integers,
        )
        sent: dict[int, ClientUpdate] = {}
        accepted: dict[int, ClientUpdate] = {}
        refused: dict[int, str] = {}
        clients: dict[int, ClientState] = {}
        asked: dict[int, frozenset[str]] = {}
        changed = ""
        for client in cohort:
            self._log.moment = (state.round + 1, client)
            request = TrainRequest(
                ticket=Ticket(run=RUN, round=state.round + 1, client_id=client),
                base_version=state.round,
                params=state.params.clone(),
                integers=state.integers.clone(),
                channels={name: value.clone() for name, value in channels.items()},
            )
            own = Asked({n: v.clone() for n, v in moment.clients.get(client, {}).items()})
            examples = self.simulation.population.client(client).train
            sent[client], kept = self._trainer.train(request, examples, own, tamper.get(client))
            asked[client] = frozenset(own.names)
            changed = changed or _changed(request, own, moment, channels, client)
            answer = gate(sent[client])
            if isinstance(answer, str):
                refused[client] = answer
            else:
                accepted[client], clients[client] = answer, kept
        return Answers(
            before=moment,
            sent=sent,
            accepted=accepted,
            refused=refused,
            clients=clients,
            asked=asked,
            changed=changed,
        )

    def aggregated(self, moment: Moment, updates: Iterable[ClientUpdate]) -> ServerState:
        """Return the server's state after a round of these updates."""
        number = moment.state.round + 1
        self._log.moment = (number, -1)
        return aggregate_updates(
            self.strategy,
            self.simulation.learner.spec,
            moment.state,
            updates,
            POPULATION,
            wanted=len(COHORT),
            root=self.root(),
            noise=self.noise(number),
        )

    def context(self, moment: Moment, completed: int) -> RoundContext:
        """Return what the server knows in a round of so many updates."""
        number = moment.state.round + 1
        return RoundContext(
            round=number,
            population=POPULATION,
            selected=completed,
            completed=completed,
            wanted=len(COHORT),
            root=self.root(),
            states=moment.state.transforms,
            noise=self.noise(number),
            seed=derive(0, "aggregation", number),
        )

    def commit(self, answers: Answers) -> Moment:
        """Return the moment after a round."""
        state = self.aggregated(answers.before, answers.accepted.values())
        return Moment(state=state, clients={**answers.before.clients, **answers.clients})

    def judge(self, moment: Moment) -> Mapping[int, Metrics]:
        """Let one client that has trained and one that has not evaluate what would be saved."""
        state = moment.state
        shown = reported(self.strategy, self.simulation.learner.spec, state)
        found: dict[int, Metrics] = {}
        for client in JUDGES:
            self._log.moment = (state.round, client)
            ticket = Ticket(run=RUN, round=state.round, client_id=client, stage=EVALUATION_STAGE)
            request = EvaluateRequest(ticket=ticket, params=shown, integers=state.integers)
            examples = self.simulation.population.client(client).train
            own = moment.clients.get(client, {})
            found[client] = self._trainer.evaluate(request, examples, own, examples).metrics
        return found

    def root(self) -> Mapping[str, Tensor]:
        """Return what training on root examples might have given."""
        spec = self.simulation.learner.spec
        size = spec.shared_trainable.stop - spec.shared_trainable.start
        return {PARAMS: torch.full((size,), 0.0 if self._flat else 0.01, dtype=spec.dtype)}

    def noise(self, round: int) -> Mapping[str, Tensor]:
        """Return a round's standard normal numbers for the links that want some."""
        sizes = self.strategy.aggregated(self.simulation.learner.spec)
        return {
            f"{link.name}/{channel}": standard_normal(
                key_of(derive(0, f"{link.name}/{channel}", round)), sizes[channel][0]
            )
            for link in self.strategy.server
            for channel in (link.noise.channels if link.noise else ())
        }


def secret_of_clients() -> bytes:
    """Return the key of noise that clients draw, the same in every trial."""
    return key_of(1)


def secret_of_server(round: int) -> bytes:
    """Return the key of a round's noise, the same in every trial."""
    return key_of(round + 2)


def _prepared(experiment: Experiment, pieces: Pieces, without: Task) -> Simulation:
    """Prepare the trial; with the other task where the strategy refuses the first, as it may."""
    try:
        return prepare(experiment, pieces)
    except RoundelError as error:
        try:
            return prepare(experiment, replace(pieces, task=without))
        except RoundelError:
            raise error from None


def _task(model: nn.Module, *, flat: bool) -> Task:
    def nothing(outputs: Tensor, _targets: Tensor) -> Tensor:
        return 0.0 * outputs.sum()

    return Task(
        name="trial",
        model=partial(deepcopy, model),
        loss=nothing if flat else functional.cross_entropy,
    )


@cache
def _models(features: int, width: int, dtype: torch.dtype) -> Sequence[nn.Module]:
    """Return the model with BatchNorm, and the one without."""
    with isolated_rng(derive(0, "trial model")):
        return [Net(features, width, buffers=has).to(dtype) for has in (True, False)]


@cache
def _examples(features: int, dtype: torch.dtype) -> Sequence[Examples]:
    """Return the server's root examples, and those of each client."""
    generator = torch_generator(derive(0, "trial"))
    made: list[Examples] = []
    for place in range(POPULATION + 1):
        count = 5 + place % 4
        inputs = torch.randn(count, features, generator=generator, dtype=torch.float64)
        targets = torch.randint(_CLASSES, (count,), generator=generator)
        made.append(Examples(inputs.to(dtype), targets))
    return made


def _changed(
    request: TrainRequest,
    own: Asked,
    moment: Moment,
    channels: Mapping[str, Tensor],
    client: int,
) -> str:
    """Say what training changed of what it was given."""
    return (
        difference(moment.state.params, request.params, "the received parameters")
        or difference(moment.state.integers, request.integers, "the received integers")
        or difference(channels, request.channels, "the received channels")
        or difference(moment.clients.get(client, {}), own.data, "the client's state")
    )
