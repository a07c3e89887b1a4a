"""Batches are cropped and mirrored at random, each image on its own, and the same for a seed."""

import pytest
import torch

from roundel.core.data import Examples
from roundel.core.seeds import isolated_rng
from roundel.simulations.tasks.augment import crop_and_flip, random_crop, random_flip

HEIGHT, WIDTH = 3, 4
IMAGE = torch.arange(1.0, 2 * HEIGHT * WIDTH + 1).reshape(1, 2, HEIGHT, WIDTH)
MANY = Examples(IMAGE.repeat(400, 1, 1, 1), torch.arange(400))


def seeded(change, examples, *more, seed=0):
    with isolated_rng(seed):
        return change(examples, *more)


def windows(padding):
    """All windows of the padded image, cut out one by one."""
    padded = torch.zeros(2, HEIGHT + 2 * padding, WIDTH + 2 * padding)
    padded[:, padding : padding + HEIGHT, padding : padding + WIDTH] = IMAGE[0]
    places = [(y, x) for y in range(2 * padding + 1) for x in range(2 * padding + 1)]
    return [padded[:, y : y + HEIGHT, x : x + WIDTH] for y, x in places]


def test_each_image_becomes_one_of_the_windows_and_every_window_occurs():
    cropped = seeded(random_crop, MANY, 1).inputs
    expected = windows(padding=1)
    found = [[i for i, w in enumerate(expected) if w.equal(image)] for image in cropped]
    assert all(len(places) == 1 for places in found)
    assert {places[0] for places in found} == set(range(9))


def test_a_padding_of_0_changes_nothing():
    assert seeded(random_crop, MANY, 0).inputs.equal(MANY.inputs)


def test_about_half_of_the_images_are_mirrored_and_the_others_left_alone():
    flipped = seeded(random_flip, MANY).inputs
    mirrored = (flipped == IMAGE.flip(-1)).all(dim=3).all(dim=2).all(dim=1)
    left = (flipped == IMAGE).all(dim=3).all(dim=2).all(dim=1)
    assert (mirrored ^ left).all()
    assert 160 < int(mirrored.sum()) < 240  # four standard deviations


@pytest.mark.parametrize("change", [random_flip, crop_and_flip])
def test_targets_dtype_and_shape_stay_and_the_batch_itself_is_not_changed(change):
    before = MANY.inputs.clone()
    changed = seeded(change, MANY)
    assert changed.targets is MANY.targets
    assert (changed.inputs.shape, changed.inputs.dtype) == (MANY.inputs.shape, torch.float32)
    assert MANY.inputs.equal(before)


def test_a_seed_of_the_global_generator_decides():
    first, again = (seeded(crop_and_flip, MANY).inputs for _ in range(2))
    assert first.equal(again)
    assert not first.equal(seeded(crop_and_flip, MANY, seed=1).inputs)


def test_a_single_image_and_none_are_batches_too():
    for count in (1, 0):
        batch = MANY.take(torch.arange(count))
        assert seeded(crop_and_flip, batch).inputs.shape == (count, 2, HEIGHT, WIDTH)
