"""Many clients judged by the same parameters: the model runs over the examples of several at once.

That takes a model which makes of an example the same whatever stands beside it in a batch.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from roundel.core.data import Examples
from roundel.core.errors import ParameterError
from roundel.core.learning import Learner, batch_sums, evaluation_rows
from roundel.core.metrics import Metrics, classification, classifications
from roundel.core.seeds import torch_rng_states
from roundel.core.task import Task
from roundel.simulations.vectorized.block import alike
from roundel.simulations.vectorized.losses import is_cross_entropy

_ROUNDING = 1e-3
"""How far outputs may be off in a larger batch, as a share of their length."""


def evaluate_together(
    learner: Learner, vector: Tensor, integers: Tensor, examples: Sequence[Examples]
) -> list[Metrics]:
    """Return what `Learner.evaluate` does for each client's examples, up to rounding.

    Memory follows one batch, as it does there.

    Args:
        learner: Has the task and the model.
        vector: What all clients are judged by, shape ``(D,)``.
        integers: The integer buffers.
        examples: Each client's; some may be empty.

    Raises:
        ParameterError: The examples differ in shape or dtype, or what the model makes of an example
            depends on those beside it.
    """
    if not all(alike(one, other) for one, other in pairwise(examples)):
        raise ParameterError("examples of several shapes or dtypes do not make one batch")
    found: list[Metrics] = []
    for batch in _batches([each.to(learner.device) for each in examples]):
        if len(batch) == 1:
            found.append(learner.evaluate(vector, integers, batch[0]))
        else:
            learner.load(vector, integers, training=False)
            with torch.no_grad():
                found += _evaluated(learner, batch)
    return found


def _batches(examples: Sequence[Examples]) -> Iterator[list[Examples]]:
    """Yield the clients in order, as many as fit into one batch at a time, but at least one."""
    batch: list[Examples] = []
    rows = 0
    for each in examples:
        if batch and rows + len(each) > evaluation_rows(each):
            yield batch
            batch, rows = [], 0
        batch.append(each)
        rows += len(each)
    if batch:
        yield batch


def _evaluated(learner: Learner, batch: Sequence[Examples]) -> list[Metrics]:
    """Judge the clients of one batch by what is loaded."""
    before = torch_rng_states()
    outputs = learner.model(torch.cat([each.inputs for each in batch]))
    if not all(map(torch.equal, before, torch_rng_states())):
        raise ParameterError(f"{type(learner.model).__name__} draws while it is evaluated")
    _check_apart(learner, batch, outputs)
    targets = torch.cat([each.targets for each in batch])
    sizes = [len(each) for each in batch]
    if _is_classification(learner.task, outputs, targets):
        return _class_sums(outputs, targets, sizes)
    pieces = zip(outputs.split(sizes), targets.split(sizes), strict=True)
    return [batch_sums(learner.task, o, t) if len(t) else Metrics() for o, t in pieces]


def _check_apart(learner: Learner, batch: Sequence[Examples], outputs: Tensor) -> None:
    """Make sure that one client's outputs are what they are without the others."""
    first = next((each for each in batch if len(each)), batch[0])
    alone = learner.model(first.inputs)
    beside = outputs[: len(first)]
    if not (alone - beside).norm() <= _ROUNDING * (alone.norm() + _ROUNDING):
        raise ParameterError(
            f"what {type(learner.model).__name__} makes of an example depends on those beside it"
        )


def _is_classification(task: Task, outputs: Tensor, targets: Tensor) -> bool:
    """Tell whether a task is judged by the mean cross-entropy of classes, and by counting them."""
    known = is_cross_entropy(task.loss) and task.metrics is classification
    one_each = outputs.dim() == targets.dim() + 1 == 2 and targets.dtype == torch.int64  # noqa: PLR2004
    # Negative ones may be those that torch leaves out of the mean.
    return known and one_each and len(targets) > 0 and int(targets.min()) >= 0


def _class_sums(outputs: Tensor, targets: Tensor, sizes: Sequence[int]) -> list[Metrics]:
    """Return each client's loss and counts, without asking for them one client after another."""
    counts = torch.tensor(sizes, device=targets.device)
    owners = torch.arange(len(sizes), device=targets.device).repeat_interleave(counts)
    losses = -outputs.log_softmax(dim=1).gather(1, targets.unsqueeze(1)).squeeze(1).double()
    totals = losses.new_zeros(len(sizes)).index_add_(0, owners, losses)
    sums = classifications(outputs, targets, owners, len(sizes))
    return [
        Metrics({"loss": loss, **own}, size) if size else Metrics()
        for loss, own, size in zip(totals.tolist(), sums, sizes, strict=True)
    ]
