"""What a training function of the user's is told, and what it answers."""

from dataclasses import FrozenInstanceError
from inspect import cleandoc
from textwrap import dedent
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from roundel.core import training
from roundel.core.config import Experiment
from roundel.core.data import Examples
from roundel.core.training import TrainingContext, TrainingResult

CONTEXT = TrainingContext(
    round=1, client_id=0, seed=0, state={}, device=torch.device("cpu"), config=Experiment()
)


def test_the_function_in_the_documentation_trains() -> None:
    text = cleandoc(training.__doc__ or "")
    code = dedent(text[text.index("    def train") : text.index("Torch's, numpy's")])
    names: dict[str, Any] = {
        "torch": torch,
        "cross_entropy": cross_entropy,
        "TrainingResult": TrainingResult,
    }
    exec(code, names)
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    examples = Examples(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    before = cross_entropy(model(examples.inputs), examples.targets).item()
    result = names["train"](model, examples, CONTEXT)
    assert result.steps == 10
    assert result.loss is not None
    assert result.loss < before
    assert result.state == {}


def test_neither_the_context_nor_the_result_can_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        CONTEXT.round = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        TrainingResult(steps=1).steps = 2  # type: ignore[misc]
    assert TrainingResult(steps=1).state is not TrainingResult(steps=1).state
