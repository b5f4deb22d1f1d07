"""Augmentation: what it may change and by how much, and that a generator determines it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import data as photographs

from edgeclf.runtime.errors import UsageError
from edgeclf.training.data.augmentation import Augmentation, augment_batch, get_augmentation, mix_up
from edgeclf.training.options import AUGMENTATIONS, training_option

COFFEE = photographs.coffee()


def crops(count=6, size=(40, 56)):
    rng = np.random.default_rng(5)
    rows = rng.integers(0, COFFEE.shape[0] - size[0], count)
    columns = rng.integers(0, COFFEE.shape[1] - size[1], count)
    return np.stack([COFFEE[r : r + size[0], c : c + size[1]] for r, c in zip(rows, columns, strict=True)])


def vary(images, seed=0, **amounts):
    return augment_batch(images, Augmentation("test", **amounts), np.random.default_rng(seed))


def test_none_changes_no_pixel():
    images = crops()
    assert np.array_equal(augment_batch(images, get_augmentation("none"), np.random.default_rng(0)), images)
    assert get_augmentation("none").is_none
    assert not get_augmentation("light").is_none


@given(seed=st.integers(0, 2**32 - 1), name=st.sampled_from(["light", "strong"]))
def test_a_batch_depends_on_the_generator_alone_and_its_input_stays(seed, name):
    images = crops()
    before = images.copy()
    first = augment_batch(images, get_augmentation(name), np.random.default_rng(seed))
    again = augment_batch(images, get_augmentation(name), np.random.default_rng(seed))
    other = augment_batch(images, get_augmentation(name), np.random.default_rng(seed + 1))
    assert first.dtype == np.uint8
    assert first.shape == images.shape
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(images, before)


def test_flip_mirrors_about_half_of_the_images_exactly():
    images = crops(64)
    varied = vary(images, flip=True)
    same = [np.array_equal(a, b) for a, b in zip(varied, images, strict=True)]
    mirrored = [np.array_equal(a, b[:, ::-1]) for a, b in zip(varied, images, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True))
    assert 16 < sum(mirrored) < 48


def test_brightness_adds_and_contrast_spreads_around_the_mean():
    grey = np.full((32, 8, 8, 3), 128, np.uint8)
    brightened = vary(grey, brightness=0.2)[:, 0, 0, 0].astype(int) - 128
    assert brightened.min() < -20
    assert brightened.max() > 20
    assert np.abs(brightened).max() <= 51
    assert np.array_equal(vary(grey, contrast=0.5), grey)
    images = crops(32)
    spreads = vary(images, contrast=0.3).std(axis=(1, 2, 3)) / images.std(axis=(1, 2, 3))
    assert spreads.min() < 0.85
    assert spreads.max() > 1.05
    assert spreads.min() > 0.69
    assert spreads.max() < 1.31


def test_saturation_leaves_grey_pixels_and_moves_coloured_ones():
    grey = np.full((4, 8, 8, 3), 77, np.uint8)
    assert np.abs(vary(grey, saturation=0.5).astype(int) - 77).max() <= 1
    assert not np.array_equal(vary(crops(), saturation=0.5), crops())


def test_shift_moves_at_most_the_share():
    image = np.zeros((1, 41, 41, 3), np.uint8)
    image[0, 20, 20] = 255
    found = []
    for seed in range(40):
        varied = vary(image, seed, shift=0.2)[0, :, :, 0].astype(float)
        rows, columns = np.indices(varied.shape)
        found.append(((rows * varied).sum() / varied.sum() - 20, (columns * varied).sum() / varied.sum() - 20))
    assert np.abs(found).max() <= 0.2 * 41 + 0.1
    assert np.abs(found).max() > 5


def test_zoom_and_rotation_keep_the_centre():
    image = np.zeros((1, 41, 41, 3), np.uint8)
    image[0, 18:23, 18:23] = 255
    areas = []
    for seed in range(40):
        varied = vary(image, seed, zoom_out=0.5, zoom_in=2.0, rotate_degrees=45)[0, :, :, 0].astype(float)
        rows, columns = np.indices(varied.shape)
        assert (rows * varied).sum() / varied.sum() == pytest.approx(20, abs=0.3)
        assert (columns * varied).sum() / varied.sum() == pytest.approx(20, abs=0.3)
        areas.append(varied.sum() / 255)
    assert min(areas) < 15
    assert max(areas) > 60
    assert max(areas) < 25 * 4 * 1.15


def test_erasing_cuts_one_rectangle_of_one_colour():
    images = crops(64, (40, 40))
    varied = vary(images, erase=0.5)
    changed = [np.any(a != b, axis=-1) for a, b in zip(varied, images, strict=True)]
    touched = [mask for mask in changed if mask.any()]
    assert 16 < len(touched) < 48
    for mask, image in ((m, v) for m, v in zip(changed, varied, strict=True) if m.any()):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        hole = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].reshape(-1, 3)
        assert (hole == hole[0]).all()
        assert len(hole) <= 0.26 * 1600 + 40


def test_mixup_blends_images_and_targets_by_the_same_share():
    images = np.stack([np.full((4, 4, 3), value, np.uint8) for value in (0, 50, 100, 200)])
    ones = np.ones(4, np.float32)
    blended, targets, weights = mix_up(images, np.eye(4, dtype=np.float32), ones, 1.0, np.random.default_rng(3))
    assert blended.dtype == np.uint8
    assert targets.sum(axis=1) == pytest.approx(np.ones(4))
    assert blended[:, 0, 0, 0] == pytest.approx(targets @ np.array([0, 50, 100, 200]), abs=1)
    assert (np.count_nonzero(targets, axis=1) <= 2).all()
    assert (np.count_nonzero(targets, axis=1) == 2).any()
    assert weights == pytest.approx(np.ones(4))


def test_mixup_weighs_the_loss_of_both_images_by_their_own_weights(rng):
    count, classes = 12, 3
    images = np.repeat(np.arange(0, 240, 20, dtype=np.uint8), 48).reshape(count, 4, 4, 3)
    targets = rng.dirichlet(np.ones(classes), count).astype(np.float32)
    weights = rng.uniform(0.2, 5.0, count).astype(np.float32)
    blended, mixed, together = mix_up(images, targets, weights, 0.8, np.random.default_rng(5))
    # Which images were mixed with what share is drawn first of all.
    drawn = np.random.default_rng(5)
    partners, shares = drawn.permutation(count), drawn.beta(0.8, 0.8, count)
    assert blended[:, 0, 0, 0] == pytest.approx(
        shares * images[:, 0, 0, 0] + (1 - shares) * images[partners, 0, 0, 0], abs=0.51
    )
    assert together == pytest.approx(shares * weights + (1 - shares) * weights[partners], rel=1e-5)
    assert mixed.sum(axis=1) == pytest.approx(np.ones(count), rel=1e-5)
    log_probabilities = np.log(rng.dirichlet(np.ones(classes), count))
    own = -weights * (targets * log_probabilities).sum(axis=1)
    of_partner = -weights[partners] * (targets[partners] * log_probabilities).sum(axis=1)
    loss = -together * (mixed * log_probabilities).sum(axis=1)
    assert loss == pytest.approx(shares * own + (1 - shares) * of_partner, rel=1e-4)


def test_unknown_name_lists_those_that_exist():
    with pytest.raises(UsageError, match="none or light or strong"):
        training_option("augment").check("heavy")


def test_every_name_has_its_amounts():
    assert [get_augmentation(name).name for name in AUGMENTATIONS] == list(AUGMENTATIONS)
