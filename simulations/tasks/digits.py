"""Handwritten digits: 1,797 real images of 8x8 pixels, small enough to ship.

The images are the UCI "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak, 1998,
doi:10.24432/C50P49, CC BY 4.0). Source, licence and changes stand in ``data/digits.LICENSE.txt``.

The division into a pool and a test set is fixed, so that figures of different runs can be compared:
of each digit, in the order of the file, every fifth image is a test image. That makes 1,442 images
to learn from and 355 to test on. The file does not say who wrote what, so the same 13 people wrote
both.
"""

from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from roundel.core.data import Examples
from roundel.core.errors import DataError
from roundel.core.task import Task
from roundel.simulations.tasks.about import About, choose

CLASSES = 10
SIDE = 8
"""Pixels along one edge of an image."""
BRIGHTEST = 16
"""The largest value of a pixel in the file."""
TEST_EVERY = 5
"""One image in so many of each digit is a test image."""


def digits(*, model: str = "mlp") -> Task:
    """Return the task of telling handwritten digits apart.

    Inputs are float32 of shape ``(N, 64)`` in [0, 1], row by row; targets are int64 digits of shape
    ``(N,)``.

    Args:
        model: ``"mlp"`` (one hidden layer of 64, 4,810 parameters; the default), ``"mlp-norm"``
            (the same with BatchNorm, 4,938 parameters) or ``"cnn"`` (two convolutions, 9,930
            parameters).

    Raises:
        ConfigError: There is no such model.
    """
    factory = MODELS[choose(MODELS, model, "digits")]
    return Task(name="digits", model=factory, load=load_pool, load_test=load_test)


def mlp() -> nn.Module:
    """Make a perceptron with one hidden layer: 64-64-10."""
    pixels = SIDE * SIDE
    return nn.Sequential(nn.Linear(pixels, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def mlp_norm() -> nn.Module:
    """Make the same perceptron with batch normalisation in its middle."""
    pixels = SIDE * SIDE
    return nn.Sequential(
        nn.Linear(pixels, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, CLASSES)
    )


def cnn() -> nn.Module:
    """Make a convolutional network: two convolutions, one pooling, one linear layer."""
    pooled = SIDE // 2
    return nn.Sequential(
        nn.Unflatten(1, (1, SIDE, SIDE)),
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * pooled * pooled, CLASSES),
    )


MODELS: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {"mlp": mlp, "mlp-norm": mlp_norm, "cnn": cnn}
)
"""Name to a function that makes the model; the first is the default."""

ABOUT = About(
    make=digits,
    summary="which digit is it? 8x8 pixels in grey",
    size="1,442 to learn from, 355 to test on; ship with Roundel",
    models={"mlp": 4_810, "mlp-norm": 4_938, "cnn": 9_930},
    licence="CC BY 4.0",
    source="E. Alpaydin and C. Kaynak 1998, UCI, doi:10.24432/C50P49",
    figure="accuracy 0.94 or more after the 50 rounds of the defaults",
)


def load_pool(path: Path | None) -> Examples:
    """Read the 1,442 examples that are divided over clients.

    Raises:
        DataError: A path was given.
    """
    return _load(path, test=False)


def load_test(path: Path | None) -> Examples:
    """Read the 355 examples that no client sees.

    Raises:
        DataError: A path was given.
    """
    return _load(path, test=True)


def _load(path: Path | None, *, test: bool) -> Examples:
    if path is not None:
        raise DataError(
            f"the digits ship with the task and cannot be read from {path}; leave the path out"
        )
    with (
        files("roundel.simulations.tasks").joinpath("data", "digits.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as archive,
    ):
        images, labels = archive["images"], archive["labels"]
    rows = _is_test(labels) == test
    pixels = torch.from_numpy(images[rows]).flatten(start_dim=1)
    return Examples(pixels.float() / BRIGHTEST, torch.from_numpy(labels[rows]).long())


def _is_test(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Mark every fifth example of each class, in the order of the file."""
    marks = np.zeros(len(labels), dtype=np.bool_)
    for label in range(CLASSES):
        marks[np.flatnonzero(labels == label)[TEST_EVERY - 1 :: TEST_EVERY]] = True
    return marks
