"""A model's probabilities for preprocessed images, or for image files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from edgeclf.export.source.images import ImageRows
from edgeclf.runtime.arrays import FloatArray
from edgeclf.runtime.batch.jobs import Job, ProbabilityModel
from edgeclf.runtime.batch.pipeline import classify_jobs
from edgeclf.runtime.errors import EdgeclfError, InputError
from edgeclf.runtime.images.preprocess import load_image
from edgeclf.runtime.progress import Progress, no_progress

BATCH_SIZE = 32
# Networks with as many weights have wide layers, whose values take gigabytes for so many images.
_FEW_IMAGES, _LARGE_BYTES = 8, 1 << 28


def batch_size_of(weight_bytes: int) -> int:
    """Images that a network with weights of so many bytes is run on at a time."""
    return BATCH_SIZE if weight_bytes < _LARGE_BYTES else _FEW_IMAGES


def probabilities_of(
    model: ProbabilityModel,
    images_rgb: ImageRows,
    stage: str,
    progress: Progress = no_progress,
    *,
    batch_size: int = BATCH_SIZE,
) -> FloatArray:
    """A model's probabilities for preprocessed images.

    Args:
        model: A model file or a Keras model.
        images_rgb: (N, H, W, 3) uint8, RGB; read batch by batch.
        stage: Name of this stage for `progress`.
        progress: Called with the number of images done.
        batch_size: Images at a time.

    Returns:
        (N, C) float32.
    """
    rows = []
    for start in range(0, len(images_rgb), batch_size):
        batch = np.asarray(images_rgb[start : start + batch_size])
        rows.append(model.run(batch))
        progress(stage, start + len(batch), len(images_rgb))
    return np.concatenate(rows)


@dataclass(frozen=True, eq=False)
class ClassifiedFiles:
    """A model's probabilities for the image files that could be read.

    Attributes:
        probabilities: (N, C) float32.
        rows: (N,) position of each image in the given list of files.
        unreadable: The files that could not be read, each with its error.
    """

    probabilities: FloatArray
    rows: tuple[int, ...]
    unreadable: tuple[tuple[Path, EdgeclfError], ...]


def classify_files(
    model: ProbabilityModel, paths: Sequence[Path], stage: str, progress: Progress = no_progress
) -> ClassifiedFiles:
    """Classifies image files, decoding in parallel; unreadable ones are left out and listed.

    Args:
        model: A model file or a Keras model.
        paths: The files.
        stage: Name of this stage for `progress`.
        progress: Called with the number of files done.

    Raises:
        InputError: None of the files can be read.
    """
    jobs: Iterator[Job] = (Job(str(path), partial(load_image, path)) for path in paths)
    rows: list[int] = []
    probabilities: list[FloatArray] = []
    unreadable: list[tuple[Path, EdgeclfError]] = []
    for position, outcome in enumerate(classify_jobs(model, jobs, batch_size=BATCH_SIZE)):
        if outcome.error is not None:
            unreadable.append((paths[position], outcome.error))
        elif outcome.prediction is not None:
            rows.append(position)
            probabilities.append(outcome.prediction.probabilities)
        progress(stage, position + 1, len(paths))
    if not rows:
        raise InputError(
            "none of the images can be read",
            got=f"{len(paths)} files, the first with: {unreadable[0][1].what}" if unreadable else "no files",
            expected="at least one readable image",
        )
    return ClassifiedFiles(np.stack(probabilities), tuple(rows), tuple(unreadable))
