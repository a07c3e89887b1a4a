"""A node: several clients and their data, without any networking."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from roundel.client.attempt import attempt_evaluation, attempt_training
from roundel.client.trainer import Secret, Tamper, Trainer
from roundel.core.clientstate import ClientState
from roundel.core.data import Population
from roundel.core.learning import Learner
from roundel.core.messages import (
    ClientFailure,
    ClientUpdate,
    EvaluateRequest,
    Evaluation,
    Ticket,
    TrainRequest,
)
from roundel.core.noise import draw_secret
from roundel.strategies.plan import Plan


class HostedClients(Protocol):
    """The clients that a node hosts, whatever they do when they are asked for something."""

    @property
    def client_ids(self) -> Sequence[int]:
        """Which clients; none if the coordinator is to say which one it is."""
        ...

    @property
    def population(self) -> int:
        """How many clients the run has."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of all that must be the same at the coordinator; see `roundel.core.fingerprint`."""
        ...

    @property
    def own_data(self) -> bool:
        """Whether there is one client, with examples of the node's own."""
        ...

    @property
    def stateful(self) -> bool:
        """Whether clients keep anything from one request to the next."""
        ...

    def train(self, request: TrainRequest) -> tuple[ClientUpdate | ClientFailure, ClientState]:
        """Answer a request; return the answer and the state that the client has if that counts."""
        ...

    def evaluate(self, request: EvaluateRequest) -> Evaluation | ClientFailure:
        """Evaluate one client."""
        ...


def honest(_ticket: Ticket) -> None:
    """Say that every client sends what it has learned."""


@dataclass(frozen=True, kw_only=True)
class Hosted:
    """What a node brings to a run.

    Attributes:
        plan: The experiment.
        learner: Its model.
        population: All clients; the node asks for the data of its own only.
        client_ids: The clients that it hosts.
        fingerprint: Of all that must be the same at the coordinator; see
            `roundel.core.fingerprint`.
        tamper: Whose updates are tampered with before they are sent, and how.
        own_data: Whether it brings the examples of one client, and the coordinator says which one
            that is; `client_ids` is empty then.
    """

    plan: Plan
    learner: Learner
    population: Population
    client_ids: Sequence[int]
    fingerprint: str
    tamper: Callable[[Ticket], Tamper | None] = honest
    own_data: bool = False


def no_state(_client_id: int) -> ClientState:
    """Say that a client has never taken part."""
    return {}


class Node:
    """Clients that train by a strategy: does the work that a coordinator sends."""

    def __init__(
        self,
        hosted: Hosted,
        state_of: Callable[[int], ClientState] = no_state,
        secret: Secret = draw_secret,
    ) -> None:
        """Make a node.

        Args:
            hosted: What it brings to the run.
            state_of: A client's state as of its last committed round.
            secret: See `roundel.client.trainer.Trainer`.
        """
        self._hosted = hosted
        self._trainer = Trainer(hosted.plan, hosted.learner, secret)
        self._population = hosted.population
        self._tamper = hosted.tamper
        self._state_of = state_of

    @property
    def client_ids(self) -> Sequence[int]:
        """Which clients it hosts."""
        return self._hosted.client_ids

    @property
    def population(self) -> int:
        """How many clients the run has."""
        return self._population.size

    @property
    def fingerprint(self) -> str:
        """Of the experiment, as this node has made it."""
        return self._hosted.fingerprint

    @property
    def own_data(self) -> bool:
        """Whether it brings the examples of one client."""
        return self._hosted.own_data

    @property
    def stateful(self) -> bool:
        """Whether the strategy keeps anything at clients."""
        return self._hosted.plan.stateful(self._hosted.learner.spec)

    def train(self, request: TrainRequest) -> tuple[ClientUpdate | ClientFailure, ClientState]:
        """Train one client; return its answer and the state that it has if that counts."""
        state = self._state_of(request.ticket.client_id)
        tamper = self._tamper(request.ticket)
        return attempt_training(self._trainer, request, self._population.client, state, tamper)

    def evaluate(self, request: EvaluateRequest) -> Evaluation | ClientFailure:
        """Evaluate one client."""
        state = self._state_of(request.ticket.client_id)
        return attempt_evaluation(self._trainer, request, self._population.client, state)
