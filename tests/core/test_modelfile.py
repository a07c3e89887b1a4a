"""A model in a file, of a run or of one's own."""

import pytest
import torch
from safetensors.torch import save_file

from roundel.core.errors import ParameterError
from roundel.core.modelfile import misfit, read_model

ONE = torch.zeros(1)
TENSORS = {"weight": torch.tensor([[1.0, 2.0]]), "count": torch.tensor(3)}


def complaint(path) -> str:
    with pytest.raises(ParameterError) as caught:
        read_model(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_and_the_directory_of_a_finished_run_are_read_alike(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    for path in (tmp_path / "model.safetensors", tmp_path):
        found = read_model(path)
        assert {name: tensor.tolist() for name, tensor in found.items()} == {
            "weight": [[1.0, 2.0]],
            "count": 3,
        }


def test_a_file_that_is_not_there_is_named(tmp_path):
    assert complaint(tmp_path / "nowhere.safetensors") == (
        f"there is no model {tmp_path}/nowhere.safetensors; check the path"
    )


def test_a_run_that_has_not_finished_has_no_model(tmp_path):
    assert complaint(tmp_path) == (
        f"there is no model {tmp_path}/model.safetensors; the run has not finished"
    )


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 a torch archive", b"\xff" * 100, bytes(100)], ids=repr
)
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    file = tmp_path / "model.pt"
    file.write_bytes(content)
    sentence = complaint(file)
    assert sentence.startswith(f"{file} cannot be read (")
    assert sentence.endswith("); it is not a safetensors file, or it is damaged")


def test_a_file_that_was_cut_short_is_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file(TENSORS, file)
    file.write_bytes(file.read_bytes()[:-1])
    assert "cannot be read (" in complaint(file)


def test_what_does_not_fit_a_model_is_named_three_at_a_time():
    own = {"a": torch.zeros(2, 3), "count": torch.tensor(0), **{f"b{i}": ONE for i in range(5)}}
    given = {"a": torch.zeros(3), "count": ONE, **{f"c{i}": ONE for i in range(4)}}
    assert misfit(own, own) == ""
    assert misfit(own, given) == (
        "it lacks 'b0', 'b1', 'b2' and 2 more; it has 'c0', 'c1', 'c2' and 1 more, which the model "
        "has not; 'a' is 3 where the model has 2 x 3, 'count' is 1 where the model has one number"
    )
