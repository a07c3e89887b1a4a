"""The loop over rounds: select, train, aggregate, step, evaluate.

It does no IO of its own. `Clients` carries the messages, over a function call or over gRPC; what a
round leaves behind is yielded, for the caller to write down.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from roundel.core.clientstate import ClientState
from roundel.core.data import Examples
from roundel.core.errors import CompositionError, ConfigError, RoundAborted
from roundel.core.learning import Learner, LocalContext, LocalJob
from roundel.core.messages import (
    PARAMS,
    ClientFailure,
    EvaluateRequest,
    Evaluation,
    Ticket,
)
from roundel.core.metrics import Metrics, merge, spread
from roundel.core.params import params_sha256
from roundel.core.records import RoundRecord, RoundReport
from roundel.core.seeds import derive, isolated_rng, sample
from roundel.server.admission import evaluation_defect
from roundel.server.aggregation import ServerState, broadcast_channels, initial_state, step
from roundel.server.open_round import OpenRound
from roundel.server.round import Abort, RoundTerms
from roundel.strategies.plan import Plan
from roundel.strategies.sites import RoundContext, Selection, Synchronous

EVALUATION_STAGE = 1 << 16
"""In the tickets of evaluations: a late answer to the training of the same round is no answer."""

Clock = Callable[[], float]


class Clients(Protocol):
    """The far side of the server: everything that a population of clients can be asked."""

    @property
    def size(self) -> int:
        """N, the population."""
        ...

    def train(self, open_round: OpenRound) -> None:
        """Carry a round's messages until it has ended."""
        ...

    def commit(self, round: int, accepted: Sequence[int]) -> None:
        """Make the staged states of the accepted clients final."""
        ...

    def evaluate(self, requests: Sequence[EvaluateRequest]) -> Sequence[Evaluation | ClientFailure]:
        """Ask clients for figures on their own examples; answers come in the order asked."""
        ...

    def states(self) -> Mapping[int, ClientState] | None:
        """Return all committed client states, or None if they are not at hand."""
        ...


@dataclass(frozen=True, kw_only=True)
class Server:
    """What the server holds while it runs an experiment.

    Attributes:
        plan: The experiment.
        learner: The model, to evaluate and to train on root examples.
        run: The run's identity.
        test: Global test examples, if the task has any.
        root: Root examples, for strategies that train on the server.
        clock: Seconds, monotonic.
    """

    plan: Plan
    learner: Learner
    run: str
    clock: Clock
    test: Examples | None = None
    root: Examples | None = None

    def initial_state(self) -> ServerState:
        """Return the state before round 1."""
        learner = self.learner
        return initial_state(
            self.plan.strategy, learner.spec, learner.initial, learner.initial_integers
        )

    def check(self, population: int) -> None:
        """Find contradictions before the first round.

        Raises:
            ConfigError: The cohort does not fit the population.
            CompositionError: The strategy needs root examples and there are none.
        """
        size = self.plan.experiment.cohort.size
        if size > population:
            raise ConfigError(
                f"cohort.size = {size} is more than the population of {population} clients; "
                "lower it or raise partition.clients"
            )
        if self.plan.strategy.root and not self.root:
            raise CompositionError(
                f"{self.plan.strategy.name} trains on root examples at the server, and the task "
                "gives none"
            )

    def rounds(
        self, clients: Clients, state: ServerState
    ) -> Iterator[tuple[ServerState, RoundReport]]:
        """Run the rounds that are left; yield the state and the report after each.

        Raises:
            RoundAborted: Too few clients answered; nothing of that round is applied.
        """
        self.check(clients.size)
        while state.round < self.plan.experiment.rounds:
            state, report = self._round(clients, state)
            yield state, report

    def _round(self, clients: Clients, state: ServerState) -> tuple[ServerState, RoundReport]:
        began = self.clock()
        open_round = self._open(clients.size, state)
        clients.train(open_round)
        if isinstance(open_round.ended, Abort):
            raise _aborted(open_round, open_round.ended)
        accepted = open_round.accepted()
        cohort = open_round.machine.terms.cohort
        context = RoundContext(
            round=state.round + 1,
            population=clients.size,
            selected=len(cohort),
            completed=len(accepted),
            root=self._train_on_root(state),
        )
        aggregate = open_round.accumulators.finish(context)
        after = step(self.plan.strategy, self.learner.spec, state, aggregate, context)
        clients.commit(after.round, accepted)
        record = RoundRecord(
            round=after.round,
            metrics=self._evaluate(after),
            train_loss=open_round.train_metrics().means().get("loss"),
            cohort=len(cohort),
            completed=len(accepted),
            failures=len(cohort) - len(accepted),
            bytes_up=open_round.bytes_up,
            bytes_down=open_round.bytes_down,
            params_sha256=params_sha256(after.params, after.integers),
            clients=self._evaluate_clients(clients, after),
            seconds=round(self.clock() - began, 6),
        )
        return after, RoundReport(
            record=record, clients=open_round.client_records(), failures=open_round.tracebacks()
        )

    def _open(self, population: int, state: ServerState) -> OpenRound:
        experiment, strategy = self.plan.experiment, self.plan.strategy
        number = state.round + 1
        size = experiment.cohort.size
        selection = Selection(
            round=number,
            population=population,
            size=size,
            seed=derive(experiment.seed_for("sampling"), "cohort", number),
        )
        pacing = strategy.pacing or Synchronous(
            quorum=experiment.cohort.quorum, deadline_s=experiment.cohort.deadline_s
        )
        cohort = strategy.selector.select(selection)
        terms = RoundTerms(
            run=self.run,
            round=number,
            cohort=cohort,
            target=min(size, len(cohort)),
            quorum=pacing.quorum,
            deadline_s=pacing.deadline_s,
        )
        return OpenRound(terms, strategy, self.learner.spec, state)

    def _train_on_root(self, state: ServerState) -> Mapping[str, torch.Tensor] | None:
        """Train on the root examples as a client would; return the delta, if it is asked for."""
        if self.root is None or not self.plan.strategy.root:
            return None
        number, spec = state.round + 1, self.learner.spec
        sent = self._whole(state)
        seed = self.plan.experiment.seed_for("training")
        job = LocalJob(
            context=LocalContext(
                spec=spec, sent=sent, received=broadcast_channels(self.plan.strategy, state)
            ),
            integers=state.integers,
            examples=self.root,
            phases=self.plan.phases(number),
            seed=derive(seed, "root batches", number),
        )
        with isolated_rng(derive(seed, "root training", number)):
            trained = self.learner.train(job)
        where = spec.shared_trainable
        return {PARAMS: trained.vector[where] - sent[where]}

    def _evaluate(self, state: ServerState) -> Mapping[str, float]:
        """Return means over the global test set, in rounds that are evaluated."""
        if self.test is None or not self._due(state.round, self.plan.experiment.evaluation.every):
            return {}
        seed = derive(self.plan.experiment.seed_for("training"), "evaluation", state.round)
        with isolated_rng(seed):
            metrics = self.learner.evaluate(self._whole(state), state.integers, self.test)
        return metrics.means()

    def _evaluate_clients(self, clients: Clients, state: ServerState) -> Mapping[str, Any] | None:
        """Return figures over the clients' own test examples, in rounds that have them."""
        settings = self.plan.experiment.evaluation
        asked = min(settings.clients, clients.size)
        if not asked or not self._due(state.round, settings.clients_every):
            return None
        seed = derive(self.plan.experiment.seed_for("sampling"), "evaluated", state.round)
        requests = [
            EvaluateRequest(
                ticket=Ticket(
                    run=self.run, round=state.round, client_id=client_id, stage=EVALUATION_STAGE
                ),
                params=state.params,
                integers=state.integers,
            )
            for client_id in sample(clients.size, asked, seed)
        ]
        parts, failures = _figures(clients.evaluate(requests))
        pooled = merge(parts)
        return {
            "asked": asked,
            "answered": len(parts),
            "failures": failures,
            "examples": pooled.count,
            **{
                name: {"mean": mean, **spread([part.means()[name] for part in parts])}
                for name, mean in pooled.means().items()
            },
        }

    def _due(self, number: int, every: int) -> bool:
        """Tell whether something that happens every so many rounds, and at the end, happens now."""
        return number == self.plan.experiment.rounds or (every > 0 and number % every == 0)

    def _whole(self, state: ServerState) -> torch.Tensor:
        """Return the whole vector, with personal layers as a new client has them."""
        return torch.cat([state.params, self.learner.initial[self.learner.spec.personal]])


def _figures(answers: Sequence[Evaluation | ClientFailure]) -> tuple[list[Metrics], int]:
    """Return the figures that count, and how many clients failed to give any.

    A client that holds out nothing is neither. All figures have the names that most clients gave:
    one that gives others cannot take them from everybody.
    """
    whole = [a.metrics for a in answers if isinstance(a, Evaluation) and not evaluation_defect(a)]
    given = [metrics for metrics in whole if metrics.count]
    names = Counter(frozenset(metrics.sums) for metrics in given).most_common(1)
    parts = [metrics for metrics in given if frozenset(metrics.sums) == names[0][0]]
    return parts, len(answers) - len(whole) + len(given) - len(parts)


def _aborted(open_round: OpenRound, abort: Abort) -> RoundAborted:
    """Say why the round cannot count, with one client's traceback."""
    outcomes = open_round.machine.outcomes.items()
    reasons = [(client, o) for client, o in outcomes if o.reason and o.status != "unfinished"]
    message = abort.reason
    if reasons:
        client, outcome = reasons[0]
        message += f"; client {client}: {outcome.reason}"
        if outcome.failure is not None:
            message += f" ({outcome.failure.location})\n\n{outcome.failure.traceback.rstrip()}"
    return RoundAborted(message, open_round.client_records(), open_round.tracebacks())
