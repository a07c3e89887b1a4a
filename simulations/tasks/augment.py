"""Random changes to batches of images, for `roundel.core.task.Task.augment`.

They draw from torch's global generator, which the engine seeds for each client and round. Inputs
have the shape ``(N, C, H, W)``; targets stay as they are.
"""

from dataclasses import replace

import torch
from torch.nn import functional

from roundel.core.data import Examples

PADDING = 4
"""Pixels that `crop_and_flip` adds on each side."""


def random_crop(examples: Examples, padding: int) -> Examples:
    """Shift each image by up to `padding` pixels in both directions, and fill up with zeros.

    Args:
        examples: Images of shape ``(N, C, H, W)``.
        padding: Pixels that are added on each side before a window of the old size is cut out.
    """
    images = examples.inputs
    count, _, height, width = images.shape
    padded = functional.pad(images, (padding, padding, padding, padding))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    down, right = torch.randint(2 * padding + 1, (2, count))
    return replace(examples, inputs=windows[torch.arange(count), :, down, right])


def random_flip(examples: Examples) -> Examples:
    """Mirror each image left to right with a probability of one half.

    Args:
        examples: Images of shape ``(N, C, H, W)``.
    """
    images = examples.inputs
    mirrored = torch.rand(len(images)) < 0.5  # noqa: PLR2004 - one half
    return replace(
        examples, inputs=torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    )


def crop_and_flip(examples: Examples) -> Examples:
    """Crop with a padding of 4, then flip: what is usual for photographs of 32x32 pixels.

    Args:
        examples: Images of shape ``(N, C, H, W)``.
    """
    return random_flip(random_crop(examples, PADDING))
