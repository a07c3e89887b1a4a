"""Training at the server, on root examples."""

import pytest

from roundel.core.errors import CompositionError
from roundel.strategies.compose import Part, compose
from roundel.strategies.sites import ServerTransform
from tests.server.toys import ROWS, FakeClients, experiment_of, run, server_of


def root_strategy(seen: list):
    def update(aggregate, state, _params, context):
        seen.append(context)
        return {**aggregate, "params": context.root["params"]}, state

    link = ServerTransform(name="root", init=lambda _params: {}, update=update)
    return compose(Part(name="rooted", root=True, server=(link,)))


def test_a_strategy_that_trains_on_the_server_needs_root_examples():
    with pytest.raises(CompositionError) as caught:
        run(server_of(experiment_of(), strategy=root_strategy([])), FakeClients())
    assert str(caught.value) == (
        "rooted trains on root examples at the server, and the task gives none"
    )


def test_the_server_trains_on_its_root_examples_as_a_client_would():
    seen: list = []
    experiment = experiment_of(
        "rounds=1", "client.steps=1", "client.batch_size='full'", "client.lr=0.25"
    )
    server = server_of(experiment, strategy=root_strategy(seen), root=ROWS)
    ((state, _),) = run(server, FakeClients())
    # The loss is (0 + (w1 - 4)^2) / 2 at w1 = 2, so its gradient is (0, -2).
    assert seen[0].root["params"].tolist() == [0.0, 0.5]
    assert state.params[1:].tolist() == [1.0, 2.5]
    assert (seen[0].population, seen[0].selected, seen[0].completed) == (4, 2, 2)


def test_root_examples_are_not_trained_on_unless_the_strategy_asks():
    with_root = run(server_of(experiment_of("rounds=1"), root=ROWS), FakeClients())
    without = run(server_of(experiment_of("rounds=1")), FakeClients())
    assert with_root[0][1].record.params_sha256 == without[0][1].record.params_sha256
