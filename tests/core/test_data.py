"""Examples, and how one client's are divided."""

from collections.abc import Iterator
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from roundel.core.data import ClientData, Examples, InMemoryPopulation, split
from roundel.core.errors import DataError
from roundel.core.seeds import torch_generator


def numbered(count: int) -> Examples:
    """Make examples whose input is ten times their target."""
    return Examples(10.0 * torch.arange(count).view(-1, 1), torch.arange(count))


def test_as_many_examples_as_targets() -> None:
    assert len(numbered(3)) == 3
    assert len(numbered(0)) == 0


def test_inputs_without_targets_are_refused() -> None:
    with pytest.raises(DataError, match="3 inputs and 2 targets do not pair up"):
        Examples(torch.zeros(3), torch.zeros(2))


def test_rows_are_taken_in_the_order_asked_for() -> None:
    taken = numbered(4).take(torch.tensor([3, 0, 3]))
    assert taken.targets.tolist() == [3, 0, 3]
    assert taken.inputs.tolist() == [[30.0], [0.0], [30.0]]


def test_taken_rows_are_copies() -> None:
    examples = numbered(2)
    examples.take(torch.tensor([0, 1])).inputs.fill_(-1.0)
    assert examples.inputs.tolist() == [[0.0], [10.0]]


def test_a_torch_dataset_stacks_to_examples() -> None:
    examples = Examples.stack(TensorDataset(torch.tensor([[1.0], [2.0]]), torch.tensor([0, 1])))
    assert examples.inputs.tolist() == [[1.0], [2.0]]
    assert examples.targets.tolist() == [0, 1]


class Endless(Dataset[tuple[Tensor, int]]):
    """A map-style dataset that answers any index and relies on its length being asked."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([float(index)]), index % 2


def test_a_dataset_ends_at_its_length() -> None:
    assert Examples.stack(Endless()).inputs.flatten().tolist() == [0.0, 1.0, 2.0]


def test_plain_numbers_and_generators_stack_too() -> None:
    def pairs() -> Iterator[tuple[Tensor, float]]:
        yield torch.tensor([1.0, 2.0]), 0.5
        yield torch.tensor([3.0, 4.0]), 1.5

    examples = Examples.stack(pairs())
    assert examples.inputs.shape == (2, 2)
    assert examples.targets.dtype == torch.float32
    assert examples.targets.tolist() == [0.5, 1.5]


def test_whole_number_targets_become_class_numbers() -> None:
    assert Examples.stack([(torch.zeros(1), 2)]).targets.dtype == torch.int64


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(DataError, match="the dataset has no examples"):
        Examples.stack([])


def test_examples_of_different_shapes_are_refused_with_the_remedy() -> None:
    with pytest.raises(DataError, match=r"do not stack to one tensor .* one shape first"):
        Examples.stack([(torch.zeros(1), 0), (torch.zeros(2), 0)])


def divided(count: int, validation: float, test: float, seed: int = 0) -> ClientData:
    generator = torch_generator(seed)
    return split(numbered(count), validation=validation, test=test, generator=generator)


def rows(data: ClientData) -> tuple[list[int], list[int], list[int]]:
    return data.train.targets.tolist(), data.validation.targets.tolist(), data.test.targets.tolist()


def test_shares_are_rounded_down_and_the_rest_is_for_training() -> None:
    assert [len(part) for part in rows(divided(19, 0.25, 0.1))] == [14, 4, 1]
    assert [len(part) for part in rows(divided(1, 0.25, 0.5))] == [1, 0, 0]
    assert [len(part) for part in rows(divided(0, 0.25, 0.5))] == [0, 0, 0]


@given(st.integers(0, 40), st.floats(0, 0.5), st.floats(0, 0.49), st.integers(0, 2**63 - 1))
@settings(max_examples=50, deadline=None)
def test_the_parts_hold_every_example_once(
    count: int, validation: float, test: float, seed: int
) -> None:
    parts = rows(divided(count, validation, test, seed))
    assert sorted(chain(*parts)) == list(range(count))
    assert all(part == sorted(part) for part in parts)


def test_inputs_stay_with_their_targets() -> None:
    data = divided(20, 0.25, 0.25)
    for part in (data.train, data.validation, data.test):
        assert torch.equal(part.inputs.flatten(), 10.0 * part.targets)


def test_the_generator_decides_the_split() -> None:
    assert rows(divided(20, 0.2, 0.2, seed=1)) == rows(divided(20, 0.2, 0.2, seed=1))
    assert rows(divided(20, 0.2, 0.2, seed=1)) != rows(divided(20, 0.2, 0.2, seed=2))


def test_parts_that_a_client_is_not_given_are_empty_and_of_the_same_shape() -> None:
    some = Examples(torch.ones(3, 2), torch.zeros(3, dtype=torch.int64))
    data = ClientData.of(some, test=some.take(torch.tensor([0])))
    assert (len(data.train), len(data.validation), len(data.test)) == (3, 0, 1)
    assert (data.validation.inputs.shape, data.validation.targets.dtype) == ((0, 2), torch.int64)


def test_a_population_in_memory_holds_nothing_out() -> None:
    population = InMemoryPopulation.of(numbered(count) for count in (3, 1))
    assert population.size == 2
    assert rows(population.client(0)) == ([0, 1, 2], [], [])
    assert population.client(1).test.inputs.shape == (0, 1)


def test_users_go_with_examples_one_each() -> None:
    whose = Examples(torch.zeros(3), torch.zeros(3), torch.tensor([0, 0, 1]))
    assert whose.users is not None
    assert numbered(3).users is None
    with pytest.raises(DataError, match=r"users of shape \(2,\) do not go with 3 examples"):
        Examples(torch.zeros(3), torch.zeros(3), torch.tensor([0, 1]))


def test_taken_rows_are_nobodys_any_more() -> None:
    whose = Examples(torch.zeros(3), torch.zeros(3), torch.tensor([0, 0, 1]))
    assert whose.take(torch.tensor([2])).users is None


def test_examples_move_to_a_device_and_stay_where_they_are_already() -> None:
    examples = numbered(3)
    assert examples.to(torch.device("cpu")) is examples
    there = examples.to(torch.device("meta"))
    assert {there.inputs.device.type, there.targets.device.type} == {"meta"}
    assert there.inputs.shape == (3, 1)
