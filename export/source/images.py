"""Images of an export, preprocessed: those that verify the file, and those that int8 ranges are fitted to."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from edgeclf.runtime.arrays import IntArray, UInt8Array
from edgeclf.runtime.errors import EdgeclfError


class ImageRows(Protocol):
    """(N, H, W, 3) uint8 RGB images that are read some rows at a time: an array, a memory map, a cache file."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, rows: slice | IntArray, /) -> UInt8Array:
        """The images of a slice, or at (n,) positions."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Preprocessed images with their classes, where these are known.

    Attributes:
        images_rgb: (N, H, W, 3) uint8, RGB.
        true_indices: (N,) index of each image's class in the labels of the spec; None for images without labels, of which
            agreement with the reference is measured and no accuracy.
    """

    images_rgb: ImageRows
    true_indices: IntArray | None = None

    def __len__(self) -> int:
        """N."""
        return len(self.images_rgb)

    def sample(self, count: int, seed: int = 0) -> "LabelledImages":
        """At most `count` of the images, drawn at random, in their order; read only as they are used."""
        positions = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        true = None if self.true_indices is None else self.true_indices[positions]
        return LabelledImages(_SelectedRows(self.images_rgb, positions), true)


@dataclass(frozen=True, eq=False)
class ExportImages:
    """The preprocessed images that an export is verified with and, for int8, calibrated on.

    Attributes:
        validation: Held-out images that decide whether an int8 or fp16 file is written, and which int8 recipe.
        test: Held-out images that are only reported on, so that nothing is chosen by them; an fp32 file, whose conversion is
            exact or broken, is held to its limits on them too. None without any.
        training_rgb: (N, H, W, 3) uint8 RGB images that int8 activation ranges are fitted to, those that the network was
            trained on where it is known which these are; None for the other precisions.
        unreadable: Image files that could not be read and are not among the images, each with its error.
        seen_images: Of images that an int8 file is made and chosen with: `ModelSpec.seen_images` for its spec, in place of
            what the classifier's says; None to leave that as it is.
        are_computed: Whether the images are no photographs but computed, and say only that the same is computed of them.
        changed: Number of images that are left out because their files are not those that the network was trained with.
    """

    validation: LabelledImages
    test: LabelledImages | None = None
    training_rgb: ImageRows | None = None
    unreadable: tuple[tuple[Path, EdgeclfError], ...] = ()
    seen_images: Mapping[str, str] | None = None
    are_computed: bool = False
    changed: int = 0

    def held_out(self) -> dict[str, LabelledImages]:
        """The held-out images by split, `validation` (`computed` where they are) and then `test`, without empty splits."""
        splits = {"computed" if self.are_computed else "validation": self.validation, "test": self.test}
        return {split: images for split, images in splits.items() if images is not None and len(images)}

    @property
    def training_count(self) -> int:
        """Number of images to fit activation ranges to."""
        return 0 if self.training_rgb is None else len(self.training_rgb)

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
