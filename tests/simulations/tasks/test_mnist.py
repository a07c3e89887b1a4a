"""MNIST is read from its four files, and what is wrong with one of them is said in a sentence."""

import gzip
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from roundel.core.errors import ConfigError, DataError
from roundel.simulations import simulate
from roundel.simulations.tasks.mnist import ABOUT, MODELS, load_pool, load_test, mnist


@dataclass
class Archive:
    """Made-up files: in an image of digit k the rows 2k and 2k + 1 are bright."""

    path: Path
    labels: dict[str, list[int]] = field(
        default_factory=lambda: {"train": [i % 10 for i in range(200)], "t10k": list(range(10))}
    )

    def write(self, part, side=28, images=None):
        labels = self.labels[part]
        pixels = np.zeros((len(labels), side, side), np.uint8)
        for image, label in zip(pixels, labels, strict=True):
            image[2 * label : 2 * label + 2] = 255
        count = len(labels) if images is None else images
        head = struct.pack(">4B3I", 0, 0, 8, 3, count, side, side)
        self.file(part, "images").write_bytes(head + pixels[:count].tobytes())
        head = struct.pack(">4BI", 0, 0, 8, 1, len(labels))
        self.file(part, "labels").write_bytes(head + bytes(labels))

    def file(self, part, kind):
        return self.path / f"{part}-{kind}-idx{3 if kind == 'images' else 1}-ubyte"


@pytest.fixture
def archive(tmp_path):
    made = Archive(tmp_path)
    made.write("train")
    made.write("t10k")
    return made


def complaint(path, load=load_pool):
    with pytest.raises(DataError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_pool_and_test_set_come_from_their_own_files(archive):
    pool, test = load_pool(archive.path), load_test(archive.path)
    assert pool.inputs.shape == (200, 1, 28, 28)
    assert (pool.inputs.dtype, pool.targets.dtype) == (torch.float32, torch.int64)
    assert pool.targets[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert test.targets.tolist() == list(range(10))


def test_pixels_are_scaled_to_1(archive):
    image = load_pool(archive.path).inputs[3, 0]
    assert image[:, 0].tolist() == [0.0] * 6 + [1.0] * 2 + [0.0] * 20


def test_gzipped_files_are_read_under_the_names_of_the_download(archive):
    plain = load_pool(archive.path)
    for file in list(archive.path.iterdir()):
        Path(f"{file}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert load_pool(archive.path).inputs.equal(plain.inputs)


def test_without_a_path_it_is_said_where_the_data_belongs():
    assert "set task.path to the directory that holds its four IDX files" in complaint(None)


def test_a_missing_file_is_named(archive):
    archive.file("t10k", "labels").unlink()
    load_pool(archive.path)
    sentence = complaint(archive.path, load_test)
    assert sentence.startswith("there is neither t10k-labels-idx1-ubyte nor t10k-labels-idx1-u")
    assert f" in {archive.path};" in sentence


def test_a_truncated_file_is_named(archive):
    file = archive.file("train", "images")
    file.write_bytes(file.read_bytes()[:-1])
    sentence = complaint(archive.path)
    assert sentence.startswith(f"{file} has {16 + 200 * 784 - 1} bytes and its header promises")


def test_a_gzipped_file_that_is_cut_short_is_named(archive):
    file = archive.file("train", "labels")
    Path(f"{file}.gz").write_bytes(gzip.compress(file.read_bytes())[:-9])
    file.unlink()
    assert complaint(archive.path).startswith(f"{file}.gz cannot be read (")


def test_a_label_that_is_no_digit_is_refused(archive):
    file = archive.file("train", "labels")
    data = bytearray(file.read_bytes())
    data[8 + 17] = 10
    file.write_bytes(bytes(data))
    assert complaint(archive.path) == (
        f"the train files in {archive.path}: example 17 has the label 10, but labels are 0 to 9"
    )


def test_as_many_images_as_labels_are_needed(archive):
    archive.write("train", images=199)
    sentence = complaint(archive.path)
    assert sentence == (
        f"{archive.file('train', 'images')} holds 199 images and "
        f"{archive.file('train', 'labels')} 200 labels; download both again"
    )


def test_images_of_another_size_are_refused(archive):
    archive.write("train", side=20)
    assert "holds images of 20x20 pixels, and those of MNIST have 28x28" in complaint(archive.path)


def test_labels_in_the_place_of_images_are_refused(archive):
    archive.file("train", "images").write_bytes(archive.file("train", "labels").read_bytes())
    assert "in 1 axes, not unsigned bytes in 3;" in complaint(archive.path)


@pytest.mark.parametrize("name", MODELS)
def test_models_score_ten_classes_and_have_as_many_parameters_as_is_said(name):
    model = mnist(model=name).new_model(0)
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    assert sum(p.numel() for p in model.parameters()) == ABOUT.models[name]


def test_the_2nn_is_the_default():
    assert mnist().model is mnist(model="2nn").model
    assert next(iter(ABOUT.models)) == next(iter(MODELS)) == "2nn"


def test_an_unknown_model_is_an_error_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"'cmn' is not a model of mnist; did you mean 'cnn'\?"):
        mnist(model="cmn")


def test_a_federation_learns_the_made_up_digits(archive, tmp_path):
    run = simulate(
        settings=[
            *("task.name=mnist", f"task.path={archive.path}", "rounds=3", "client.lr=0.1"),
            *("partition.kind=iid", "partition.clients=5", "cohort.size=5", "client.epochs=3"),
            "evaluation.clients=0",
        ],
        out=tmp_path / "run",
    )
    assert run.series("accuracy")[-1] >= 0.9
