"""Edge servers between the clients and the cloud."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from roundel.client.attempt import attempt_training
from roundel.client.trainer import Trainer
from roundel.core.clientstate import ClientState, ClientStore
from roundel.core.data import Population
from roundel.core.errors import CompositionError
from roundel.core.messages import (
    BUFFERS,
    INTEGERS,
    PARAMS,
    ClientFailure,
    EvaluateRequest,
    Evaluation,
    Ticket,
)
from roundel.core.params import ParamSpec
from roundel.core.seeds import derive
from roundel.server.aggregation import Accumulators, ServerState, step
from roundel.server.open_round import OpenRound
from roundel.server.round import Accept, Assign, ClientFailed, RoundTerms, UpdateArrived
from roundel.simulations.executor import LoopClients
from roundel.strategies.compose import RESCALES, Strategy
from roundel.strategies.plan import Plan
from roundel.strategies.sites import RoundContext

_WEIGHT_BYTES = 8


def check_hierarchical(strategy: Strategy, edge_rounds: int) -> None:
    """Refuse what edges cannot do for a strategy.

    Raises:
        CompositionError: It needs every update at one place, or has work for the cloud in rounds of
            which the cloud sees nothing.
    """
    for part in strategy.parts:
        if "set" in part.traits:
            raise CompositionError(
                f"{part.name} needs every update of a round at one place, and an edge forwards one "
                "sum; use a strategy that averages, or topology.kind = 'star'"
            )
    if edge_rounds == 1:
        return
    further = strategy.aggregators.keys() - {PARAMS, BUFFERS, INTEGERS}
    reasons = {
        "sends more than parameters": bool(further or strategy.broadcast or strategy.derived),
        "accounts for privacy by rounds of the cloud": strategy.privacy is not None,
        "trains at the server": strategy.root,
        "does more with a client's training than to send it": bool(
            strategy.finishers or strategy.settlers
        ),
        "sends something else than its update": any(RESCALES in p.traits for p in strategy.parts),
        "divides by a fixed number": strategy.weigher.denominator is not None,
    }
    for reason, holds in reasons.items():
        if holds:
            raise CompositionError(
                f"{strategy.name} {reason}, and with topology.edge_rounds = {edge_rounds} there "
                "are rounds of which the cloud sees nothing; set topology.edge_rounds = 1"
            )


class EdgeClients:
    """A population whose clients stand around edge servers, and these around the cloud.

    HierFAVG: in one round of the cloud, each edge runs ``edge_rounds`` rounds of federated
    averaging among those of its clients that are in the cohort, and forwards the weighted mean and
    the total weight:

        w_e <- w;  edge_rounds times:  w_e <- sum_k n_k w_k / sum_k n_k   (k at edge e)
        w   <- server step along  sum_e n_e (w_e - w) / sum_e n_e,   n_e = sum of its n_k

    With one edge round this is the same strategy without edges, bit for bit, if it sums updates and
    waits for its whole cohort: of an over-selected one, the first are counted edge by edge.
    Client k belongs to edge ``k mod edges``. A server optimizer works at the cloud; edges average.
    Edge rounds count as rounds for the schedule of the learning rate and for the seeds of training.
    A client that fails in one edge round is asked again in the next; the round's lines are about
    the last.

    Bytes are those of all links together; what passes between edges and cloud is under ``topology``
    as ``cloud_bytes_up`` and ``cloud_bytes_down``: for each edge with clients in the cohort one
    mean of every channel with its weight up, and one model down.

    Source:
        L. Liu, J. Zhang, S. H. Song and K. B. Letaief, "Client-Edge-Cloud Hierarchical Federated
        Learning", ICC 2020.
    """

    def __init__(
        self,
        plan: Plan,
        spec: ParamSpec,
        trainer: Trainer,
        population: Population,
        store: ClientStore,
        judge: Trainer,
    ) -> None:
        """Put clients around edges.

        Args:
            plan: The experiment.
            spec: The model's layout.
            trainer: Trains them, by `edge_plan`.
            population: Their data.
            store: Their states.
            judge: Evaluates them, by the plan itself: rounds are then the cloud's.
        """
        self._settings = plan.experiment.topology
        self._strategy = plan.strategy
        self._spec = spec
        self._trainer = trainer
        self._population = population
        self._store = store
        self._near = LoopClients(trainer, population, store)
        self._judge = LoopClients(judge, population, store)

    @property
    def size(self) -> int:
        """N, the population."""
        return self._population.size

    def train(self, open_round: OpenRound) -> None:
        """Train the cohort, edge by edge, until the round has ended."""
        assigned = [i.ticket for i in open_round.start(now_s=0.0) if isinstance(i, Assign)]
        cloud = open_round.accumulators
        busy = 0
        for edge in range(self._settings.edges):
            members = [t for t in assigned if t.client_id % self._settings.edges == edge]
            if members and open_round.ended is None:
                busy += 1
                here = self._edge_rounds(open_round, members)
                open_round.accumulators = self._sums(open_round, here, members[0])
                self._last_round(open_round, here, members)
                cloud.merge(open_round.accumulators)
        open_round.accumulators = cloud
        up = busy * (self._channel_bytes() + _WEIGHT_BYTES)
        down = busy * open_round.broadcast_bytes
        open_round.bytes_up += up
        open_round.bytes_down += down
        open_round.topology = {"edges": busy, "cloud_bytes_up": up, "cloud_bytes_down": down}

    def _channel_bytes(self) -> int:
        kinds = self._strategy.aggregated(self._spec).values()
        return sum(size * dtype.itemsize for size, dtype in kinds)

    def _edge_rounds(self, open_round: OpenRound, members: Sequence[Ticket]) -> ServerState:
        """Run all rounds of an edge but the last; return its model."""
        request = open_round.request(members[0])
        each = self._settings.edge_rounds
        state = ServerState(
            round=(members[0].round - 1) * each, params=request.params, integers=request.integers
        )
        averaging = replace(self._strategy, server=())
        cohort = [ticket.client_id for ticket in members]
        for _ in range(each - 1):
            terms = RoundTerms(
                run=members[0].run,
                round=state.round + 1,
                cohort=cohort,
                target=len(cohort),
                quorum=0,
            )
            inner = OpenRound(terms, averaging, self._spec, state)
            self._near.train(inner)
            accepted = inner.accepted()
            self._near.commit(terms.round, accepted)
            context = RoundContext(
                round=terms.round,
                population=self.size,
                selected=len(cohort),
                completed=len(accepted),
                wanted=len(cohort),
                seed=derive(0, "edge", terms.round),
            )
            state = step(averaging, self._spec, state, inner.accumulators.finish(context), context)
            open_round.bytes_up += inner.bytes_up
            open_round.bytes_down += inner.bytes_down
        return state

    def _sums(self, open_round: OpenRound, here: ServerState, ticket: Ticket) -> Accumulators:
        """Return empty sums of an edge, taken towards the cloud's model."""
        ahead = here.params - open_round.request(ticket).params
        where = {PARAMS: self._spec.shared_trainable, BUFFERS: self._spec.shared_buffers}
        by = {channel: ahead[part] for channel, part in where.items() if ahead[part].numel()}
        alone = self._settings.edge_rounds > 1
        return Accumulators(self._strategy, self._spec, by if alone else None)

    def _last_round(
        self, open_round: OpenRound, here: ServerState, members: Sequence[Ticket]
    ) -> None:
        """Run the round of an edge whose updates reach the cloud."""
        for ticket in members:
            if open_round.ended is not None:
                return
            known = open_round.request(ticket)
            state = self._store.get(ticket.client_id)
            request = replace(
                known,
                ticket=replace(ticket, round=here.round + 1),
                params=here.params,
                integers=here.integers,
            )
            answer, after = attempt_training(self._trainer, request, self._population.client, state)
            if isinstance(answer, ClientFailure):
                open_round.handle(ClientFailed(replace(answer, ticket=ticket)))
                continue
            sent = replace(answer, ticket=ticket, base_version=known.base_version)
            done = open_round.handle(UpdateArrived(sent))
            if any(isinstance(instruction, Accept) for instruction in done):
                self._store.stage(ticket.client_id, after)

    def commit(self, round: int, accepted: Sequence[int]) -> None:
        """Make the staged states of the accepted clients final."""
        self._store.commit(accepted)

    def evaluate(self, requests: Sequence[EvaluateRequest]) -> Sequence[Evaluation | ClientFailure]:
        """Evaluate the clients one after another, on the cloud's model."""
        return self._judge.evaluate(requests)

    def states(self) -> Mapping[int, ClientState]:
        """Return all committed client states."""
        return self._store.committed


def edge_plan(plan: Plan) -> Plan:
    """Return the plan by which clients train: as many rounds as there are at an edge."""
    experiment = plan.experiment
    rounds = experiment.rounds * experiment.topology.edge_rounds
    return replace(plan, experiment=experiment.model_copy(update={"rounds": rounds}))
