"""The tensors of K clients, stacked from their jobs and taken apart again."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from roundel.core.data import Examples
from roundel.core.job import LocalContext, LocalJob
from roundel.core.params import ParamSpec
from roundel.core.rows import rows_of
from roundel.simulations.vectorized.slope import Tensors


def stack_tensors(
    spec: ParamSpec, jobs: Sequence[LocalJob], transient: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return what K clients start from: each of a model's tensors, shape ``(K, *shape)``.

    Args:
        spec: The model's layout.
        jobs: One a client.
        transient: The model's buffers that are in no vector, as they start.
    """
    vectors = rows_of([job.context.sent for job in jobs])
    stacked = {name: _owned(view) for name, view in spec.views(vectors).items()}
    if spec.integers:
        counters = rows_of([job.integers for job in jobs])
        pieces = counters.split([entry.numel for entry in spec.integers], dim=-1)
        for entry, piece in zip(spec.integers, pieces, strict=True):
            stacked[entry.name] = _owned(piece.reshape(len(jobs), *entry.shape).to(entry.dtype))
    for name, buffer in transient.items():
        stacked[name] = _owned(buffer.expand(len(jobs), *buffer.shape))
    return stacked


def vectors_of(spec: ParamSpec, tensors: Tensors) -> Sequence[Tensor]:
    """Return each client's vector, shape ``(D,)``, on the CPU."""
    return torch.cat([flat(tensors[e.name]) for e in spec.entries], dim=1).cpu().unbind()


def integers_of(spec: ParamSpec, tensors: Tensors) -> Sequence[Tensor]:
    """Return each client's integer vector, of a model that has integers, likewise."""
    pieces = [flat(tensors[e.name]).to(torch.int64) for e in spec.integers]
    return torch.cat(pieces, dim=1).cpu().unbind()


def stack_contexts(jobs: Sequence[LocalJob]) -> LocalContext:
    """Return the context of K clients that received the same and know the same things."""
    first = jobs[0].context
    return LocalContext(
        spec=first.spec,
        sent=rows_of([job.context.sent for job in jobs]),
        received=first.received,
        state={
            name: torch.stack([job.context.state[name] for job in jobs]) for name in first.state
        },
        lr=first.lr,
        innovations=first.innovations,
    )


def pick_context(context: LocalContext, where: slice | Tensor) -> LocalContext:
    """Return the context of some of the clients."""
    return LocalContext(
        spec=context.spec,
        sent=context.sent[where],
        received=context.received,
        state={name: value[where] for name, value in context.state.items()},
        lr=context.lr,
        innovations=context.innovations,
    )


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Return what must be the same for named tensors of several clients to be stacked."""
    return {name: value.shape for name, value in tensors.items()}


def alike(one: Examples, other: Examples) -> bool:
    """Tell whether batches of two clients can be stacked: what must be the same is."""
    return _alike(one.inputs, other.inputs) and _alike(one.targets, other.targets)


def _alike(one: Tensor, other: Tensor) -> bool:
    same = one.shape == other.shape or one.shape[1:] == other.shape[1:]
    return same and one.dtype == other.dtype


def flat(stack: Tensor) -> Tensor:
    """Return ``(K, *shape)`` as ``(K, numel)``, also for scalars and for tensors of no numbers."""
    return stack.reshape(len(stack), stack[0].numel())


def _owned(tensor: Tensor) -> Tensor:
    """Return a contiguous copy."""
    return tensor.clone(memory_format=torch.contiguous_format)
