"""MNIST: 70,000 handwritten digits of 28x28 pixels, read from the original IDX files.

The files do not ship. `task.path` names the directory that holds the four of them, plain or
gzipped, under their original names. 60,000 images are divided over clients, and the 10,000 of the
test files are the global test set.

The models of McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized
Data" (AISTATS 2017, arXiv:1602.05629), section 3, and the small LeNet of Li et al., "Federated
Learning on Non-IID Data Silos" (ICDE 2022, arXiv:2102.02079).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn

from roundel.core.data import Examples
from roundel.core.errors import DataError
from roundel.core.task import Task, check_labels
from roundel.simulations.tasks.about import About, choose
from roundel.simulations.tasks.idx import read_idx
from roundel.simulations.tasks.lenet import small_lenet

CLASSES = 10
SIDE = 28
"""Pixels along one edge of an image."""


def mnist(*, model: str = "2nn") -> Task:
    """Return the task of telling the MNIST digits apart.

    Inputs are float32 of shape ``(N, 1, 28, 28)`` in [0, 1]; targets are int64 digits of shape
    ``(N,)``.

    Args:
        model: ``"2nn"`` (two hidden layers of 200), ``"cnn"`` (two convolutions of 5x5 with 32 and
            64 channels, 512 hidden units) or ``"lenet"`` (two convolutions of 5x5 with 6 and 16
            channels, 120 and 84 hidden units).

    Raises:
        ConfigError: There is no such model.
    """
    factory = MODELS[choose(MODELS, model, "mnist")]
    return Task(name="mnist", model=factory, load=load_pool, load_test=load_test)


def two_nn() -> nn.Module:
    """Make the "2NN" of McMahan et al.: 784-200-200-10 with ReLU."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(SIDE * SIDE, 200),
        nn.ReLU(),
        nn.Linear(200, 200),
        nn.ReLU(),
        nn.Linear(200, CLASSES),
    )


def cnn() -> nn.Module:
    """Make the CNN of McMahan et al.; convolutions keep the size of the image."""
    pooled = SIDE // 4
    return nn.Sequential(
        nn.Conv2d(1, 32, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * pooled * pooled, 512),
        nn.ReLU(),
        nn.Linear(512, CLASSES),
    )


def lenet() -> nn.Module:
    """Make the small LeNet of NIID-Bench; convolutions take the edges off."""
    return small_lenet(1, SIDE, CLASSES)


MODELS: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {"2nn": two_nn, "cnn": cnn, "lenet": lenet}
)
"""Name to a function that makes the model; the first is the default."""


def load_pool(path: Path | None) -> Examples:
    """Read the 60,000 examples that are divided over clients.

    Raises:
        DataError: A file is missing, truncated or damaged, or a label is out of range.
    """
    return _load(path, "train")


def load_test(path: Path | None) -> Examples:
    """Read the 10,000 examples that no client sees.

    Raises:
        DataError: A file is missing, truncated or damaged, or a label is out of range.
    """
    return _load(path, "t10k")


def _load(path: Path | None, part: str) -> Examples:
    if path is None:
        raise DataError(
            "mnist does not ship with Roundel; set task.path to the directory that holds its four "
            "IDX files, plain or gzipped"
        )
    source = _find(path, f"{part}-images-idx3-ubyte")
    images = read_idx(source, axes=3)
    names = _find(path, f"{part}-labels-idx1-ubyte")
    labels = read_idx(names, axes=1)
    if images.shape[1:] != (SIDE, SIDE):
        raise DataError(
            f"{source} holds images of {images.shape[1]}x{images.shape[2]} pixels, and those of "
            f"MNIST have {SIDE}x{SIDE}; check which file it is"
        )
    if len(images) != len(labels):
        raise DataError(
            f"{source} holds {len(images)} images and {names} {len(labels)} labels; download both "
            "again"
        )
    pixels = torch.from_numpy(images.copy()).unsqueeze(1).float().div_(255)
    examples = Examples(pixels, torch.from_numpy(labels.copy()).long())
    return check_labels(examples, CLASSES, f"the {part} files in {path}")


def _find(path: Path, name: str) -> Path:
    """Return the file of that name, plain or gzipped."""
    for candidate in (path / name, path / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise DataError(
        f"there is neither {name} nor {name}.gz in {path}; set task.path to the directory that "
        "holds MNIST's four IDX files"
    )


ABOUT = About(
    make=mnist,
    summary="which digit is it? 28x28 pixels in grey",
    size="60,000 to learn from, 10,000 to test on; IDX files, plain or gzipped, in task.path",
    models={"2nn": 199_210, "cnn": 1_663_370, "lenet": 44_426},
    licence="CC BY-SA 3.0",
    source="Y. LeCun, C. Cortes and C. Burges 1998",
    figure="rows of McMahan et al. 2017 and of NIID-Bench, see docs/benchmarks.md",
)
