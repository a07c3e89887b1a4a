"""The loop over rounds: select, train, aggregate, step, evaluate.

It does no IO of its own. `Clients` carries the messages, over a function call or over gRPC; what a
round leaves behind is yielded, for the caller to write down.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from roundel.core.clientstate import ClientState
from roundel.core.data import Examples
from roundel.core.errors import CompositionError, ConfigError, RoundAborted, RunFailed
from roundel.core.faults import drops
from roundel.core.learning import Learner
from roundel.core.metrics import Metrics
from roundel.core.params import params_sha256
from roundel.core.records import RoundRecord, RoundReport
from roundel.core.seeds import derive
from roundel.core.usercode import user_code
from roundel.server.aggregation import ServerState, initial_state, step
from roundel.server.health import health
from roundel.server.judging import Judges, Judging
from roundel.server.noise import NoiseSource
from roundel.server.open_round import OpenRound
from roundel.server.privacy import Ledger, check_covered
from roundel.server.root import root_update
from roundel.server.round import Abort, RoundTerms
from roundel.strategies.compose import Strategy
from roundel.strategies.plan import Plan
from roundel.strategies.sites import RoundContext, Selection, Synchronous

Clock = Callable[[], float]

Absences = Callable[[int, int], str | None]
"""Round and client to the reason why that client does not answer, or None if it takes part."""


class StartOver(Exception):
    """The round must be computed again from its beginning; nothing of it counts."""


class Clients(Judges, Protocol):
    """The far side of the server: everything that a population of clients can be asked."""

    def train(self, open_round: OpenRound) -> None:
        """Carry a round's messages until it has ended.

        Raises:
            StartOver: It cannot go on in this way, and will go another way the next time.
        """
        ...

    def commit(self, round: int, accepted: Sequence[int]) -> None:
        """Make the staged states of the accepted clients final."""
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
        absences: Who does not answer; None for those that `faults.drop` strikes.
        sizes: How many training examples each client has; None where nobody knows.
        malicious: The clients that attack on purpose; for the record only.
        secrets: Gives the key of a round's noise, always the same for the same round; asked only if
            the strategy wants noise that is not seeded.
        bind_noise: Writes down, before anything of a round can leave, for which aggregate (by its
            hash) the noise of such a key is drawn, and fails if it was another one before.
        tested: Gives the sums over the global test set, where more than one model is judged there.
    """

    plan: Plan
    learner: Learner
    run: str
    clock: Clock
    test: Examples | None = None
    root: Examples | None = None
    absences: Absences | None = None
    sizes: Callable[[], Sequence[int]] | None = None
    malicious: Collection[int] = ()
    secrets: Callable[[int], bytes] | None = None
    bind_noise: Callable[[int, str], None] | None = None
    tested: Callable[[ServerState, Examples], Metrics] | None = None

    @property
    def judging(self) -> Judging:
        """What finds out what models are worth."""
        return Judging(
            plan=self.plan,
            learner=self.learner,
            run=self.run,
            test=self.test,
            tested=self.tested,
        )

    def initial_state(self) -> ServerState:
        """Return the state before round 1."""
        learner = self.learner
        return initial_state(
            self.plan.strategy, learner.spec, learner.initial, learner.initial_integers
        )

    def check(self, population: int, *, account: bool = True) -> None:
        """Find contradictions before the first round.

        Args:
            population: N.
            account: Whether to open the privacy account too, for which no client has the means.

        Raises:
            ConfigError: The cohort does not fit the population, or the privacy account cannot be
                kept.
            CompositionError: The strategy needs root examples and there are none, its rule cannot
                work with so small a cohort, or it promises privacy and sends something without
                noise.
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
        try:
            self.plan.strategy.check_cohort(size)
        except CompositionError as error:
            raise CompositionError(
                f"cohort.size = {size} is too small, even if all answer: {error}"
            ) from error
        self.judging.check_stop()
        check_covered(self.plan.strategy, self.learner.spec)
        if account:
            Ledger.of(self.plan, population)

    def rounds(
        self, clients: Clients, state: ServerState, past: Sequence[Mapping[str, Any]] = ()
    ) -> Iterator[tuple[ServerState, RoundReport]]:
        """Run the rounds that are left; yield the state and the report after each.

        Args:
            clients: The far side.
            state: Where to begin.
            past: What is recorded about the rounds up to it; decides when to stop.

        Raises:
            RoundAborted: Too few clients answered, at all or for the aggregation rule; nothing of
                that round is applied.
            RunFailed: The user's code failed on the global test set.
        """
        ledger = self.ledger(clients.size)
        lines = list(past)
        stopped = bool(lines) and isinstance(lines[-1].get("stopped"), str)
        while state.round < self.plan.experiment.rounds and not stopped:
            state, report = self._round(clients, state, lines, ledger)
            lines.append(report.record.line())
            stopped = report.record.stopped is not None
            yield state, report

    def ledger(self, population: int) -> Ledger | None:
        """Check everything before the first round; return the privacy account, if one is kept.

        Args:
            population: N.

        Raises:
            RoundelError: As for `check`, or there is nowhere to keep the keys of the noise.
        """
        self.check(population, account=False)
        ledger = Ledger.of(self.plan, population)
        self._noise.check()
        return ledger

    def _round(
        self,
        clients: Clients,
        state: ServerState,
        past: Sequence[Mapping[str, Any]],
        ledger: Ledger | None,
    ) -> tuple[ServerState, RoundReport]:
        began = self.clock()
        open_round = self._trained(clients, state)
        after = self.advance(open_round, state, clients.size)
        clients.commit(after.round, open_round.accepted())
        report = self.judged(clients, after, self.report(open_round, after, ledger), past, ledger)
        record = replace(report.record, seconds=round(self.clock() - began, 6))
        return after, replace(report, record=record)

    def advance(self, open_round: OpenRound, state: ServerState, population: int) -> ServerState:
        """Return the state after a round that has ended, by what it has accepted.

        Args:
            open_round: The round.
            state: Before it.
            population: N.

        Raises:
            RoundAborted: Too few clients answered, at all or for the aggregation rule.
        """
        if isinstance(open_round.ended, Abort):
            raise _aborted(open_round, open_round.ended)
        accepted = open_round.accepted()
        cohort = open_round.machine.terms.cohort
        context = RoundContext(
            round=state.round + 1,
            population=population,
            selected=len(cohort),
            completed=len(accepted),
            wanted=self.plan.experiment.cohort.size,
            root=self._root_update(state),
            states=state.transforms,
            seed=derive(self.plan.experiment.seed_for("training"), "aggregation", state.round + 1),
            cohort=sorted(cohort),
            told=open_round.told(),
        )
        return self._stepped(open_round, state, context)

    def report(
        self, open_round: OpenRound, after: ServerState, ledger: Ledger | None
    ) -> RoundReport:
        """Return what there is to say of a round before its model is judged.

        Args:
            open_round: The round; it has ended.
            after: The state after it.
            ledger: The privacy account, if one is kept.
        """
        records = open_round.client_records()
        training = open_round.train_metrics()
        cohort, accepted = open_round.machine.terms.cohort, open_round.accepted()
        record = RoundRecord(
            round=after.round,
            metrics={},
            train_loss=training.means().get("loss"),
            cohort=len(cohort),
            completed=len(accepted),
            failures=len(cohort) - len(accepted),
            bytes_up=open_round.bytes_up,
            bytes_down=open_round.bytes_down,
            params_sha256=params_sha256(after.params, after.integers),
            health=health(records, training),
            privacy=ledger.line(after.round) if ledger else {},
            topology=open_round.topology or None,
            width=open_round.width,
            seconds=0.0,
        )
        return RoundReport(record=record, clients=records, failures=open_round.tracebacks())

    def judged(
        self,
        clients: Judges,
        state: ServerState,
        report: RoundReport,
        past: Sequence[Mapping[str, Any]],
        ledger: Ledger | None,
    ) -> RoundReport:
        """Add to what `report` says of a round what its model is worth."""
        over = ledger.reason_to_stop(state.round) if ledger else None
        record, own = self.judging.judge(clients, state, report.record, past, over)
        return replace(
            report,
            record=record,
            clients=(*report.clients, *(own.records(state.round) if own else ())),
            failures=_joined(report.failures, own.tracebacks() if own else {}),
        )

    def _trained(self, clients: Clients, state: ServerState) -> OpenRound:
        """Return a round that the clients have carried to its end."""
        while True:
            open_round = self.open_round(clients, state)
            try:
                clients.train(open_round)
            except StartOver:
                continue
            return open_round

    def _stepped(
        self, open_round: OpenRound, state: ServerState, context: RoundContext
    ) -> ServerState:
        """Let the strategy make the next state of what was accepted."""
        what = f"aggregating round {context.round} by {self.plan.strategy.name}"
        try:
            with user_code(what, RunFailed):
                aggregate = open_round.accumulators.finish(context)
                open_round.accumulators.channels.clear()  # they are as large as several models
                context = replace(context, noise=self._noise.draw(context.round, aggregate))
                return step(self.plan.strategy, self.learner.spec, state, aggregate, context)
        except CompositionError as error:  # of a rule that cannot do with those who answered
            raise RoundAborted(
                f"round {context.round}: {error}",
                open_round.client_records(),
                open_round.tracebacks(),
            ) from error

    def open_round(self, clients: Judges, state: ServerState) -> OpenRound:
        """Select the cohort of the next round and make everything ready for its updates."""
        population = clients.size
        experiment, strategy = self.plan.experiment, self.plan.strategy
        number = state.round + 1
        size = experiment.cohort.size
        surveyed: list[int] = []

        def losses(candidates: Sequence[int]) -> list[float]:
            surveyed.extend(candidates)
            return self.judging.losses(clients, state, candidates)

        selection = Selection(
            round=number,
            population=population,
            size=size,
            seed=self._noise.cohort_seed(number),
            run_seed=derive(experiment.seed_for("sampling"), "cohort"),
        )
        if strategy.privacy is None:
            selection = replace(selection, losses=losses, sizes=self.sizes or selection.sizes)
        asked = experiment.cohort
        pacing = strategy.pacing or Synchronous(
            quorum=asked.quorum,
            deadline_s=asked.deadline_s,
            deadline_factor=asked.deadline_factor,
        )
        with user_code(f"selecting the cohort of round {number}", RunFailed):
            cohort = strategy.selector.select(selection)
        terms = RoundTerms(
            run=self.run,
            round=number,
            cohort=cohort,
            target=len(cohort) if strategy.selector.poisson else min(size, len(cohort)),
            quorum=_quorum(pacing.quorum, cohort, strategy, size),
            deadline_s=pacing.deadline_s,
            deadline_factor=pacing.deadline_factor,
        )
        absence = partial(self.absences or self._drops, number)
        opened = OpenRound(
            terms, strategy, self.learner.spec, state, absence, malicious=self.malicious
        )
        opened.bytes_down += len(surveyed) * (state.params.nbytes + state.integers.nbytes)
        return opened

    @property
    def _noise(self) -> NoiseSource:
        return NoiseSource(
            strategy=self.plan.strategy,
            experiment=self.plan.experiment,
            secrets=self.secrets,
            bind=self.bind_noise,
        )

    def _drops(self, number: int, client_id: int) -> str | None:
        dropped = drops(self.plan.experiment, number, client_id)
        return "it dropped out on purpose (faults.drop)" if dropped else None

    def _root_update(self, state: ServerState) -> Mapping[str, Tensor] | None:
        """Return what training on the root examples gives, if it is asked for."""
        if self.root is None or not self.plan.strategy.root:
            return None
        return root_update(self.plan, self.learner, state, self.root)


def _quorum(said: int, cohort: Sequence[int], strategy: Strategy, size: int) -> int:
    """Return how many updates a round needs: what was asked for, or more if the rule needs more.

    A cohort drawn by Poisson sampling may be empty, so a round to which nobody came is one too,
    unless the user has set a quorum.
    """
    if strategy.selector.poisson:
        return said if cohort and said > 1 else 0
    return max(said, strategy.least_updates(size))


def _joined(training: Mapping[int, str], evaluation: Mapping[int, str]) -> dict[int, str]:
    """Return the tracebacks by client; one that failed in both has both, one after the other."""
    return {
        client: "\n".join(part[client] for part in (training, evaluation) if client in part)
        for client in (*training, *evaluation)
    }


def _aborted(open_round: OpenRound, abort: Abort) -> RoundAborted:
    """Say why the round cannot count, with one client's traceback."""
    outcomes = open_round.machine.outcomes.items()
    reasons = [(client, o) for client, o in outcomes if o.reason and o.status != "unfinished"]
    message = "; ".join(filter(None, (abort.reason, open_round.objection)))
    if reasons:
        client, outcome = reasons[0]
        message += f"; client {client}: {outcome.reason}"
        if (failure := outcome.failure) is not None and failure.traceback:
            message += f" ({failure.location})\n\n{failure.traceback.rstrip()}"
    return RoundAborted(message, open_round.client_records(), open_round.tracebacks())
