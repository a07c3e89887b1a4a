"""Labels are class numbers, or the sentence says why not."""

import pytest
import torch

from roundel.core.errors import DataError
from roundel.simulations.partitions.labels import MAX_CLASSES, class_numbers, targets_sha256


@pytest.mark.parametrize("label", [-1, MAX_CLASSES])
def test_a_label_out_of_range_is_named_with_its_example(label):
    with pytest.raises(DataError, match=f"example 2 has the label {label}, which is not a class"):
        class_numbers(torch.tensor([0, 1, label]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.bool])
def test_class_numbers_may_have_any_integer_dtype(dtype):
    numbers = class_numbers(torch.tensor([1, 0, 1], dtype=dtype))
    assert numbers.tolist() == [1, 0, 1]
    assert numbers.dtype.str == "<i8"


@pytest.mark.parametrize("targets", [torch.rand(10, 2), torch.rand(10), torch.zeros(10, 2).long()])
def test_other_targets_are_refused_with_their_dtype_and_shape(targets):
    with pytest.raises(DataError, match=f"{targets.dtype} and shape .* are not class numbers"):
        class_numbers(targets)


def test_the_hash_of_targets_knows_values_order_dtype_and_shape():
    first = torch.tensor([1, 2, 3, 4])
    others = [first.flip(0), first.int(), first.reshape(2, 2), first[:3], first.float()]
    hashes = {targets_sha256(targets) for targets in (first, *others)}
    assert len(hashes) == 6
    assert targets_sha256(first.clone()) == targets_sha256(first)
