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
from edgeclf.runtime.timing.latency import benchmark, compare_latency, synthetic_frame


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
    result = benchmark(session, batch_size=3, duration_s=0, min_queries=12, warmup_queries=1)
    stages_ms = result.preprocess.mean_ms + result.infer.mean_ms + result.postprocess.mean_ms
    assert result.query.samples == 12
    assert 3 * stages_ms == pytest.approx(result.query.mean_ms)
    assert result.images_per_s == pytest.approx(3000 / result.query.mean_ms)
    assert (result.threads, result.batch_size, result.provider) == (1, 3, "CPUExecutionProvider")
    assert (result.source, result.includes_decode) == ("synthetic 640x480 frame in memory", False)
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert document["query"]["p90_ms"] is not None
    assert document["query"]["p99_ms"] is None


def test_the_minimum_of_queries_and_the_duration_both_hold(session):
    assert benchmark(session, duration_s=0, min_queries=1, warmup_queries=0).query.samples == 1
    result = benchmark(session, duration_s=0.2, min_queries=1, warmup_queries=0)
    assert result.query.samples * result.query.mean_ms > 100
    assert result.query.samples > 5


def test_a_file_is_decoded_for_every_image(session, tmp_path):
    path = tmp_path / "red.png"
    cv2.imwrite(str(path), np.full((300, 400, 3), (0, 0, 255), np.uint8))
    result = benchmark(session, path, duration_s=0, min_queries=2)
    assert (result.source, result.includes_decode) == (str(path), True)
    with pytest.raises(ImageError, match="no such file"):
        benchmark(session, tmp_path / "missing.png", duration_s=0, min_queries=1)


def test_a_frame_is_described(session):
    result = benchmark(session, np.zeros((20, 30, 3), np.uint8), duration_s=0, min_queries=1)
    assert (result.source, result.includes_decode) == ("30x20 frame in memory", False)
    with pytest.raises(ImageError):
        benchmark(session, np.zeros((20, 30), np.uint8), duration_s=0, min_queries=1)


def test_progress_ends_at_the_end(session):
    calls = []
    benchmark(session, duration_s=0.5, min_queries=5, progress=lambda *call: calls.append(call))
    assert len(calls) >= 2
    assert {stage for stage, _, _ in calls} == {"batch 1, threads 1"}
    assert all(done <= total for _, done, total in calls)
    assert calls[-1][1] == calls[-1][2]


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


def test_models_are_compared_with_the_first(session, make_colour_model, tmp_path):
    large = ModelSession(make_colour_model(tmp_path / "large.onnx", size_hw=(640, 640)), device="cpu", threads=1)
    figures = compare_latency({"large": large, "small": session}, rounds=12, warmup=1)
    assert list(figures) == ["large", "small"]
    assert figures["large"].ratio == 1.0
    # 400 times the pixels: the direction is certain on any machine.
    assert figures["small"].ratio < 1.0
    assert figures["small"].median_ms < figures["large"].median_ms
    assert {item.rounds for item in figures.values()} == {12}
    assert json.loads(json.dumps(figures["small"].to_json()))["threads"] == 1
    assert compare_latency({"small": session}, rounds=3, warmup=0)["small"].p90_ms is None


@pytest.mark.parametrize("arguments", [{"rounds": 0}, {"warmup": -1}, {"batch_size": 0}])
def test_a_comparison_of_nothing_is_a_usage_error(session, arguments):
    with pytest.raises(UsageError):
        compare_latency({"a": session}, **arguments)
    with pytest.raises(UsageError, match="no model"):
        compare_latency({})


def test_the_synthetic_frame_is_the_same_every_time():
    frame_bgr = synthetic_frame()
    assert (frame_bgr.shape, frame_bgr.dtype) == ((480, 640, 3), np.uint8)
    assert np.array_equal(frame_bgr, synthetic_frame())
    assert frame_bgr.std() > 20
