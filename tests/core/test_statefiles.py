"""Files of client states: written once, numbered, and removed when nobody names them."""

import pytest
import torch

from roundel.core.errors import RunDirectoryError
from roundel.core.statefiles import (
    FiledStates,
    StateFiles,
    drop_unused,
    name_of,
    number_of,
    read_state,
)


def state(value: float) -> dict[str, torch.Tensor]:
    return {"control": torch.tensor([value])}


def names(directory) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_state_comes_back_from_its_file(tmp_path):
    path = StateFiles(tmp_path / "states").write(17, state(1.5))
    assert path == tmp_path / "states" / "client-17-1.safetensors"
    assert read_state(path)["control"].tolist() == [1.5]
    assert number_of(path) == 1


def test_the_next_state_is_another_file_with_a_higher_number(tmp_path):
    files = StateFiles(tmp_path)
    paths = [files.write(client, state(1.0)) for client in (3, 3, 4)]
    assert [path.name for path in paths] == [name_of(3, 1), name_of(3, 2), name_of(4, 3)]


def test_numbers_go_on_after_those_that_are_there(tmp_path):
    StateFiles(tmp_path).write(1, state(1.0))
    (tmp_path / "notes.txt").write_text("not a state")
    assert StateFiles(tmp_path).write(1, state(2.0)).name == name_of(1, 2)


def test_what_no_checkpoint_can_name_is_removed_at_once(tmp_path):
    files = StateFiles(tmp_path)
    files.discard(files.write(1, state(1.0)))
    assert names(tmp_path) == []


def test_what_a_checkpoint_may_name_stays(tmp_path):
    files = StateFiles(tmp_path)
    mine = files.write(1, state(1.0))
    files.keep()
    files.discard(mine)
    assert names(tmp_path) == [mine.name]
    # Of an earlier process, too.
    StateFiles(tmp_path).discard(mine)
    assert names(tmp_path) == [mine.name]


def test_what_is_not_in_use_is_dropped(tmp_path):
    files = StateFiles(tmp_path)
    for client in range(3):
        files.write(client, state(1.0))
    (tmp_path / "notes.txt").write_text("mine")
    drop_unused(tmp_path, {name_of(1, 2)})
    assert names(tmp_path) == [name_of(1, 2), "notes.txt"]
    drop_unused(tmp_path / "nowhere", set())


def test_a_temporary_directory_goes_with_its_files():
    files = StateFiles()
    path = files.write(1, state(1.0))
    assert path.exists()
    assert files.directory is None
    del files
    assert not path.parent.exists()


def test_a_state_that_is_gone_or_damaged_is_an_error_that_says_so(tmp_path):
    path = StateFiles(tmp_path).write(1, state(1.0))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunDirectoryError, match=r"client-1-1\.safetensors is damaged; restore it"):
        read_state(path)
    path.unlink()
    with pytest.raises(RunDirectoryError, match=r"client-1-1\.safetensors is gone; if the run"):
        read_state(path)


def test_a_directory_that_cannot_be_written_is_an_error_that_says_so(tmp_path):
    (tmp_path / "states").write_text("in the way")
    with pytest.raises(RunDirectoryError, match="cannot write"):
        StateFiles(tmp_path / "states").write(1, state(1.0))


def test_filed_states_are_read_when_they_are_asked_for(tmp_path):
    paths = {4: StateFiles(tmp_path).write(4, state(2.5)), 9: tmp_path / "missing"}
    states = FiledStates(paths)
    assert (list(states), len(states)) == ([4, 9], 2)
    assert states[4]["control"].tolist() == [2.5]
