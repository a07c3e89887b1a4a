"""The loop executor: a whole population in this process, one client after another.

It is the reference that every faster engine must equal. Memory follows one client at a time: data
is made when it is needed and dropped afterwards.
"""

from collections import deque
from collections.abc import Mapping, Sequence

from roundel.client.attempt import attempt_evaluation, attempt_training
from roundel.client.trainer import Trainer
from roundel.core.clientstate import ClientState, ClientStore
from roundel.core.data import Population
from roundel.core.messages import ClientFailure, EvaluateRequest, Evaluation
from roundel.server.open_round import OpenRound
from roundel.server.round import Accept, Assign, ClientFailed, Instruction, UpdateArrived


class LoopClients:
    """A simulated population that answers at once.

    No time passes in it, so deadlines never run out.
    """

    def __init__(self, trainer: Trainer, population: Population, store: ClientStore) -> None:
        self._trainer = trainer
        self._population = population
        self._store = store

    @property
    def size(self) -> int:
        """N, the population."""
        return self._population.size

    def train(self, open_round: OpenRound) -> None:
        """Train the cohort in its order until the round has ended."""
        todo = deque(_assignments(open_round.start(now_s=0.0)))
        while todo and open_round.ended is None:
            # Only assignments are kept: what was accepted would hold its update in memory.
            todo.extend(_assignments(self._carry(open_round, todo.popleft())))

    def _carry(self, open_round: OpenRound, assignment: Assign) -> list[Instruction]:
        request = open_round.request(assignment.ticket)
        client_id = assignment.ticket.client_id
        answer, state = attempt_training(
            self._trainer, request, self._population.client, self._store.get(client_id)
        )
        if isinstance(answer, ClientFailure):
            return open_round.handle(ClientFailed(answer))
        instructions = open_round.handle(UpdateArrived(answer))
        if any(isinstance(instruction, Accept) for instruction in instructions):
            self._store.stage(client_id, state)
        return instructions

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


def _assignments(instructions: Sequence[Instruction]) -> list[Assign]:
    return [instruction for instruction in instructions if isinstance(instruction, Assign)]
