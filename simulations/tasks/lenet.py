"""The small LeNet of NIID-Bench, which several tasks offer.

Q. Li et al., "Federated Learning on Non-IID Data Silos" (ICDE 2022, arXiv:2102.02079), section V.
"""

from torch import nn


def small_lenet(channels: int, side: int, classes: int) -> nn.Module:
    """Make two convolutions of 5x5 with 2x2 max pooling, then 120 and 84 hidden units, with ReLU.

    Convolutions take the edges off.

    Args:
        channels: Of the images.
        side: Pixels along one edge.
        classes: How many there are.
    """
    pooled = ((side - 4) // 2 - 4) // 2
    return nn.Sequential(
        nn.Conv2d(channels, 6, kernel_size=5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, kernel_size=5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * pooled * pooled, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )
