"""A query of a benchmark - frames in, predictions out, a time stamp between the stages - and the loop that repeats it."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from edgeclf.runtime.arrays import Float64Array, UInt8Array
from edgeclf.runtime.cpus import check_batch_size
from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.images.preprocess import check_image, load_image, preprocess_bgr
from edgeclf.runtime.prediction import predictions_from
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.session.session import ModelSession

SYNTHETIC_SIZE_HW = (480, 640)
# Between measurements, but still on the CPUs that are measured: seldom.
_REPORT_EVERY_S = 0.2


@dataclass(frozen=True)
class QueryTimes:
    """Durations of the stages of queries, in milliseconds, each (queries,) float64 and for the whole batch.

    Attributes:
        preprocess_ms: Decoding, resizing and colour conversion.
        infer_ms: Inference.
        postprocess_ms: From probabilities to predictions.
    """

    preprocess_ms: Float64Array
    infer_ms: Float64Array
    postprocess_ms: Float64Array

    @property
    def query_ms(self) -> Float64Array:
        """Durations of whole queries."""
        return self.preprocess_ms + self.infer_ms + self.postprocess_ms


class Query:
    """A batch taken from frames to predictions, one stage after the other.

    Args:
        session: The model.
        load: Gives the BGR pixels of one image; called for every image of every query.
        batch_size: Images in one query.

    Raises:
        UsageError: The batch size is out of range, or there is no memory for the pixels of so many images.
    """

    def __init__(self, session: ModelSession, load: Callable[[], UInt8Array], batch_size: int) -> None:
        check_batch_size(batch_size)
        self._session = session
        self._load = load
        height, width = session.spec.preprocess.size_hw
        try:
            self._batch_rgb = np.empty((batch_size, height, width, 3), np.uint8)
        except MemoryError as error:
            raise UsageError(
                "bad batch size",
                got=f"{batch_size} images of {width}x{height}",
                expected="as many as fit into the memory that is left",
            ) from error

    def __call__(self) -> tuple[float, float, float, float]:
        """Runs the query: `time.perf_counter` at its start, and after preprocessing, inference and postprocessing."""
        session = self._session
        start = time.perf_counter()
        for row in self._batch_rgb:
            preprocess_bgr(self._load(), session.spec.preprocess, out=row)
        preprocessed = time.perf_counter()
        probabilities = session.run(self._batch_rgb)
        inferred = time.perf_counter()
        predictions_from(probabilities, session.spec)
        return start, preprocessed, inferred, time.perf_counter()


def synthetic_frame(size_hw: tuple[int, int] = SYNTHETIC_SIZE_HW) -> UInt8Array:
    """A frame with gradients and noise, the same every time.

    Args:
        size_hw: Height and width.

    Returns:
        (height, width, 3) uint8 BGR.
    """
    height, width = size_hw
    rows, columns = np.linspace(0, 160, height)[:, None], np.linspace(0, 160, width)[None, :]
    planes = np.stack(np.broadcast_arrays(rows, columns, (rows + columns) / 2), axis=-1)
    noise = np.random.default_rng(0).integers(0, 64, planes.shape)
    return (planes + noise).astype(np.uint8)


def image_source(image: UInt8Array | Path | str | None) -> tuple[str, Callable[[], UInt8Array]]:
    """An image's name in reports, and a function that gives its BGR pixels.

    Args:
        image: A frame, (H, W, 3) uint8 BGR; a file, which the function reads each time; None for a synthetic frame.

    Raises:
        ImageError: The frame cannot be used.
    """
    if isinstance(image, str | Path):
        return str(image), partial(load_image, image)
    frame_bgr = synthetic_frame() if image is None else image
    check_image(frame_bgr)
    height, width = frame_bgr.shape[:2]
    return f"{'synthetic ' if image is None else ''}{width}x{height} frame in memory", lambda: frame_bgr


def repeat(
    run: Callable[[], object], *, least: int, duration_s: float, stage: str, progress: Progress = no_progress
) -> int:
    """Repeats a measurement until it was made `least` times and `duration_s` seconds have passed.

    Args:
        run: One measurement.
        least: Times at least, 1 or more.
        duration_s: Seconds at least.
        stage: Name of this stage for `progress`.
        progress: Called now and then with the measurements made, of how many at least, and at the end.

    Returns:
        How often it was made.
    """
    begin = now = reported = time.perf_counter()
    done = 0
    while done < least or now - begin < duration_s:
        run()
        done += 1
        now = time.perf_counter()
        if now - reported > _REPORT_EVERY_S:
            reported = now
            # Time or count, whichever is farther from its end.
            share = min(done / least, (now - begin) / duration_s if duration_s else 1.0)
            progress(stage, done, max(done, round(done / share)))
    progress(stage, done, done)
    return done


def check_at_least(name: str, value: float, least: int) -> None:
    """Raises UsageError unless a number that a caller chose is finite and at least so large."""
    if not (math.isfinite(value) and value >= least):
        raise UsageError(f"bad {name}", got=str(value), expected=f"at least {least}")
