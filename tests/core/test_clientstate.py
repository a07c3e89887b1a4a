"""Client state is staged with an update and committed with its round."""

import torch

from roundel.core.clientstate import ClientState, ClientStore


def state(value: float) -> ClientState:
    return {"control": torch.tensor([value])}


def value_of(store: ClientStore, client_id: int) -> float:
    return store.get(client_id)["control"].item()


def test_a_client_that_never_took_part_has_no_state() -> None:
    assert ClientStore().get(3) == {}


def test_what_is_staged_is_not_yet_visible() -> None:
    store = ClientStore({1: state(1.0)})
    store.stage(1, state(2.0))
    store.stage(2, state(3.0))
    assert value_of(store, 1) == 1.0
    assert store.get(2) == {}


def test_committing_shows_what_the_accepted_clients_staged() -> None:
    store = ClientStore({1: state(1.0)})
    store.stage(1, state(2.0))
    store.stage(2, state(3.0))
    store.commit([1, 2])
    assert (value_of(store, 1), value_of(store, 2)) == (2.0, 3.0)
    assert set(store.committed) == {1, 2}


def test_a_client_whose_update_was_not_accepted_goes_on_from_before() -> None:
    store = ClientStore({1: state(1.0)})
    store.stage(1, state(2.0))
    store.commit([2])
    assert value_of(store, 1) == 1.0
    assert store.get(2) == {}


def test_what_one_round_staged_is_not_committed_by_the_next() -> None:
    store = ClientStore()
    store.stage(1, state(2.0))
    store.commit([])
    store.commit([1])
    assert store.get(1) == {}


def test_the_last_attempt_of_a_client_counts() -> None:
    store = ClientStore()
    store.stage(1, state(2.0))
    store.stage(1, state(3.0))
    store.commit([1])
    assert value_of(store, 1) == 3.0


def test_no_new_state_takes_the_place_of_the_old_one() -> None:
    store = ClientStore({1: state(1.0), 2: state(2.0)})
    store.stage(1, {})
    store.stage(2, {})
    store.commit([1])
    assert store.get(1) == {}
    assert value_of(store, 2) == 2.0


def test_clients_that_never_have_state_are_not_remembered() -> None:
    store = ClientStore()
    store.stage(1, {})
    store.commit([1])
    assert store.committed == {}


def test_a_store_does_not_change_the_mapping_it_was_made_from() -> None:
    saved = {1: state(1.0)}
    store = ClientStore(saved)
    store.stage(2, state(2.0))
    store.commit([2])
    assert set(saved) == {1}
