"""Client state is staged with an update and committed with its round."""

from collections.abc import Mapping
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roundel.core.clientstate import ClientState, ClientStore
from roundel.core.statefiles import FiledStates, StateFiles, name_of


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


# ---- more than memory holds

ONE = 4  # bytes of a state of one float


def numbered(store: ClientStore) -> dict[int, float]:
    return {client: value_of(store, client) for client in store.committed}


def put(store: ClientStore, values: Mapping[int, float]) -> None:
    for client_id, value in values.items():
        store.stage(client_id, state(value))
    store.commit(values)


def test_a_store_holds_no_more_than_its_limit_and_forgets_nothing(tmp_path: Path) -> None:
    store = ClientStore(limit_bytes=3 * ONE, files=StateFiles(tmp_path))
    for client_id in range(10):
        store.stage(client_id, state(float(client_id)))
        assert store.held_bytes <= 3 * ONE
    store.commit(range(10))
    assert numbered(store) == {client: float(client) for client in range(10)}
    assert store.held_bytes == 3 * ONE


def test_what_was_not_needed_for_the_longest_time_leaves_memory(tmp_path: Path) -> None:
    store = ClientStore(limit_bytes=2 * ONE, files=StateFiles(tmp_path))
    put(store, {1: 1.0, 2: 2.0})
    store.get(1)
    put(store, {3: 3.0})
    assert [path.name for path in tmp_path.iterdir()] == [name_of(2, 1)]


def test_a_state_larger_than_the_limit_is_never_held(tmp_path: Path) -> None:
    store = ClientStore(limit_bytes=ONE - 1, files=StateFiles(tmp_path))
    put(store, {1: 1.0})
    assert store.held_bytes == 0
    assert value_of(store, 1) == 1.0
    assert store.held_bytes == 0


def test_what_left_memory_is_staged_committed_and_dropped_as_ever(tmp_path: Path) -> None:
    store = ClientStore({1: state(1.0)}, limit_bytes=0, files=StateFiles(tmp_path))
    store.stage(1, state(2.0))
    store.stage(2, state(3.0))
    assert value_of(store, 1) == 1.0
    assert store.get(2) == {}
    store.commit([2])
    assert numbered(store) == {1: 1.0, 2: 3.0}
    store.stage(1, {})
    store.commit([1])
    assert store.get(1) == {}


def test_files_that_nobody_needs_are_removed(tmp_path: Path) -> None:
    store = ClientStore(limit_bytes=0, files=StateFiles(tmp_path))
    for round in range(5):
        put(store, {1: float(round), 2: float(round)})
        store.stage(3, state(9.0))
        store.commit([])
    assert len(list(tmp_path.iterdir())) == 2


def test_a_view_counts_as_all_that_it_keeps_in_memory() -> None:
    row = torch.zeros(100, 4)[0]
    assert ClientStore({1: {"row": row, "again": row}}).held_bytes == 1600


def test_looking_at_all_states_moves_none_into_memory(tmp_path: Path) -> None:
    store = ClientStore(limit_bytes=ONE, files=StateFiles(tmp_path))
    put(store, dict.fromkeys(range(5), 1.0))
    assert [one["control"].tolist() for one in store.committed.values()] == [[1.0]] * 5
    assert store.held_bytes == ONE


def test_a_store_begins_with_files_without_reading_them(tmp_path: Path) -> None:
    path = StateFiles(tmp_path).write(7, state(2.5))
    store = ClientStore(FiledStates({7: path, 8: tmp_path / "missing"}))
    assert set(store.committed) == {7, 8}
    assert store.held_bytes == 0
    assert value_of(store, 7) == 2.5
    store.stage(7, state(3.0))
    store.commit([7])
    assert path.exists()  # it is somebody else's


@given(data=st.data(), limit=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_a_small_memory_remembers_what_a_large_one_does(data: st.DataObject, limit: int) -> None:
    small, large = ClientStore(limit_bytes=limit * ONE), ClientStore()
    for step in range(data.draw(st.integers(1, 8))):
        for client_id in data.draw(st.lists(st.integers(0, 6), max_size=8)):
            empty = data.draw(st.booleans())
            value = {} if empty else state(step + client_id / 8)
            for store in (small, large):
                store.get(client_id)
                store.stage(client_id, value)
            assert small.held_bytes <= limit * ONE
        accepted = data.draw(st.lists(st.integers(0, 6), unique=True))
        for store in (small, large):
            store.commit(accepted)
        assert small.committed == large.committed


def test_two_thousand_clients_of_10_kb_need_1_mb() -> None:
    limit = 1_000_000
    store = ClientStore(limit_bytes=limit)
    most = 0
    for start in range(0, 2000, 500):
        for client_id in range(start, start + 500):
            store.stage(client_id, {"control": torch.full((2_500,), float(client_id))})
            most = max(most, store.held_bytes)
        store.commit(range(start, start + 500))
    assert 0.9 * limit < most <= limit
    assert len(store.committed) == 2000
    assert [float(store.get(client)["control"][-1]) for client in (0, 777, 1999)] == [0, 777, 1999]
    assert store.held_bytes <= limit
