"""Inputs that look different at each client: noise that grows, images that are turned."""

import pytest
import torch

from roundel.core.config import PartitionConfig
from roundel.core.data import Examples
from roundel.core.errors import DataError
from roundel.simulations.partitions.skew import FeatureSkew, interpolated, rotated

CORNER = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
TURNED_LEFT = torch.tensor([[3.0, 6.0, 9.0], [2.0, 5.0, 8.0], [1.0, 4.0, 7.0]])
"""A quarter turn counter-clockwise takes the right column to the top."""


def examples(inputs: torch.Tensor) -> Examples:
    return Examples(inputs, torch.zeros(len(inputs)))


def test_nothing_is_done_by_default():
    inputs = torch.rand(4, 3)
    assert FeatureSkew().is_none
    assert FeatureSkew().apply(inputs, 7, 10) is inputs
    FeatureSkew().check(examples(torch.zeros(4, 3, dtype=torch.int64)))


def test_an_experiment_says_what_is_done():
    config = PartitionConfig(noise=0.5, rotations=4)
    assert FeatureSkew.of(config, 7) == FeatureSkew(noise=0.5, rotations=4, seed=7)


# ---- noise


@pytest.mark.parametrize(("client", "expected"), [(0, 0.0), (5, 1.0), (10, 2.0)])
def test_noise_grows_from_nothing_at_the_first_client_to_all_at_the_last(client, expected):
    skew = FeatureSkew(noise=2.0)
    noise = skew.apply(torch.zeros(200, 50), client, 11)
    assert noise.std().item() == pytest.approx(expected, abs=0.05)
    assert noise.mean().item() == pytest.approx(0, abs=0.05)


def test_noise_is_the_same_whenever_it_is_asked_for_and_differs_by_client_and_seed():
    inputs = torch.zeros(3, 4)
    one = FeatureSkew(noise=1.0, seed=1).apply(inputs, 1, 3)
    assert torch.equal(one, FeatureSkew(noise=1.0, seed=1).apply(inputs, 1, 3))
    assert not torch.equal(one, FeatureSkew(noise=1.0, seed=2).apply(inputs, 1, 3))
    assert not torch.equal(2 * one, FeatureSkew(noise=1.0, seed=1).apply(inputs, 2, 3))


def test_noise_keeps_the_dtype_and_leaves_its_argument_alone():
    inputs = torch.zeros(3, 4, dtype=torch.float64)
    assert FeatureSkew(noise=1.0).apply(inputs, 1, 2).dtype == torch.float64
    assert inputs.abs().sum() == 0


def test_a_single_client_has_no_noise():
    assert FeatureSkew(noise=1.0).apply(torch.zeros(2, 2), 0, 1).abs().sum() == 0


# ---- rotations


@pytest.mark.parametrize("shape", [(2, 3, 3), (1, 2, 3, 3), (2, 9)])
def test_a_quarter_turn_is_counter_clockwise_and_exact_in_every_shape(shape):
    inputs = CORNER.repeat(2, 1, 1).reshape(shape)
    turned = rotated(inputs, 90.0)
    assert turned.shape == inputs.shape
    assert torch.equal(turned.reshape(2, 3, 3), TURNED_LEFT.repeat(2, 1, 1))


def test_clients_take_turns_with_the_angles():
    skew = FeatureSkew(rotations=4)
    images = CORNER.unsqueeze(0)
    assert torch.equal(skew.apply(images, 4, 10), images)
    assert torch.equal(skew.apply(images, 5, 10)[0], TURNED_LEFT)
    assert torch.equal(skew.apply(images, 6, 10)[0], CORNER.flip(0, 1))
    assert torch.equal(skew.apply(images, 9, 10)[0], TURNED_LEFT)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_interpolation_turns_the_same_way_as_exact_turns(quarters):
    images = torch.rand(2, 3, 6, 6)
    exact = images.rot90(quarters, dims=(2, 3))
    assert torch.allclose(interpolated(images, 90.0 * quarters), exact, atol=1e-5)


def test_turning_by_a_third_moves_a_dot_by_that_angle():
    """A dot at (row 2, column 14) of 17x17 is 6 to the right of the centre and 6 above it.

    Turned by 120 degrees counter-clockwise from (6, 6): x = 6 cos 120 - 6 sin 120 = -8.2, and
    y = 6 sin 120 + 6 cos 120 = 2.2 above the centre: just outside the left edge at row 5.8; half
    of the distance lands inside, at x = -4.1, y = 1.1: row 6.9, column 3.9.
    """
    image = torch.zeros(1, 1, 17, 17)
    image[0, 0, 5, 11] = 1.0
    turned = interpolated(image, 120.0)[0, 0]
    assert (turned == turned.max()).nonzero().tolist() == [[7, 4]]


def test_turned_images_keep_their_dtype_and_shape():
    for dtype in (torch.float16, torch.float32, torch.float64):
        turned = rotated(torch.ones(2, 64, dtype=dtype), 45.0)
        assert (turned.dtype, turned.shape) == (dtype, (2, 64))
        assert turned[0].reshape(8, 8)[4, 4] == pytest.approx(1.0, abs=1e-3)
        assert turned[0, 0] == 0.0


def test_a_client_without_examples_can_be_turned():
    skew = FeatureSkew(rotations=3, noise=0.1)
    assert skew.apply(torch.zeros(0, 64), 1, 3).shape == (0, 64)


# ---- what cannot be done


@pytest.mark.parametrize("shape", [(5, 8), (5, 3, 4), (5, 1, 3, 4), (5,), (5, 1, 1, 2, 2)])
def test_inputs_that_are_no_square_images_cannot_be_turned(shape):
    with pytest.raises(DataError, match=r"turns square images, .* has the shape \(.*\); leave it"):
        FeatureSkew(rotations=4).check(examples(torch.zeros(shape)))


@pytest.mark.parametrize(
    ("skew", "key"),
    [(FeatureSkew(noise=0.1), "noise"), (FeatureSkew(rotations=2), "rotations")],
)
def test_inputs_that_are_no_real_numbers_are_refused(skew, key):
    with pytest.raises(DataError, match=rf"partition.{key} changes .* are torch.int64; leave"):
        skew.check(examples(torch.zeros(5, 4, 4, dtype=torch.int64)))
