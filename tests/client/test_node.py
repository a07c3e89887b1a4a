"""A node: several clients, their data and their states, without any networking."""

from dataclasses import replace

import pytest
import torch

from roundel.client.node import Hosted, Node
from roundel.client.trainer import Trainer
from roundel.core.data import ClientData, Examples, InMemoryPopulation
from roundel.core.errors import DataError
from roundel.core.learning import Learner
from roundel.core.messages import (
    ClientFailure,
    ClientUpdate,
    EvaluateRequest,
    Evaluation,
    TrainRequest,
)
from roundel.strategies.plan import Plan
from roundel.strategies.scaffold import scaffold
from tests.server.toys import TASK, bits, experiment_of, state_of, ticket_of

CONTROL = "scaffold.control"


def examples_of(client_id: int) -> Examples:
    return Examples(torch.eye(2) + client_id, torch.tensor([1.0, float(client_id)]))


class Watched(InMemoryPopulation):
    """A population that remembers whom it was asked for."""

    asked: list[int] = []  # noqa: RUF012 - of the one population of a test

    def client(self, client_id: int) -> ClientData:
        self.asked.append(client_id)
        if client_id == 3:
            raise DataError("the data of client 3 is gone")
        return super().client(client_id)


@pytest.fixture
def hosted() -> Hosted:
    Watched.asked = []
    plan = Plan.of(experiment_of("client.steps=2", "client.lr=0.5"), TASK, scaffold())
    held_out = [examples_of(k) for k in range(4)]
    population = Watched(
        [ClientData(train=e, validation=e.take(torch.tensor([0])), test=e) for e in held_out]
    )
    return Hosted(
        plan=plan,
        learner=Learner(TASK, seed=0),
        population=population,
        client_ids=[1, 2, 3],
        fingerprint="layout",
    )


def request_of(client_id: int, round: int = 1, control=(0.25, -0.25)) -> TrainRequest:
    state = state_of()
    return TrainRequest(
        ticket=ticket_of(client_id, round=round),
        base_version=round - 1,
        params=state.params,
        integers=state.integers,
        channels={"control": torch.tensor(control)},
    )


def trained(node: Node, request: TrainRequest):
    update, state = node.train(request)
    assert isinstance(update, ClientUpdate)
    return update, state


def test_training_is_that_of_the_trainer(hosted):
    update, state = trained(Node(hosted), request_of(1))
    expected, expected_state = Trainer(hosted.plan, hosted.learner).train(
        request_of(1), examples_of(1), {}
    )
    assert replace(update, channels={}, seconds=0.0) == replace(expected, channels={}, seconds=0.0)
    assert bits(update.channels) == bits(expected.channels)
    assert bits(state) == bits(expected_state)
    assert set(state) == {CONTROL}


def test_only_the_data_of_the_client_that_works_is_made(hosted):
    node = Node(hosted)
    assert Watched.asked == []
    trained(node, request_of(2))
    assert Watched.asked == [2]


def test_a_client_goes_on_from_the_state_that_it_has(hosted):
    states = {}
    node = Node(hosted, lambda client_id: states.get(client_id, {}))
    first, state = trained(node, request_of(1))
    again, _ = trained(node, request_of(1))
    assert bits(again.channels) == bits(first.channels)
    states[1] = state
    after, _ = trained(node, request_of(1, round=2))
    expected, _ = Trainer(hosted.plan, hosted.learner).train(
        request_of(1, round=2), examples_of(1), state
    )
    assert bits(after.channels) == bits(expected.channels)
    assert bits(after.channels) != bits(first.channels)


def test_clients_do_not_see_each_others_state(hosted):
    _, state = trained(Node(hosted), request_of(1))
    fresh, _ = trained(Node(hosted), request_of(2))
    update, _ = trained(Node(hosted, lambda k: state if k == 1 else {}), request_of(2))
    assert bits(update.channels) == bits(fresh.channels)


def test_evaluation_is_on_the_clients_own_held_out_examples(hosted):
    state = state_of()
    request = EvaluateRequest(ticket=ticket_of(1), params=state.params, integers=state.integers)
    evaluation = Node(hosted).evaluate(request)
    assert isinstance(evaluation, Evaluation)
    # Weights (1, 2) make 4 and 5 of the rows (2, 1) and (1, 2); the targets are 1 and 1.
    assert evaluation.metrics.sums == {"loss": 9.0 + 16.0, "accuracy": 3.0 + 4.0}
    assert evaluation.metrics.count == 2


def test_a_client_whose_data_is_gone_fails_by_a_value(hosted):
    node = Node(hosted)
    failure, state = node.train(request_of(3))
    assert isinstance(failure, ClientFailure)
    assert failure.error == "the data of client 3 is gone"
    assert state == {}
    shared = state_of()
    request = EvaluateRequest(ticket=ticket_of(3), params=shared.params, integers=shared.integers)
    assert isinstance(node.evaluate(request), ClientFailure)


def test_a_client_that_attacks_tampers_with_what_it_sends(hosted):
    def flip(channels):
        return {**channels, "params": -channels["params"]}

    honest = Node(hosted)
    attacked = Node(replace(hosted, tamper=lambda t: flip if t.client_id == 1 else None))
    for client_id, sign in ((1, -1), (2, 1)):
        sent, _ = attacked.train(request_of(client_id))
        learned, _ = honest.train(request_of(client_id))
        assert isinstance(sent, ClientUpdate)
        assert isinstance(learned, ClientUpdate)
        assert sent.channels["params"].equal(sign * learned.channels["params"])
        assert sent.channels["control"].equal(learned.channels["control"])
