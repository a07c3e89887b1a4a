"""The loop executor: a whole population in this process, one client after another.

It is the reference that every faster engine must equal. Memory follows one client at a time: data
is made when it is needed and dropped afterwards. Where clients attack together, and only there, the
updates that they look at are held until the round is over.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from roundel.client.attempt import Answer, attempt_evaluation, attempt_training
from roundel.client.trainer import Tamper, Trainer
from roundel.core.clientstate import ClientState, ClientStore
from roundel.core.data import Population
from roundel.core.messages import (
    PARAMS,
    ClientFailure,
    ClientUpdate,
    EvaluateRequest,
    Evaluation,
    Ticket,
)
from roundel.server.open_round import OpenRound
from roundel.server.round import Accept, Assign, ClientFailed, Instruction, UpdateArrived
from roundel.simulations.attacks.adversary import Adversary, sending


@dataclass(frozen=True, kw_only=True)
class Plot:
    """What clients that attack together know in a round.

    Attributes:
        answers: Honest clients whom they have looked at, to what these will send.
        crafted: What all of them send, ``(D,)``; None if they could look at nobody.
    """

    answers: dict[int, Answer] = field(default_factory=dict[int, Answer])
    crafted: Tensor | None = None


class LoopClients:
    """A simulated population that answers at once.

    No time passes in it, so deadlines never run out.
    """

    def __init__(
        self,
        trainer: Trainer,
        population: Population,
        store: ClientStore,
        adversary: Adversary | None = None,
    ) -> None:
        """Make the clients of a run.

        Args:
            trainer: Trains and evaluates them.
            population: Their data, as they train on it.
            store: Their states.
            adversary: Those that attack; None if nobody does.
        """
        self._trainer = trainer
        self._population = population
        self._store = store
        self._adversary = adversary

    @property
    def size(self) -> int:
        """N, the population."""
        return self._population.size

    def train(self, open_round: OpenRound) -> None:
        """Train the cohort in its order until the round has ended."""
        todo = deque(_assignments(open_round.start(now_s=0.0)))
        plot = self._plot(open_round, [assignment.ticket for assignment in todo])
        while todo and open_round.ended is None:
            # Only assignments are kept: what was accepted would hold its update in memory.
            todo.extend(_assignments(self._carry(open_round, todo.popleft(), plot)))

    def _carry(self, open_round: OpenRound, assignment: Assign, plot: Plot) -> list[Instruction]:
        client_id = assignment.ticket.client_id
        if client_id in plot.answers:
            answer, state = plot.answers.pop(client_id)  # so that it is dropped once it is accepted
        else:
            tamper = self._tamper(assignment.ticket, plot)
            answer, state = self._attempt(open_round, assignment.ticket, tamper)
        if isinstance(answer, ClientFailure):
            return open_round.handle(ClientFailed(answer))
        instructions = open_round.handle(UpdateArrived(answer))
        if any(isinstance(instruction, Accept) for instruction in instructions):
            self._store.stage(client_id, state)
        return instructions

    def _attempt(self, open_round: OpenRound, ticket: Ticket, tamper: Tamper | None) -> Answer:
        return attempt_training(
            self._trainer,
            open_round.request(ticket),
            self._population.client,
            self._store.get(ticket.client_id),
            tamper,
        )

    def _tamper(self, ticket: Ticket, plot: Plot) -> Tamper | None:
        """Return what a client does to its update, if it attacks."""
        if self._adversary is None or ticket.client_id not in self._adversary.clients:
            return None
        return sending(plot.crafted) if plot.crafted is not None else self._adversary.tamper(ticket)

    def _plot(self, open_round: OpenRound, tickets: Sequence[Ticket]) -> Plot:
        """Train those whom malicious clients look at, if they do, and craft what they send.

        They look at as many as the round counts, in the order of the cohort, and take it that their
        own updates will be among these.
        """
        adversary = self._adversary
        if adversary is None or adversary.attack.together is None:
            return Plot()
        if adversary.clients.isdisjoint(ticket.client_id for ticket in tickets):
            return Plot()
        omniscient, target = adversary.attack.omniscient, open_round.machine.terms.target
        plot = Plot()
        seen: dict[int, Tensor] = {}
        counted = malicious = 0
        for ticket in tickets:
            if counted == target:
                break
            mine = ticket.client_id in adversary.clients
            counts = not mine or not self._trainer.fails(ticket)
            if mine != omniscient:
                answer = self._attempt(open_round, ticket, None)
                update = _accepted(open_round, answer[0])
                if update is not None:
                    seen[ticket.client_id] = update.channels[PARAMS]
                if not mine:
                    plot.answers[ticket.client_id] = answer
                    counts = update is not None
            counted += counts
            malicious += counts and mine
        if not seen or not malicious:
            return plot
        rows = torch.stack([seen[client_id] for client_id in sorted(seen)]).double()
        n = counted if omniscient else target
        return replace(plot, crafted=adversary.attack.together(rows, n, malicious))

    def commit(self, round: int, accepted: Sequence[int]) -> None:
        """Make the staged states of the accepted clients final."""
        self._store.commit(accepted)

    def evaluate(self, requests: Sequence[EvaluateRequest]) -> Sequence[Evaluation | ClientFailure]:
        """Evaluate the clients one after another."""
        return [
            attempt_evaluation(
                self._trainer,
                request,
                self._population.client,
                self._store.get(request.ticket.client_id),
            )
            for request in requests
        ]

    def states(self) -> Mapping[int, ClientState]:
        """Return all committed client states."""
        return self._store.committed


def _accepted(open_round: OpenRound, answer: ClientUpdate | ClientFailure) -> ClientUpdate | None:
    """Return an update decoded, if the gate would let it through."""
    return None if isinstance(answer, ClientFailure) else open_round.decoded(answer)


def _assignments(instructions: Sequence[Instruction]) -> list[Assign]:
    return [instruction for instruction in instructions if isinstance(instruction, Assign)]
