"""Several vectors looked at together say what each says alone."""

from math import isnan

import pytest
import torch

from roundel.core.rows import magnitudes, norms, rows_of
from roundel.core.seeds import torch_generator


def test_vectors_are_stacked_and_a_single_one_is_not_copied():
    one, other = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    assert rows_of([one, other]).tolist() == [[1, 2], [3, 4]]
    assert rows_of([one]).shape == (1, 2)
    assert rows_of([one]).data_ptr() == one.data_ptr()


def test_the_magnitude_is_the_largest_absolute_value():
    rows = torch.tensor([[1.0, -3.0], [2.0, 0.5], [0.0, float("inf")], [-float("inf"), 1.0]])
    assert magnitudes(rows) == [3.0, 2.0, float("inf"), float("inf")]
    assert magnitudes(torch.empty(2, 0)) == [0.0, 0.0]


@pytest.mark.parametrize("place", [0, 1, 40])
def test_the_magnitude_of_what_is_not_a_number_is_none_and_others_keep_theirs(place: int):
    rows = torch.ones(2, 41)
    rows[0, place] = float("nan")
    first, second = magnitudes(rows)
    assert isnan(first)
    assert second == 1.0


def test_norms_are_euclidean():
    assert norms(torch.tensor([[3.0, -4.0], [0.0, 2.0]])) == [5.0, 2.0]


@pytest.mark.parametrize("length", [1, 7, 64, 1001, 40_000])
def test_norms_have_the_bits_that_each_row_has_alone(length: int):
    rows = torch.randn(5, length, generator=torch_generator(length))
    assert norms(rows) == [float(torch.linalg.vector_norm(row.clone())) for row in rows]
