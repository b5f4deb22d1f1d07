"""The two ways to share the CPUs between decoding and inference; both take groups of jobs and keep their order."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

import numpy as np

from edgeclf.runtime.arrays import FloatArray, UInt8Array
from edgeclf.runtime.batch.jobs import Job, Loaded, Outcome, ProbabilityModel, classify_group, load_job, run_loaded
from edgeclf.runtime.spec import ModelSpec

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

# Groups for each worker that may be pulled while the oldest is unfinished; most of them hold results, not images.
GROUPS_AHEAD = 8


class SideBySide:
    """Every worker decodes, preprocesses and classifies groups of its own.

    At most two groups a worker are under way. Results of at most eight groups a worker wait for a slower one before
    them.

    Args:
        pool: The workers.
        workers: How many.
        model: Runs several inferences at once, each on one thread.
        batch_size: Jobs in the largest group.
    """

    def __init__(self, pool: "ThreadPoolExecutor", workers: int, model: ProbabilityModel, batch_size: int) -> None:
        self._pool = pool
        self._workers = workers
        self._model = model
        height, width = model.spec.preprocess.size_hw
        self._shape = (batch_size, height, width, 3)
        self._local = threading.local()

    def outcomes(self, groups: "Iterator[deque[Job]]") -> Iterator[Outcome]:
        """One outcome a job, in order; groups are pulled from the calling thread."""
        pending: deque[Future[list[Outcome]]] = deque()
        finished: SimpleQueue[object] = SimpleQueue()
        running = 0
        exhausted = False
        while True:
            running -= _drain(finished)
            while not exhausted and running < 2 * self._workers and len(pending) < self._most_pending(pending):
                group = next(groups, None)
                if group is None:
                    exhausted = True
                else:
                    future = self._pool.submit(self._classify, group)
                    future.add_done_callback(finished.put)
                    pending.append(future)
                    running += 1
            if not pending:
                return
            if pending[0].done():
                yield from pending.popleft().result()
            else:
                # Whichever ends first: its worker needs the next group, even if an older one is still under way.
                finished.get()
                running -= 1

    def _most_pending(self, pending: "deque[Future[list[Outcome]]]") -> int:
        # Nobody need run ahead of a consumer who has results waiting; a slow image at the head must not stop the rest.
        is_waited_for = bool(pending) and not pending[0].done()
        return (GROUPS_AHEAD if is_waited_for else 2) * self._workers

    def _classify(self, group: "deque[Job]") -> list[Outcome]:
        # A worker's own memory for its inputs, used again for each group.
        batch_rgb: UInt8Array | None = getattr(self._local, "batch_rgb", None)
        if batch_rgb is None:
            batch_rgb = self._local.batch_rgb = np.empty(self._shape, np.uint8)
        return classify_group(self._model, group, batch_rgb)


class Fed:
    """Workers decode and preprocess, the calling thread runs the model on batches of what is ready.

    At most `2 * batch_size + workers` images are under way.

    Args:
        pool: The workers.
        workers: How many.
        spec: Labels and preprocessing of the model.
        run: Runs it.
        batch_size: Jobs in the largest group.
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

    def outcomes(self, groups: "Iterator[deque[Job]]") -> Iterator[Outcome]:
        """One outcome a job, in order; groups are pulled from the calling thread, which runs the model."""
        preprocess = self._model.spec.preprocess
        pending: deque[list[Future[Loaded]]] = deque()
        under_way = 0
        exhausted = False
        while True:
            while not exhausted and under_way + self._batch_size <= self._most:
                group = next(groups, None)
                if group is None:
                    exhausted = True
                else:
                    pending.append([self._pool.submit(load_job, job, preprocess) for job in group])
                    under_way += len(group)
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
    """Empties a queue; gives the number of what was in it."""
    count = 0
    while True:
        try:
            queue.get_nowait()
        except Empty:
            return count
        count += 1


def first_groups(groups: "Iterator[deque[Job]]", wanted: Callable[[int], bool]) -> "Iterator[deque[Job]]":
    """Groups for as long as `wanted`, told how many jobs were given so far, says so."""
    given = 0
    while wanted(given):
        group = next(groups, None)
        if group is None:
            return
        given += len(group)
        yield group
