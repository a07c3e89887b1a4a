"""What the model of a round is worth, when that is looked at, and whether the run is over.

The global test set is judged here, the clients' own examples by them; both through `Judging`, for
every engine.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Protocol

import torch

from roundel.core.data import Examples
from roundel.core.errors import ConfigError, RunFailed
from roundel.core.learning import Learner
from roundel.core.messages import ClientFailure, EvaluateRequest, Evaluation, Ticket
from roundel.core.metrics import Metrics
from roundel.core.records import RoundRecord
from roundel.core.seeds import derive, isolated_rng, sample
from roundel.core.usercode import user_code
from roundel.server.aggregation import ServerState, completed, reported
from roundel.server.evaluation import ClientFigures, figures
from roundel.server.health import health
from roundel.server.stopping import check_known, reason_to_stop
from roundel.strategies.plan import Plan

EVALUATION_STAGE = 1 << 16
"""In the tickets of evaluations: a late answer to the training of the same round is no answer."""

SURVEY_STAGE = EVALUATION_STAGE + 1
"""In the tickets of those that are asked before the cohort is selected."""


class Judges(Protocol):
    """A population of clients that can be asked what parameters are worth."""

    @property
    def size(self) -> int:
        """N, the population."""
        ...

    def evaluate(self, requests: Sequence[EvaluateRequest]) -> Sequence[Evaluation | ClientFailure]:
        """Ask clients for figures on their own examples; answers come in the order asked."""
        ...


@dataclass(frozen=True, kw_only=True)
class Judging:
    """Judges the models of one run.

    Attributes:
        plan: The experiment.
        learner: The model.
        run: The run's identity.
        test: Global test examples, if the task has any.
        tested: Gives the sums over them, where more than one model is judged there.
    """

    plan: Plan
    learner: Learner
    run: str
    test: Examples | None = None
    tested: Callable[[ServerState, Examples], Metrics] | None = None

    def check_stop(self) -> None:
        """Refuse to wait for a figure that no round before the last one has.

        Raises:
            ConfigError: `stop.metric` is such a figure.
        """
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

    def losses(self, clients: Judges, state: ServerState, candidates: Sequence[int]) -> list[float]:
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

    def _trial(self, test: Examples) -> Mapping[str, Any]:
        """Return the line of a round that did nothing, judged on one example, for its names."""
        learner = self.learner
        what = "evaluating the initial model on a global test example"
        with isolated_rng(0), user_code(what, RunFailed):
            one = test.take(torch.zeros(1, dtype=torch.int64))
            metrics = learner.evaluate(learner.initial, learner.initial_integers, one)
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

    def _evaluate(self, state: ServerState) -> Metrics | None:
        """Return the sums over the global test set, if there is one."""
        if self.test is None:
            return None
        seed = derive(self.plan.experiment.seed_for("training"), "evaluation", state.round)
        what = f"evaluating round {state.round} on the global test set"
        with isolated_rng(seed), user_code(what, RunFailed):
            if self.tested is not None:
                return self.tested(state, self.test)
            whole = completed(self.plan.strategy, self.learner, state)
            return self.learner.evaluate(*whole, self.test)

    @property
    def _clients_every(self) -> int:
        """Rounds between two evaluations on clients; 0 for the last round only."""
        settings = self.plan.experiment.evaluation
        if settings.clients_every is not None:
            return settings.clients_every
        return settings.every if self.test is None else 0

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
