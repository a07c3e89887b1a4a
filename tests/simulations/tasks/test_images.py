"""Folders of images are a task, in the order of their names; what is wrong is said."""

import random
import struct
import sys
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from roundel.core.config import TaskConfig
from roundel.core.errors import ConfigError, DataError
from roundel.simulations import simulate
from roundel.simulations.tasks import digits
from roundel.simulations.tasks import images as module
from roundel.simulations.tasks.augment import crop_and_flip
from roundel.simulations.tasks.images import ABOUT, SUFFIXES, images
from roundel.simulations.tasks.registry import make_task

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def paint(file, colour=RED, shape=(8, 8), mode="RGB"):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, shape, colour).save(file)
    return file


@pytest.fixture
def root(tmp_path):
    """Three classes: blue birds, green cats, red dogs."""
    for name, colour in (("dogs", RED), ("birds", BLUE), ("cats", GREEN)):
        for file in ("2.png", "10.png"):
            paint(tmp_path / name / file, colour)
    return tmp_path


def pool(path, **knobs: Any):
    task = images(path=path, **{"size": 8, **knobs})
    assert task.load is not None
    return task.load(path)


def complaint(path, error: type[Exception] = DataError, **knobs: Any):
    with pytest.raises(error) as caught:
        pool(path, **knobs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- reading


def test_classes_are_the_folders_by_name_and_images_follow_by_name(root):
    paint(root / "cats" / "1.png", (0, 255, 255))
    task = images(path=root, size=8)
    assert task.knobs == {"classes": ["birds", "cats", "dogs"]}
    examples = pool(root)
    assert examples.targets.tolist() == [0, 0, 1, 1, 1, 2, 2]
    corners = [[round(v) for v in image[:, 0, 0].tolist()] for image in examples.inputs]
    blue, green, cyan, red = [-1, -1, 1], [-1, 1, -1], [-1, 1, 1], [1, -1, -1]
    assert corners == [blue, blue, cyan, green, green, red, red]


def test_inputs_are_images_from_minus_1_to_1(root):
    paint(root / "dogs" / "0.png", (0, 51, 255), shape=(20, 10))
    examples = pool(root, size=16)
    assert examples.inputs.shape == (7, 3, 16, 16)
    assert (examples.inputs.dtype, examples.targets.dtype) == (torch.float32, torch.int64)
    for channel, value in enumerate((-1.0, -0.6, 1.0)):
        assert examples.inputs[4, channel].flatten().tolist() == pytest.approx([value] * 256)


def test_grey_images_have_one_channel(root):
    paint(root / "dogs" / "0.png", 51, mode="L")
    examples = pool(root, channels=1)
    assert examples.inputs.shape == (7, 1, 8, 8)
    assert examples.inputs[4].flatten().tolist() == pytest.approx([-0.6] * 64)


def test_the_largest_square_in_the_middle_is_scaled(root):
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = RED
    Image.fromarray(wide).save(root / "dogs" / "0.png")
    image = pool(root).inputs[4]
    assert [round(v) for v in image.mean(dim=(1, 2)).tolist()] == [1, -1, -1]
    assert image[0].min() > 0.7  # the filter reaches a little over the edge


def test_an_image_is_turned_as_its_metadata_says(root):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    upper = np.zeros((8, 8, 3), np.uint8)
    upper[:4] = 255
    Image.fromarray(upper).save(root / "dogs" / "0.png", exif=exif)
    rows = pool(root).inputs[4, 0, :, 0].tolist()
    assert [round(v) for v in rows] == [-1] * 4 + [1] * 4


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".PNG"])
def test_each_format_is_read(root, suffix):
    file = paint(root / "dogs" / f"0{suffix}", (204, 204, 204))
    assert file.suffix == suffix
    assert pool(root).inputs[4].flatten().tolist() == pytest.approx([0.6] * 192, abs=0.02)


def test_transparency_palettes_and_two_colours_are_read(root):
    paint(root / "dogs" / "0.png", (255, 255, 255, 0), mode="RGBA")
    paint(root / "dogs" / "1.png", 1, mode="1")
    image = Image.new("P", (8, 8))
    image.putpalette([255] * 768)
    image.save(root / "dogs" / "00.png", transparency=b"\0\xff")
    assert [round(v) for v in pool(root).inputs[4:7].mean(dim=(1, 2, 3)).tolist()] == [1, 1, 1]


def test_hidden_files_and_what_file_managers_leave_behind_are_passed_over(root):
    (root / "readme.txt").write_text("animals")
    (root / "cats" / "Thumbs.db").write_bytes(b"\0")
    (root / "cats" / "._2.png").write_bytes(b"\0")
    (root / ".cache").mkdir()
    assert pool(root).targets.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("name", ["1.heic", "kittens/1.png"])
def test_nothing_else_is_left_out_in_silence(root, name):
    other = root / "cats" / name
    other.parent.mkdir(exist_ok=True)
    other.write_bytes(b"")
    named = root / "cats" / name.partition("/")[0]
    assert complaint(root).startswith(f"{named} is none of the files that are read (.bmp .gif ")


# ---- training and test folders


def test_without_a_folder_of_test_images_there_is_no_test_set(root):
    assert images(path=root).load_test is None


def test_folders_train_and_test_divide_the_images(tmp_path):
    for name, colour in (("a", RED), ("b", BLUE)):
        paint(tmp_path / "train" / name / "1.png", colour)
    task = images(path=tmp_path, size=8)
    assert task.load_test is None
    paint(tmp_path / "test" / "b" / "1.png", GREEN)
    task = images(path=tmp_path, size=8)
    assert task.load is not None
    assert task.load_test is not None
    assert task.load(tmp_path).targets.tolist() == [0, 1]
    test = task.load_test(tmp_path)
    assert test.targets.tolist() == [1]
    assert [round(v) for v in test.inputs[0, :, 0, 0].tolist()] == [-1, 1, -1]


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "train"):
        paint(tmp_path / name / "1.png")
    assert images(path=tmp_path).knobs == {"classes": ["bus", "train"]}


# ---- classes that are given


def test_with_its_own_knobs_given_back_the_task_is_made_without_the_data(root):
    made = make_task(TaskConfig.model_validate({"name": "images", "path": root, "size": 16}))
    settled = TaskConfig.model_validate({"name": "images", **made.knobs})
    again = make_task(settled)
    assert again.knobs == made.knobs
    assert again.load is not None
    batch = again.load(root)
    assert again.new_model(0)(batch.inputs).equal(made.new_model(0)(batch.inputs))


def test_a_node_may_hold_some_of_the_classes_only(root):
    for file in (root / "birds").iterdir():
        file.unlink()
    (root / "birds").rmdir()
    assert pool(root, classes=["birds", "cats", "dogs"]).targets.tolist() == [1, 1, 2, 2]


def test_the_order_of_given_classes_is_that_of_their_numbers(root):
    assert pool(root, classes=["dogs", "cats", "birds"]).targets.tolist() == [2, 2, 1, 1, 0, 0]


def test_a_folder_that_is_not_one_of_the_classes_is_refused(root):
    sentence = complaint(root, classes=["birds", "cats", "dog"])
    assert sentence == (
        f"the folder {root / 'dogs'} is not one of task.classes; did you mean 'dog'?"
    )


@pytest.mark.parametrize("classes", [[], ["cats"], ["cats", "cats"]])
def test_classes_that_cannot_be_told_apart_are_refused(root, classes):
    assert "must name two classes or more, and each once" in complaint(
        root, ConfigError, classes=classes
    )


# ---- what is wrong with the data


def test_without_path_and_classes_it_is_said_what_is_needed():
    with pytest.raises(
        ConfigError, match=r"images needs task\.path, a directory with one folder of"
    ):
        images()


def test_data_is_needed_for_training_even_if_the_classes_are_known():
    load = images(classes=["a", "b"]).load
    assert load is not None
    with pytest.raises(DataError, match=r"do not ship with Roundel; set task\.path to"):
        load(None)


def test_an_empty_directory_is_refused(tmp_path):
    sentence = complaint(tmp_path)
    assert sentence == (
        f"{tmp_path} has no folders; put the images of each class into one of its own"
    )


def test_images_without_folders_are_refused(tmp_path):
    paint(tmp_path / "1.png")
    assert "has no folders" in complaint(tmp_path)


def test_a_single_folder_is_refused(tmp_path):
    paint(tmp_path / "photos" / "1.png")
    assert f"{tmp_path} has one folder only, photos," in complaint(tmp_path)


def test_a_missing_directory_and_a_file_are_refused(tmp_path):
    assert "cannot be read (No such file or directory)" in complaint(tmp_path / "nowhere")
    assert "cannot be read (Not a directory)" in complaint(paint(tmp_path / "1.png"))


def test_a_class_without_images_is_refused(root):
    (root / "fish").mkdir()
    sentence = complaint(root)
    assert sentence.startswith(f"the folder {root / 'fish'} has no images (.bmp .gif .jpeg ")


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0"])
def test_a_file_that_is_no_image_is_named(root, data):
    file = root / "cats" / "3.png"
    file.write_bytes(data)
    sentence = complaint(root)
    assert sentence.startswith(f"{file} cannot be read as an image (")
    assert sentence.endswith("; repair or remove it")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files_are_read_or_refused_and_nothing_else(tmp_path, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    file = paint(tmp_path / "a" / f"0{suffix}")
    Image.fromarray(pixels).save(file)
    data, draw = file.read_bytes(), random.Random(0)
    sentences = []
    for _ in range(30):
        broken = bytearray(data[: draw.randrange(9, len(data))])
        for place in draw.sample(range(len(broken)), 4):
            broken[place] ^= 255
        file.write_bytes(bytes(broken))
        try:
            pool(tmp_path, classes=["a", "b"])
        except DataError as error:
            sentences.append(str(error))
    assert sentences
    assert all(sentence.startswith(str(file)) for sentence in sentences)


def png(width, height):
    """A PNG file of a few hundred bytes that says it has so many pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("side", "reason"), [(10_000, "at most 67108864"), (60_000, "bomb")])
def test_a_small_file_with_a_huge_image_is_refused_before_it_is_unpacked(root, side, reason):
    file = root / "cats" / "3.png"
    file.write_bytes(png(side, side))
    sentence = complaint(root)
    assert sentence.startswith(str(file))
    assert reason in sentence


def test_images_of_16_bits_are_refused(root):
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(root / "cats" / "3.png")
    assert "has more than 8 bits a channel (mode I;16); convert it to 8" in complaint(root)


def test_more_images_than_fit_into_memory_are_refused(root, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 6 * 3 * 64 * 4 - 1)
    assert f"the 6 images in {root} take 0 GiB of memory at task.size = 8" in complaint(root)


def test_without_pillow_it_is_said_what_to_install(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert complaint(root, ConfigError) == (
        "images needs Pillow, which is not installed; run: pip install 'roundel[images]'"
    )


# ---- knobs and models


@pytest.mark.parametrize("size", [7, 513])
def test_a_size_out_of_range_is_refused(root, size):
    with pytest.raises(ConfigError, match=f"task.size = {size} is not from 8 to 512 pixels"):
        images(path=root, size=size)


def test_two_channels_are_refused(root):
    config = TaskConfig.model_validate({"name": "images", "path": root, "channels": 2})
    with pytest.raises(ConfigError, match=r"task\.channels = 2 does not fit: Input should be 1"):
        make_task(config)


@pytest.mark.parametrize("model", ABOUT.models)
@pytest.mark.parametrize(("size", "channels"), [(8, 3), (33, 1)])
def test_models_take_every_size(model, size, channels):
    task = images(classes=["a", "b", "c"], model=model, size=size, channels=channels)
    assert task.new_model(0)(torch.rand(2, channels, size, size)).shape == (2, 3)


def test_the_first_model_is_the_default_and_an_unknown_one_an_error(root):
    assert next(iter(ABOUT.models)) == "cnn"
    assert any("Conv2d" in str(part) for part in images(path=root).new_model(0).modules())
    with pytest.raises(ConfigError, match=r"'cmn' is not a model of images; did you mean 'cnn'\?"):
        images(path=root, model="cmn")


def test_batches_are_augmented_if_that_is_asked_for(root):
    assert images(path=root).augment is None
    assert images(path=root, augment=True).augment is crop_and_flip


def test_a_federation_learns_real_digits_from_image_files(tmp_path):
    """300 of the shipped digits to learn from and 100 to test on, as PNG files."""
    for part, examples, count in (
        ("train", digits.load_pool(None), 300),
        ("test", digits.load_test(None), 100),
    ):
        pixels = (examples.inputs[:count] * 255).round().byte().reshape(-1, 8, 8).numpy()
        for row, label in enumerate(examples.targets[:count].tolist()):
            folder = tmp_path / part / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[row]).save(folder / f"{row}.png")
    run = simulate(
        settings=[
            *("task.name=images", f"task.path={tmp_path}", "task.size=8", "task.channels=1"),
            *("partition.kind=iid", "partition.clients=5", "partition.test=0", "cohort.size=5"),
            *("client.lr=0.05", "client.momentum=0.9", "client.epochs=3"),
            *("rounds=3", "evaluation.clients=0"),
        ],
        out=tmp_path / "run",
    )
    assert run.series("accuracy")[-1] >= 0.85
