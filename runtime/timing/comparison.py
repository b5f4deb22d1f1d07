"""Comparison of models: ratios of their latencies, each with its 99 % interval.

The models take turns, forwards and backwards: in a round each runs twice, A B C C B A, so that a drift of the clock
speed, a busy neighbour or what the one before left in the caches touch all of them alike. A round gives one ratio of
each model's time to the first model's, and the rounds give a median and an interval for it that assumes no distribution.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from edgeclf.runtime.arrays import Float64Array, UInt8Array
from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.images.opencv_threads import opencv_threads_at_most
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.session.session import ModelSession
from edgeclf.runtime.timing.durations import Distribution, distribution
from edgeclf.runtime.timing.early_stopping import most_failures
from edgeclf.runtime.timing.queries import Query, QueryTimes, check_at_least, image_source, repeat

CONFIDENCE = 0.99
# With fewer there is no interval of that confidence: 2 / 2**8 < 0.01.
LEAST_ROUNDS = 8
MeasuredT = TypeVar("MeasuredT")


@dataclass(frozen=True)
class Ratio:
    """A model's time divided by the first model's: below 1 is faster.

    Attributes:
        median: Median over the rounds.
        low: Lower end of the interval for the median.
        high: Upper end.
    """

    median: float
    low: float
    high: float

    @property
    def verdict(self) -> Literal["faster", "slower", "no difference that can be told"]:
        """Faster or slower than the first model where the interval leaves out 1."""
        if self.high < 1:
            return "faster"
        return "slower" if self.low > 1 else "no difference that can be told"


@dataclass(frozen=True)
class LatencyFigures:
    """Latency of a model and its ratio to the first one's, as a model file records them.

    Attributes:
        median_ms: Median time of one inference (preprocessing not included).
        p90_ms: 90th percentile of the same; None with fewer than 10 inferences.
        ratio: Median, over the rounds, of this model's time divided by the first model's in the same round: below 1
            is faster.
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


@dataclass(frozen=True)
class ComparedModel:
    """Figures of one model in a comparison.

    Attributes:
        name: Its name, the file's path.
        size_hw: Height and width of its input.
        provider: ONNX Runtime provider that ran it.
        batch_size: Images in one query.
        threads: Threads inside one inference.
        query: Durations of whole queries, from frames to predictions.
        infer: Durations of the inference of a query.
        query_ratio: Whole queries against the first model's.
        infer_ratio: Inferences against the first model's.
        times: Durations of the single queries, two for each round.
    """

    name: str
    size_hw: tuple[int, int]
    provider: str
    batch_size: int
    threads: int
    query: Distribution
    infer: Distribution
    query_ratio: Ratio
    infer_ratio: Ratio
    times: QueryTimes

    @property
    def latency(self) -> LatencyFigures:
        """The figures of its inferences alone."""
        return LatencyFigures(
            median_ms=self.infer.p50_ms,
            p90_ms=self.infer.p90_ms,
            ratio=self.infer_ratio.median,
            rounds=self.infer.samples,
            batch_size=self.batch_size,
            threads=self.threads,
            provider=self.provider,
        )

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values, without the single durations."""
        return {
            "file": self.name,
            "size_hw": list(self.size_hw),
            "provider": self.provider,
            "query": self.query.to_json(),
            "infer": self.infer.to_json(),
            "query_ratio": {**asdict(self.query_ratio), "verdict": self.query_ratio.verdict},
            "infer_ratio": {**asdict(self.infer_ratio), "verdict": self.infer_ratio.verdict},
        }


def compare_models(
    sessions: Mapping[str, ModelSession],
    image: UInt8Array | Path | str | None = None,
    *,
    batch_size: int = 1,
    duration_s: float = 3.0,
    min_rounds: int = 30,
    warmup_rounds: int = 5,
    progress: Progress = no_progress,
) -> list[ComparedModel]:
    """Latencies of models, measured in turns from the same frames to predictions; their input sizes may differ.

    Sessions have one thread each: the threads of one session's pool go on spinning for a while after its inference
    has ended, on the very CPUs the next session needs.

    Args:
        sessions: The models by name; the first is what the others are compared with.
        image: As for `edgeclf.runtime.timing.latency.benchmark`.
        batch_size: Images in one query.
        duration_s: Seconds to go on for, for each model.
        min_rounds: Rounds even if that takes longer, 8 or more; each is two queries of every model.
        warmup_rounds: Rounds that are run before and not timed.
        progress: Called with the rounds that are done, of how many at least.

    Returns:
        The models in the order of `sessions`.

    Raises:
        UsageError: There is no model, one of several has more than one thread, or a number is out of range.
        ImageError: The image cannot be used.
    """
    if not sessions:
        raise UsageError("cannot compare models", got="no model", expected="at least one")
    most_threads = max(session.threads for session in sessions.values())
    if len(sessions) > 1 and most_threads > 1:
        raise UsageError(
            "cannot compare models in turns",
            got=f"{most_threads} threads inside one inference, which go on spinning in the turn of the next model",
            expected="one thread",
            hint=f"leave --threads out, or measure each model alone with --threads {most_threads}",
        )
    _, load = image_source(image)
    queries = {name: Query(session, load, batch_size) for name, session in sessions.items()}
    with opencv_threads_at_most(most_threads):
        stamps = measure_in_turns(
            queries,
            rounds=min_rounds,
            duration_s=duration_s * len(queries),
            warmup_rounds=warmup_rounds,
            progress=progress,
        )
    times = {name: QueryTimes(*(np.diff(np.asarray(values), axis=1).T * 1e3)) for name, values in stamps.items()}
    first = next(iter(times.values()))
    return [
        ComparedModel(
            name=name,
            size_hw=session.spec.preprocess.size_hw,
            provider=session.provider,
            batch_size=batch_size,
            threads=session.threads,
            query=distribution(times[name].query_ms),
            infer=distribution(times[name].infer_ms),
            query_ratio=ratio_of_rounds(times[name].query_ms, first.query_ms),
            infer_ratio=ratio_of_rounds(times[name].infer_ms, first.infer_ms),
            times=times[name],
        )
        for name, session in sessions.items()
    ]


def measure_in_turns(
    runs: Mapping[str, Callable[[], MeasuredT]],
    *,
    rounds: int,
    duration_s: float = 0.0,
    warmup_rounds: int = 0,
    progress: Progress = no_progress,
) -> dict[str, list[MeasuredT]]:
    """Makes measurements in turns, forwards and backwards: A B C C B A is one round.

    Args:
        runs: Each makes one measurement and gives what it measured.
        rounds: Rounds at least, 8 or more.
        duration_s: Seconds to go on for, if that takes longer.
        warmup_rounds: Rounds before these whose results are dropped.
        progress: Called with the rounds that are done, of how many at least.

    Returns:
        By name what was measured, the two of a round next to each other; see `ratio_of_rounds`.

    Raises:
        UsageError: A number is out of range.
    """
    check_at_least("number of rounds", rounds, LEAST_ROUNDS)
    check_at_least("warm-up rounds", warmup_rounds, 0)
    check_at_least("duration in seconds", duration_s, 0)
    measured: dict[str, list[MeasuredT]] = {name: [] for name in runs}
    # Whoever runs second finds the caches as the first left them.
    order = [*runs, *reversed(list(runs))]

    def one_round() -> None:
        for name in order:
            measured[name].append(runs[name]())

    for _ in range(warmup_rounds):
        for name in order:
            runs[name]()
    repeat(one_round, least=rounds, duration_s=duration_s, stage="rounds", progress=progress)
    return measured


def ratio_of_rounds(times_ms: Float64Array, first_ms: Float64Array) -> Ratio:
    """The ratio of two models' times, from the rounds in which both ran twice.

    Args:
        times_ms: (2 * rounds,) durations of a model, the two of a round next to each other.
        first_ms: The same of the model it is compared with.

    Raises:
        UsageError: There are too few rounds.
    """
    ratios = times_ms.reshape(-1, 2).sum(axis=1) / first_ms.reshape(-1, 2).sum(axis=1)
    low, high = median_interval(ratios)
    return Ratio(float(np.median(ratios)), low, high)


def median_interval(values: npt.ArrayLike, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Confidence interval of a median, by the sign test.

    How many of n values lie below the true median is Bin(n, 1/2). So the k-th smallest and the k-th largest value hold it
    between them with the confidence asked for, k being the largest number with P(Bin(n, 1/2) <= k - 1) < (1 - c) / 2.
    (W. J. Conover, Practical Nonparametric Statistics, confidence interval for a quantile.)

    Args:
        values: (n,) independent values.
        confidence: Between 0.5 and 1.

    Raises:
        UsageError: There are too few values for that confidence.
    """
    ordered = np.sort(np.asarray(values, np.float64).ravel())
    k = most_failures(ordered.size, 0.5, confidence=1 - (1 - confidence) / 2) + 1
    if k < 1:
        raise UsageError(
            "too few values for an interval", got=str(ordered.size), expected=f"more, for a confidence of {confidence}"
        )
    return float(ordered[k - 1]), float(ordered[ordered.size - k])
