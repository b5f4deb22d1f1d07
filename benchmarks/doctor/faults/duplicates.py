"""Duplicates that the doctor must find: test images that are training images too, and images under two classes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from benchmarks.common import image_files
from benchmarks.doctor.faults.base import Fault, Truth
from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.images.preprocess import load_image

Change = Callable[[UInt8Array, np.random.Generator], UInt8Array]
# JPEG quality where only something else should change.
_QUALITY = 92


def same(image_bgr: UInt8Array, _generator: np.random.Generator) -> UInt8Array:
    """Changes nothing."""
    return image_bgr


def resized(scale: float) -> Change:
    """Shrinks both sides."""

    def change(image_bgr: UInt8Array, _generator: np.random.Generator) -> UInt8Array:
        size = (round(image_bgr.shape[1] * scale), round(image_bgr.shape[0] * scale))
        return np.asarray(cv2.resize(image_bgr, size, interpolation=cv2.INTER_AREA), np.uint8)

    return change


def cropped(share: float) -> Change:
    """Takes a share of both sides away, half of it from either end.

    Off the middle the truth would not be known: of two test images that overlap, as crops of one texture do, both hold it.
    """

    def change(image_bgr: UInt8Array, _generator: np.random.Generator) -> UInt8Array:
        height, width = image_bgr.shape[:2]
        top, left = round(height * share / 2), round(width * share / 2)
        return image_bgr[top : height - top, left : width - left]

    return change


def mirrored(image_bgr: UInt8Array, _generator: np.random.Generator) -> UInt8Array:
    """Swaps left and right."""
    return np.ascontiguousarray(image_bgr[:, ::-1])


def one_after_the_other(*changes: Change) -> Change:
    """Applies changes in order."""

    def change(image_bgr: UInt8Array, generator: np.random.Generator) -> UInt8Array:
        for one in changes:
            image_bgr = one(image_bgr, generator)
        return image_bgr

    return change


def write_jpeg(path: Path, image_bgr: UInt8Array, quality: int = _QUALITY) -> None:
    """Writes a JPEG file."""
    done, encoded = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise RuntimeError(f"{path} could not be encoded")
    path.write_bytes(encoded.tobytes())


def _copy(source: Path, stem: Path, change: Change | None, quality: int, generator: np.random.Generator) -> None:
    """Copies a file's bytes where `change` is None; otherwise writes the changed image."""
    if change is None:
        stem.with_suffix(source.suffix).write_bytes(source.read_bytes())
    else:
        write_jpeg(stem.with_suffix(".jpg"), change(load_image(source), generator), quality)


def _leak(folder: Path, generator: np.random.Generator, *, share: float, change: Change | None, quality: int) -> Truth:
    """Copies a share of the test images into the training data, under their class."""
    tested = image_files(folder / "test")
    chosen = generator.permutation(len(tested))[: max(1, round(share * len(tested)))]
    for number, position in enumerate(sorted(chosen.tolist())):
        source = tested[position]
        _copy(source, folder / "train" / source.parent.name / f"more-{number:04d}", change, quality, generator)
    # A test image that is the same file as a copied one has a copy in the training data as well.
    copied = {tested[position].read_bytes() for position in chosen.tolist()}
    named = {path.relative_to(folder).as_posix() for path in tested if path.read_bytes() in copied}
    return Truth(("leakage",), items=frozenset(named))


def _contradict(folder: Path, generator: np.random.Generator, *, share: float, change: Change | None) -> Truth:
    """Copies a share of the training images into another class: both of each pair must be named."""
    trained = image_files(folder / "train")
    classes = sorted({path.parent.name for path in trained})
    chosen = generator.permutation(len(trained))[: max(1, round(share * len(trained)))]
    named: set[str] = set()
    for number, position in enumerate(sorted(chosen.tolist())):
        source = trained[position]
        other = str(generator.choice([name for name in classes if name != source.parent.name]))
        stem = folder / "train" / other / f"more-{number:04d}"
        _copy(source, stem, change, _QUALITY, generator)
        (written,) = stem.parent.glob(f"{stem.name}.*")
        named |= {source.relative_to(folder).as_posix(), written.relative_to(folder).as_posix()}
    return Truth(("label-noise",), {"kind": "contradicting-copies"}, items=frozenset(named))


_SHARE = 0.05
_LEAKS: dict[str, tuple[Change | None, int]] = {
    "exact": (None, 0),
    "JPEG quality 60": (same, 60),
    "resized to 70 %": (resized(0.7), _QUALITY),
    "cropped by 5 %": (cropped(0.05), _QUALITY),
    "mirrored": (mirrored, _QUALITY),
    "mirrored, cropped by 5 %, resized to 70 %, JPEG quality 70": (
        one_after_the_other(cropped(0.05), mirrored, resized(0.7)),
        70,
    ),
}

FAULTS: tuple[Fault, ...] = (
    *(
        Fault(f"leakage: {name}", 1, partial(_leak, share=_SHARE, change=change, quality=quality))
        for name, (change, quality) in _LEAKS.items()
    ),
    Fault("leakage: 1 %, exact", 1, partial(_leak, share=0.01, change=None, quality=0)),
    Fault("one picture under two classes: exact", 1, partial(_contradict, share=0.02, change=None)),
    Fault("one picture under two classes: mirrored", 1, partial(_contradict, share=0.02, change=mirrored)),
)
