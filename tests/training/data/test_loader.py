"""Batches: the same for the same seed and epoch, balanced when asked, never augmented where they must not be."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.training.data.loader import BatchLoader, Subset, class_weights, epoch_order, training_side_px
from edgeclf.training.options import FitOptions


def options(**changes):
    values = {"epochs": 3, "batch_size": 4, "optimizer": "adam", "learning_rate": 0.01, "patience": 2}
    return FitOptions(**{**values, **changes})


def rows_of(count=10, classes=2, seed=0):
    rng = np.random.default_rng(seed)
    inputs = rng.integers(0, 256, (count + 3, 8, 8, 3), dtype=np.uint8)
    rows = rng.permutation(count + 3)[:count]
    return Subset(inputs, rows, np.arange(count) % classes)


def test_an_epoch_holds_every_image_once_with_its_target():
    data = rows_of()
    batches = BatchLoader(data, 2, options())
    seen = list(batches.epoch(0))
    assert [len(inputs) for inputs, _, _ in seen] == [4, 4, 2]
    assert len(batches) == 3
    inputs = np.concatenate([batch[0] for batch in seen])
    targets = np.concatenate([batch[1] for batch in seen])
    expected = {data.inputs[row].tobytes(): true for row, true in zip(data.positions, data.true_indices, strict=True)}
    assert {image.tobytes(): int(target.argmax()) for image, target in zip(inputs, targets, strict=True)} == expected
    assert np.concatenate([batch[2] for batch in seen]).tolist() == [1.0] * 10


def test_epochs_differ_and_repeat_whatever_was_read_before():
    batches = BatchLoader(rows_of(), 2, options(augment="strong"))
    first, second = (np.concatenate([batch[0] for batch in batches.epoch(epoch)]) for epoch in (0, 1))
    assert not np.array_equal(first, second)
    again = BatchLoader(rows_of(), 2, options(augment="strong"))
    assert np.array_equal(np.concatenate([batch[0] for batch in again.epoch(1)]), second)
    other = BatchLoader(rows_of(), 2, options(augment="strong", seed=1))
    assert not np.array_equal(np.concatenate([batch[0] for batch in other.epoch(1)]), second)


def test_endless_goes_from_epoch_to_epoch():
    batches = BatchLoader(rows_of(), 2, options())
    endless = list(itertools.islice(batches.endless(), 6))
    expected = [*batches.epoch(0), *batches.epoch(1)]
    for got, wanted in zip(endless, expected, strict=True):
        assert np.array_equal(got[0], wanted[0])


def test_an_epoch_that_is_left_early_leaves_no_thread_behind():
    import threading

    generator = BatchLoader(rows_of(64), 2, options(batch_size=1)).epoch(0)
    next(generator)
    generator.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("edgeclf-batch")]


def test_label_smoothing_spreads_its_share():
    _, targets, _ = next(BatchLoader(rows_of(), 4, options(label_smoothing=0.2)).epoch(0))
    assert targets.sum(axis=1) == pytest.approx(np.ones(4))
    assert targets.max(axis=1) == pytest.approx(np.full(4, 0.85))
    assert targets.min(axis=1) == pytest.approx(np.full(4, 0.05))


def test_mixup_blends_targets():
    targets = np.concatenate([batch[1] for batch in BatchLoader(rows_of(40), 2, options(mixup=1.0)).epoch(0)])
    assert targets.sum(axis=1) == pytest.approx(np.ones(40))
    assert ((targets > 0.05) & (targets < 0.95)).any()


def test_weights_make_classes_count_alike():
    true = np.array([0] * 90 + [1] * 10)
    weights = class_weights(true, 3)
    assert weights[0] * 90 == pytest.approx(weights[1] * 10)
    assert weights[true].mean() == pytest.approx(1.0)
    assert weights[2] == 0.0
    data = Subset(np.zeros((100, 2, 2, 3), np.uint8), np.arange(100), true)
    batches = BatchLoader(data, 3, options(balance="weights"))
    for _, targets, counts in batches.epoch(0):
        assert counts == pytest.approx(weights[targets.argmax(axis=1)])


def test_mixup_gives_the_images_of_a_rare_class_their_weight_in_every_blend():
    true = np.array([0] * 90 + [1] * 10)
    weights = class_weights(true, 2)
    data = Subset(np.zeros((100, 2, 2, 3), np.uint8), np.arange(100), true)
    batches = list(BatchLoader(data, 2, options(balance="weights", mixup=1.0)).epoch(0))
    targets, counts = (np.concatenate([batch[part] for batch in batches]) for part in (1, 2))
    # A blend of shares s and 1 - s of the two classes weighs s w0 + (1 - s) w1, in which class 1 has the part (1 - s) w1.
    share = targets[:, 1] / weights[1] / (targets[:, 0] / weights[0] + targets[:, 1] / weights[1])
    assert counts == pytest.approx((1 - share) * weights[0] + share * weights[1], rel=1e-4)
    assert ((share > 0.05) & (share < 0.95)).any()


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    epoch=st.integers(0, 50),
)
def test_sampling_draws_every_class_equally_often(counts, epoch):
    true = np.repeat(np.arange(len(counts)), counts)
    order = epoch_order(true, epoch, options(balance="sampling"), len(counts) + 1)
    assert len(order) == len(true)
    drawn = np.bincount(true[order], minlength=len(counts))
    assert drawn.max() - drawn.min() <= 1
    for label in range(len(counts)):
        times = np.bincount(order, minlength=len(true))[true == label]
        assert times.max() - times.min() <= 1


@given(count=st.integers(1, 50), epoch=st.integers(0, 5), seed=st.integers(0, 5))
def test_without_balance_an_epoch_is_a_permutation(count, epoch, seed):
    order = epoch_order(np.zeros(count, np.int64), epoch, options(seed=seed), 1)
    assert sorted(order.tolist()) == list(range(count))


def test_progressive_training_begins_with_smaller_images():
    images = np.random.default_rng(0).integers(0, 256, (8, 120, 120, 3), dtype=np.uint8)
    data = Subset(images, np.arange(8), np.arange(8) % 2)
    batches = BatchLoader(data, 2, options(epochs=20, progressive=True))
    sides = [next(batches.epoch(epoch))[0].shape[1:3] for epoch in range(20)]
    assert sides == [(64, 64)] * 8 + [(96, 96)] * 7 + [(120, 120)] * 5
    plain = BatchLoader(data, 2, options(epochs=20))
    assert next(plain.epoch(0))[0].shape[1:3] == (120, 120)
    whole, small = next(plain.epoch(0))[0], next(batches.epoch(0))[0]
    assert small.mean(axis=(1, 2, 3)) == pytest.approx(whole.mean(axis=(1, 2, 3)), abs=1.5)


@given(st.integers(1, 600), st.integers(1, 100))
def test_progressive_sizes_grow_to_the_whole(side, epochs):
    sides = [training_side_px(epoch, epochs, side) for epoch in range(epochs)]
    assert sides == sorted(sides)
    assert sides[-1] == side or epochs < 4
    assert min(sides) >= min(side, 32)
    assert max(sides) <= side
