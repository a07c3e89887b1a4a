"""The digits are the real ones, divided in one fixed way, and can be learned."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from roundel.core.errors import ConfigError, DataError
from roundel.simulations.tasks.digits import ABOUT, MODELS, digits, load_pool, load_test

DATA = files("roundel.simulations.tasks") / "data"


def test_the_file_holds_the_images_of_the_source():
    with (DATA / "digits.npz").open("rb") as file, np.load(file, allow_pickle=False) as archive:
        images, labels = archive["images"], archive["labels"]
    assert images.shape == (1797, 8, 8)
    assert images.dtype == labels.dtype == np.uint8
    assert (images.min(), images.max()) == (0, 16)
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert images[0, :2].tolist() == [[0, 0, 5, 13, 9, 1, 0, 0], [0, 0, 13, 15, 10, 15, 5, 0]]


def test_the_licence_lies_beside_the_data():
    text = (DATA / "digits.LICENSE.txt").read_text(encoding="utf-8")
    assert "10.24432/C50P49" in text
    assert "CC BY 4.0" in text


def test_one_in_five_of_each_digit_is_a_test_image():
    pool, test = load_pool(None), load_test(None)
    assert pool.targets.bincount().tolist() == [143, 146, 142, 147, 145, 146, 145, 144, 140, 144]
    assert test.targets.bincount().tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]
    assert (len(pool), len(test)) == (1442, 355)


def test_inputs_are_flat_images_from_0_to_1_and_targets_class_numbers():
    pool = load_pool(None)
    assert pool.inputs.shape == (1442, 64)
    assert (pool.inputs.dtype, pool.targets.dtype) == (torch.float32, torch.int64)
    assert (float(pool.inputs.min()), float(pool.inputs.max())) == (0.0, 1.0)
    assert pool.inputs[0, :8].tolist() == [0, 0, 5 / 16, 13 / 16, 9 / 16, 1 / 16, 0, 0]
    assert int(pool.targets[0]) == 0


def test_the_fifth_image_of_a_digit_is_the_first_of_the_test_images():
    with (DATA / "digits.npz").open("rb") as file, np.load(file, allow_pickle=False) as archive:
        images, labels = archive["images"], archive["labels"]
    fifth_three = images[np.flatnonzero(labels == 3)[4]].flatten() / 16
    test = load_test(None)
    assert test.inputs[test.targets == 3][0].tolist() == fifth_three.tolist()


@pytest.mark.parametrize("load", [load_pool, load_test])
def test_a_path_is_refused(load):
    with pytest.raises(DataError, match=r"ship with the task and cannot be read from some/file"):
        load(Path("some/file"))


@pytest.mark.parametrize(
    ("name", "parameters"), [("mlp", 4_810), ("mlp-norm", 4_938), ("cnn", 9_930)]
)
def test_models_take_flat_images_and_score_ten_classes(name, parameters):
    model = digits(model=name).new_model(0)
    assert model(torch.rand(3, 64)).shape == (3, 10)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_what_is_said_about_the_models_is_so():
    counts = {
        name: sum(p.numel() for p in digits(model=name).new_model(0).parameters())
        for name in MODELS
    }
    assert list(ABOUT.models.items()) == list(counts.items())


def test_the_first_model_is_the_default():
    assert next(iter(MODELS)) == "mlp"
    assert digits().model is digits(model="mlp").model


def test_an_unknown_model_is_an_error_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"'cnm' is not a model of digits; did you mean 'cnn'\?"):
        digits(model="cnm")


def test_a_perceptron_trained_on_the_pool_knows_the_test_images():
    task = digits()
    assert task.load is not None
    assert task.load_test is not None
    pool, test = task.load(None), task.load_test(None)
    model = task.new_model(0)
    parameters = list(model.parameters())
    for _ in range(100):
        loss = task.loss(model(pool.inputs), pool.targets)
        for tensor, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            tensor.data.sub_(slope, alpha=0.5)
    right = task.metrics(model(test.inputs), test.targets)["accuracy"]
    assert int(right) / len(test) > 0.93
