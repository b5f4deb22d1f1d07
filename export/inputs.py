"""Inputs of an export: a trained classifier, and its images, preprocessed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgeclf.export.keras_backend import KerasClassifier, KerasModel
from edgeclf.runtime.arrays import IntArray, UInt8Array
from edgeclf.runtime.spec import ModelSpec


@dataclass(frozen=True, eq=False)
class TrainedClassifier:
    """A trained Keras classifier: what is exported, and the reference that exported files are compared with.

    Attributes:
        model: The Keras model: uint8 (None, H, W, 3) RGB images to (None, C) probabilities.
        spec: Its labels and preprocessing, and how it was trained.
        simulate: Builds the same network in the 8-bit arithmetic of its quantization-aware training; None for a network
            that was trained in float.
    """

    model: KerasModel
    spec: ModelSpec
    simulate: Callable[[], KerasModel] | None = None

    def as_trained(self) -> KerasClassifier:
        """The network in the arithmetic that it was trained in."""
        return KerasClassifier(self.model if self.simulate is None else self.simulate(), self.spec)

    def reference_for(self, precision: str) -> KerasClassifier:
        """The reference of files of a precision: the network as trained for `int8`, in float for the others."""
        return self.as_trained() if precision == "int8" else KerasClassifier(self.model, self.spec)


class ImageRows(Protocol):
    """(N, H, W, 3) uint8 RGB images that are read some rows at a time: an array, a memory map, a cache file."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, rows: slice | IntArray, /) -> UInt8Array:
        """The images of a slice, or at (n,) positions."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Preprocessed images with their classes.

    Attributes:
        images_rgb: (N, H, W, 3) uint8, RGB.
        true_indices: (N,) index of each image's class in the labels of the spec.
    """

    images_rgb: ImageRows
    true_indices: IntArray

    def __len__(self) -> int:
        """N."""
        return len(self.images_rgb)

    def sample(self, count: int, seed: int = 0) -> "LabelledImages":
        """At most `count` of the images, drawn at random, in their order; read only as they are used."""
        positions = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        return LabelledImages(_SelectedRows(self.images_rgb, positions), self.true_indices[positions])


@dataclass(frozen=True, eq=False)
class ExportImages:
    """The preprocessed images that an export is verified with and, for int8, calibrated on.

    Attributes:
        validation: Held-out images that decide whether an int8 or fp16 file is written, and which int8 recipe.
        test: Held-out images that are only reported on, so that nothing is chosen by them; an fp32 file, whose conversion is
            exact or broken, is held to its limits on them too. None without any.
        training_rgb: (N, H, W, 3) uint8 RGB images that the network was trained on, for int8 activation ranges; None for
            the other precisions.
    """

    validation: LabelledImages
    test: LabelledImages | None = None
    training_rgb: ImageRows | None = None

    def held_out(self) -> dict[str, LabelledImages]:
        """The held-out images by split, `validation` and then `test`, without empty splits."""
        splits = {"validation": self.validation, "test": self.test}
        return {split: images for split, images in splits.items() if images is not None and len(images)}

    def sample_training(self, count: int, seed: int = 0) -> UInt8Array:
        """At most `count` training images drawn at random, (n, H, W, 3) uint8 RGB."""
        if self.training_rgb is None:
            return self.validation.images_rgb[:0]
        return self.training_rgb[np.random.default_rng(seed).permutation(len(self.training_rgb))[:count]]


@dataclass(frozen=True, eq=False)
class _SelectedRows:
    """Some of the images, read only as they are asked for."""

    images_rgb: ImageRows
    positions: IntArray

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, rows: slice | IntArray, /) -> UInt8Array:
        return self.images_rgb[self.positions[rows]]
