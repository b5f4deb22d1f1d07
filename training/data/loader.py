"""The batch loader: shuffled or balanced batches, augmented and blended by threads while the network works."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from edgeclf.runtime.arrays import AnyArray, FloatArray, IntArray, UInt8Array
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.images.preprocess import resize
from edgeclf.training.cache.array_file import ArrayFile
from edgeclf.training.data.augmentation import augment_batch, get_augmentation, mix_up
from edgeclf.training.options import FitOptions
from edgeclf.training.prefetch import prefetch_map


@dataclass(frozen=True, eq=False)
class Subset:
    """A subset of images or features, with the class of each.

    Attributes:
        inputs: (M, ...) uint8 images, RGB, or float32 features; may be larger than memory.
        positions: (N,) int64, the members of the subset.
        true_indices: (N,) int64, the class of each.
    """

    inputs: ArrayFile | AnyArray
    positions: IntArray
    true_indices: IntArray

    def read(self, positions: IntArray | slice) -> AnyArray:
        """Copies the inputs at positions 0..N-1 into memory, (len, ...)."""
        rows = self.positions[positions]
        return self.inputs.take(rows) if isinstance(self.inputs, ArrayFile) else self.inputs[rows]


def class_weights(true_indices: IntArray, classes: int) -> FloatArray:
    """Class weights of the loss, (C,) float32: every class counts alike, and the mean over the images is 1.

    N / (C n_c), scikit-learn's "balanced" weights; 0 for a class without images.
    """
    counts = np.bincount(true_indices, minlength=classes)
    weights = len(true_indices) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.where(counts > 0, weights, 0.0).astype(np.float32)


def epoch_order(true_indices: IntArray, epoch: int, options: FitOptions, classes: int) -> IntArray:
    """The positions of the images of one epoch, (N,) int64: all of them shuffled, or drawn so that classes are even.

    Args:
        true_indices: (N,) the class of each image.
        epoch: From 0; with the seed it determines the order, so that a resumed training goes on with the same one.
        options: Seed and balance.
        classes: C.
    """
    rng = np.random.default_rng([options.seed, epoch])
    if options.balance != "sampling":
        return rng.permutation(len(true_indices))
    present = np.flatnonzero(np.bincount(true_indices, minlength=classes))
    drawn: list[IntArray] = []
    # Every class gives the same number of images (to within one): each of its images equally often (to within one).
    for place, label in enumerate(rng.permutation(present)):
        wanted = len(true_indices) // len(present) + (place < len(true_indices) % len(present))
        members = np.flatnonzero(true_indices == label)
        full, rest = divmod(wanted, len(members))
        drawn.append(np.concatenate([np.repeat(members, full), rng.permutation(members)[:rest]]))
    return rng.permutation(np.concatenate(drawn))


# Until which share of the epochs images have which share of their side.
_GROWTH = ((0.4, 0.53), (0.75, 0.8))


def training_side_px(epoch: int, epochs: int, side_px: int) -> int:
    """The side of training images in an epoch of progressive training (Tan & Le 2021, "EfficientNetV2", section 4.2).

    Small images cost a fraction, and what is learnt on them serves the larger ones; measured in benchmarks/README.md.

    Args:
        epoch: From 0.
        epochs: Of the whole fit.
        side_px: Of the network's input.

    Returns:
        A multiple of 8, at least 32, or `side_px`.
    """
    for until, share in _GROWTH:
        if epoch < until * epochs:
            return min(side_px, max(32, round(side_px * share / 8) * 8))
    return side_px


Batch: TypeAlias = tuple[AnyArray, FloatArray, FloatArray]


class BatchLoader:
    """The training images in batches of (inputs, (n, C) float32 targets, (n,) float32 weights).

    The content of a batch depends on the seed, the epoch and its place in the epoch, never on threads or on what was read
    before, so that a resumed or repeated training sees the same. Images are uint8 until the network's first layer.

    Args:
        data: The training images or features. Features are never augmented.
        classes: C.
        options: Batch size, seed, augmentation, label smoothing, balance.
    """

    def __init__(self, data: Subset, classes: int, options: FitOptions) -> None:
        self._data = data
        self._classes = classes
        self._options = options
        self._augmentation = get_augmentation(options.augment)
        smoothing = np.float32(options.label_smoothing)
        self._targets = np.eye(classes, dtype=np.float32) * (1 - smoothing) + smoothing / np.float32(classes)
        self._weights = (
            class_weights(data.true_indices, classes)
            if options.balance == "weights"
            else np.ones(classes, dtype=np.float32)
        )

    def __len__(self) -> int:
        """Batches in an epoch; the last one may be smaller."""
        return math.ceil(len(self._data.positions) / self._options.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch, from 0, made by threads while the network works on earlier ones."""
        order = epoch_order(self._data.true_indices, epoch, self._options, self._classes)
        threads = usable_cpus()
        yield from prefetch_map(
            lambda index: self._batch(order, epoch, index),
            range(len(self)),
            threads=threads,
            ahead=2 * threads + 1,
            name="edgeclf-batch",
        )

    def sample(self, count: int) -> Subset:
        """At most `count` of the images as they are, neither augmented nor balanced; by the seed, always the same."""
        chosen = np.sort(np.random.default_rng(self._options.seed).permutation(len(self._data.positions))[:count])
        return Subset(self._data.inputs, self._data.positions[chosen], self._data.true_indices[chosen])

    def endless(self) -> Iterator[Batch]:
        """One epoch after the other."""
        for epoch in itertools.count():
            yield from self.epoch(epoch)

    def _batch(self, order: IntArray, epoch: int, index: int) -> Batch:
        size = self._options.batch_size
        chosen = order[index * size : (index + 1) * size]
        inputs = self._data.read(chosen)
        true = self._data.true_indices[chosen]
        targets, weights = self._targets[true], self._weights[true]
        rng = np.random.default_rng([self._options.seed, epoch, index])
        if not self._augmentation.is_none:
            inputs = augment_batch(inputs, self._augmentation, rng)
        if self._options.mixup:
            inputs, targets, weights = mix_up(inputs, targets, weights, self._options.mixup, rng)
        if self._options.progressive:
            inputs = _shrink(inputs, training_side_px(epoch, self._options.epochs, inputs.shape[1]))
        return inputs, targets, weights


def _shrink(images_rgb: UInt8Array, side_px: int) -> UInt8Array:
    """(N, S, S, 3) uint8 to (N, side_px, side_px, 3), antialiased."""
    if images_rgb.shape[1] == side_px:
        return images_rgb
    return np.stack([resize(image, (side_px, side_px)) for image in images_rgb])
