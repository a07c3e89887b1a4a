"""From accepted updates to the next parameters."""

from itertools import permutations

import pytest
import torch
from torch import Tensor

from roundel.core.errors import CompositionError
from roundel.core.messages import ClientUpdate
from roundel.server.aggregation import (
    Accumulators,
    ServerState,
    aggregate_updates,
    broadcast_channels,
    initial_state,
    reported,
    step,
)
from roundel.strategies.aggregators import OverRows
from roundel.strategies.compose import Part, Strategy, compose
from roundel.strategies.fedavg import fedavg
from roundel.strategies.fedopt import fedadam
from roundel.strategies.scaffold import scaffold
from roundel.strategies.sites import RoundContext, ServerTransform, Weigher
from tests.server.toys import SPEC, STRATEGY, bits, state_of, update_of

CONTEXT = RoundContext(round=1, population=4, selected=3, completed=2)


def aggregate(strategy: Strategy, *updates: ClientUpdate) -> ServerState:
    return aggregate_updates(strategy, SPEC, state_of(strategy), updates, population=4)


def test_the_initial_state_is_the_shared_part_of_the_initial_model_without_a_copy():
    vector, integers = torch.tensor([10.0, 1.0, 2.0]), torch.tensor([3])
    state = initial_state(fedadam(), SPEC, vector, integers)
    assert (state.round, state.params.tolist(), state.integers.tolist()) == (0, [10, 1, 2], [3])
    assert state.params.data_ptr() == vector.data_ptr()
    assert state.transforms["adam"]["m"].tolist() == [0.0, 0.0]


def test_the_step_is_the_mean_delta_weighted_by_examples():
    state = aggregate(
        STRATEGY,
        update_of(1, (1.0, 0.0), num_examples=3),
        update_of(2, (0.0, 4.0), num_examples=1),
    )
    assert state.round == 1
    assert state.params[1:].tolist() == [1.0 + 0.75, 2.0 + 1.0]


def test_buffers_take_their_mean_and_integers_their_maximum():
    small = {
        "params": torch.zeros(2),
        "buffers": torch.tensor([1.0]),
        "integers": torch.tensor([7]),
    }
    large = {
        "params": torch.zeros(2),
        "buffers": torch.tensor([5.0]),
        "integers": torch.tensor([4]),
    }
    state = aggregate(
        STRATEGY,
        update_of(1, channels=small, num_examples=3),
        update_of(2, channels=large, num_examples=1),
    )
    assert state.params[0].item() == 10.0 + 2.0
    assert state.integers.tolist() == [7]


def test_server_transforms_move_trainable_parameters_and_no_buffers():
    state = aggregate(fedavg(server_lr=0.5), update_of(1, (1.0, 2.0)))
    assert state.params.tolist() == [11.0, 1.5, 3.0]


def test_transforms_run_in_order_and_see_the_state_that_they_left():
    def link(name: str, change) -> ServerTransform:
        def update(aggregate, state, _params, _context):
            seen = state["calls"] + 1
            return {**aggregate, "params": change(aggregate["params"], seen)}, {"calls": seen}

        return ServerTransform(
            name=name, init=lambda _params: {"calls": torch.tensor(0)}, update=update
        )

    strategy = compose(
        Part(
            name="chain",
            server=(link("add", lambda p, n: p + n), link("double", lambda p, _n: 2 * p)),
        )
    )
    first = aggregate(strategy, update_of(1, (1.0, 0.0)))
    assert first.params[1:].tolist() == [1 + 2 * 2.0, 2 + 2 * 1.0]
    second = aggregate_updates(
        strategy, SPEC, first, [update_of(1, (1.0, 0.0), base_version=1)], population=4
    )
    assert second.params[1:].tolist() == [5 + 2 * 3.0, 4 + 2 * 2.0]
    assert second.round == 2
    assert {k: v["calls"].item() for k, v in second.transforms.items()} == {"add": 2, "double": 2}


def test_a_channel_that_a_transform_uses_up_does_not_reach_the_parameters():
    channels = {**update_of(1).channels, "control": torch.tensor([4.0, 8.0])}
    state = aggregate(scaffold(), update_of(1, channels=channels))
    assert state.transforms["scaffold"]["control"].tolist() == [1.0, 2.0]  # m / N = 1 / 4
    assert state.params[1:].tolist() == [1.5, 1.5]


def test_the_broadcast_is_filled_from_the_states_of_the_transforms():
    strategy = scaffold()
    state = state_of(strategy)
    assert bits(broadcast_channels(strategy, state)) == bits({"control": torch.zeros(2)})
    assert broadcast_channels(STRATEGY, state_of()) == {}


@pytest.mark.parametrize("strategy", [STRATEGY, fedadam()], ids=lambda s: s.name)
def test_no_bit_depends_on_the_order_of_arrival(strategy):
    updates = [update_of(k, (0.1 * 3**k, -(0.7**k)), num_examples=k + 1) for k in range(4)]
    results = {
        str(bits({"params": aggregate(strategy, *ordered).params}))
        for ordered in permutations(updates)
    }
    assert len(results) == 1


def test_merged_accumulators_hold_what_one_would():
    updates = [update_of(k, (0.1 * 3**k, -(0.7**k)), num_examples=k + 1) for k in range(5)]
    whole, left, right = (Accumulators(STRATEGY, SPEC) for _ in range(3))
    for number, update in enumerate(updates):
        whole.add(update)
        (left if number % 2 else right).add(update)
    right.merge(left)
    assert bits(right.finish(CONTEXT)) == bits(whole.finish(CONTEXT))


def test_finishing_can_be_asked_for_again():
    accumulators = Accumulators(STRATEGY, SPEC)
    accumulators.add(update_of(1))
    assert bits(accumulators.finish(CONTEXT)) == bits(accumulators.finish(CONTEXT))


def test_a_step_changes_none_of_its_arguments():
    strategy = fedadam()
    state = state_of(strategy)
    before = bits({"params": state.params, **state.transforms["adam"]})
    accumulators = Accumulators(strategy, SPEC)
    accumulators.add(update_of(1))
    means = accumulators.finish(CONTEXT)
    sums = bits(means)
    step(strategy, SPEC, state, means, CONTEXT)
    assert bits({"params": state.params, **state.transforms["adam"]}) == before
    assert bits(means) == sums


def test_nothing_moves_if_nobody_came():
    state = aggregate(STRATEGY)
    before = state_of(STRATEGY)
    assert state.round == 1
    assert torch.equal(state.params, before.params)
    assert torch.equal(state.integers, before.integers)


def test_a_fixed_denominator_knows_the_round():
    weigher = Weigher(name="f", weigh=lambda _: 1.0, denominator=lambda context: 2 * context.wanted)
    strategy = compose(Part(name="fixed", weigher=weigher))
    state = aggregate_updates(
        strategy, SPEC, state_of(strategy), [update_of(1, (8.0, 0.0))], population=4, wanted=2
    )
    assert state.params[1:].tolist() == [1.0 + 2.0, 2.0]


def test_what_is_reported_may_be_another_model_with_the_same_buffers():
    strategy = compose(Part(name="r", report=lambda _states, params: -params))
    state = state_of(strategy)
    shown = reported(strategy, SPEC, state)
    assert torch.equal(shown[:1], state.params[:1])
    assert torch.equal(shown[1:], -state.params[1:])
    assert reported(STRATEGY, SPEC, state) is state.params


def test_a_rule_may_look_at_the_states_before_the_round():
    def rule(rows: Tensor, _weights: Tensor, context: RoundContext) -> Tensor:
        return context.states["count"]["n"].expand(rows.shape[1]).double()

    count = ServerTransform(
        name="count",
        init=lambda _params: {"n": torch.tensor(5.0)},
        update=lambda aggregate, state, _params, _context: (aggregate, {"n": state["n"] + 1}),
    )
    strategy = compose(Part(name="p", rule=OverRows("r", rule), server=(count,)))
    state = aggregate(strategy, update_of(1, (0.0, 0.0)))
    assert state.params[1:].tolist() == [6.0, 7.0]
    assert state.transforms["count"]["n"] == 6


def test_a_link_that_changes_the_names_of_its_state_is_named():
    odd = ServerTransform(
        name="odd",
        init=lambda _params: {"momentum": torch.zeros(1)},
        update=lambda aggregate, state, _params, _context: (
            aggregate,
            {"momentun": state["momentum"]},
        ),
    )
    with pytest.raises(CompositionError) as raised:
        aggregate(compose(Part(name="odd", server=(odd,))), update_of(1, (0.0, 0.0)))
    assert str(raised.value) == (
        "the update of odd returned the state ['momentun'], and its init made ['momentum']; "
        "return the same names in every round"
    )
