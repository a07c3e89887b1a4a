"""What each rank of a run does: all of them the same, but for whom they train.

A rank goes through every round with the same state as the others: it draws the same cohort, sums
to the same aggregate and takes the same step. Rank 0 alone has the run's directory, and with it
the secrets; what the others need to know of these, it tells them.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from roundel.client.trainer import Trainer
from roundel.core.clientstate import ClientStore
from roundel.core.data import Examples
from roundel.core.errors import RunFailed
from roundel.core.learning import evaluation_chunks
from roundel.core.metrics import Metrics, merge
from roundel.core.ranks import Ranks
from roundel.core.rundir import RunDirectory
from roundel.core.seeds import generator_states, put_back, same_states
from roundel.server.aggregation import ServerState, completed
from roundel.server.checkpoints import open_store
from roundel.server.loop import Clients, Server
from roundel.server.run import OnRound, Rounds, Start, run_rounds
from roundel.simulations.engine import Engine, Legacy, clients_of
from roundel.simulations.exchange import APART, joined_metrics
from roundel.simulations.prepare import Simulation

Ask = Callable[[int], bytes]


@dataclass(frozen=True, kw_only=True)
class Opening:
    """Where a run begins, as all of its ranks must know it.

    Attributes:
        path: The run directory, which rank 0 alone may be able to see.
        environment: What it says the run runs on.
        start: The state to begin with; those of clients on rank 0 only.
        key: What noise of clients' own is drawn from; empty if they add none.
        legacy: What is left of earlier rounds.
    """

    path: Path
    environment: Mapping[str, Any]
    start: Start
    key: bytes
    legacy: Legacy


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a rank of a run does.

    Attributes:
        simulation: The experiment with its data at hand.
        engine: How it is computed.
        opening: Where it begins.
    """

    simulation: Simulation
    engine: Engine
    opening: Opening

    def lead(self, ranks: Ranks, directory: RunDirectory, on_round: OnRound) -> None:
        """Do rank 0's share: compute, write everything down, tell what happens.

        Raises:
            RunFailed: Too few clients answered, recomputed rounds gave other hashes, or ranks came
                apart.
        """
        start = self.opening.start
        server = self._server(told(ranks, directory.secret), directory.bind_noise)
        clients = self._clients(ranks, open_store(directory, start.clients))
        rounds = self._rounds(server, clients, ranks)
        run_rounds(server, clients, directory, start, on_round, rounds)

    def follow(self, ranks: Ranks) -> list[Mapping[str, Any]]:
        """Do another rank's share; return what there is to say about each round.

        Raises:
            RunFailed: As for `lead`, or another rank was lost.
        """
        server = self._server(told(ranks, None))
        clients = self._clients(ranks, ClientStore())
        rounds = self._rounds(server, clients, ranks)
        return [report.record.line() for _, report in rounds]

    def _server(self, secrets: Ask, bind_noise: Callable[[int, str], None] | None = None) -> Server:
        run = self.opening.environment["run_id"]
        return self.simulation.server(run, secrets, bind_noise=bind_noise)

    def _rounds(self, server: Server, clients: Clients, ranks: Ranks) -> Rounds:
        judging = replace(server, tested=partial(tested, server, ranks))
        start = self.opening.start
        return agreed(judging.rounds(clients, start.state, start.past), ranks)

    def _clients(self, ranks: Ranks, store: ClientStore) -> Clients:
        trainer = Trainer(self.simulation.plan, self.simulation.learner, lambda: self.opening.key)
        return clients_of(
            self.simulation,
            self.engine,
            trainer,
            store,
            ranks,
            self.opening.legacy,
        )


def told(ranks: Ranks, ask: Ask | None) -> Ask:
    """Return what gives all ranks a secret that rank 0 alone can ask for.

    Args:
        ranks: All of them ask at once.
        ask: Gives a round's secret; None on the others.
    """

    def shared(round: int) -> bytes:
        return ranks.gathered(b"" if ask is None else ask(round))[0]

    return shared


def agreed(rounds: Rounds, ranks: Ranks) -> Rounds:
    """Yield the rounds after making sure that all ranks say the same about them.

    Raises:
        RunFailed: They do not.
    """
    for state, report in rounds:
        if ranks.size > 1:
            own = {**report.record.line(), "seconds": None}
            check_equal([json.loads(said) for said in ranks.gathered(json.dumps(own).encode())])
        yield state, report


def check_equal(lines: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a round that came out differently from rank to rank.

    Args:
        lines: What each rank has to say about it.

    Raises:
        RunFailed: They differ.
    """
    first = lines[0]
    for rank, line in enumerate(lines):
        for key in ("params_sha256", *first, *line):
            if repr(line.get(key)) != repr(first.get(key)):  # not a number is like itself
                raise RunFailed(
                    f"after round {first['round']} rank {rank} has the {key} {line.get(key)} and "
                    f"rank 0 {first.get(key)}, although both computed the same: {APART}"
                )


def tested(server: Server, ranks: Ranks, state: ServerState, test: Examples) -> Metrics:
    """Return the sums over the global test set, whose chunks are dealt out to the ranks.

    A model that draws at random while it is judged is judged as a whole on every rank: where it
    drew last decides what it draws next.

    Args:
        server: Has the model.
        ranks: All of them ask at once.
        state: What is judged.
        test: The examples.
    """
    learner = server.learner
    whole = completed(server.plan.strategy, learner, state)
    chunks = list(evaluation_chunks(test))
    if ranks.size == 1 or len(chunks) == 1:
        return learner.evaluate(*whole, test)
    before = generator_states()
    own = [learner.evaluate(*whole, chunk) for chunk in chunks[ranks.rank :: ranks.size]]
    drew = not same_states(before, generator_states())
    parts = joined_metrics(ranks, own)
    if any(ranks.largest(torch.tensor([drew], dtype=torch.int64))):
        put_back(before)
        return learner.evaluate(*whole, test)
    return merge(parts)
