"""Strategies: two ways to share the CPUs between decoding and inference, and the choice between them.

Data-parallel, every worker decodes, preprocesses and classifies batches of its own, each inference on one thread: no CPU
waits for another. With prefetch, workers decode and the calling thread runs one inference after the other: a GPU, and a
model that is no ONNX file, are kept busy that way. Measured in benchmarks/README.md, "How the CPUs are shared".
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgeclf.runtime.arrays import FloatArray, UInt8Array
from edgeclf.runtime.batch.jobs import Job, Loaded, Outcome, ProbabilityModel, classify_batch, load_job, run_loaded
from edgeclf.runtime.spec import ModelSpec

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

# Batches for each worker that may be pulled while the oldest is unfinished; most of them hold results, not images.
BATCHES_AHEAD = 8


@dataclass(frozen=True)
class Strategy:
    """How images are shared among the CPUs, and why.

    Attributes:
        name: `data-parallel`, or `prefetch`.
        workers: Threads that decode; data-parallel, they also infer.
        threads: Threads inside one inference; None where the model is not an ONNX file.
        batch_size: Images in one inference.
        why: The reason, as a phrase.
    """

    name: Literal["data-parallel", "prefetch"]
    workers: int
    threads: int | None
    batch_size: int
    why: str

    def __str__(self) -> str:
        """Such as `2 data-parallel workers, one thread each`."""
        plural = "s" if self.workers != 1 else ""
        if self.name == "data-parallel":
            return f"{self.workers} data-parallel worker{plural}, one thread each"
        threads = "" if self.threads is None else f" of {self.threads} thread{'s' if self.threads != 1 else ''}"
        return f"{self.workers} worker{plural} decoding for one inference{threads}"


def choose_strategy(
    *, workers: int, batch_size: int, is_cpu: bool, threads: int | None, threads_were_chosen: bool
) -> Strategy:
    """The strategy for what the caller asked for; data-parallel where nothing was asked.

    Args:
        workers: Threads that decode.
        batch_size: Images in one inference.
        is_cpu: Whether the model is an ONNX file on the CPU, of which several inferences may run at once.
        threads: Threads inside one inference of the model as it was opened; None where it is not an ONNX file.
        threads_were_chosen: Whether the caller set that number.
    """
    why = "one thread in an inference was asked for" if threads_were_chosen else "one CPU for each worker"
    if not is_cpu:
        why = "the model does not run on the CPU, or not in ONNX Runtime"
    elif threads_were_chosen and threads != 1:
        why = f"{threads} threads in an inference were asked for"
    elif not threads_were_chosen and threads is not None and workers < threads:
        # The threads of an inference use the CPUs that are left.
        why = "fewer workers than CPUs were asked for"
    elif workers == 1:
        # Decoding and inference overlap, which one worker alone would do one after the other.
        why = "one worker"
    else:
        return Strategy("data-parallel", workers, 1, batch_size, why)
    return Strategy("prefetch", workers, threads, batch_size, why)


class Batcher(Iterator["deque[Job]"]):
    """Jobs in batches for one inference each, by their position alone: the same source gives the same batches.

    Batches hold `size` jobs; those left at the end are shared evenly among the workers, as one worker would otherwise be
    busy with the last whole batch while the others have nothing to do.

    Args:
        jobs: The jobs; pulled lazily, at most `size * workers` ahead.
        size: Jobs in a batch.
        workers: Threads among which the last jobs are shared; 1 leaves the last batch as it comes.
        frames_alone: Gives every frame of a video a batch of its own and pulls no frame ahead: a frame has its pixels
            with it from the moment it is pulled, a still image does not.
    """

    def __init__(self, jobs: Iterable[Job], size: int, workers: int, *, frames_alone: bool = False) -> None:
        self._jobs = iter(jobs)
        self._size = size
        self._ahead = size * workers
        self._workers = workers
        self._frames_alone = frames_alone
        self._pulled: deque[Job] = deque()
        self._last_size = 0

    def __next__(self) -> "deque[Job]":
        """The next batch.

        Raises:
            StopIteration: There are no more jobs.
        """
        self._pull()
        if not self._pulled:
            raise StopIteration
        is_lone = self._frames_alone and self._pulled[0].frame is not None
        size = 1 if is_lone else self._last_size or self._size
        batch: deque[Job] = deque()
        while self._pulled and len(batch) < size:
            if self._frames_alone and batch and self._pulled[0].frame is not None:
                break
            batch.append(self._pulled.popleft())
        return batch

    def _pull(self) -> None:
        while not self._last_size and len(self._pulled) < self._ahead and not self._has_frame():
            job = next(self._jobs, None)
            if job is None:
                # Shared evenly, rounded up: nothing more will come.
                self._last_size = min(self._size, max(1, -(-len(self._pulled) // self._workers)))
                return
            self._pulled.append(job)

    def _has_frame(self) -> bool:
        return self._frames_alone and bool(self._pulled) and self._pulled[-1].frame is not None

    def is_short(self) -> bool:
        """Whether the source ends within the first batch of every worker; pulls as many jobs to see."""
        self._pull()
        return bool(self._last_size)


class DataParallel:
    """Every worker decodes, preprocesses and classifies batches of its own.

    At most two batches a worker are under way. Results of at most eight batches a worker wait for a slower one before
    them.

    Args:
        pool: The workers.
        workers: How many.
        model: Runs several inferences at once, each on one thread.
        batch_size: Jobs in the largest batch.
    """

    def __init__(self, pool: "ThreadPoolExecutor", workers: int, model: ProbabilityModel, batch_size: int) -> None:
        self._pool = pool
        self._workers = workers
        self._model = model
        height, width = model.spec.preprocess.size_hw
        self._shape = (batch_size, height, width, 3)
        self._local = threading.local()

    def outcomes(self, batches: "Iterator[deque[Job]]") -> Iterator[Outcome]:
        """One outcome a job, in order; batches are pulled from the calling thread."""
        pending: deque[Future[list[Outcome]]] = deque()
        finished: SimpleQueue[object] = SimpleQueue()
        running = 0
        exhausted = False
        while True:
            running -= _drain(finished)
            while not exhausted and running < 2 * self._workers and len(pending) < self._most_pending(pending):
                batch = next(batches, None)
                if batch is None:
                    exhausted = True
                else:
                    future = self._pool.submit(self._classify, batch)
                    future.add_done_callback(finished.put)
                    pending.append(future)
                    running += 1
            if not pending:
                return
            if pending[0].done():
                yield from pending.popleft().result()
            else:
                # Whichever ends first: its worker needs the next batch, even if an older one is still under way.
                finished.get()
                running -= 1

    def _most_pending(self, pending: "deque[Future[list[Outcome]]]") -> int:
        # Only while the consumer waits for a slow first result; otherwise two batches a worker are enough.
        is_waited_for = bool(pending) and not pending[0].done()
        return (BATCHES_AHEAD if is_waited_for else 2) * self._workers

    def _classify(self, batch: "deque[Job]") -> list[Outcome]:
        # A worker's own memory for its inputs, used again for each batch.
        batch_rgb: UInt8Array | None = getattr(self._local, "batch_rgb", None)
        if batch_rgb is None:
            batch_rgb = self._local.batch_rgb = np.empty(self._shape, np.uint8)
        return classify_batch(self._model, batch, batch_rgb)


class Prefetch:
    """Workers decode and preprocess; the calling thread runs the model on one batch after the other.

    At most `2 * batch_size + workers` images are under way.

    Args:
        pool: The workers.
        workers: How many.
        spec: Labels and preprocessing of the model.
        run: Runs it.
        batch_size: Jobs in the largest batch.
    """

    def __init__(
        self,
        pool: "ThreadPoolExecutor",
        workers: int,
        spec: ModelSpec,
        run: Callable[[UInt8Array], FloatArray],
        batch_size: int,
    ) -> None:
        self._pool = pool
        self._model = _Runnable(spec, run)
        self._most = 2 * batch_size + workers
        self._batch_size = batch_size

    def outcomes(self, batches: "Iterator[deque[Job]]") -> Iterator[Outcome]:
        """One outcome a job, in order; batches are pulled from the calling thread, which runs the model."""
        preprocess = self._model.spec.preprocess
        pending: deque[list[Future[Loaded]]] = deque()
        under_way = 0
        exhausted = False
        while True:
            while not exhausted and under_way + self._batch_size <= self._most:
                batch = next(batches, None)
                if batch is None:
                    exhausted = True
                else:
                    pending.append([self._pool.submit(load_job, job, preprocess) for job in batch])
                    under_way += len(batch)
            if not pending:
                return
            futures = pending.popleft()
            loaded = [future.result() for future in futures]
            under_way -= len(futures)
            yield from run_loaded(self._model, loaded)


class _Runnable:
    """A model's spec with another way to run it."""

    def __init__(self, spec: ModelSpec, run: Callable[[UInt8Array], FloatArray]) -> None:
        self.spec = spec
        self.run = run


def _drain(queue: "SimpleQueue[object]") -> int:
    """Empties a queue; the number of its items."""
    count = 0
    while True:
        try:
            queue.get_nowait()
        except Empty:
            return count
        count += 1
