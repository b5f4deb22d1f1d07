"""Latency of one model: percentiles, throughput, and the share of each stage.

`edgeclf.runtime.timing.comparison` says which of several models is faster.
"""

from array import array
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.images.opencv_threads import opencv_threads_at_most
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.session.session import ModelSession
from edgeclf.runtime.timing.durations import Distribution, distribution
from edgeclf.runtime.timing.energy import EnergyMeter
from edgeclf.runtime.timing.queries import Query, QueryTimes, check_at_least, image_source, repeat


@dataclass(frozen=True)
class BenchResult:
    """Latency, throughput and energy of one configuration of a model.

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
) -> tuple[BenchResult, QueryTimes]:
    """Latency and throughput of a model, from a decoded frame, or a file, to predictions.

    Args:
        session: The model.
        image: A frame, (H, W, 3) uint8 BGR; a file, which is read and decoded for every image; or None for a
            synthetic 640 x 480 frame.
        batch_size: Images in one query.
        duration_s: Seconds to go on for.
        min_queries: Queries to time even if that takes longer.
        warmup_queries: Queries that are run before and not timed.
        meter: Reads the energy used; None measures none.
        progress: Called with the queries that are done, of how many at least.

    Returns:
        The figures, and the durations of the single queries.

    Raises:
        UsageError: A count or the duration is out of range.
        ImageError: The image cannot be used.
    """
    check_at_least("number of queries", min_queries, 1)
    check_at_least("warm-up queries", warmup_queries, 0)
    check_at_least("duration in seconds", duration_s, 0)
    source, load = image_source(image)
    query = Query(session, load, batch_size)
    stages_ms = (array("d"), array("d"), array("d"))

    def timed_query() -> None:
        start, preprocessed, inferred, end = query()
        stages_ms[0].append((preprocessed - start) * 1e3)
        stages_ms[1].append((inferred - preprocessed) * 1e3)
        stages_ms[2].append((end - inferred) * 1e3)

    stage = f"batch {batch_size}, threads {session.threads}"
    with opencv_threads_at_most(session.threads):
        for _ in range(warmup_queries):
            query()
        energy = meter.read() if meter else None
        done = repeat(timed_query, least=min_queries, duration_s=duration_s, stage=stage, progress=progress)
        joules = meter.joules_since(energy) if meter and energy else None
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
