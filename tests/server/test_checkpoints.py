"""A checkpoint holds everything that the next round depends on, bit for bit."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from roundel.core.clientstate import ClientState, ClientStore
from roundel.core.environment import describe_environment
from roundel.core.errors import ParameterError, RunDirectoryError
from roundel.core.rundir import RunDirectory
from roundel.core.statefiles import StateFiles
from roundel.server.aggregation import ServerState
from roundel.server.checkpoints import load_checkpoint, open_store, save_checkpoint
from tests.server.toys import SPEC, bits, experiment_of

FINGERPRINT = SPEC.fingerprint
ENVIRONMENT = describe_environment("r", {"mode": "test"}, {})


@pytest.fixture
def directory(tmp_path):
    with RunDirectory.create(tmp_path / "run", experiment_of(), ENVIRONMENT) as opened:
        yield opened


def state_at(number: int, **transforms) -> ServerState:
    return ServerState(
        round=number,
        params=torch.tensor([10.0, float("nan"), -0.0]),
        integers=torch.tensor([2**62 + 1]),
        transforms=transforms,
    )


def files_of(directory: RunDirectory) -> list[Path]:
    return sorted((directory.path / "checkpoints").iterdir())


def test_server_state_comes_back_bit_for_bit(directory):
    adam = {
        "m": torch.tensor([1e-45, -0.0]),
        "v": torch.tensor([float("inf"), 3.0], dtype=torch.float64),
        "t": torch.tensor(7),
    }
    state = state_at(40, adam=adam, momentum={"velocity": torch.zeros(0)})
    save_checkpoint(directory, state, {}, FINGERPRINT)
    found = load_checkpoint(directory.path, FINGERPRINT)
    assert found is not None
    loaded, clients = found
    assert loaded.round == 40
    assert clients == {}
    assert bits({"p": loaded.params, "i": loaded.integers}) == bits(
        {"p": state.params, "i": state.integers}
    )
    assert {name: bits(tensors) for name, tensors in loaded.transforms.items()} == {
        name: bits(tensors) for name, tensors in state.transforms.items()
    }


def test_a_transform_without_state_needs_none_afterwards(directory):
    save_checkpoint(directory, state_at(1, server_lr={}), {}, FINGERPRINT)
    found = load_checkpoint(directory.path, FINGERPRINT)
    assert found is not None
    assert found[0].transforms.get("server_lr", {}) == {}


def test_client_states_come_back_bit_for_bit(directory):
    clients = {
        3: {"scaffold.control": torch.tensor([0.5, -0.0]), "steps": torch.tensor([2**40])},
        1_000_000: {"personal": torch.tensor([1.5], dtype=torch.bfloat16)},
    }
    save_checkpoint(directory, state_at(1), clients, FINGERPRINT)
    found = load_checkpoint(directory.path, FINGERPRINT)
    assert found is not None
    assert {c: bits(tensors) for c, tensors in found[1].items()} == {
        c: bits(tensors) for c, tensors in clients.items()
    }


def test_names_may_hold_slashes(directory):
    clients = {0: {"head/weight": torch.tensor([1.0]), "server/adam/m": torch.tensor([2.0])}}
    save_checkpoint(directory, state_at(1, adam={"a/b": torch.ones(1)}), clients, FINGERPRINT)
    found = load_checkpoint(directory.path, FINGERPRINT)
    assert found is not None
    assert set(found[0].transforms["adam"]) == {"a/b"}
    assert set(found[1][0]) == {"head/weight", "server/adam/m"}


def test_views_of_one_tensor_are_written_whole(directory):
    matrix = torch.arange(6.0).view(2, 3)
    clients = {0: {"row": matrix[0]}, 1: {"column": matrix[:, 1]}}
    save_checkpoint(directory, state_at(1), clients, FINGERPRINT)
    found = load_checkpoint(directory.path, FINGERPRINT)
    assert found is not None
    assert found[1][0]["row"].tolist() == [0.0, 1.0, 2.0]
    assert found[1][1]["column"].tolist() == [1.0, 4.0]


def test_without_a_checkpoint_there_is_none(directory):
    assert load_checkpoint(directory.path, FINGERPRINT) is None


def test_the_newest_checkpoint_counts(directory):
    for number in (1, 2):
        save_checkpoint(directory, state_at(number), {}, FINGERPRINT)
    found = load_checkpoint(directory.path, FINGERPRINT)
    assert found is not None
    assert found[0].round == 2


def test_the_newest_checkpoint_before_a_round_is_found_too(directory):
    for number in (1, 2):
        save_checkpoint(directory, state_at(number), {}, FINGERPRINT)
    rounds = []
    for before in (9, 3, 2, 1):
        found = load_checkpoint(directory.path, FINGERPRINT, before=before)
        rounds.append(found[0].round if found else None)
    assert rounds == [2, 2, 1, None]


def test_a_run_can_be_looked_at_while_it_is_written(directory):
    save_checkpoint(directory, state_at(1), {}, FINGERPRINT)
    before = {path: path.stat().st_mtime_ns for path in directory.path.rglob("*")}
    assert load_checkpoint(directory.path, FINGERPRINT) is not None
    assert {path: path.stat().st_mtime_ns for path in directory.path.rglob("*")} == before


def test_a_checkpoint_of_another_model_is_an_error_with_the_remedy(directory):
    save_checkpoint(directory, state_at(1), {}, "another layout")
    with pytest.raises(ParameterError) as caught:
        load_checkpoint(directory.path, FINGERPRINT)
    assert str(caught.value) == (
        f"the checkpoints in {directory.path} belong to a model of another layout; resume with "
        "the code that wrote them"
    )


def spoil(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    if how == "empty":
        data.clear()
    elif how == "half":
        del data[len(data) // 2 :]
    elif how == "first tensor":
        data[header] ^= 1
    elif how == "last tensor":
        data[-1] ^= 1
    elif how == "header":
        data[20] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["empty", "half", "first tensor", "last tensor", "header"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(directory, how):
    clients = {1: {"control": torch.tensor([1.0])}}
    for number in (1, 2):
        state = state_at(number, adam={"m": torch.ones(2), "t": torch.tensor(number)})
        save_checkpoint(directory, state, clients, FINGERPRINT)
    spoil(files_of(directory)[-1], how)
    found = load_checkpoint(directory.path, FINGERPRINT)
    assert found is not None
    assert (found[0].round, found[0].transforms["adam"]["t"].item()) == (1, 1)


def test_every_bit_of_a_checkpoint_is_guarded(directory):
    adam = {"m": torch.ones(1)}
    save_checkpoint(directory, state_at(1, adam=adam), {1: adam}, FINGERPRINT)
    (path,) = files_of(directory)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for place in range(header, len(whole)):
        data = bytearray(whole)
        data[place] ^= 16
        path.write_bytes(data)
        assert load_checkpoint(directory.path, FINGERPRINT) is None


def test_a_file_that_is_no_checkpoint_of_ours_is_passed_over(directory):
    save_file({"params": torch.ones(3)}, directory.path / "checkpoints/round-000009.safetensors")
    save_file(
        {"params": torch.ones(3), "integers": torch.ones(1)},
        directory.path / "checkpoints/round-000010.safetensors",
        {"fingerprint": FINGERPRINT, "round": "10"},
    )
    assert load_checkpoint(directory.path, FINGERPRINT) is None


def test_checkpoints_hold_tensors_that_any_tool_can_read(directory):
    save_checkpoint(directory, state_at(1, adam={"t": torch.tensor(3)}), {}, FINGERPRINT)
    tensors = load_file(files_of(directory)[0])
    assert set(tensors) == {"params", "integers", "server/adam/t"}


# ---- more client states than memory holds


def opened(directory: RunDirectory, clients: Mapping[int, ClientState], floats: int) -> ClientStore:
    """Return a store of that run with room for so many floats."""
    return ClientStore(clients, limit_bytes=4 * floats, files=StateFiles(directory.path / "states"))


def put(store: ClientStore, values: Mapping[int, float]) -> None:
    for client_id, value in values.items():
        store.stage(client_id, {"control": torch.tensor([value])})
    store.commit(values)


def saved(directory: RunDirectory, number: int, store: ClientStore) -> None:
    save_checkpoint(directory, state_at(number), store.committed, FINGERPRINT)


def found_in(directory: RunDirectory, before: int | None = None) -> tuple[int, dict[int, float]]:
    found = load_checkpoint(directory.path, FINGERPRINT, before)
    assert found is not None
    return found[0].round, {c: s["control"].item() for c, s in found[1].items()}


def state_files(directory: RunDirectory) -> list[str]:
    return sorted(path.name for path in (directory.path / "states").iterdir())


def test_states_that_fit_into_memory_stay_in_the_checkpoint(directory):
    store = open_store(directory, {})
    put(store, {1: 1.0, 2: 2.0})
    saved(directory, 1, store)
    assert set(load_file(files_of(directory)[0])) == {
        "params",
        "integers",
        "client/1/control",
        "client/2/control",
    }
    assert not (directory.path / "states").exists()


def test_states_that_do_not_are_named_by_it(directory):
    store = opened(directory, {}, floats=1)
    put(store, {1: 1.0, 5: 2.0, 3: 3.0})
    saved(directory, 1, store)
    tensors = load_file(files_of(directory)[0])
    assert set(tensors) == {"params", "integers", "filed"}
    assert tensors["filed"].tolist() == [[1, 1], [3, 3], [5, 2]]
    assert found_in(directory) == (1, {1: 1.0, 3: 3.0, 5: 2.0})
    assert store.held_bytes <= 4


def test_what_has_not_changed_is_not_written_again(directory):
    store = opened(directory, {}, floats=1)
    put(store, {1: 1.0, 2: 2.0})
    saved(directory, 1, store)
    before = {name: (directory.path / "states" / name).stat() for name in state_files(directory)}
    put(store, {2: 4.0})
    saved(directory, 2, store)
    assert state_files(directory) == [
        "client-1-1.safetensors",
        "client-2-2.safetensors",
        "client-2-3.safetensors",
    ]
    for name, stat in before.items():
        now = (directory.path / "states" / name).stat()
        assert (now.st_ino, now.st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)
    assert found_in(directory) == (2, {1: 1.0, 2: 4.0})
    assert found_in(directory, before=2) == (1, {1: 1.0, 2: 2.0})


def test_files_go_with_the_last_checkpoint_that_names_them(directory):
    store = opened(directory, {}, floats=0)
    for number in range(1, 6):
        put(store, {1: float(number), 2: float(-number)})
        saved(directory, number, store)
    assert len(files_of(directory)) == 2
    assert len(state_files(directory)) == 4
    assert found_in(directory, before=5) == (4, {1: 4.0, 2: -4.0})


def test_what_a_crash_leaves_between_checkpoints_changes_nothing(directory):
    store = opened(directory, {}, floats=0)
    put(store, {1: 1.0, 2: 2.0})
    saved(directory, 1, store)
    put(store, {1: 10.0})
    store.stage(2, {"control": torch.tensor([20.0])})
    (directory.path / "states" / "client-7-99.safetensors").write_bytes(b"half of a sta")
    # Here the process is killed; another one goes on.
    assert found_in(directory) == (1, {1: 1.0, 2: 2.0})
    found = load_checkpoint(directory.path, FINGERPRINT)
    assert found is not None
    again = opened(directory, found[1], floats=0)
    put(again, {2: 3.0})
    saved(directory, 2, again)
    assert found_in(directory) == (2, {1: 1.0, 2: 3.0})
    # The half-written file and those of the killed process that no checkpoint names are gone.
    assert state_files(directory) == [
        "client-1-1.safetensors",
        "client-2-100.safetensors",
        "client-2-2.safetensors",
    ]


def test_a_checkpoint_whose_files_are_gone_falls_back_to_the_one_before(directory):
    store = opened(directory, {}, floats=0)
    for number in (1, 2):
        put(store, {1: float(number)})
        saved(directory, number, store)
    (directory.path / "states" / "client-1-2.safetensors").unlink()
    assert found_in(directory) == (1, {1: 1.0})


def test_a_damaged_state_is_an_error_and_no_other_state(directory):
    store = opened(directory, {}, floats=0)
    put(store, {1: 1.0})
    saved(directory, 1, store)
    spoil(directory.path / "states" / "client-1-1.safetensors", "last tensor")
    with pytest.raises(RunDirectoryError, match=r"client-1-1\.safetensors is damaged"):
        found_in(directory)


def test_states_in_a_temporary_directory_go_into_the_checkpoint(directory):
    store = ClientStore(limit_bytes=0)
    put(store, {1: 1.0, 2: 2.0})
    saved(directory, 1, store)
    assert found_in(directory) == (1, {1: 1.0, 2: 2.0})
    assert not (directory.path / "states").exists()


def test_states_that_grew_small_again_are_in_the_checkpoint_again(directory):
    store = opened(directory, {}, floats=0)
    put(store, {1: 1.0})
    saved(directory, 1, store)
    found = load_checkpoint(directory.path, FINGERPRINT)
    assert found is not None
    roomy = opened(directory, found[1], floats=9)
    put(roomy, {1: 2.0})
    for number in (2, 3):
        saved(directory, number, roomy)
    assert found_in(directory) == (3, {1: 2.0})
    assert state_files(directory) == []
