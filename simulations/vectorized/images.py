"""Layers of images, forward and backward, on K clients.

Images have the shape ``(K, B, C, H, W)``, and their channels lie last in memory: what torch has for
a CPU then takes a fraction of the time, a tenth for pooling. Each client has its own filters, so
convolutions are done for one client after another.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from roundel.simulations.vectorized.layers import Kept
from roundel.simulations.vectorized.slope import Tensors

_aten = torch.ops.aten


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """A convolution in two dimensions over images with zeros around them.

    Attributes:
        weight: The name of the filters, shape ``(K, out, in / groups, height, width)``.
        bias: The name of what is added to each channel, shape ``(K, out)``; None for none.
        stride: As in ``nn.Conv2d``.
        padding: Likewise, in numbers.
        dilation: Likewise.
        groups: Likewise.
    """

    weight: str
    bias: str | None
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    groups: int

    def forward(self, inputs: Tensor, tensors: Tensors) -> tuple[Tensor, Kept]:
        """Return the outputs, and the inputs."""
        images, filters = _channels_last(inputs), tensors[self.weight]
        none = [None] * len(filters)
        added: Iterable[Tensor | None] = none if self.bias is None else tensors[self.bias]
        outputs = [
            torch.conv2d(own, w, b, self.stride, self.padding, self.dilation, self.groups)
            for own, w, b in zip(images, filters, added, strict=True)
        ]
        return _stacked(outputs), (images,)

    def backward(self, gradient: Tensor, kept: Kept, tensors: Tensors) -> Tensor:
        """Return the gradient by the inputs."""
        found = self._slopes(gradient, kept, tensors[self.weight], (True, False, False))
        return _stacked([by_inputs for by_inputs, _, _ in found])

    def gradients(self, gradient: Tensor, kept: Kept, tensors: Tensors) -> dict[str, Tensor]:
        """Return the gradients by the filters and by what is added."""
        mask = (False, True, self.bias is not None)
        found = list(self._slopes(gradient, kept, tensors[self.weight], mask))
        stacked = {self.weight: torch.stack([by_filters for _, by_filters, _ in found])}
        if self.bias is not None:
            stacked[self.bias] = torch.stack([by_added for _, _, by_added in found])
        return stacked

    def descend(
        self, gradient: Tensor, kept: Kept, tensors: Tensors, moved: Tensors, lr: float
    ) -> None:
        """Take a step of plain SGD.

        Args:
            gradient: By the outputs.
            kept: The inputs.
            tensors: All of the clients'.
            moved: Those to move, changed in place; others stay.
            lr: The learning rate.
        """
        found = self.gradients(gradient, kept, tensors)
        for name in found.keys() & moved.keys():
            moved[name].sub_(found[name], alpha=lr)

    def _slopes(
        self, gradient: Tensor, kept: Kept, filters: Tensor, mask: tuple[bool, bool, bool]
    ) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        """Yield each client's gradients by inputs, filters and what is added, where wanted."""
        sizes = None if self.bias is None else [filters.shape[1]]
        how = (self.stride, self.padding, self.dilation, False, [0, 0], self.groups, mask)
        for own in zip(gradient, *kept, filters, strict=True):
            yield _aten.convolution_backward(*own, sizes, *how)


@dataclass(frozen=True, kw_only=True)
class MaxPool:
    """The largest number of each window.

    Attributes:
        size: As in ``nn.MaxPool2d``, two numbers.
        stride: Likewise.
        padding: Likewise.
        dilation: Likewise.
        ceil: Whether a window may reach beyond the padding.
    """

    size: Sequence[int]
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    ceil: bool

    def forward(self, inputs: Tensor, tensors: Tensors) -> tuple[Tensor, Kept]:
        """Return the outputs, and the inputs with where each output was."""
        images = inputs.flatten(0, 1)
        outputs, places = _aten.max_pool2d_with_indices(images, *self._how)
        return outputs.unflatten(0, inputs.shape[:2]), (inputs, places)

    def backward(self, gradient: Tensor, kept: Kept, tensors: Tensors) -> Tensor:
        """Return the gradient by the inputs."""
        inputs, places = kept
        images = inputs.flatten(0, 1)
        derived = _aten.max_pool2d_with_indices_backward(
            gradient.flatten(0, 1), images, *self._how, places
        )
        by_inputs: Tensor = derived.unflatten(0, inputs.shape[:2])
        return by_inputs

    @property
    def _how(self) -> tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int], bool]:
        return self.size, self.stride, self.padding, self.dilation, self.ceil


def _channels_last(images: Tensor) -> Tensor:
    """Return images whose channels lie last in memory; torch does not see it of a single one."""
    _, batch, channels, height, width = images.shape
    row = width * channels
    strides = (batch * height * row, height * row, 1, row, channels)
    if images.stride() == strides:
        return images
    return images.permute(0, 1, 3, 4, 2).contiguous().as_strided(images.shape, strides)


def _stacked(images: Sequence[Tensor]) -> Tensor:
    """Stack the images of several clients and leave their channels where they lie."""
    if len(images) == 1:
        return images[0].unsqueeze(0)
    return torch.stack([each.permute(0, 2, 3, 1) for each in images]).permute(0, 1, 4, 2, 3)
