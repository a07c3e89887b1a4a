"""A node: several clients, their data and their states, without any networking."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from roundel.client.attempt import attempt_evaluation, attempt_training
from roundel.client.trainer import Tamper, Trainer
from roundel.core.clientstate import ClientState, ClientStore
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
from roundel.strategies.plan import Plan


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
        fingerprint: Of the model's layout and of who holds what; must be the coordinator's.
        tamper: Whose updates are tampered with before they are sent, and how.
    """

    plan: Plan
    learner: Learner
    population: Population
    client_ids: Sequence[int]
    fingerprint: str
    tamper: Callable[[Ticket], Tamper | None] = honest


class Node:
    """Does the work that a coordinator sends."""

    def __init__(self, hosted: Hosted) -> None:
        self._trainer = Trainer(hosted.plan, hosted.learner)
        self._population = hosted.population
        self._tamper = hosted.tamper
        engine = hosted.plan.experiment.engine
        self._store = ClientStore(limit_bytes=engine.state_memory_bytes)

    def train(self, request: TrainRequest) -> tuple[ClientUpdate | ClientFailure, ClientState]:
        """Train one client; return its answer and the state to `stage` if that is accepted."""
        state = self._store.get(request.ticket.client_id)
        tamper = self._tamper(request.ticket)
        return attempt_training(self._trainer, request, self._population.client, state, tamper)

    def stage(self, client_id: int, state: ClientState) -> None:
        """Keep a client's new state for the commit of the round."""
        self._store.stage(client_id, state)

    def commit(self, accepted: Sequence[int]) -> None:
        """Make the staged states of these clients final."""
        self._store.commit(accepted)

    def evaluate(self, request: EvaluateRequest) -> Evaluation | ClientFailure:
        """Evaluate one client."""
        state = self._store.get(request.ticket.client_id)
        return attempt_evaluation(self._trainer, request, self._population.client, state)
