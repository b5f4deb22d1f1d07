"""The pipeline: decoding, preprocessing and inference overlapped on all usable CPUs, in order, in bounded memory.

`edgeclf.runtime.batch.strategies` says how the CPUs are shared. However long the source is and however slow the
consumer, at most `3 * batch_size * workers` jobs are pulled and not classified.
"""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from edgeclf.runtime.batch.jobs import Job, Outcome, ProbabilityModel
from edgeclf.runtime.batch.strategies import Batcher, DataParallel, Prefetch, Strategy, choose_strategy
from edgeclf.runtime.cpus import check_batch_size, check_threads, usable_cpus
from edgeclf.runtime.images.opencv_threads import opencv_threads_at_most
from edgeclf.runtime.session.session import ModelSession

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

# A batch of four has most of what batches gain on a CPU; a GPU gains more by larger ones.
_CPU_BATCH, _BATCH = 4, 8


@dataclass
class _Chosen:
    strategy: Strategy


class JobStream(Iterator[Outcome]):
    """The outcomes of jobs, in their order, as they come; made by `classify_jobs`."""

    def __init__(self, outcomes: Generator[Outcome, None, None], chosen: _Chosen) -> None:
        self._outcomes = outcomes
        self._chosen = chosen

    def __next__(self) -> Outcome:
        """The next outcome.

        Raises:
            StopIteration: There are no more jobs.
        """
        return next(self._outcomes)

    @property
    def strategy(self) -> Strategy:
        """How the CPUs are shared; settled with the first outcome."""
        return self._chosen.strategy

    def close(self) -> None:
        """Ends the workers, after the images they are at."""
        self._outcomes.close()


def classify_jobs(
    session: ProbabilityModel, jobs: Iterable[Job], *, batch_size: int | None = None, workers: int | None = None
) -> JobStream:
    """Classifies jobs in their order.

    OpenCV's own thread pool is limited, process-wide, while this goes on.

    Args:
        session: The model.
        jobs: What to classify; pulled lazily, from the calling thread.
        batch_size: Images in one inference. None takes what the file is fixed to, else 4 on the CPU and 8 elsewhere.
        workers: Threads that load and preprocess, and on the CPU infer as well; None takes the CPUs this process may
            use. A session opened with another number of threads than 1, or with more CPUs than workers, runs one
            inference at a time instead, in the calling thread.

    Returns:
        An iterator of one outcome a job, in the order of the jobs. A job that fails with an EdgeclfError gives that;
        any other exception is a bug and is raised.

    Raises:
        UsageError: `batch_size` or `workers` is below 1, or more than any machine uses.
    """
    if batch_size is not None:
        check_batch_size(batch_size)
    if workers is not None:
        check_threads("number of workers", workers)
    count = workers or usable_cpus()
    onnx = session if isinstance(session, ModelSession) else None
    is_cpu = onnx is not None and onnx.is_cpu
    size = batch_size or (onnx and onnx.fixed_batch) or (_CPU_BATCH if is_cpu else _BATCH)
    strategy = choose_strategy(
        workers=count,
        batch_size=size,
        is_cpu=is_cpu,
        threads=onnx.threads if onnx else None,
        threads_were_chosen=onnx.threads_were_chosen if onnx else False,
    )
    ahead = count if strategy.name == "data-parallel" else 1
    chosen = _Chosen(strategy)
    return JobStream(
        _classify(session, Batcher(jobs, size, ahead, frames_alone=is_cpu and batch_size is None), chosen), chosen
    )


def _classify(session: ProbabilityModel, batches: Batcher, chosen: _Chosen) -> Generator[Outcome, None, None]:
    # Loads logging and queues with it, which an application that classifies single frames has no use for.
    from concurrent.futures import ThreadPoolExecutor

    workers = chosen.strategy.workers
    pool = ThreadPoolExecutor(workers, thread_name_prefix="edgeclf")
    try:
        with opencv_threads_at_most(max(1, usable_cpus() // workers)):
            yield from _runner(session, batches, chosen, pool).outcomes(batches)
    finally:
        # A consumer that stops early must not wait for images that nobody will look at.
        pool.shutdown(wait=True, cancel_futures=True)


def _runner(
    session: ProbabilityModel, batches: Batcher, chosen: _Chosen, pool: "ThreadPoolExecutor"
) -> DataParallel | Prefetch:
    """The runner of the chosen strategy; prefetch where a second session does not pay or cannot be opened."""
    workers, size = chosen.strategy.workers, chosen.strategy.batch_size
    if not isinstance(session, ModelSession):
        return Prefetch(pool, workers, session.spec, session.run, size)
    if chosen.strategy.name == "data-parallel":
        if session.threads != 1 and batches.is_short():
            why = "too few images to open the model once more"
        elif (alone := session.on_one_thread()) is not None:
            return DataParallel(pool, workers, alone, size)
        else:
            why = "the model file has changed since it was opened"
        chosen.strategy = replace(chosen.strategy, name="prefetch", threads=session.threads, why=why)
    # A new shape costs a GPU seconds, so the last batch gets the shape of the others.
    run = session.run if session.is_cpu else partial(session.run, pad_to=size)
    return Prefetch(pool, workers, session.spec, run, size)
