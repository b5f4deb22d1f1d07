import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime.errors import ImageError, InputError, UsageError
from edgeclf.runtime.images._opencv import cv2
from edgeclf.runtime.session.session import ModelSession
from edgeclf.runtime.timing.durations import distribution
from edgeclf.runtime.timing.latency import benchmark
from edgeclf.runtime.timing.queries import repeat, synthetic_frame


@pytest.fixture(scope="module")
def session(colour_model):
    return ModelSession(colour_model, device="cpu", threads=1)


def test_percentiles_are_nearest_ranks():
    summary = distribution([float(value) for value in range(200, 0, -1)])
    assert (summary.samples, summary.min_ms, summary.max_ms, summary.mean_ms) == (200, 1, 200, 100.5)
    assert (summary.p50_ms, summary.p90_ms, summary.p95_ms, summary.p99_ms) == (100, 180, 190, 198)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=250))
def test_a_percentile_is_a_measured_value_that_its_share_does_not_exceed(values):
    summary = distribution(values)
    for percent, value in ((50, summary.p50_ms), (90, summary.p90_ms), (95, summary.p95_ms), (99, summary.p99_ms)):
        if value is not None:
            assert value in values
            assert sum(item <= value for item in values) >= percent / 100 * len(values)
            assert sum(item < value for item in values) < percent / 100 * len(values)


@pytest.mark.parametrize(
    ("count", "known"), [(1, []), (9, []), (10, ["p90"]), (19, ["p90"]), (20, ["p90", "p95"]), (99, ["p90", "p95"])]
)
def test_a_percentile_of_too_few_samples_is_not_made_up(count, known):
    document = distribution(np.arange(count)).to_json()
    assert [name for name in ("p90", "p95", "p99") if document[f"{name}_ms"] is not None] == known
    assert distribution(np.arange(100)).p99_ms == 98


@pytest.mark.parametrize("values", [[], [math.nan], [1.0, math.inf]])
def test_nothing_measured_is_no_distribution(values):
    with pytest.raises(InputError):
        distribution(values)


def test_the_stages_add_up_to_the_query(session):
    result, _ = benchmark(session, batch_size=3, duration_s=0, min_queries=12, warmup_queries=1)
    stages_ms = result.preprocess.mean_ms + result.infer.mean_ms + result.postprocess.mean_ms
    assert result.query.samples == 12
    assert 3 * stages_ms == pytest.approx(result.query.mean_ms)
    assert result.images_per_s == pytest.approx(3000 / result.query.mean_ms)
    assert (result.threads, result.batch_size, result.provider) == (1, 3, "CPUExecutionProvider")
    assert (result.source, result.includes_decode) == ("synthetic 640x480 frame in memory", False)
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert document["query"]["p90_ms"] is not None
    assert document["query"]["p99_ms"] is None


class Clock:
    """In place of `time`: moved by what is measured."""

    def __init__(self):
        self.now_s = 100.0

    def perf_counter(self):
        return self.now_s

    def advance(self, seconds):
        self.now_s += seconds


@pytest.mark.parametrize(
    ("least", "duration_s", "times"), [(1, 0, 1), (7, 0, 7), (7, 0.2, 7), (1, 1.0, 16), (20, 1.0, 20)]
)
def test_a_measurement_is_repeated_until_number_and_duration_are_both_reached(monkeypatch, least, duration_s, times):
    clock, calls = Clock(), []
    monkeypatch.setattr("edgeclf.runtime.timing.queries.time", clock)
    done = repeat(
        lambda: clock.advance(1 / 16),
        least=least,
        duration_s=duration_s,
        stage="x",
        progress=lambda *call: calls.append(call),
    )
    assert done == times
    assert all(stage == "x" and taken <= total for stage, taken, total in calls)
    assert calls[-1] == ("x", times, times)
    # Every fifth of a second, and at the end.
    assert len(calls) == times // 4 + 1


def test_at_least_one_query_is_measured(session):
    assert benchmark(session, duration_s=0, min_queries=1, warmup_queries=0)[0].query.samples == 1


def test_a_file_is_decoded_for_every_image(session, tmp_path):
    path = tmp_path / "red.png"
    cv2.imwrite(str(path), np.full((300, 400, 3), (0, 0, 255), np.uint8))
    result, _ = benchmark(session, path, duration_s=0, min_queries=2)
    assert (result.source, result.includes_decode) == (str(path), True)
    with pytest.raises(ImageError, match="no such file"):
        benchmark(session, tmp_path / "missing.png", duration_s=0, min_queries=1)


def test_a_frame_is_described(session):
    result, _ = benchmark(session, np.zeros((20, 30, 3), np.uint8), duration_s=0, min_queries=1)
    assert (result.source, result.includes_decode) == ("30x20 frame in memory", False)
    with pytest.raises(ImageError):
        benchmark(session, np.zeros((20, 30), np.uint8), duration_s=0, min_queries=1)


def test_progress_names_the_configuration_and_ends_at_the_end(session):
    calls = []
    benchmark(session, duration_s=0, min_queries=5, progress=lambda *call: calls.append(call))
    assert calls[-1] == ("batch 1, threads 1", 5, 5)


def test_opencvs_pool_is_limited_only_while_measuring(session):
    before = cv2.getNumThreads()
    seen = []
    benchmark(session, duration_s=0, min_queries=1, progress=lambda *_: seen.append(cv2.getNumThreads()))
    assert seen == [1]
    with pytest.raises(ImageError):
        benchmark(session, "missing.png", duration_s=0)
    assert cv2.getNumThreads() == before


@pytest.mark.parametrize(
    "arguments",
    [{"batch_size": 0}, {"min_queries": 0}, {"warmup_queries": -1}, {"duration_s": -1.0}, {"duration_s": math.nan}],
)
def test_counts_out_of_range_are_usage_errors(session, arguments):
    with pytest.raises(UsageError):
        benchmark(session, **arguments)


def test_the_synthetic_frame_is_the_same_every_time():
    frame_bgr = synthetic_frame()
    assert (frame_bgr.shape, frame_bgr.dtype) == ((480, 640, 3), np.uint8)
    assert np.array_equal(frame_bgr, synthetic_frame())
    assert frame_bgr.std() > 20
