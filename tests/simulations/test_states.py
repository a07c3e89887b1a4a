"""Client states that rank 0 holds and the others borrow."""

import torch

from roundel.core.clientstate import ClientStore
from roundel.core.ranks import ALONE
from roundel.simulations.states import SharedStates
from tests.companies import on_ranks

WHERE = {client: client % 3 for client in range(6)}


def one(value: float) -> dict[str, torch.Tensor]:
    return {"c": torch.tensor([value])}


def shared(ranks, held=None, **more):
    store = ClientStore(held if ranks.rank == 0 else None)
    return SharedStates(ranks, store, ClientStore, any_yet=bool(held), **more)


def values(states, clients):
    return [[v.item() for v in states.get(client).values()] for client in clients]


def own(ranks):
    return [client for client, rank in WHERE.items() if rank == ranks.rank]


def test_alone_they_are_those_of_the_store():
    states = shared(ALONE, {0: one(1.0)})
    states.lend({0: 0, 1: 0})
    states.stage(0, one(2.0))
    states.give_back([0], keeps=states.keeps)
    assert values(states, [0, 1]) == [[1.0], []]
    states.commit([0])
    assert values(states, [0]) == [[2.0]]
    assert list(states.committed) == [0]


def test_each_rank_sees_the_states_of_the_clients_that_it_works_on():
    held = {client: one(float(client)) for client in (0, 1, 2, 4)}

    def work(ranks):
        states = shared(ranks, held)
        states.lend(WHERE)
        return values(states, own(ranks))

    assert on_ranks(3, work) == [[[0.0], []], [[1.0], [4.0]], [[2.0], []]]


def test_what_became_of_accepted_clients_is_back_at_rank_0_and_nothing_else():
    held = {client: one(float(client)) for client in range(6)}

    def work(ranks):
        states = shared(ranks, held)
        states.lend(WHERE)
        for client in own(ranks):
            states.stage(client, one(client + 10.0))
        states.give_back(
            [client for client in own(ranks) if client != 4], keeps=True
        )  # 4 was refused
        before = values(states, [0, 1, 4]) if ranks.rank == 0 else []
        states.commit([0, 1, 2, 5])  # 3 was late
        return before, values(states, range(6)) if ranks.rank == 0 else len(states.committed)

    after = [[10.0], [11.0], [12.0], [3.0], [4.0], [15.0]]
    assert on_ranks(3, work) == [[[[0.0], [1.0], [4.0]], after], [[], 0], [[], 0]]


def test_the_first_states_of_a_run_may_begin_on_any_rank():
    def work(ranks):
        states = shared(ranks)
        states.lend(WHERE)
        if ranks.rank == 2:
            states.stage(5, one(5.0))
        states.give_back([5] if ranks.rank == 2 else [], keeps=True)
        states.commit([5])
        states.lend({5: 1})
        return values(states, [5])

    assert on_ranks(3, work) == [[[5.0]], [[5.0]], [[]]]


def test_a_state_that_a_client_gave_up_is_given_up_at_rank_0():
    def work(ranks):
        states = shared(ranks, {1: one(1.0)})
        states.lend({1: 1})
        if ranks.rank == 1:
            states.stage(1, {})
        states.give_back([1] if ranks.rank == 1 else [], keeps=True)
        states.commit([1])
        return values(states, [1])

    assert on_ranks(2, work) == [[[]], [[]]]
