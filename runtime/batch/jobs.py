"""Jobs and outcomes: an image to classify, its prediction or error, and the steps from one to the other."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgeclf.runtime.arrays import FloatArray, UInt8Array
from edgeclf.runtime.errors import EdgeclfError
from edgeclf.runtime.images.preprocess import preprocess_bgr
from edgeclf.runtime.prediction import Prediction, predictions_or_errors
from edgeclf.runtime.spec import ModelSpec, Preprocess

if TYPE_CHECKING:
    from collections import deque


class ProbabilityModel(Protocol):
    """A model of preprocessed images: a `ModelSession`, or the model of another runtime it is compared with."""

    @property
    def spec(self) -> ModelSpec:
        """Labels and preprocessing."""

    def run(self, images_rgb: UInt8Array) -> FloatArray:
        """(N, H, W, 3) uint8 RGB to (N, C) float32 probabilities."""


@dataclass(frozen=True)
class Job:
    """One image to classify.

    Attributes:
        source: Where it comes from, for the record.
        load: Gives the image, (H, W, 3) uint8 BGR; may raise EdgeclfError. Called once, in a worker thread.
        frame: Number of the frame in a video or camera, from 0; None for a still image.
    """

    source: str
    load: Callable[[], UInt8Array]
    frame: int | None = None

    @classmethod
    def of_pixels(cls, source: str, image_bgr: UInt8Array, frame: int | None = None) -> "Job":
        """A job whose image, (H, W, 3) uint8 BGR, is in memory already."""
        return cls(source, lambda: image_bgr, frame)


@dataclass(frozen=True)
class Outcome:
    """The result of a job: a prediction, or the error that ended it.

    Attributes:
        source: The job's source.
        frame: The job's frame number.
        prediction: The result; None when `error` is set.
        error: Why there is no result; None when `prediction` is set.
        latency_ms: Time to load and preprocess this image plus the inference time of the batch it was part of;
            waiting for other images of the batch is not counted.
    """

    source: str
    frame: int | None
    prediction: Prediction | None
    error: EdgeclfError | None
    latency_ms: float


@dataclass(frozen=True)
class Loaded:
    """A job after loading: its preprocessed image, or the error of loading it.

    Attributes:
        source: The job's source.
        frame: The job's frame number.
        input_rgb: (height, width, 3) uint8 RGB; None when `error` is set.
        error: Why there is no image.
        load_ms: Time to load and preprocess it.
    """

    source: str
    frame: int | None
    input_rgb: UInt8Array | None
    error: EdgeclfError | None
    load_ms: float


def load_job(job: Job, preprocess: Preprocess, out: UInt8Array | None = None) -> Loaded:
    """Loads and preprocesses a job's image; `out`, where given, takes the pixels."""
    start = time.perf_counter()
    input_rgb: UInt8Array | None = None
    error: EdgeclfError | None = None
    try:
        input_rgb = preprocess_bgr(job.load(), preprocess, out=out)
    except EdgeclfError as caught:
        error = caught
    return Loaded(job.source, job.frame, input_rgb, error, (time.perf_counter() - start) * 1e3)


def run_loaded(model: ProbabilityModel, loaded: Sequence[Loaded], batch_rgb: UInt8Array | None = None) -> list[Outcome]:
    """The outcomes of loaded jobs, after one inference of all images that could be loaded.

    Args:
        model: The model.
        loaded: The jobs, in order.
        batch_rgb: (N, height, width, 3) uint8, where their N images already lie one after the other; None copies them
            together.
    """
    inputs = [item.input_rgb for item in loaded if item.input_rgb is not None]
    start = time.perf_counter()
    predictions: list[Prediction | EdgeclfError] = []
    if inputs:
        predictions = predictions_or_errors(model.run(np.stack(inputs) if batch_rgb is None else batch_rgb), model.spec)
    infer_ms = (time.perf_counter() - start) * 1e3
    results = iter(predictions)
    outcomes = []
    for item in loaded:
        result = item.error if item.input_rgb is None else next(results)
        prediction, error = (result, None) if isinstance(result, Prediction) else (None, result)
        milliseconds = item.load_ms + (infer_ms if item.input_rgb is not None else 0.0)
        outcomes.append(Outcome(item.source, item.frame, prediction, error, milliseconds))
    return outcomes


def classify_job(model: ProbabilityModel, job: Job) -> Outcome:
    """Classifies one job in the calling thread, without batching: for cameras, where waiting makes frames stale."""
    loaded = load_job(job, model.spec.preprocess)
    (outcome,) = run_loaded(model, [loaded], None if loaded.input_rgb is None else loaded.input_rgb[None])
    return outcome


def classify_batch(model: ProbabilityModel, batch: "deque[Job]", batch_rgb: UInt8Array) -> list[Outcome]:
    """Classifies a few jobs in one inference, in the calling thread.

    Args:
        model: The model.
        batch: The jobs; emptied as their images are loaded, so that no frame is held longer than it is needed.
        batch_rgb: (N, height, width, 3) uint8 with room for all of them; overwritten.

    Returns:
        One outcome a job, in order.
    """
    preprocess = model.spec.preprocess
    loaded: list[Loaded] = []
    rows = 0
    while batch:
        loaded.append(load_job(batch.popleft(), preprocess, batch_rgb[rows]))
        rows += loaded[-1].error is None
    return run_loaded(model, loaded, batch_rgb[:rows])
