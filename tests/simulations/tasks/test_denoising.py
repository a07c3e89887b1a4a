"""An autoencoder learns to give digits back without the noise on them."""

from pathlib import Path

import pytest
import torch

from roundel.core.errors import ConfigError, DataError
from roundel.core.seeds import isolated_rng
from roundel.simulations import simulate
from roundel.simulations.tasks import digits
from roundel.simulations.tasks.denoising import denoising, renew_noise

TASK = denoising()


def parts():
    assert TASK.load is not None
    assert TASK.load_test is not None
    return TASK.load(None), TASK.load_test(None)


def test_targets_are_the_digits_as_they_are():
    pool, test = parts()
    assert torch.equal(pool.targets, digits.load_pool(None).inputs)
    assert torch.equal(test.targets, digits.load_test(None).inputs)


def test_inputs_have_noise_of_the_deviation_asked_for():
    for examples in parts():
        noise = examples.inputs - examples.targets
        assert float(noise.std()) == pytest.approx(0.5, rel=0.02)
        assert float(noise.mean()) == pytest.approx(0, abs=0.01)


def test_the_noise_of_figures_is_the_same_in_every_run():
    with isolated_rng(1):
        first = parts()
    with isolated_rng(2):
        second = parts()
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(first, second, strict=True))


def test_training_sees_new_noise_on_the_clean_image_each_time():
    pool, _ = parts()
    assert TASK.augment is not None
    first, second = TASK.augment(pool), TASK.augment(pool)
    assert torch.equal(first.targets, pool.targets)
    assert float((first.inputs - second.inputs).std()) == pytest.approx(0.5 * 2**0.5, rel=0.02)
    assert float((first.inputs - pool.targets).std()) == pytest.approx(0.5, rel=0.02)


def test_the_noise_of_training_follows_the_seed():
    pool, _ = parts()
    with isolated_rng(3):
        first = renew_noise(pool, noise=1.0)
    with isolated_rng(3):
        assert torch.equal(renew_noise(pool, noise=1.0).inputs, first.inputs)


def test_no_noise_leaves_the_images_as_they_are():
    task = denoising(noise=0.0)
    assert task.load is not None
    assert task.augment is not None
    pool = task.load(None)
    assert torch.equal(pool.inputs, pool.targets)
    assert torch.equal(task.augment(pool).inputs, pool.targets)


def test_loss_and_metric_are_the_mean_squared_error_of_a_pixel():
    outputs, targets = torch.zeros(2, 64), torch.ones(2, 64)
    targets[1] = 3.0
    assert float(TASK.loss(outputs, targets)) == 5.0
    assert float(TASK.metrics(outputs, targets)["mse"]) == 10.0


def test_the_width_is_a_knob():
    model = denoising(hidden=7).new_model(0)
    assert model(torch.rand(3, 64)).shape == (3, 64)
    assert sum(p.numel() for p in model.parameters()) == 64 * 7 + 7 + 7 * 64 + 64


def test_a_short_run_takes_most_of_the_noise_off(tmp_path: Path):
    pool, test = parts()
    noisy = float((test.inputs - test.targets).square().mean())
    mean_image = float((pool.targets.mean(dim=0) - test.targets).square().mean())
    run = simulate(
        settings=[
            "task.name=denoising",
            "partition.kind=iid",
            "client.lr=4.0",
            "rounds=15",
            "evaluation.every=15",
            "evaluation.clients=10",
        ],
        out=tmp_path / "run",
    )
    assert noisy == pytest.approx(0.25, abs=0.01)
    assert mean_image > 0.07
    assert run.rounds[-1]["mse"] < 0.05
    assert run.rounds[-1]["clients"]["mse"]["mean"] < 0.06


@pytest.mark.parametrize("part", ["load", "load_test"])
def test_a_path_is_refused(part):
    with pytest.raises(DataError, match=r"ship with the task and cannot be read from some/file"):
        getattr(TASK, part)(Path("some/file"))


@pytest.mark.parametrize(("knob", "value"), [("noise", -0.5), ("hidden", 0)])
def test_a_knob_out_of_range_is_an_error(knob, value):
    with pytest.raises(ConfigError, match=rf"^task.{knob} = {value} is out of range"):
        denoising(**{knob: value})
