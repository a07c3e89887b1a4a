"""CIFAR-10: 60,000 photographs of 32x32 pixels in ten classes, read from the original archive.

The data does not ship. `task.path` names the directory that holds ``cifar-10-binary.tar.gz``, or
what it contains: the folder ``cifar-10-batches-bin``, or its files. 50,000 images are divided over
clients, and the 10,000 of ``test_batch.bin`` are the global test set. Each file holds 10,000
records of one byte for the label and 3,072 for the pixels, red before green before blue, row by
row. (A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.)

Pixels are scaled to [0, 1] and then normalised, each channel by its mean and standard deviation
over the 50,000 images.
"""

import gzip
import tarfile
from collections.abc import Callable, Iterable
from functools import partial
from io import BytesIO
from pathlib import Path
from zlib import error as ZlibError

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from roundel.core.data import Examples
from roundel.core.errors import DataError
from roundel.core.task import Task, check_labels
from roundel.simulations.tasks.about import About, choose
from roundel.simulations.tasks.augment import crop_and_flip
from roundel.simulations.tasks.lenet import small_lenet
from roundel.simulations.tasks.norms import Norm, norm_layer

CLASSES = 10
CHANNELS, SIDE = 3, 32
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
"""Of the red, green and blue pixels of the 50,000 images, on the scale from 0 to 1."""

ARCHIVE = "cifar-10-binary.tar.gz"
FOLDER = "cifar-10-batches-bin"
POOL_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST_FILES = ("test_batch.bin",)
PYTHON_VERSION = ("cifar-10-python.tar.gz", "cifar-10-batches-py", "data_batch_1")
"""What the archive for Python is or contains; its files are pickles."""
RECORDS = 10_000
"""Images in each file."""
RECORD_BYTES = 1 + CHANNELS * SIDE * SIDE

_SLACK = 1 << 20
"""Bytes of an archive besides the images: headers, padding, a list of the classes."""


def cifar10(*, model: str = "cnn", norm: Norm = "group", augment: bool = False) -> Task:
    """Return the task of telling the ten classes of CIFAR-10 apart.

    Inputs are float32 of shape ``(N, 3, 32, 32)``, normalised by channel; targets are int64 class
    numbers of shape ``(N,)``.

    Args:
        model: ``"cnn"`` (two convolutions of 5x5; the default) or ``"resnet"`` (ResNet-20).
        norm: How the ResNet normalises: ``"group"``, ``"batch"`` or ``"layer"``.
        augment: Whether training batches are cropped at random after padding by 4 pixels, and
            mirrored at random. What lies outside the image is the mean colour.

    Raises:
        ConfigError: There is no such model.
    """
    models: dict[str, Callable[[], nn.Module]] = {"cnn": cnn, "resnet": partial(resnet, norm)}
    return Task(
        name="cifar10",
        model=models[choose(models, model, "cifar10")],
        load=load_pool,
        load_test=load_test,
        augment=crop_and_flip if augment else None,
    )


def cnn() -> nn.Module:
    """Make the small CNN of Li et al., "Federated Learning on Non-IID Data Silos" (NIID-Bench).

    Two convolutions of 5x5 with 6 and 16 channels, each with 2x2 max pooling, then 120 and 84
    hidden units, ReLU throughout (ICDE 2022, arXiv:2102.02079, section V).
    """
    return small_lenet(CHANNELS, SIDE, CLASSES)


def resnet(norm: Norm = "group") -> nn.Module:
    """Make the ResNet-20 of He et al., "Deep Residual Learning for Image Recognition", section 4.2.

    One convolution, three stages of three blocks with 16, 32 and 64 channels, the mean over all
    positions, one linear layer (CVPR 2016, arXiv:1512.03385). Shortcuts have no parameters.

    Args:
        norm: The kind of normalisation after each convolution.
    """
    blocks: list[nn.Module] = []
    before = 16
    for channels in (16, 32, 64):
        for place in range(3):
            stride = 2 if place == 0 and channels > before else 1
            blocks.append(Block(before, channels, stride, norm))
            before = channels
    return nn.Sequential(
        _convolution(CHANNELS, 16),
        norm_layer(norm, 16),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(before, CLASSES),
    )


class Block(nn.Module):
    """A residual block: ``relu(x + norm(conv(relu(norm(conv(x))))))``.

    Where the shape changes, the shortcut takes every second pixel and adds channels of zeros
    (option A of He et al.).
    """

    def __init__(self, before: int, channels: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.stride, self.added = stride, channels - before
        self.residual = nn.Sequential(
            _convolution(before, channels, stride),
            norm_layer(norm, channels),
            nn.ReLU(),
            _convolution(channels, channels),
            norm_layer(norm, channels),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map ``(N, before, H, W)`` to ``(N, channels, H / stride, W / stride)``."""
        shortcut = images[:, :, :: self.stride, :: self.stride]
        shortcut = functional.pad(shortcut, (0, 0, 0, 0, self.added // 2, self.added // 2))
        return functional.relu(shortcut + self.residual(images))


def _convolution(before: int, channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, channels, kernel_size=3, stride=stride, padding=1, bias=False)


def load_pool(path: Path | None) -> Examples:
    """Read the 50,000 examples that are divided over clients.

    Raises:
        DataError: The archive or a file is missing or damaged, or a label is out of range.
    """
    return _load(path, POOL_FILES)


def load_test(path: Path | None) -> Examples:
    """Read the 10,000 examples that no client sees.

    Raises:
        DataError: The archive or a file is missing or damaged, or a label is out of range.
    """
    return _load(path, TEST_FILES)


def _load(path: Path | None, names: Iterable[str]) -> Examples:
    if path is None:
        raise DataError(
            f"cifar10 does not ship with Roundel; set task.path to the directory that holds "
            f"{ARCHIVE}"
        )
    files = _read(path, names)
    records = np.frombuffer(b"".join(files.values()), np.uint8).reshape(-1, RECORD_BYTES)
    images = torch.from_numpy(records[:, 1:].reshape(-1, CHANNELS, SIDE, SIDE).astype(np.float32))
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        images[:, channel].div_(255).sub_(mean).div_(std)
    labels = torch.from_numpy(records[:, 0].astype(np.int64))
    return check_labels(Examples(images, labels), CLASSES, f"{', '.join(files)} in {path}")


def _read(path: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Return the bytes of the named files, in this order, from wherever they are."""
    for folder in (path, path / FOLDER):
        if (folder / POOL_FILES[0]).is_file() or (folder / TEST_FILES[0]).is_file():
            return {name: _read_file(folder / name) for name in names}
    archive = path if path.is_file() else path / ARCHIVE
    if archive.is_file() and archive.name not in PYTHON_VERSION:
        return _read_archive(archive, names)
    found = [name for name in PYTHON_VERSION if (path / name).exists() or path.name == name]
    if found:
        raise DataError(
            f"{path} has {found[0]}, CIFAR-10 as pickles, which can run code when they are read; "
            f"download the binary version, {ARCHIVE}, from the same page"
        )
    raise DataError(
        f"there is neither {ARCHIVE} nor {FOLDER} in {path}; set task.path to the directory that "
        "holds one of them"
    )


def _read_file(file: Path) -> bytes:
    expected = RECORDS * RECORD_BYTES
    try:
        with file.open("rb") as stream:
            data = stream.read(expected + 1)
            size = file.stat().st_size
    except OSError as error:
        raise DataError(
            f"{file} cannot be read ({error.strerror}); extract {ARCHIVE} again"
        ) from error
    _check_size(str(file), size)
    return data


def _read_archive(archive: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Read members of the archive into memory; nothing of it is written to the disk."""
    try:
        with tarfile.open(fileobj=BytesIO(_unzip(archive)), mode="r:") as members:
            return {name: _read_member(members, name) for name in names}
    except (OSError, EOFError, ZlibError, tarfile.TarError) as error:
        raise DataError(
            f"{archive} cannot be read ({error}); it is truncated, damaged or another archive: "
            "download it again"
        ) from error


def _unzip(archive: Path) -> bytes:
    limit = 6 * RECORDS * RECORD_BYTES + _SLACK
    with gzip.open(archive) as file:
        unzipped = file.read(limit + 1)
    if len(unzipped) > limit:
        raise tarfile.TarError(f"it unpacks to more than {limit} bytes")
    return unzipped


def _read_member(members: tarfile.TarFile, name: str) -> bytes:
    inside = f"{FOLDER}/{name}"
    member = next((m for m in members if m.name == inside and m.isreg()), None)
    stream = members.extractfile(member) if member else None
    if member is None or stream is None:
        raise tarfile.TarError(f"it has no file {inside}")
    _check_size(inside, member.size)
    return stream.read(member.size)


def _check_size(source: str, size: int) -> None:
    if size != RECORDS * RECORD_BYTES:
        raise DataError(
            f"{source} has {size} bytes and not the {RECORDS * RECORD_BYTES} of {RECORDS} images; "
            "it is truncated or damaged: download the archive again"
        )


ABOUT = About(
    make=cifar10,
    summary="which of ten things is on the photograph? 32x32 pixels in colour",
    size=f"50,000 to learn from, 10,000 to test on; {ARCHIVE} in task.path",
    models={"cnn": 62_006, "resnet": 269_722},
    licence="none stated by its authors",
    source="A. Krizhevsky 2009, University of Toronto",
    figure="accuracy 0.9 or more on made-up photographs after 3 rounds; real ones not measured",
)
