"""What a model costs on this machine: latency percentiles, throughput, and where the time goes.

Two questions, two functions. `benchmark` says what one model costs, query by query, with preprocessing and reading of
the result included. `compare_latency` says which of several models is faster: it takes them in turns, so that a change
of clock speed or a busy neighbour touches all of them alike.
"""

import math
import time
from array import array
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.images.preprocess import preprocess_bgr
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.session.session import ModelSession
from edgeclf.runtime.timing.durations import Distribution, distribution
from edgeclf.runtime.timing.energy import EnergyMeter
from edgeclf.runtime.timing.queries import Query, QueryTimes, image_source, opencv_threads, synthetic_frame

# Between queries, but still on the CPUs that are measured: seldom.
_REPORT_EVERY_S = 0.2


@dataclass(frozen=True)
class LatencyFigures:
    """Latency of one model, measured in turns with others.

    Attributes:
        median_ms: Median time of one inference (preprocessing not included).
        p90_ms: 90th percentile of the same; None with fewer than 10 rounds.
        ratio: Median, over the rounds, of this model's time divided by the first model's in the same round: below 1
            is faster than the first.
        rounds: Inferences timed for each model.
        batch_size: Images in one inference.
        threads: Threads inside one inference.
        provider: ONNX Runtime provider that ran the model.
    """

    median_ms: float
    p90_ms: float | None
    ratio: float
    rounds: int
    batch_size: int
    threads: int
    provider: str

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return asdict(self)


def compare_latency(
    sessions: Mapping[str, ModelSession], *, rounds: int = 60, warmup: int = 10, batch_size: int = 1
) -> dict[str, LatencyFigures]:
    """Times models against each other, one inference each in every round, in alternating order.

    Open the sessions with `threads=1`. The threads of one session's pool go on spinning for a while after its
    inference has ended, on the very CPUs the next session needs: three equal models came out within 1 % of each other
    with one thread each, and 1.7 times too slow and 5 % apart with two (2 CPUs).

    Args:
        sessions: The models by name; the first is what the others are compared with.
        rounds: Inferences timed for each model.
        warmup: Rounds that are run before and not timed.
        batch_size: Images in one inference.

    Returns:
        The figures by name, in the order of `sessions`.

    Raises:
        UsageError: There is no session, or a count is too small.
    """
    if not sessions:
        raise UsageError("cannot compare latencies", got="no model", expected="at least one")
    _check_at_least("rounds", rounds, 1)
    _check_at_least("warm-up rounds", warmup, 0)
    _check_at_least("batch size", batch_size, 1)
    frame_bgr = synthetic_frame()
    inputs_rgb = {name: _input_batch(session, frame_bgr, batch_size) for name, session in sessions.items()}
    times_ms: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(warmup + rounds):
        # Forwards and backwards by turns: whoever runs second finds the caches as the first left them.
        for name in sessions if number % 2 == 0 else reversed(list(sessions)):
            start = time.perf_counter()
            sessions[name].run(inputs_rgb[name])
            elapsed_ms = (time.perf_counter() - start) * 1e3
            if number >= warmup:
                times_ms[name].append(elapsed_ms)
    first = np.asarray(next(iter(times_ms.values())))
    figures = {}
    for name, session in sessions.items():
        summary = distribution(times_ms[name])
        figures[name] = LatencyFigures(
            median_ms=summary.p50_ms,
            p90_ms=summary.p90_ms,
            ratio=float(np.median(np.asarray(times_ms[name]) / first)),
            rounds=rounds,
            batch_size=batch_size,
            threads=session.threads,
            provider=session.provider,
        )
    return figures


@dataclass(frozen=True)
class BenchResult:
    """What one configuration of a model costs.

    A query is one batch, taken from decoded frames (or a file) to predictions, one query after the other: nothing
    overlaps, so the three stages add up to the query.

    Attributes:
        source: What was classified: the file's path, or a description of the synthetic frame.
        includes_decode: Whether reading and decoding that file is part of `preprocess` (it is for a path).
        batch_size: Images in one query.
        threads: Threads inside one inference, and the limit of OpenCV's pool while this was measured.
        provider: ONNX Runtime provider that ran the model.
        images_per_s: Images classified per second of all queries together.
        query: Durations of whole queries.
        preprocess: Durations of decoding, resizing and colour conversion, per image.
        infer: Durations of the inference, per image (the query's inference divided by the batch size).
        postprocess: Durations of turning probabilities into predictions, per image.
        energy_mj_per_image: Energy of the CPU package per image, in millijoules, all that ran beside and idling included;
            None where it was not measured.
    """

    source: str
    includes_decode: bool
    batch_size: int
    threads: int
    provider: str
    images_per_s: float
    query: Distribution
    preprocess: Distribution
    infer: Distribution
    postprocess: Distribution
    energy_mj_per_image: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values; a percentile of too few samples is null."""
        return asdict(self)


def benchmark(
    session: ModelSession,
    image: UInt8Array | Path | str | None = None,
    *,
    batch_size: int = 1,
    duration_s: float = 3.0,
    min_queries: int = 100,
    warmup_queries: int = 10,
    meter: EnergyMeter | None = None,
    progress: Progress = no_progress,
) -> BenchResult:
    """Measures what a model costs from a decoded frame, or a file, to predictions.

    Args:
        session: The model.
        image: A frame, (H, W, 3) uint8 BGR; a file, which is read and decoded anew for every image; or None for a
            synthetic 640 x 480 frame.
        batch_size: Images in one query.
        duration_s: Seconds to go on for.
        min_queries: Queries to time even if that takes longer.
        warmup_queries: Queries that are run before and not timed.
        meter: Reads the energy used; None measures none.
        progress: Told how many queries are done, of how many at least.

    Raises:
        UsageError: A count or the duration is out of range.
        ImageError: The image cannot be used.
    """
    return measure(
        session,
        image,
        batch_size=batch_size,
        duration_s=duration_s,
        min_queries=min_queries,
        warmup_queries=warmup_queries,
        meter=meter,
        progress=progress,
    )[0]


def measure(
    session: ModelSession,
    image: UInt8Array | Path | str | None = None,
    *,
    batch_size: int = 1,
    duration_s: float = 3.0,
    min_queries: int = 100,
    warmup_queries: int = 10,
    meter: EnergyMeter | None = None,
    progress: Progress = no_progress,
) -> tuple[BenchResult, QueryTimes]:
    """As `benchmark`, and gives the durations of the single queries too."""
    _check_at_least("batch size", batch_size, 1)
    _check_at_least("number of queries", min_queries, 1)
    _check_at_least("warm-up queries", warmup_queries, 0)
    if not (math.isfinite(duration_s) and duration_s >= 0):
        raise UsageError("bad duration", got=f"{duration_s} seconds", expected="0 or more")
    source, load = image_source(image)
    query = Query(session, load, batch_size)
    stages_ms = (array("d"), array("d"), array("d"))
    stage = f"batch {batch_size}, threads {session.threads}"

    with opencv_threads(session.threads):
        for _ in range(warmup_queries):
            query()
        energy = meter.read() if meter else None
        begin = end = reported = time.perf_counter()
        done = 0
        while done < min_queries or end - begin < duration_s:
            start, preprocessed, inferred, end = query()
            stages_ms[0].append((preprocessed - start) * 1e3)
            stages_ms[1].append((inferred - preprocessed) * 1e3)
            stages_ms[2].append((end - inferred) * 1e3)
            done += 1
            if end - reported > _REPORT_EVERY_S:
                reported = end
                # Time or count, whichever is farther from its end.
                share = min(done / min_queries, (end - begin) / duration_s if duration_s else 1.0)
                progress(stage, done, max(done, round(done / share)))
        joules = meter.joules_since(energy) if meter and energy else None
        progress(stage, done, done)
    times = QueryTimes(*(np.asarray(values) for values in stages_ms))
    result = BenchResult(
        source=source,
        includes_decode=isinstance(image, str | Path),
        batch_size=batch_size,
        threads=session.threads,
        provider=session.provider,
        images_per_s=done * batch_size / float(times.query_ms.sum()) * 1e3,
        query=distribution(times.query_ms),
        preprocess=distribution(times.preprocess_ms / batch_size),
        infer=distribution(times.infer_ms / batch_size),
        postprocess=distribution(times.postprocess_ms / batch_size),
        energy_mj_per_image=None if joules is None else joules / (done * batch_size) * 1e3,
    )
    return result, times


def _input_batch(session: ModelSession, frame_bgr: UInt8Array, batch_size: int) -> UInt8Array:
    return np.stack([preprocess_bgr(frame_bgr, session.spec.preprocess)] * batch_size)


def _check_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UsageError(f"bad {name}", got=str(value), expected=f"at least {least}")
