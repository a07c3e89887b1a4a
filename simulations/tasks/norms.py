"""Normalisation layers by name, for models that exist with each of them.

Batch normalisation keeps running statistics, which differ between clients with different data and
are averaged like all floating-point buffers; the other two look at one example at a time and keep
nothing. Hsieh et al., "The Non-IID Data Quagmire of Decentralized Machine Learning" (ICML 2020,
arXiv:1910.00189), found batch normalisation to lose accuracy where labels are skewed, and group
normalisation not to.
"""

from math import gcd
from typing import Literal

from torch import nn

Norm = Literal["group", "batch", "layer"]
"""The names; the first is the default of models that have a choice."""

MOST_GROUPS = 8


def norm_layer(kind: Norm, channels: int) -> nn.Module:
    """Make a normalisation layer for feature maps of shape ``(N, channels, H, W)``.

    Every kind has a scale and a shift for each channel, so that models have the same number of
    parameters with each of them.

    Args:
        kind: ``"batch"`` (Ioffe and Szegedy 2015, arXiv:1502.03167), ``"group"`` (Wu and He 2018,
            arXiv:1803.08494) with as many groups as divide the channels evenly, 8 at most and
            a power of two, or ``"layer"`` (Ba et al. 2016, arXiv:1607.06450), which is one group.
        channels: How many channels.
    """
    match kind:
        case "batch":
            return nn.BatchNorm2d(channels)
        case "group":
            return nn.GroupNorm(gcd(channels, MOST_GROUPS), channels)
        case "layer":
            return nn.GroupNorm(1, channels)
