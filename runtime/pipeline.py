"""Decode and inference overlapped, in order, with bounded memory.

Worker threads decode and preprocess (OpenCV releases the GIL) while the calling thread runs the model on batches of
what is ready. At most `2 * batch_size + workers` images are in flight, however long the source is.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.errors import EdgeclfError, UsageError
from edgeclf.runtime.prediction import Prediction, predictions_from
from edgeclf.runtime.preprocess import UInt8Array, preprocess_bgr
from edgeclf.runtime.spec import ModelSpec

if TYPE_CHECKING:
    from concurrent.futures import Future


class ProbabilityModel(Protocol):
    """What classifies preprocessed images: a `ModelSession`, or another runtime's model that it is compared with."""

    @property
    def spec(self) -> ModelSpec:
        """Labels and preprocessing."""

    def run(self, images_rgb: UInt8Array) -> npt.NDArray[np.float32]:
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


@dataclass(frozen=True)
class Outcome:
    """What became of a job: a prediction, or the error that it ended in.

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
class _Loaded:
    job: Job
    input_rgb: UInt8Array | None
    error: EdgeclfError | None
    load_ms: float


def classify_jobs(
    session: ProbabilityModel, jobs: Iterable[Job], *, batch_size: int = 8, workers: int | None = None
) -> Iterator[Outcome]:
    """Classifies jobs in their order.

    Args:
        session: The model.
        jobs: What to classify; pulled lazily, from the calling thread.
        batch_size: Images in one inference.
        workers: Threads that load and preprocess; None takes the CPUs this process may use.

    Yields:
        One outcome a job, in the order of the jobs. A job that fails with an EdgeclfError yields that; any other
        exception is a bug and is raised.

    Raises:
        UsageError: `batch_size` or `workers` is below 1.
    """
    if batch_size < 1:
        raise UsageError("bad batch size", got=str(batch_size), expected="at least 1")
    count = usable_cpus() if workers is None else workers
    if count < 1:
        raise UsageError("bad number of workers", got=str(count), expected="at least 1")
    return _classify(session, iter(jobs), batch_size, count)


def _classify(session: ProbabilityModel, jobs: Iterator[Job], batch_size: int, workers: int) -> Iterator[Outcome]:
    # Loads logging and queues with it, which an application that classifies single frames has no use for.
    from concurrent.futures import ThreadPoolExecutor

    pending: deque[Future[_Loaded]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="edgeclf-decode")
    try:
        exhausted = False
        while True:
            while not exhausted and len(pending) < 2 * batch_size + workers:
                job = next(jobs, None)
                if job is None:
                    exhausted = True
                else:
                    pending.append(pool.submit(_load, session, job))
            if not pending:
                return
            yield from _run_batch(session, [pending.popleft().result() for _ in range(min(batch_size, len(pending)))])
    finally:
        # A consumer that stops early must not wait for images that nobody will look at.
        pool.shutdown(wait=True, cancel_futures=True)


def classify_job(session: ProbabilityModel, job: Job) -> Outcome:
    """Classifies one job at once, in the calling thread: the path of a live camera, where waiting makes frames stale."""
    (outcome,) = _run_batch(session, [_load(session, job)])
    return outcome


def _load(session: ProbabilityModel, job: Job) -> _Loaded:
    start = time.perf_counter()
    input_rgb: UInt8Array | None = None
    error: EdgeclfError | None = None
    try:
        input_rgb = preprocess_bgr(job.load(), session.spec.preprocess)
    except EdgeclfError as caught:
        error = caught
    return _Loaded(job, input_rgb, error, (time.perf_counter() - start) * 1e3)


def _run_batch(session: ProbabilityModel, batch: list[_Loaded]) -> list[Outcome]:
    """Runs the model once on the images of `batch` that loaded, and gives every image its outcome."""
    inputs = [item.input_rgb for item in batch if item.input_rgb is not None]
    start = time.perf_counter()
    predictions = iter(predictions_from(session.run(np.stack(inputs)), session.spec) if inputs else [])
    infer_ms = (time.perf_counter() - start) * 1e3
    return [
        Outcome(item.job.source, item.job.frame, None, item.error, item.load_ms)
        if item.input_rgb is None
        else Outcome(item.job.source, item.job.frame, next(predictions), None, item.load_ms + infer_ms)
        for item in batch
    ]
