"""Any model that `torch.func` can map over clients."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from roundel.core.forward import Forward
from roundel.core.job import LocalContext, LossTerm
from roundel.core.task import Loss
from roundel.simulations.vectorized.slope import Slope, StackedBatch, Tensors


@contextmanager
def mappable_kernels() -> Iterator[None]:
    """Let attention run as matrix products, which can be mapped; fused kernels cannot."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


class Functional:
    """Maps a model and loss terms over the axis of clients, and differentiates the result.

    Autograd sees the mapped operations, not the map: `torch.func.grad` within it would do the same,
    slower, and loads torch's compiler, which takes seconds.
    """

    pads = False

    def __init__(self, model: nn.Module, loss: Loss, terms: Sequence[LossTerm]) -> None:
        """Make it.

        Args:
            model: Runs with tensors that it is given; its own stay as they are.
            loss: The task's.
            terms: Added to it.
        """
        self._model = model
        self._task_loss = loss
        self._terms = terms
        self._buffers = [name for name, _ in model.named_buffers()]
        self._forward = Forward(model)

    def slope(
        self, tensors: Tensors, batch: StackedBatch, context: LocalContext, wanted: Sequence[str]
    ) -> Slope:
        """See `Gradients`."""

        def loss(
            wrt: Tensors, rest: Tensors, inputs: Tensor, targets: Tensor, own: "_Own"
        ) -> tuple[Tensor, tuple[Tensor, Tensors]]:
            sent, state = own
            local = _of_one(context, sent, state)
            return self._loss({**rest, **wrt}, inputs, targets, local)

        wrt = {name: tensors[name].detach().requires_grad_() for name in wanted}
        rest = {name: tensor for name, tensor in tensors.items() if name not in wrt}
        mapped = vmap(loss, randomness="different")
        own = (context.sent, dict(context.state))
        with torch.enable_grad():
            totals, (losses, buffers) = mapped(wrt, rest, batch.inputs, batch.targets, own)
            total = totals.sum()  # whose gradient is that of each client: none depends on another
        pieces = torch.autograd.grad(total, list(wrt.values()), materialize_grads=True)
        after = {name: buffer.detach() for name, buffer in buffers.items()}
        return Slope(losses=losses.detach(), gradients=pieces, buffers=after)

    def _loss(
        self, tensors: Tensors, inputs: Tensor, targets: Tensor, context: LocalContext
    ) -> tuple[Tensor, tuple[Tensor, Tensors]]:
        """Return one client's loss with its terms, the task's alone, and the buffers after it."""
        buffers = {name: tensors[name].clone() for name in self._buffers}
        own = {**tensors, **buffers}
        listening: AbstractContextManager[list[Tensor]] = nullcontext([])
        if self._terms:
            listening = self._forward.listening()
        with listening as heard:
            outputs: Tensor = functional_call(self._model, own, (inputs,))
        loss = self._task_loss(outputs, targets)
        total = loss
        if self._terms:
            shown = self._forward.batch(own, inputs, targets, outputs, heard, context)
            for term in self._terms:
                total = total + term(shown)
        return total, (loss, buffers)


_Own = tuple[Tensor, Tensors]
"""A client's sent vector and its state."""


def _of_one(context: LocalContext, sent: Tensor, state: Tensors) -> LocalContext:
    """Return one client's context from the stacked one."""
    return LocalContext(
        spec=context.spec,
        sent=sent,
        received=context.received,
        state=state,
        lr=context.lr,
        innovations=context.innovations,
    )
