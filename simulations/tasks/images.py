"""Images from a directory: one folder a class, any sizes, any of the usual formats.

`task.path` names a directory laid out as ``CLASS/IMAGE``, or as ``train/CLASS/IMAGE`` with an
optional ``test/CLASS/IMAGE`` beside it, which is then the global test set. Classes and images are
read in the order of their names. Folders inside the folder of a class are not looked into.

Each image is turned as its EXIF data says, cut to the largest square in its middle, scaled with a
bilinear filter, and its pixels to [-1, 1]. Reading needs Pillow, the extra ``images``.
"""

import struct
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from roundel.core.data import Examples
from roundel.core.errors import ConfigError, DataError
from roundel.core.suggest import suggest
from roundel.core.task import Task
from roundel.simulations.tasks.about import About, choose
from roundel.simulations.tasks.augment import crop_and_flip

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What Pillow may take a file for, whatever its name says."""
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
LITTER = ("Thumbs.db", "desktop.ini")
"""What file managers leave behind; hidden files are passed over too, and nothing else."""
SIZES = range(8, 513)
MIN_CLASSES = 2
MAX_PIXELS = 1 << 26
"""The largest image that is unpacked: a small file can hold any number of pixels."""
MAX_BYTES = 1 << 35
"""The most memory that the examples of one directory may take."""

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error)
"""What Pillow raises on damaged files."""


def images(
    *,
    path: Path | None = None,
    model: str = "cnn",
    size: int = 32,
    channels: Literal[1, 3] = 3,
    augment: bool = False,
    classes: Sequence[str] | None = None,
) -> Task:
    """Return the task of telling the classes of a directory of images apart.

    Inputs are float32 of shape ``(N, channels, size, size)`` in [-1, 1]; targets are int64 class
    numbers of shape ``(N,)``, by the order of `classes`.

    Args:
        path: The directory; not needed if `classes` are given.
        model: ``"cnn"`` (two convolutions of 3x3; the default) or ``"mlp"`` (one hidden layer
            of 64).
        size: Pixels along one edge of an image, from 8 to 512.
        channels: 3 for colour, 1 for grey.
        augment: Whether training batches are cropped at random after padding by 4 pixels, and
            mirrored at random.
        classes: The names of the folders; those in `path` by default, sorted. If they are given,
            a directory need not have all of them, so that a node may hold some classes only.

    Raises:
        ConfigError: There is no such model, a knob is out of range, or there is neither a path nor
            classes.
        DataError: The directory has no folders.
    """
    if size not in SIZES:
        raise ConfigError(
            f"task.size = {size} is not from {SIZES.start} to {SIZES.stop - 1} pixels; choose a "
            "size in between"
        )
    names = _given(classes) if classes is not None else _inferred(path)
    factory = MODELS[choose(MODELS, model, "images")]
    load = partial(load_examples, classes=names, size=size, channels=channels, part="train")
    held_out = path is not None and _is_divided(path) and (path / "test").is_dir()
    return Task(
        name="images",
        model=partial(factory, channels, size, len(names)),
        load=load,
        load_test=partial(load, part="test") if held_out else None,
        augment=crop_and_flip if augment else None,
        knobs={"classes": names},
    )


def cnn(channels: int, size: int, classes: int) -> nn.Module:
    """Make a small network: two convolutions with 32 and 64 channels, two poolings, one layer.

    Args:
        channels: Of the images.
        size: Pixels along one edge.
        classes: How many there are.
    """
    pooled = size // 4
    return nn.Sequential(
        nn.Conv2d(channels, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * pooled * pooled, classes),
    )


def mlp(channels: int, size: int, classes: int) -> nn.Module:
    """Make a perceptron with one hidden layer of 64.

    Args:
        channels: Of the images.
        size: Pixels along one edge.
        classes: How many there are.
    """
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * size * size, 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )


MODELS: Mapping[str, Callable[[int, int, int], nn.Module]] = {"cnn": cnn, "mlp": mlp}
"""Name to a function that makes the model; the first is the default."""


def load_examples(
    path: Path | None,
    *,
    classes: Sequence[str],
    size: int,
    channels: int,
    part: Literal["train", "test"],
) -> Examples:
    """Read one part of a directory.

    Args:
        path: The directory.
        classes: The folders to read, in the order of the class numbers.
        size: Pixels along one edge.
        channels: 3 or 1.
        part: Which part, if the directory has a folder ``train``; all of it is to learn from
            if it has none.

    Raises:
        ConfigError: Pillow is not installed.
        DataError: A folder is not one of the classes or is empty, or an image cannot be read.
    """
    if path is None:
        raise DataError(
            "images do not ship with Roundel; set task.path to a directory with one folder of "
            "images for each class"
        )
    root = path / part if _is_divided(path) else path
    files = list(_files(root, classes))
    needed = len(files) * channels * size * size * 4
    if needed > MAX_BYTES:
        raise DataError(
            f"the {len(files)} images in {root} take {needed >> 30} GiB of memory at task.size = "
            f"{size}; choose a smaller size or fewer images"
        )
    pixels = torch.empty(len(files), channels, size, size)
    pillow = _pillow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about metadata and sizes: bounded here
        for row, (file, _) in enumerate(files):
            pixels[row] = torch.from_numpy(_read(pillow, file, size, channels))
    labels = torch.tensor([label for _, label in files], dtype=torch.int64)
    return Examples(pixels.mul_(2 / 255).sub_(1), labels)


def _read(pillow: ModuleType, file: Path, size: int, channels: int) -> NDArray[np.uint8]:
    """Return the pixels of one image, shape ``(channels, size, size)``."""
    try:
        with pillow.Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(
                    f"{file} has {image.width}x{image.height} pixels, and at most {MAX_PIXELS} "
                    "are read; scale it down"
                )
            if image.mode.startswith(("I", "F")):
                raise DataError(
                    f"{file} has more than 8 bits a channel (mode {image.mode}); convert it to 8"
                )
            upright = pillow.ImageOps.exif_transpose(image).convert("RGB" if channels > 1 else "L")
            scaled = pillow.ImageOps.fit(upright, (size, size), pillow.Image.Resampling.BILINEAR)
    except (*_BROKEN, pillow.Image.DecompressionBombError) as error:
        raise DataError(
            f"{file} cannot be read as an image ({error}); repair or remove it"
        ) from error
    values = np.asarray(scaled, dtype=np.uint8).reshape(size, size, channels)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def _files(root: Path, classes: Sequence[str]) -> Iterator[tuple[Path, int]]:
    """Yield each image and its class number."""
    numbers = {name: number for number, name in enumerate(classes)}
    for folder in _folders(root):
        if folder.name not in numbers:
            raise DataError(
                f"the folder {folder} is not one of task.classes; {suggest(folder.name, classes)}"
            )
        files = [file for file in _visible(folder) if file.name not in LITTER]
        for file in files:
            if file.suffix.lower() not in SUFFIXES or not file.is_file():
                raise DataError(
                    f"{file} is none of the files that are read ({' '.join(SUFFIXES)}); convert "
                    "it, or move it out of the folder"
                )
        if not files:
            raise DataError(
                f"the folder {folder} has no images ({' '.join(SUFFIXES)}); put some in "
                "or remove it"
            )
        yield from ((file, numbers[folder.name]) for file in files)


def _folders(root: Path) -> list[Path]:
    folders = [entry for entry in _visible(root) if entry.is_dir()]
    if not folders:
        raise DataError(f"{root} has no folders; put the images of each class into one of its own")
    return folders


def _visible(folder: Path) -> list[Path]:
    """Return what a folder holds by name, without hidden files."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(
            f"{folder} cannot be read ({error.strerror}); set task.path to a directory with one "
            "folder of images for each class"
        ) from error


def _is_divided(path: Path) -> bool:
    """Tell a folder ``train`` that holds classes from one that is a class."""
    train = path / "train"
    return train.is_dir() and any(entry.is_dir() for entry in _visible(train))


def _given(classes: Sequence[str]) -> list[str]:
    if len(classes) < MIN_CLASSES or len(set(classes)) < len(classes):
        raise ConfigError(
            f"task.classes = {list(classes)} must name two classes or more, and each once"
        )
    return list(classes)


def _inferred(path: Path | None) -> list[str]:
    if path is None:
        raise ConfigError(
            "images needs task.path, a directory with one folder of images for each class, or "
            "task.classes, the names of the folders"
        )
    root = path / "train" if _is_divided(path) else path
    names = [folder.name for folder in _folders(root)]
    if len(names) < MIN_CLASSES:
        raise DataError(
            f"{root} has one folder only, {names[0]}, and there is nothing to tell apart; set "
            "task.path to the directory that holds the folders of all classes"
        )
    return names


def _pillow() -> ModuleType:
    try:
        import PIL.Image  # noqa: PLC0415 - an extra, needed for this task alone
        import PIL.ImageOps  # noqa: PLC0415 - see above
    except ImportError as error:
        raise ConfigError(
            "images needs Pillow, which is not installed; run: pip install 'roundel[images]'"
        ) from error
    return PIL


ABOUT = About(
    make=images,
    summary="which class is the image of? images of your own, one folder a class",
    size="your own: CLASS/IMAGE in task.path, or train/CLASS/IMAGE and test/CLASS/IMAGE",
    models={"cnn": None, "mlp": None},
    licence="your own",
    source="your own",
    figure="accuracy 0.85 or more after 3 rounds on 300 of the digits, as PNG files of 8x8 pixels",
)
