"""Decode, preprocessing and inference overlapped over the CPUs this process may use, in order, with bounded memory.

How the CPUs are shared is chosen by `edgeclf.runtime.batch.schedule` and carried out by `edgeclf.runtime.batch.strategies`. However
long the source is and however slow the consumer, at most `3 * batch_size * workers` jobs are pulled and not classified.
"""

import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from edgeclf.runtime.batch.groups import Groups
from edgeclf.runtime.batch.jobs import Job, Outcome, ProbabilityModel, load_job, run_loaded
from edgeclf.runtime.batch.schedule import (
    Circumstances,
    Schedule,
    Scheme,
    faster_schedule,
    is_beyond_doubt,
    possible_schedules,
)
from edgeclf.runtime.batch.strategies import Fed, SideBySide, first_groups
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.images.opencv_threads import opencv_threads_at_most
from edgeclf.runtime.session.session import ModelSession

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["Job", "JobStream", "Outcome", "ProbabilityModel", "Schedule", "classify_job", "classify_jobs"]

# On one thread an image of EfficientNet-Lite0 int8 takes 4.34 ms alone, 4.01 in a batch of four, 3.94 of eight; a GPU
# gains more.
_CPU_BATCH, _BATCH = 4, 8
# A trial: groups for each worker, enough to be told from chance, and whether or not the time is over.
_TRIAL_GROUPS, _LEAST_GROUPS, _TRIAL_S = 8, 3, 0.5
_TRIALS: tuple[Scheme, ...] = ("side-by-side", "fed", "side-by-side", "fed")
# What was measured for a session counts for its later sources as well.
_measured: "WeakKeyDictionary[ModelSession, dict[tuple[int, int], Schedule]]" = WeakKeyDictionary()


@dataclass
class _Chosen:
    schedule: Schedule


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
    def schedule(self) -> Schedule:
        """How the CPUs are shared at this moment; settled once enough images are classified to have measured it."""
        return self._chosen.schedule

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
        workers: Threads that load and preprocess, and infer where that is faster; None takes the CPUs this process may
            use. A session opened with `threads=1` infers in all of them, one opened with another number in none.

    Returns:
        An iterator of one outcome a job, in the order of the jobs. A job that fails with an EdgeclfError gives that;
        any other exception is a bug and is raised.

    Raises:
        UsageError: `batch_size` or `workers` is below 1.
    """
    if batch_size is not None and batch_size < 1:
        raise UsageError("bad batch size", got=str(batch_size), expected="at least 1")
    count = usable_cpus() if workers is None else workers
    if count < 1:
        raise UsageError("bad number of workers", got=str(count), expected="at least 1")
    onnx = session if isinstance(session, ModelSession) else None
    on_cpu = onnx is not None and onnx.is_cpu
    size = batch_size or (onnx and onnx.fixed_batch) or (_CPU_BATCH if on_cpu else _BATCH)
    possible = possible_schedules(
        Circumstances(count, size, on_cpu, onnx.threads if onnx else None, onnx.threads_were_chosen if onnx else False)
    )
    known = None if onnx is None else _measured.get(onnx, {}).get((count, size))
    if known is not None and len(possible) > 1:
        possible = [known]
    chosen = _Chosen(possible[0])
    ahead = count if any(schedule.scheme == "side-by-side" for schedule in possible) else 1
    groups = Groups(jobs, size, ahead, frames_alone=on_cpu and batch_size is None)
    return JobStream(_classify(session, groups, possible, chosen), chosen)


def classify_job(session: ProbabilityModel, job: Job) -> Outcome:
    """Classifies one job at once, in the calling thread: the path of a live camera, where waiting makes frames stale."""
    loaded = load_job(job, session.spec.preprocess)
    (outcome,) = run_loaded(session, [loaded], None if loaded.input_rgb is None else loaded.input_rgb[None])
    return outcome


def _classify(
    session: ProbabilityModel, groups: Groups, possible: list[Schedule], chosen: _Chosen
) -> Generator[Outcome, None, None]:
    # Loads logging and queues with it, which an application that classifies single frames has no use for.
    from concurrent.futures import ThreadPoolExecutor

    workers = possible[0].workers
    pool = ThreadPoolExecutor(workers, thread_name_prefix="edgeclf")
    try:
        with opencv_threads_at_most(max(1, usable_cpus() // workers)):
            if len(possible) > 1 and isinstance(session, ModelSession):
                yield from _measure(session, groups, possible, chosen, pool)
            yield from _engine(session, chosen.schedule, pool).outcomes(groups)
    finally:
        # A consumer that stops early must not wait for images that nobody will look at.
        pool.shutdown(wait=True, cancel_futures=True)


def _engine(session: ProbabilityModel, schedule: Schedule, pool: "ThreadPoolExecutor") -> SideBySide | Fed:
    if not isinstance(session, ModelSession):
        return Fed(pool, schedule.workers, session.spec, session.run, schedule.batch_size)
    if schedule.scheme == "side-by-side" and (alone := session.on_one_thread()) is not None:
        return SideBySide(pool, schedule.workers, alone, schedule.batch_size)
    # A new shape costs a GPU seconds, so the last batch gets the shape of the others.
    run = session.run if session.is_cpu else partial(session.run, pad_to=schedule.batch_size)
    return Fed(pool, schedule.workers, session.spec, run, schedule.batch_size)


def _measure(
    session: ModelSession, groups: Groups, possible: list[Schedule], chosen: _Chosen, pool: "ThreadPoolExecutor"
) -> Iterator[Outcome]:
    """Classifies the first groups by one schedule after the other, and leaves the faster one in `chosen`."""
    workers, batch_size = chosen.schedule.workers, chosen.schedule.batch_size
    # Whole rounds: workers side by side would wait for the one with a group more.
    each = workers * batch_size
    least, most = _LEAST_GROUPS * each, _TRIAL_GROUPS * each
    warm_up = _Trial(most=2 * each, least=2 * each, step=each)
    yield from warm_up.outcomes(_engine(session, chosen.schedule, pool), groups)
    if warm_up.done < 2 * each:
        return
    if session.on_one_thread() is None:
        chosen.schedule = replace(chosen.schedule, why="the model file has changed since it was opened")
        return
    by_scheme = {schedule.scheme: schedule for schedule in possible}
    rates: dict[Scheme, list[float]] = {scheme: [] for scheme in by_scheme}
    for scheme in _TRIALS:
        chosen.schedule = by_scheme[scheme]
        trial = _Trial(most=most, least=least, step=each)
        yield from trial.outcomes(_engine(session, chosen.schedule, pool), groups)
        if trial.done < least:
            return
        rates[scheme].append(trial.images_per_s)
        if is_beyond_doubt(rates):
            break
    chosen.schedule = faster_schedule(possible, rates)
    _measured.setdefault(session, {})[workers, batch_size] = chosen.schedule


class _Trial:
    """Some images classified by one schedule.

    Attributes:
        done: How many so far.
        images_per_s: How many a second.
    """

    def __init__(self, *, most: int, least: int, step: int) -> None:
        self._most = most
        self._least = least
        self._step = step
        self.done = 0
        self.images_per_s = 0.0

    def outcomes(self, engine: SideBySide | Fed, groups: Groups) -> Iterator[Outcome]:
        start = time.perf_counter()
        rounds = 0

        def wanted(given: int) -> bool:
            nonlocal rounds
            # Behind a video's frames, which come one by one, groups do not end where rounds do.
            ends_round, rounds = given // self._step > rounds, given // self._step
            if given < self._least or not ends_round:
                return given < self._most
            return given < self._most and time.perf_counter() - start < _TRIAL_S

        for outcome in engine.outcomes(first_groups(groups, wanted)):
            self.done += 1
            self.images_per_s = self.done / (time.perf_counter() - start)
            yield outcome
