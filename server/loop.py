"""The loop over rounds: select, train, aggregate, step, evaluate.

It does no IO of its own. `Clients` carries the messages, over a function call or over gRPC; what a
round leaves behind is yielded, for the caller to write down.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Any, Protocol

import torch

from roundel.core.clientstate import ClientState
from roundel.core.data import Examples
from roundel.core.errors import CompositionError, ConfigError, RoundAborted, RunFailed
from roundel.core.faults import drops
from roundel.core.job import LocalContext, LocalJob
from roundel.core.learning import Learner
from roundel.core.messages import (
    PARAMS,
    ClientFailure,
    EvaluateRequest,
    Evaluation,
    Ticket,
)
from roundel.core.metrics import Metrics
from roundel.core.params import params_sha256
from roundel.core.records import RoundRecord, RoundReport
from roundel.core.seeds import derive, isolated_rng, sample
from roundel.core.usercode import user_code
from roundel.server.aggregation import (
    ServerState,
    broadcast_channels,
    initial_state,
    reported,
    step,
)
from roundel.server.evaluation import ClientFigures, figures
from roundel.server.health import health
from roundel.server.noise import NoiseSource
from roundel.server.open_round import OpenRound
from roundel.server.privacy import Ledger, check_covered
from roundel.server.round import Abort, RoundTerms
from roundel.server.stopping import check_known, reason_to_stop
from roundel.strategies.plan import Plan
from roundel.strategies.sites import RoundContext, Selection, Synchronous

EVALUATION_STAGE = 1 << 16
"""In the tickets of evaluations: a late answer to the training of the same round is no answer."""

SURVEY_STAGE = EVALUATION_STAGE + 1
"""In the tickets of those that are asked before the cohort is selected."""

Clock = Callable[[], float]

Absences = Callable[[int, int], str | None]
"""Round and client to the reason why that client does not answer, or None if it takes part."""


class StartOver(Exception):
    """The round must be computed again from its beginning; nothing of it counts."""


class Judges(Protocol):
    """A population of clients that can be asked what parameters are worth."""

    @property
    def size(self) -> int:
        """N, the population."""
        ...

    def evaluate(self, requests: Sequence[EvaluateRequest]) -> Sequence[Evaluation | ClientFailure]:
        """Ask clients for figures on their own examples; answers come in the order asked."""
        ...


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
        self._check_stop()
        check_covered(self.plan.strategy, self.learner.spec)
        if account:
            Ledger.of(self.plan, population)

    def _check_stop(self) -> None:
        """Refuse to wait for a figure that no round before the last one has."""
        stop, evaluation = self.plan.experiment.stop, self.plan.experiment.evaluation
        of_clients = stop.metric.startswith("clients.")
        of_both = stop.metric in {"loss", "accuracy"} and self.test is None
        if not stop.is_set:
            return
        privacy = self.plan.strategy.privacy
        if stop.metric in {"train_loss", "health.clipped"} and privacy and privacy.local:
            raise ConfigError(
                f"stop.metric = {stop.metric!r} is a figure of training, which clients with noise "
                "of their own do not tell; watch another one, such as loss"
            )
        if self.test is not None and not of_clients:
            check_known(self._trial(self.test), stop.metric)
        if not (of_clients or of_both):
            return
        if not evaluation.clients:
            raise ConfigError(
                f"stop.metric = {stop.metric!r} is measured on clients, and evaluation.clients = 0 "
                "asks none; raise it, such as to 100"
            )
        if not self._clients_every:
            raise ConfigError(
                f"stop.metric = {stop.metric!r} is measured in the last round only; set "
                "evaluation.clients_every, such as to 1"
            )

    def _trial(self, test: Examples) -> Mapping[str, Any]:
        """Return the line of a round that did nothing, judged on one example, for its names."""
        state = self.initial_state()
        what = "evaluating the initial model on a global test example"
        with isolated_rng(0), user_code(what, RunFailed):
            one = test.take(torch.zeros(1, dtype=torch.int64))
            metrics = self.learner.evaluate(*self._whole(state.params, state.integers), one)
        nothing = Metrics()
        return RoundRecord(
            round=0,
            metrics=figures(metrics),
            train_loss=0.0,
            cohort=0,
            completed=0,
            failures=0,
            bytes_up=0,
            bytes_down=0,
            seconds=0.0,
            params_sha256="",
            health=health((), nothing),
        ).line()

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
            root=self._train_on_root(state),
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
        """Add to what `report` says of a round what its model is worth; see `judge`."""
        over = ledger.reason_to_stop(state.round) if ledger else None
        record, own = self.judge(clients, state, report.record, past, over)
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

    def judge(
        self,
        clients: Judges,
        state: ServerState,
        record: RoundRecord,
        past: Sequence[Mapping[str, Any]],
        over: str | None,
    ) -> tuple[RoundRecord, ClientFigures | None]:
        """Evaluate what is due, and in the last round, whenever that is, everything.

        Args:
            clients: The far side.
            state: After the round.
            record: What is known about the round.
            past: The lines of the rounds before it.
            over: Why this round must be the last one, if it must.
        """
        settings = self.plan.experiment.evaluation
        last = state.round == self.plan.experiment.rounds
        test = self._evaluate(state) if last or state.round % settings.every == 0 else None
        own = self._ask_clients(clients, state) if self.asks_clients(state.round) else None
        judged = self._with_figures(record, test, own)
        stop = self.plan.experiment.stop
        watched = stop.is_set and not last
        stopped = over if not last else None
        if watched and not stopped:
            stopped = reason_to_stop([*past, judged.line()], stop)
        if stopped or last:
            test = test or self._evaluate(state)
            own = own or self._ask_clients(clients, state)
            judged = self._with_figures(record, test, own)
            confusion = self._counted(test, own).confusion()
            judged = replace(judged, confusion=confusion, stopped=stopped)
        return judged, own

    def _with_figures(
        self, record: RoundRecord, test: Metrics | None, own: ClientFigures | None
    ) -> RoundRecord:
        """Put an evaluation's figures into a record."""
        metrics = figures(self._counted(test, own))
        return replace(record, metrics=metrics, clients=own.line() if own else None)

    def _counted(self, test: Metrics | None, own: ClientFigures | None) -> Metrics:
        """Return what counts as the round's figures: the clients' only without a test set."""
        if self.test is not None:
            return test or Metrics()
        return own.pooled if own else Metrics()

    def open_round(self, clients: Judges, state: ServerState) -> OpenRound:
        """Select the cohort of the next round and make everything ready for its updates."""
        population = clients.size
        experiment, strategy = self.plan.experiment, self.plan.strategy
        number = state.round + 1
        size = experiment.cohort.size
        surveyed: list[int] = []

        def losses(candidates: Sequence[int]) -> list[float]:
            surveyed.extend(candidates)
            return self._losses(clients, state, candidates)

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
            quorum=_quorum(pacing.quorum, cohort) if strategy.selector.poisson else pacing.quorum,
            deadline_s=pacing.deadline_s,
            deadline_factor=pacing.deadline_factor,
        )
        absence = partial(self.absences or self._drops, number)
        opened = OpenRound(
            terms, strategy, self.learner.spec, state, absence, malicious=self.malicious
        )
        opened.bytes_down += len(surveyed) * (state.params.nbytes + state.integers.nbytes)
        return opened

    def _losses(
        self, clients: Judges, state: ServerState, candidates: Sequence[int]
    ) -> list[float]:
        """Ask clients for the loss of the parameters on what they train on."""
        requests = [
            self._question(state, client_id, "train", stage=SURVEY_STAGE)
            for client_id in candidates
        ]
        answers = clients.evaluate(requests)
        return [
            answer.metrics.means().get("loss", inf) if isinstance(answer, Evaluation) else inf
            for answer in answers
        ]

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

    def _train_on_root(self, state: ServerState) -> Mapping[str, torch.Tensor] | None:
        """Train on the root examples as a client would; return the delta, if it is asked for."""
        if self.root is None or not self.plan.strategy.root:
            return None
        number, spec = state.round + 1, self.learner.spec
        sent, integers = self._whole(state.params, state.integers)
        phases = self.plan.phases(number)
        seed = self.plan.experiment.seed_for("training")
        job = LocalJob(
            context=LocalContext(
                spec=spec,
                sent=sent,
                received=broadcast_channels(self.plan.strategy, state),
                lr=phases[0].optimizer.lr,
            ),
            integers=integers,
            examples=self.root,
            phases=phases,
            seed=derive(seed, "root batches", number),
        )
        with isolated_rng(derive(seed, "root training", number)):
            trained = self.learner.train(job)
        where = spec.shared_trainable
        return {PARAMS: trained.vector[where] - sent[where]}

    def _evaluate(self, state: ServerState) -> Metrics | None:
        """Return the sums over the global test set, if there is one."""
        if self.test is None:
            return None
        seed = derive(self.plan.experiment.seed_for("training"), "evaluation", state.round)
        what = f"evaluating round {state.round} on the global test set"
        with isolated_rng(seed), user_code(what, RunFailed):
            if self.tested is not None:
                return self.tested(state, self.test)
            shown = reported(self.plan.strategy, self.learner.spec, state)
            return self.learner.evaluate(*self._whole(shown, state.integers), self.test)

    @property
    def _clients_every(self) -> int:
        """Rounds between two evaluations on clients; 0 for the last round only."""
        settings = self.plan.experiment.evaluation
        if settings.clients_every is not None:
            return settings.clients_every
        return settings.every if self.test is None else 0

    def asks_clients(self, round: int) -> bool:
        """Tell whether clients evaluate the model of a round, as far as is known beforehand."""
        every = self._clients_every
        return round == self.plan.experiment.rounds or (every > 0 and round % every == 0)

    def questions(self, state: ServerState, population: int) -> list[EvaluateRequest]:
        """Return what clients are asked about a state that they evaluate, if any are asked.

        Args:
            state: After a round.
            population: N.
        """
        settings = self.plan.experiment.evaluation
        asked = min(settings.clients, population)
        if not asked:
            return []
        seed = derive(self.plan.experiment.seed_for("sampling"), "evaluated", state.round)
        shown = replace(state, params=reported(self.plan.strategy, self.learner.spec, state))
        return [
            self._question(shown, client_id, settings.split, stage=EVALUATION_STAGE)
            for client_id in sample(population, asked, seed)
        ]

    def _ask_clients(self, clients: Judges, state: ServerState) -> ClientFigures | None:
        """Return figures over the own held-out examples of some clients, if any are asked."""
        requests = self.questions(state, clients.size)
        if not requests:
            return None
        limit = self.plan.experiment.evaluation.min_examples
        return ClientFigures.of(clients.evaluate(requests), limit)

    def _question(
        self, state: ServerState, client_id: int, split: str, stage: int
    ) -> EvaluateRequest:
        ticket = Ticket(run=self.run, round=state.round, client_id=client_id, stage=stage)
        return EvaluateRequest(
            ticket=ticket, params=state.params, integers=state.integers, split=split
        )

    def _whole(
        self, shared: torch.Tensor, integers: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both vectors whole, with personal layers as a new client has them."""
        return self.learner.spec.completed(
            shared, integers, self.learner.initial, self.learner.initial_integers
        )


def _quorum(said: int, cohort: Sequence[int]) -> int:
    """Return the quorum of a cohort that was drawn by Poisson sampling.

    It may be empty, so a round to which nobody came is one too, unless the user has set a quorum.
    """
    return said if cohort and said > 1 else 0


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
    message = abort.reason
    if reasons:
        client, outcome = reasons[0]
        message += f"; client {client}: {outcome.reason}"
        if (failure := outcome.failure) is not None and failure.traceback:
            message += f" ({failure.location})\n\n{failure.traceback.rstrip()}"
    return RoundAborted(message, open_round.client_records(), open_round.tracebacks())
