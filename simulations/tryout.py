"""A model sees a few examples before anything begins, so that what does not fit is one sentence."""

import torch
from torch import Tensor

from roundel.core.data import Examples
from roundel.core.errors import DataError
from roundel.core.learning import Learner
from roundel.core.seeds import isolated_rng
from roundel.core.usercode import user_code

_ROWS = 16


def try_out(learner: Learner, examples: Examples, whose: str) -> None:
    """Take the loss of a new model on a few of the examples; nothing that follows depends on it.

    Args:
        learner: Has the model and its loss.
        examples: At least one.
        whose: What they are called, such as ``"test examples"``.

    Raises:
        DataError: The model or the loss does not take them.
    """
    what = (
        f"trying the model of the task {learner.task.name!r} on {whose}, each with the "
        f"input {_kind(examples.inputs)} and the target {_kind(examples.targets)},"
    )
    start = learner.initial, learner.initial_integers
    few = examples.take(_rows(examples))
    learner.load(*start, training=False)
    with user_code(what, DataError), isolated_rng(0), torch.no_grad():
        learner.task.loss(learner.model(few.inputs), few.targets)
    learner.load(*start, training=True)


def _rows(examples: Examples) -> Tensor:
    """Return rows from all over; among them those with the first and the last class, if any."""
    rows, targets = torch.linspace(0, len(examples) - 1, _ROWS).long(), examples.targets
    if targets.dim() > 1 or targets.dtype != torch.int64:
        return rows
    return torch.cat([rows, targets.argmin()[None], targets.argmax()[None]])


def _kind(tensor: Tensor) -> str:
    """Return dtype and shape of one example's part, such as ``float32[8, 8]``."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape[1:]) or ''}"
