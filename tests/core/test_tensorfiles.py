"""Tensors in files that tell whether they are whole."""

import pytest
import torch
from safetensors.torch import load

from roundel.core.tensorfiles import pack, seal, unseal

TENSORS = {"a": torch.tensor([1.5, -0.0]), "b/c": torch.tensor(3), "d": torch.zeros(0)}

NOT_WHOLE = "these bytes are no safetensors file|the digest is not that of the tensors"


def test_what_is_sealed_comes_back_bit_for_bit():
    tensors, metadata = unseal(seal(TENSORS, {"round": "3"}))
    assert metadata == {"round": "3"}
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == TENSORS[name].dtype
        assert tensor.numpy().tobytes() == TENSORS[name].numpy().tobytes()


def test_nothing_can_be_sealed_too():
    assert unseal(seal({}, {})) == ({}, {})


@pytest.mark.parametrize("place", [0, 20, -1])
def test_a_bit_that_has_changed_is_noticed(place):
    data = bytearray(seal(TENSORS, {}))
    data[place] ^= 4
    with pytest.raises(ValueError, match=NOT_WHOLE):
        unseal(bytes(data))


@pytest.mark.parametrize("data", [b"", b"no tensors", seal(TENSORS, {})[:-1], pack(TENSORS, {})])
def test_other_bytes_are_refused(data):
    with pytest.raises(ValueError, match=NOT_WHOLE):
        unseal(data)


def test_views_of_one_tensor_are_packed_apart():
    matrix = torch.arange(4.0).view(2, 2)
    found = load(pack({"row": matrix[0], "column": matrix[:, 1]}, {}))
    assert found["row"].tolist() == [0, 1]
    assert found["column"].tolist() == [1, 3]
