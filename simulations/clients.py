"""A simulated population that is trained in blocks: many clients at once, on one rank or several.

The loop executor (`roundel.simulations.executor`) is the reference; with blocks of one client that
is trained by itself, what comes out here is the same to the last bit, on any number of ranks.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from roundel.client.attempt import (
    Answer,
    TrainTogether,
    Work,
    attempt_block,
    attempt_evaluation,
    attempt_evaluations,
    attempt_training,
)
from roundel.client.trainer import JudgeTogether, Trainer
from roundel.core.clientstate import ClientState
from roundel.core.data import Population
from roundel.core.messages import ClientFailure, EvaluateRequest, Evaluation, Ticket
from roundel.core.ranks import ALONE, Ranks
from roundel.server.loop import StartOver
from roundel.server.open_round import OpenRound, Verdict
from roundel.server.round import Assign
from roundel.simulations.attacks.adversary import Adversary
from roundel.simulations.blocks import Cost, Durations, Widths, blocks_of, deal
from roundel.simulations.exchange import WaveShare, joined_evaluations, joined_shares
from roundel.simulations.states import SharedStates


@dataclass(frozen=True, kw_only=True)
class BlockClients:
    """A simulated population, trained block after block.

    No time passes in it, so deadlines never run out. Memory follows one block at a time.

    Attributes:
        trainer: Trains and evaluates clients.
        population: Their data, as they train on it.
        store: Their states.
        cost: About how much work a client is, known without making its data.
        widths: The most clients of a block, which halve if a device's memory does not suffice.
        together: Trains a block at once; None to train its clients one after another.
        judge: Judges a block at once, where all are judged by the same parameters; None likewise.
        adversary: Those that attack, each by itself; None if nobody does.
        ranks: Those among which blocks are divided.
    """

    trainer: Trainer
    population: Population
    store: SharedStates
    cost: Cost
    widths: Widths = field(default_factory=lambda: Widths(1))
    together: TrainTogether | None = None
    judge: JudgeTogether | None = None
    adversary: Adversary | None = None
    ranks: Ranks = ALONE

    @cached_property
    def durations(self) -> Durations:
        """What this run has found out about how long clients train; the same on all ranks."""
        return Durations(self.cost)

    @property
    def size(self) -> int:
        """N, the population."""
        return self.population.size

    def train(self, open_round: OpenRound) -> None:
        """Train the cohort until the round has ended.

        It goes in waves: each has as many clients as the round still wants, in the order of the
        cohort, so that whatever passes the gate counts, wherever it was trained.

        Raises:
            StartOver: Some rank's memory did not suffice; blocks are half as wide from now on.
        """
        width = self._width(open_round)
        open_round.width = width if width < self.widths.first else None
        for wave in self._waves(open_round):
            open_round.settle(self._carried(open_round, wave))
        open_round.accumulators.reduce(self.ranks)

    def answer(self, open_round: OpenRound, client_id: int) -> Answer | None:
        """Train the block that a client is in, and whatever decides which one that is.

        Args:
            open_round: It is left where it is then.
            client_id: The client; nothing is returned if it is not trained in this round.
        """
        for wave in self._waves(open_round):
            for block in blocks_of(wave, self._width(open_round), self.cost):
                members = [ticket.client_id for ticket in block]
                if client_id in members:
                    return self._answers(self._works(open_round, block))[members.index(client_id)]
            open_round.settle(self._carried(open_round, wave))
        return None

    def _waves(self, open_round: OpenRound) -> Iterator[list[Ticket]]:
        """Yield whom to train next, until the round has ended."""
        instructions = open_round.start(now_s=0.0)
        todo = deque(each.ticket for each in instructions if isinstance(each, Assign))
        while todo and open_round.ended is None:
            yield [todo.popleft() for _ in range(min(open_round.wanted, len(todo)))]

    def _carried(self, open_round: OpenRound, wave: Sequence[Ticket]) -> Sequence[Verdict]:
        """Train a wave; return what became of all of it, in its order.

        Raises:
            StartOver: Memory did not suffice, here or on another rank.
        """
        blocks = blocks_of(wave, self._width(open_round), self.cost)
        work = [sum(self.durations.expected(t.client_id) for t in block) for block in blocks]
        hands = deal(work, self.ranks.size)
        self.store.lend(
            {
                ticket.client_id: rank
                for rank, hand in enumerate(hands)
                for place in hand
                for ticket in blocks[place]
            }
        )
        own = self._share(open_round, [blocks[place] for place in hands[self.ranks.rank]])
        whole = joined_shares(self.ranks, own, wave)
        if whole.short:
            self.widths.narrow(open_round.machine.terms.round)
            raise StartOver
        for verdict in whole.verdicts:
            if verdict.record is not None:
                self.durations.note(verdict.record.client, verdict.record.seconds or 0.0)
        accepted = [v.ticket.client_id for v in own.verdicts if v.record is not None]
        self.store.give_back(accepted, keeps=whole.keeps)
        return whole.verdicts

    def _share(self, open_round: OpenRound, blocks: Sequence[Sequence[Ticket]]) -> WaveShare:
        """Train this rank's blocks of a wave."""
        try:
            verdicts = [verdict for block in blocks for verdict in self._block(open_round, block)]
        except torch.OutOfMemoryError:
            return WaveShare(verdicts=(), keeps=self.store.keeps, short=True)
        return WaveShare(verdicts=verdicts, keeps=self.store.keeps)

    def _width(self, open_round: OpenRound) -> int:
        return self.widths.of(open_round.machine.terms.round)

    def _block(self, open_round: OpenRound, block: Sequence[Ticket]) -> list[Verdict]:
        answers = self._answers(self._works(open_round, block))
        verdicts = open_round.admit([answer for answer, _ in answers])
        for verdict, (_, state) in zip(verdicts, answers, strict=True):
            if verdict.record is not None:
                self.store.stage(verdict.ticket.client_id, state)
        return verdicts

    def _works(self, open_round: OpenRound, block: Sequence[Ticket]) -> list[Work]:
        return [
            Work(
                request=open_round.request(ticket),
                state=self.store.get(ticket.client_id),
                tamper=self.adversary.tamper(ticket) if self.adversary is not None else None,
            )
            for ticket in block
        ]

    def _answers(self, works: Sequence[Work]) -> list[Answer]:
        data_of = self.population.client
        if self.together is not None:
            return attempt_block(self.trainer, works, data_of, self.together)
        return [
            attempt_training(self.trainer, work.request, data_of, work.state, work.tamper)
            for work in works
        ]

    def commit(self, round: int, accepted: Sequence[int]) -> None:
        """Make the staged states of the accepted clients final."""
        self.store.commit(accepted)

    def evaluate(self, requests: Sequence[EvaluateRequest]) -> Sequence[Evaluation | ClientFailure]:
        """Evaluate clients, each rank its share of them."""
        clients = [request.ticket.client_id for request in requests]
        if self.judge is not None and self.trainer.judges_alike:
            own = self._evaluated_together(requests, self.judge)
        else:
            own = self._evaluated(requests)
        found = {e.ticket.client_id: e for e in joined_evaluations(self.ranks, own)}
        return [found[client_id] for client_id in clients]

    def _evaluated(
        self, requests: Sequence[EvaluateRequest]
    ) -> Sequence[Evaluation | ClientFailure]:
        """Evaluate this rank's share, one client after another."""
        ranks = self.ranks
        places = enumerate(request.ticket.client_id for request in requests)
        self.store.lend({client: place % ranks.size for place, client in places})
        return [
            attempt_evaluation(
                self.trainer,
                request,
                self.population.client,
                self.store.get(request.ticket.client_id),
            )
            for request in requests[ranks.rank :: ranks.size]
        ]

    def _evaluated_together(
        self, requests: Sequence[EvaluateRequest], judge: JudgeTogether
    ) -> Sequence[Evaluation | ClientFailure]:
        """Evaluate this rank's share of the blocks, which are the same on any number of ranks."""
        width = self.widths.first
        starts = range(0, len(requests), width)[self.ranks.rank :: self.ranks.size]
        return [
            answer
            for start in starts
            for answer in attempt_evaluations(
                self.trainer,
                requests[start : start + width],
                self.population.client,
                judge,
            )
        ]

    def states(self) -> Mapping[int, ClientState]:
        """Return all committed client states."""
        return self.store.committed
