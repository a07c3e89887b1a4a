"""A task whose parts do not fit together is one sentence before anything is made."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from roundel.core.config import Experiment
from roundel.core.data import Examples
from roundel.core.errors import RoundelError
from roundel.core.task import Task
from roundel.simulations.prepare import Pieces, prepare

ROWS = 60


def examples(width=8, dtype=torch.float32, labels=torch.int64):
    return Examples(torch.ones(ROWS, width, dtype=dtype), (torch.arange(ROWS) % 3).to(labels))


def untyped(inputs, targets):
    return Examples(inputs, targets)


def prepared(**changes):
    parts = {
        "name": "mine",
        "model": lambda: nn.Linear(8, 3),
        "load": lambda _path: examples(),
        "load_test": lambda _path: examples(),
        **changes,
    }
    said = {"partition": {"kind": "iid", "clients": 4}, "cohort": {"size": 2}}
    return prepare(Experiment.model_validate(said), Pieces(task=Task(**parts)))


ON_TEST = "trying the model of the task 'mine' on test examples, each with the input float32"
WRONG = {
    "numpy": (
        {"load": lambda _path: untyped(np.ones((9, 8)), np.ones(9))},
        "the inputs of examples are of type ndarray and not a tensor; make them one with torch.as_",
    ),
    "numpy targets": (
        {"load": lambda _path: untyped(torch.ones(9, 8), np.ones(9))},
        "the targets of examples are of type ndarray",
    ),
    "no model": (
        {"model": dict},
        "the model of the task 'mine' is of type dict and not a torch.nn.Module; let the function",
    ),
    "width": (
        {"model": lambda: nn.Linear(9, 3)},
        f"{ON_TEST}[8] and the target int64, failed: RuntimeError: mat1 and mat2 shapes cannot be",
    ),
    "test width": (
        {"load_test": lambda _path: examples(width=5)},
        f"{ON_TEST}[5] and the target int64, failed: RuntimeError",
    ),
    "dtype": (
        {"load": lambda _path: examples(dtype=torch.float64)},
        "on examples, each with the input float64[8] and the target int64, failed: RuntimeError",
    ),
    "labels": (
        {"load": lambda _path: examples(labels=torch.float32)},
        "and the target float32, failed: RuntimeError: expected",
    ),
    "classes": (
        {"model": lambda: nn.Linear(8, 2)},
        "failed: IndexError: Target 2 is out of bounds",
    ),
    "loss": (
        {"loss": lambda _outputs, _targets: 1 / 0},
        f"failed: ZeroDivisionError: division by zero ({__file__}:",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_parts_that_do_not_fit_together_are_one_sentence(case):
    changes, sentence = WRONG[case]
    with pytest.raises(RoundelError) as caught:
        prepared(**changes)
    first = str(caught.value).partition("\n\n")[0]
    assert sentence in first
    assert "\n" not in first
    assert caught.value.exit_code == 2


class Drawing(nn.Module):
    """Draws, counts what it sees in a buffer, and tells its mode."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs):
        self.seen += len(inputs)
        return self.layer(inputs + torch.randn_like(inputs))


def test_targets_may_be_of_any_kind():
    def load(_path):
        return Examples(torch.ones(9, 8), torch.ones(9, dtype=torch.bool))

    def loss(outputs, targets):
        return functional.binary_cross_entropy_with_logits(outputs[:, 0], targets.float())

    assert prepared(load=load, load_test=load, loss=loss).population.size == 4


def test_nothing_remains_of_it():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    learner = prepared(model=Drawing).learner
    assert torch.equal(torch.rand(2), expected)
    assert learner.model.training
    assert learner.model.seen == 0
    assert torch.equal(learner.vector, learner.initial)


def test_a_training_function_may_take_what_the_model_does_not():
    simulation = prepared(
        train=lambda _model, _examples, _context: None,
        load=lambda _path: examples(width=5),
    )
    assert simulation.population.size == 4
