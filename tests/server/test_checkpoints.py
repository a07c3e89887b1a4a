"""A checkpoint holds everything that the next round depends on, bit for bit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from roundel.core.environment import describe_environment
from roundel.core.errors import ParameterError
from roundel.core.rundir import RunDirectory
from roundel.server.aggregation import ServerState
from roundel.server.checkpoints import load_checkpoint, save_checkpoint
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
