"""One forward pass as loss terms see it: of the loop's model, or of one client of a stack."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from roundel.core.errors import ParameterError
from roundel.core.job import Batch, LocalContext


class Forward:
    """Shows loss terms what a model was given and what it made of it."""

    def __init__(self, model: nn.Module) -> None:
        """Make it for a model, which is run again with other tensors where a term asks for that."""
        self._model = model
        self._linear = [part for part in model.modules() if isinstance(part, nn.Linear)]
        self._buffers = [name for name, _ in model.named_buffers()]

    @contextmanager
    def listening(self) -> Iterator[list[Tensor]]:
        """Find out what the last linear layer that is called is given while the model runs."""
        heard: list[Tensor] = []

        def listen(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            heard[:] = [inputs[0]]

        handles = [layer.register_forward_pre_hook(listen) for layer in self._linear]
        try:
            yield heard
        finally:
            for handle in handles:
                handle.remove()

    def batch(
        self,
        tensors: Mapping[str, Tensor],
        inputs: Tensor,
        targets: Tensor,
        outputs: Tensor,
        heard: Sequence[Tensor],
        context: LocalContext,
    ) -> Batch:
        """Return what loss terms are shown.

        Args:
            tensors: The model's parameters and buffers by name, as it ran with them.
            inputs: Shape ``(B, ...)``.
            targets: Shape ``(B, ...)``.
            outputs: What it made of the inputs.
            heard: What `listening` found out meanwhile.
            context: The client's context.
        """

        def apply(params: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
            # In training mode a forward pass writes to its buffers: it gets copies to write to.
            copies = {name: params.get(name, tensors[name]).clone() for name in self._buffers}
            result: Tensor = functional_call(self._model, {**params, **copies}, (inputs,))
            return result

        def represent(params: Mapping[str, Tensor]) -> Tensor:
            training = self._model.training
            self._model.eval()
            try:
                with torch.no_grad(), self.listening() as listened:
                    apply(params, inputs)
            finally:
                self._model.train(training)
            return self._representation(listened)

        return Batch(
            params={name: t for name, t in tensors.items() if name not in self._buffers},
            inputs=inputs,
            targets=targets,
            outputs=outputs,
            representation=lambda: self._representation(heard),
            apply=apply,
            represent=represent,
            context=context,
        )

    def _representation(self, heard: Sequence[Tensor]) -> Tensor:
        if not heard:
            raise ParameterError(
                f"{type(self._model).__name__} calls no linear layer, whose input would be its "
                "representation; end the model in one"
            )
        return heard[-1].flatten(start_dim=1)
