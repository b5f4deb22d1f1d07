"""The system under test: a model, samples in memory, and the threads that answer the load generator's queries."""

import queue
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from edgeclf.runtime import ModelSession, preprocess_bgr
from edgeclf.runtime.arrays import Float64Array, UInt8Array
from edgeclf.runtime.prediction import predictions_from
from edgeclf.toolkit.bench.loadgen.scenario_rules import Scenario

# Settings objects of mlperf_loadgen, which carries no types.
GeneratorSettings: TypeAlias = Any
_SCENARIO_NAMES = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "server": "Server",
    "offline": "Offline",
}


@dataclass(frozen=True)
class RunRequest:
    """Parameters of one run of the load generator.

    Attributes:
        scenario: The scenario.
        min_duration_s: Shortest duration.
        min_queries: Smallest number of queries; of samples in `offline`, whose only query holds them all.
        log_folder: Existing folder for the generator's logs.
        expected_s: Expected latency of a query in `single-stream` and `multi-stream`; where it is too long, the generator
            runs out of queries before the duration has passed.
        expected_per_s: Queries per second sent in `server`, samples per second expected in `offline`.
        latency_bound_ms: `server`: the bound.
        traces: Whether the generator also writes every sample's latency into mlperf_log_trace.json, which slows it down.
    """

    scenario: Scenario
    min_duration_s: float
    min_queries: int
    log_folder: Path
    expected_s: float = 0.001
    expected_per_s: float = 1.0
    latency_bound_ms: float = 0.0
    traces: bool = False


@dataclass(frozen=True)
class RunRecord:
    """Our own time stamps of a run, for comparison with the generator's log.

    Attributes:
        start_s: (queries,) arrival of each query in seconds of `time.perf_counter`.
        end_s: (queries,) completion of each query, same clock.
        samples: Number of classified images.
    """

    start_s: Float64Array
    end_s: Float64Array
    samples: int


class Samples:
    """Samples in memory, decoded or preprocessed.

    Args:
        frames_bgr: Decoded images, (H, W, 3) uint8 BGR each.
        session: The model that will classify them.
        includes_preprocess: True to preprocess in every query, False to preprocess once, here.
    """

    def __init__(self, frames_bgr: Sequence[UInt8Array], session: ModelSession, *, includes_preprocess: bool) -> None:
        self._preprocess = session.spec.preprocess
        self._frames_bgr = frames_bgr if includes_preprocess else None
        self._ready_rgb = np.empty(
            (0 if includes_preprocess else len(frames_bgr), *self._preprocess.size_hw, 3), np.uint8
        )
        for row, frame_bgr in zip(self._ready_rgb, frames_bgr, strict=False):
            preprocess_bgr(frame_bgr, self._preprocess, out=row)
        self.count = len(frames_bgr)

    def batch(self, indices: Sequence[int]) -> UInt8Array:
        """(N, H, W, 3) uint8 RGB in the model's input size, for N sample indices."""
        if self._frames_bgr is None:
            return self._ready_rgb[list(indices)]
        batch_rgb = np.empty((len(indices), *self._preprocess.size_hw, 3), np.uint8)
        for row, index in zip(batch_rgb, indices, strict=True):
            preprocess_bgr(self._frames_bgr[index], self._preprocess, out=row)
        return batch_rgb


class SystemUnderTest:
    """A model that answers the load generator's queries, one at a time or with several threads, with its own time stamps.

    Args:
        session: The model.
        samples: The samples.
        workers: Number of classifying threads in `server` and `offline`.
        batch_size: Largest batch in `server` and `offline`; a thread does not wait for a batch to fill.
        failed: Callback with an exception that ended a query; must not return.
    """

    def __init__(
        self,
        session: ModelSession,
        samples: Samples,
        *,
        workers: int,
        batch_size: int,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._session = session
        self._samples = samples
        self._workers = workers
        self._batch_size = batch_size
        self._failed = failed

    def classify(self, indices: Sequence[int]) -> None:
        """Classifies samples, from preprocessing, where included, to predictions."""
        predictions_from(self._session.run(self._samples.batch(indices)), self._session.spec)

    def query_s(self, images: int, *, repeats: int = 10) -> float:
        """Seconds of the fastest of `repeats` queries of that many images; also warms the model up."""
        indices = [number % self._samples.count for number in range(images)]
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            self.classify(indices)
            times.append(time.perf_counter() - start)
        return min(times)

    def samples_per_s(self, seconds: float) -> float:
        """Throughput of all threads in images per second, measured for that many seconds."""
        counts = [0] * self._workers
        until = time.perf_counter() + seconds

        def work(number: int) -> None:
            indices = [(number + offset) % self._samples.count for offset in range(self._batch_size)]
            while time.perf_counter() < until:
                self.classify(indices)
                counts[number] += len(indices)

        start = time.perf_counter()
        threads = [threading.Thread(target=self.run_guarded, args=(work, number)) for number in range(self._workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) / (time.perf_counter() - start)

    def run(self, request: RunRequest) -> RunRecord:
        """Runs the load generator once, until it has written its logs."""
        import mlperf_loadgen

        is_queued = request.scenario in {"server", "offline"}
        issue = _Queued(self, self._workers, self._batch_size) if is_queued else _Direct(self)
        # Number of samples, and number of those that fit in memory together: all of them.
        qsl = mlperf_loadgen.ConstructQSL(
            self._samples.count, self._samples.count, lambda _indices: None, lambda _indices: None
        )
        sut = mlperf_loadgen.ConstructSUT(issue.issue, lambda: None)
        try:
            with issue:
                mlperf_loadgen.StartTestWithLogSettings(sut, qsl, _settings(request), _log_settings(request))
        finally:
            mlperf_loadgen.DestroySUT(sut)
            mlperf_loadgen.DestroyQSL(qsl)
        return issue.record()

    def run_guarded(self, work: Callable[..., None], *arguments: object) -> None:
        """Runs `work` and reports its exception: one in a thread of the generator would end the process silently."""
        try:
            work(*arguments)
        except BaseException as error:  # noqa: BLE001 - reported elsewhere
            self._failed(error)


class _Direct:
    """Classifies queries one after the other, in the call that issues them."""

    def __init__(self, system: SystemUnderTest) -> None:
        self._system = system
        self._start_s = array("d")
        self._end_s = array("d")
        self._samples = 0

    def issue(self, query: Sequence[Any]) -> None:
        start = time.perf_counter()
        self._system.run_guarded(self._system.classify, [sample.index for sample in query])
        self._start_s.append(start)
        self._end_s.append(time.perf_counter())
        self._samples += len(query)
        _complete([sample.id for sample in query])

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None

    def record(self) -> RunRecord:
        return RunRecord(np.array(self._start_s), np.array(self._end_s), self._samples)


class _Queued:
    """Queues samples for threads that classify them in batches."""

    def __init__(self, system: SystemUnderTest, workers: int, batch_size: int) -> None:
        self._system = system
        self._batch_size = batch_size
        # Per sample: response id, sample index and number of the query; None ends a thread.
        self._waiting: queue.SimpleQueue[tuple[int, int, int] | None] = queue.SimpleQueue()
        self._start_s = array("d")
        self._ends: list[tuple[int, float]] = []
        self._threads = [
            threading.Thread(target=system.run_guarded, args=(self._work,), daemon=True) for _ in range(workers)
        ]

    def issue(self, query: Sequence[Any]) -> None:
        number = len(self._start_s)
        self._start_s.append(time.perf_counter())
        for sample in query:
            self._waiting.put((sample.id, sample.index, number))

    def _work(self) -> None:
        is_last = False
        while not is_last:
            batch = [self._waiting.get()]
            while batch[-1] is not None and len(batch) < self._batch_size:
                try:
                    batch.append(self._waiting.get_nowait())
                except queue.Empty:
                    break
            is_last = batch[-1] is None
            samples = [item for item in batch if item is not None]
            if samples:
                self._system.classify([index for _, index, _ in samples])
                end = time.perf_counter()
                self._ends.extend((number, end) for _, _, number in samples)
                _complete([sample_id for sample_id, _, _ in samples])

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        for _thread in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def record(self) -> RunRecord:
        start_s = np.array(self._start_s)
        end_s = np.full(len(start_s), -np.inf)
        # A query is complete when the last of its samples is.
        numbers, ends = zip(*self._ends, strict=True)
        np.maximum.at(end_s, np.array(numbers), np.array(ends))
        return RunRecord(start_s, end_s, len(self._ends))


def _complete(ids: Sequence[int]) -> None:
    import mlperf_loadgen

    mlperf_loadgen.QuerySamplesComplete([mlperf_loadgen.QuerySampleResponse(number, 0, 0) for number in ids])


def _settings(request: RunRequest) -> GeneratorSettings:
    import mlperf_loadgen

    settings = mlperf_loadgen.TestSettings()
    settings.scenario = getattr(mlperf_loadgen.TestScenario, _SCENARIO_NAMES[request.scenario])
    settings.mode = mlperf_loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(request.min_duration_s * 1e3)
    settings.min_query_count = request.min_queries
    expected_ns = max(1, round(request.expected_s * 1e9))
    settings.single_stream_expected_latency_ns = expected_ns
    settings.multi_stream_expected_latency_ns = expected_ns
    if request.scenario == "server":
        settings.server_target_qps = request.expected_per_s
        settings.server_target_latency_ns = round(request.latency_bound_ms * 1e6)
    if request.scenario == "offline":
        # The generator sends rate x duration x 1.1 samples, whatever the requested number of queries.
        floor = request.min_queries / (1.1 * max(request.min_duration_s, 1e-3))
        settings.offline_expected_qps = max(request.expected_per_s, 1.001 * floor)
    return settings


def _log_settings(request: RunRequest) -> GeneratorSettings:
    import mlperf_loadgen

    output = mlperf_loadgen.LogOutputSettings()
    output.outdir = str(request.log_folder)
    output.copy_summary_to_stdout = False
    settings = mlperf_loadgen.LogSettings()
    settings.log_output = output
    settings.enable_trace = request.traces
    return settings
