"""Tasks: initial models and checks of what users load."""

import math

import pytest
import torch
from torch import nn

from roundel.core.data import Examples
from roundel.core.errors import DataError
from roundel.core.task import Task, check_finite, check_labels

TASK = Task(name="toy", model=lambda: nn.Linear(3, 2))


def test_the_same_seed_makes_the_same_model() -> None:
    one, two = TASK.new_model(5).state_dict(), TASK.new_model(5).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_another_seed_makes_another_model() -> None:
    one, two = TASK.new_model(5).state_dict(), TASK.new_model(6).state_dict()
    assert not torch.equal(one["weight"], two["weight"])


def test_making_a_model_moves_no_global_generator() -> None:
    before = torch.get_rng_state()
    TASK.new_model(5)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_layout_knows_what_is_personal() -> None:
    task = Task(name="toy", model=TASK.model, personal=lambda name: name == "bias")
    spec = task.spec(task.new_model(0))
    assert (spec.shared, spec.personal) == (slice(0, 6), slice(6, 8))
    assert TASK.spec(TASK.new_model(0)).personal == slice(8, 8)


def labelled(inputs: list[list[float]], targets: list[int]) -> Examples:
    return Examples(torch.tensor(inputs), torch.tensor(targets))


def test_good_examples_pass_the_check_unchanged() -> None:
    examples = labelled([[1.0], [2.0]], [0, 1])
    assert check_labels(examples, 2, "train.csv") is examples


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_example_that_is_not_finite_is_named(value: float) -> None:
    examples = labelled([[1.0, 1.0], [1.0, value], [value, 1.0]], [0, 1, 0])
    with pytest.raises(DataError, match=r"train\.csv: example 1 holds a value that is not finite"):
        check_labels(examples, 2, "train.csv")


def test_scalar_inputs_are_checked_too() -> None:
    examples = Examples(torch.tensor([0.0, math.nan]), torch.tensor([0, 0]))
    with pytest.raises(DataError, match="example 1"):
        check_labels(examples, 2, "train.csv")


@pytest.mark.parametrize("label", [-1, 2])
def test_the_first_label_out_of_range_is_named(label: int) -> None:
    examples = labelled([[1.0], [1.0]], [1, label])
    with pytest.raises(DataError, match=f"example 1 has the label {label}, but labels are 0 to 1"):
        check_labels(examples, 2, "train.csv")


def test_whole_number_inputs_and_no_examples_pass() -> None:
    tokens = Examples(torch.tensor([[1, 2]]), torch.tensor([0]))
    assert check_labels(tokens, 1, "x") is tokens
    empty = Examples(torch.empty(0, 3), torch.empty(0, dtype=torch.int64))
    assert check_labels(empty, 1, "x") is empty


def test_examples_without_labels_are_checked_for_what_is_not_finite() -> None:
    good = Examples(torch.tensor([[1.0]]), torch.tensor([[0.5]]))
    assert check_finite(good, "x") is good
    bad = Examples(torch.tensor([[1.0], [math.nan]]), torch.zeros(2, 1))
    with pytest.raises(DataError, match=r"^x: example 1 holds a value that is not finite; remove"):
        check_finite(bad, "x")


def test_a_task_brings_neither_augmentation_nor_training_nor_clients_unless_it_says_so() -> None:
    assert (TASK.augment, TASK.train, TASK.population, TASK.knobs) == (None, None, None, {})
