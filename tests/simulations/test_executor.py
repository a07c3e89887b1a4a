"""The loop executor carries a round's messages to one client after another."""

import weakref
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from roundel.client.trainer import Trainer
from roundel.core.clientstate import ClientStore
from roundel.core.config import Experiment
from roundel.core.data import ClientData, Examples
from roundel.core.learning import Learner
from roundel.core.messages import (
    ClientFailure,
    ClientUpdate,
    EvaluateRequest,
    Evaluation,
    Ticket,
)
from roundel.server.aggregation import ServerState
from roundel.server.open_round import OpenRound
from roundel.server.round import Abort, Commit, RoundTerms
from roundel.simulations.attacks.adversary import Adversary
from roundel.simulations.attacks.kinds import ATTACKS
from roundel.simulations.executor import LoopClients
from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.plan import Plan
from roundel.strategies.scaffold import scaffold
from roundel.strategies.sites import Codec
from tests.federations import Quadratic, quadratic_task

TASK = quadratic_task(torch.zeros(2, dtype=torch.float64))
EXPERIMENT = Experiment.model_validate({"client": {"steps": 1, "lr": 0.5}})
LEARNER = Learner(TASK, 0)


class Population:
    """Client k's optimum is ``(k, 0)``; what it holds is watched."""

    size = 8

    def __init__(self, *broken: int) -> None:
        self.broken = broken
        self.asked: list[int] = []
        self.alive_at_once = 0
        self._handed_out: list[weakref.ref[Tensor]] = []

    def client(self, client_id: int) -> ClientData:
        self.asked.append(client_id)
        if client_id in self.broken:
            raise ValueError(f"client {client_id} is broken")
        examples = Quadratic.of([1.0, 1.0], [float(client_id), 0.0]).examples()
        none = Examples(examples.inputs[:0], examples.targets[:0])
        self._handed_out.append(weakref.ref(examples.inputs))
        alive = sum(ref() is not None for ref in self._handed_out)
        self.alive_at_once = max(self.alive_at_once, alive)
        return ClientData(train=examples, validation=none, test=examples)


def executor(
    population: Population,
    strategy: Strategy,
    store: ClientStore | None = None,
    adversary: Adversary | None = None,
) -> LoopClients:
    plan = Plan.of(EXPERIMENT, TASK, strategy)
    return LoopClients(Trainer(plan, LEARNER), population, store or ClientStore(), adversary)


def open_round(
    strategy: Strategy, *cohort: int, target: int | None = None, quorum: int = 1
) -> OpenRound:
    server = {link.name: link.init(LEARNER.initial) for link in strategy.server}
    state = ServerState(
        round=0,
        params=LEARNER.initial,
        integers=LEARNER.initial_integers,
        transforms=server,
    )
    terms = RoundTerms(run="r", round=1, cohort=cohort, target=target or len(cohort), quorum=quorum)
    return OpenRound(terms, strategy, LEARNER.spec, state)


def statuses(round: OpenRound) -> Mapping[int, str]:
    return {client: outcome.status.value for client, outcome in round.machine.outcomes.items()}


def evaluation_of(client_id: int) -> EvaluateRequest:
    return EvaluateRequest(
        ticket=Ticket(run="r", round=1, client_id=client_id),
        params=LEARNER.initial,
        integers=LEARNER.initial_integers,
    )


def test_the_cohort_trains_in_its_order_and_the_round_commits():
    population, round = Population(), open_round(fedavg(), 1, 4, 6)
    executor(population, fedavg()).train(round)
    assert population.asked == [1, 4, 6]
    assert statuses(round) == {1: "accepted", 4: "accepted", 6: "accepted"}
    assert isinstance(round.ended, Commit)


def test_data_is_asked_for_one_client_at_a_time_and_dropped_afterwards():
    population = Population(3)
    clients = executor(population, fedavg())
    clients.train(open_round(fedavg(), 0, 1, 2, 3, 4, 5))
    clients.evaluate([evaluation_of(k) for k in (5, 3, 1, 0)])
    assert population.alive_at_once == 1


def test_a_client_that_breaks_fails_and_the_others_go_on():
    population, round = Population(4), open_round(fedavg(), 1, 4, 6)
    executor(population, fedavg()).train(round)
    assert statuses(round) == {1: "accepted", 4: "failed", 6: "accepted"}
    assert round.machine.outcomes[4].reason == "ValueError: client 4 is broken"


def test_a_round_that_loses_its_quorum_aborts():
    round = open_round(fedavg(), 1, 4, 6, quorum=2)
    executor(Population(4, 6), fedavg()).train(round)
    assert isinstance(round.ended, Abort)


def test_nobody_is_trained_once_the_round_has_what_it_wants():
    population, round = Population(), open_round(fedavg(), 1, 4, 6, 7, target=2)
    executor(population, fedavg()).train(round)
    assert population.asked == [1, 4]
    assert statuses(round) == {1: "accepted", 4: "accepted", 6: "unfinished", 7: "unfinished"}


def test_a_broken_client_is_made_up_for_by_one_that_was_selected_in_reserve():
    population, round = Population(1), open_round(fedavg(), 1, 4, 6, 7, target=2)
    executor(population, fedavg()).train(round)
    assert population.asked == [1, 4, 6]
    assert statuses(round) == {1: "failed", 4: "accepted", 6: "accepted", 7: "unfinished"}


def test_states_count_once_the_round_is_committed():
    clients = executor(Population(), scaffold())
    round = open_round(scaffold(), 1, 4)
    clients.train(round)
    assert clients.states() == {}
    clients.commit(1, round.accepted())
    controls = {k: state["scaffold.control"].tolist() for k, state in clients.states().items()}
    # From 0, one step of 0.5 moves client k by (k / 2, 0): its gradient was (-k, 0).
    assert controls == {1: [-1.0, 0.0], 4: [-4.0, 0.0]}


def test_a_state_is_forgotten_if_its_round_does_not_commit():
    before = {1: {"scaffold.control": torch.tensor([9.0, 9.0], dtype=torch.float64)}}
    clients = executor(Population(4), scaffold(), ClientStore(before))
    clients.train(open_round(scaffold(), 1, 4, quorum=2))
    clients.commit(1, [])
    assert clients.states() == before


def test_the_state_of_a_client_that_breaks_is_what_it_was():
    before = {4: {"scaffold.control": torch.tensor([9.0, 9.0], dtype=torch.float64)}}
    clients = executor(Population(4), scaffold(), ClientStore(before))
    round = open_round(scaffold(), 1, 4)
    clients.train(round)
    clients.commit(1, round.accepted())
    assert set(clients.states()) == {1, 4}
    assert clients.states()[4] is before[4]


def test_a_client_starts_from_its_own_state():
    before = {1: {"scaffold.control": torch.tensor([3.0, 0.0], dtype=torch.float64)}}
    round = open_round(scaffold(), 1)
    executor(Population(), scaffold(), ClientStore(before)).train(round)
    # The gradient at 0 is (-1, 0), less the client's control (3, 0); the step is 0.5 of it.
    assert round.client_records()[0].update_norm == 2.0


def test_evaluations_come_in_the_order_asked_and_failures_are_values():
    clients = executor(Population(4), fedavg())
    answers = clients.evaluate([evaluation_of(k) for k in (6, 4, 2)])
    six, four, two = answers
    assert isinstance(six, Evaluation)
    assert isinstance(two, Evaluation)
    assert (six.metrics.means(), two.metrics.means()) == ({"loss": 18.0}, {"loss": 2.0})
    assert isinstance(four, ClientFailure)
    assert (four.stage, four.error) == ("data", "ValueError: client 4 is broken")


def test_its_size_is_that_of_the_population():
    assert executor(Population(), fedavg()).size == 8


def spied(alive: list[int]) -> Strategy:
    """Return a strategy that notes, at each update, how many earlier ones are still alive."""
    sent: list[weakref.ref[Tensor]] = []

    def encode(channels, _state, _seed):
        alive.append(sum(ref() is not None for ref in sent))
        sent.append(weakref.ref(channels["params"]))
        return channels, {}

    codec = Codec(name="spy", encode=encode, decode=lambda sent, _kinds: sent)
    return compose(fedavg(), Part(name="spy", codecs=(codec,)))


@pytest.mark.parametrize("cohort", [5, 50])
def test_updates_are_summed_and_dropped_however_large_the_cohort(cohort):
    alive: list[int] = []
    strategy = spied(alive)
    executor(Population(), strategy).train(open_round(strategy, *range(cohort)))
    assert len(alive) == cohort
    assert max(alive) <= 1


def test_evaluations_hold_on_to_no_data():
    population = Population()
    executor(population, fedavg()).evaluate([evaluation_of(k) for k in range(50)])
    assert population.alive_at_once == 1


# ---- clients that attack. From 0, one step of 0.5 moves client k by (k / 2, 0).


def malicious(*clients: int, kind: str = "ipm", **knobs: Any) -> Adversary:
    attack = ATTACKS[kind](**knobs)
    return Adversary(attack=attack, clients=frozenset(clients), seed=0)


def sent(
    strategy: Strategy, round: OpenRound, adversary: Adversary, *broken: int
) -> dict[int, float]:
    """Train a round; return how far each accepted update moves the first weight."""
    moved: dict[int, float] = {}
    take = round.accumulators.add

    def add(update: ClientUpdate) -> None:
        moved[update.ticket.client_id] = update.channels["params"][0].item()
        assert update.channels["params"][1] == 0
        take(update)

    round.accumulators.add = add
    executor(Population(*broken), strategy, adversary=adversary).train(round)
    return moved


def test_an_omniscient_attacker_looks_at_the_honest_updates_of_the_round():
    round = open_round(fedavg(), 1, 2, 4, 6)
    moved = sent(fedavg(), round, malicious(1, 4, epsilon=0.5))
    assert moved == {1: -1.0, 2: 1.0, 4: -1.0, 6: 3.0}  # the honest mean is 2
    assert isinstance(round.ended, Commit)


def test_what_is_crafted_does_not_depend_on_the_order_of_the_cohort():
    # The sum of these depends on its order, in the last bit.
    strategy = compose(fedavg(), scaling(0.1))
    rounds = [open_round(strategy, *order) for order in ((1, 2, 3, 6), (6, 3, 2, 1))]
    one, other = (sent(strategy, round, malicious(1, kind="alie", z=0.7)) for round in rounds)
    assert one == other


def test_honest_clients_that_fail_are_not_looked_at():
    round = open_round(fedavg(), 1, 2, 4, 6)
    assert sent(fedavg(), round, malicious(1), 6) == {1: -0.75, 2: 1.0, 4: 2.0}
    assert statuses(round)[6] == "failed"


def test_attackers_who_know_only_themselves_look_at_what_they_would_have_sent():
    moved = sent(
        fedavg(), open_round(fedavg(), 1, 2, 4, 6), malicious(2, 4, epsilon=2.0, knowledge="own")
    )
    assert moved == {1: 0.5, 2: -3.0, 4: -3.0, 6: 3.0}  # their mean is 1.5


def test_where_nobody_honest_is_there_to_look_at_malicious_clients_send_what_they_learned():
    assert sent(fedavg(), open_round(fedavg(), 2, 4), malicious(2, 4)) == {2: 1.0, 4: 2.0}


def test_in_a_round_without_attackers_updates_are_dropped_as_ever():
    alive: list[int] = []
    strategy = spied(alive)
    clients = executor(Population(), strategy, adversary=malicious(99))
    clients.train(open_round(strategy, *range(8)))
    assert max(alive) <= 1


def test_a_client_that_attacks_alone_holds_up_no_updates():
    alive: list[int] = []
    strategy = spied(alive)
    clients = executor(Population(), strategy, adversary=malicious(3, kind="sign_flip"))
    clients.train(open_round(strategy, *range(8)))
    assert max(alive) <= 1


def test_only_those_are_looked_at_whom_the_round_counts():
    round = open_round(fedavg(), 2, 4, 6, 7, target=2)
    assert sent(fedavg(), round, malicious(2)) == {2: -1.0, 4: 2.0}
    assert statuses(round) == {2: "accepted", 4: "accepted", 6: "unfinished", 7: "unfinished"}


def test_each_client_trains_once_though_others_look_at_it():
    population = Population()
    executor(population, fedavg(), adversary=malicious(4)).train(open_round(fedavg(), 1, 4, 6))
    assert sorted(population.asked) == [1, 4, 6]


def scaling(factor: float) -> Part:
    """A codec that sends channels as so many times what they are."""

    def encode(channels, _context, _seed):
        return {name: factor * value for name, value in channels.items()}, {}

    def decode(sent, _decoding):
        return {name: value / factor for name, value in sent.items()}

    return Part(name="scaling", codecs=(Codec(name="scaling", encode=encode, decode=decode),))


def test_attackers_see_decoded_updates_and_send_encoded_ones():
    strategy = compose(fedavg(), scaling(8.0))
    moved = sent(strategy, open_round(strategy, 1, 2, 6), malicious(1))
    assert moved == {1: -1.0, 2: 1.0, 6: 3.0}


def test_channels_besides_the_parameters_stay_what_training_made_of_them():
    round = open_round(scaffold(), 1, 4)
    clients = executor(Population(), scaffold(), adversary=malicious(4, kind="sign_flip"))
    clients.train(round)
    clients.commit(1, round.accepted())
    assert clients.states()[4]["scaffold.control"].tolist() == [-4.0, 0.0]
    assert round.client_records()[1].update_norm == 2.0


def test_a_value_that_is_not_finite_costs_its_client_the_round_and_nobody_else():
    round = open_round(fedavg(), 1, 4, 6)
    executor(Population(), fedavg(), adversary=malicious(4, kind="nan")).train(round)
    assert statuses(round) == {1: "accepted", 4: "rejected", 6: "accepted"}
    assert (
        round.machine.outcomes[4].reason == "its channel 'params' holds values that are not finite"
    )
    assert isinstance(round.ended, Commit)
