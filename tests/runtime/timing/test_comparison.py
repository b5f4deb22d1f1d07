import json
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime.errors import ImageError, UsageError
from edgeclf.runtime.session.session import ModelSession
from edgeclf.runtime.timing.comparison import Ratio, compare_models, measure_in_turns, median_interval, ratio_of_rounds

from ...randomness import fresh_rng


@given(st.lists(st.floats(0.1, 10), min_size=8, max_size=200))
def test_the_interval_holds_the_median_and_is_made_of_values(values):
    low, high = median_interval(values)
    assert low <= np.median(values) <= high
    assert {low, high} <= set(values)


def test_known_ranks_of_the_sign_test():
    # Tables of the sign test, 99 %: n = 8 the extremes, n = 20 the 4th, n = 60 the 20th.
    for count, rank in ((8, 1), (20, 4), (60, 20)):
        assert median_interval(fresh_rng().permutation(count)) == (rank - 1, count - rank)
    with pytest.raises(UsageError):
        median_interval(np.arange(7))


def test_the_interval_misses_the_median_as_seldom_as_it_says():
    rows = np.random.default_rng(0).lognormal(size=(4000, 40))
    misses = sum(not low <= 1 <= high for low, high in map(median_interval, rows))
    assert misses < 40 + 5 * np.sqrt(40)


def test_a_round_is_two_turns_of_each():
    first = np.array([1.0, 3.0] * 10)
    ratio = ratio_of_rounds(np.array([3.0, 1.0] * 10), first)
    assert (ratio.median, ratio.low, ratio.high) == (1, 1, 1)
    assert ratio_of_rounds(first / 2, first).verdict == "faster"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.8, 0.99, "faster"),
        (1.01, 1.2, "slower"),
        (0.9, 1.1, "no difference that can be told"),
        (0.9, 1.0, "no difference that can be told"),
    ],
)
def test_a_difference_is_claimed_only_where_the_interval_leaves_out_1(low, high, verdict):
    assert Ratio((low + high) / 2, low, high).verdict == verdict


def draw_times_ms(rng, rounds, slower=1.0):
    """Times of A and B, A B B A a round, of which B is so many times slower: as busy machines make them."""
    count = 4 * rounds
    # A clock speed that wanders, a neighbour that is busy for some rounds, single delays, and the noise of every measurement.
    drift = np.exp(np.cumsum(rng.normal(0, 0.003, count)))
    busy = np.repeat(rng.random(rounds) < 0.2, 4) * rng.exponential(0.5, count)
    delays = (rng.random(count) < 0.03) * rng.exponential(3.0, count)
    times = 10 * drift * (1 + busy + delays) * np.exp(rng.normal(0, 0.02, count))
    times = times.reshape(rounds, 4) * (1, slower, slower, 1)
    return times[:, [0, 3]].ravel(), times[:, [1, 2]].ravel()


@pytest.mark.parametrize("rounds", [8, 30, 200])
def test_a_file_compared_with_itself_is_not_told_from_itself_in_99_of_100(rng, rounds):
    trials = 2_000
    verdicts = [ratio_of_rounds(*draw_times_ms(rng, rounds)[::-1]).verdict for _ in range(trials)]
    wrong = trials - verdicts.count("no difference that can be told")
    # At 1 in 100 so many are seen in less than 1 of 1,000,000 runs of this test.
    assert wrong <= 46


def test_a_slower_file_is_found(rng):
    verdicts = {ratio_of_rounds(*draw_times_ms(rng, 200, slower=1.1)[::-1]).verdict for _ in range(20)}
    assert verdicts == {"slower"}


def test_models_with_several_threads_are_not_compared(colour_model):
    one, two = (ModelSession(colour_model, device="cpu", threads=threads) for threads in (1, 2))
    for sessions in ({"a": one, "b": two}, {"a": two, "b": two}):
        with pytest.raises(UsageError, match="2 threads inside one inference, which go on spinning"):
            compare_models(sessions, duration_s=0, min_rounds=8)
    (alone,) = compare_models({"a": two}, duration_s=0, min_rounds=8)
    assert alone.threads == 2


def test_models_of_different_sizes_are_compared_from_the_same_frame(make_colour_model, colour_model, tmp_path):
    large_path = make_colour_model(tmp_path / "large.onnx", size_hw=(640, 512))
    sessions = {
        "large": ModelSession(large_path, device="cpu", threads=1),
        "small": ModelSession(colour_model, device="cpu", threads=1),
    }
    calls = []
    large, small = compare_models(
        sessions, duration_s=0, min_rounds=12, warmup_rounds=1, progress=lambda *call: calls.append(call)
    )
    assert (large.name, large.size_hw, small.name, small.size_hw) == ("large", (640, 512), "small", (32, 32))
    assert large.query.samples == small.query.samples == 24
    assert (large.query_ratio.median, large.query_ratio.low, large.query_ratio.high) == (1, 1, 1)
    # Hundreds of times the pixels: the direction is certain on any machine.
    assert small.infer_ratio.median < 1
    assert (small.latency.ratio, small.latency.rounds) == (small.infer_ratio.median, 24)
    assert (small.latency.median_ms, small.latency.threads) == (small.infer.p50_ms, 1)
    assert calls[-1] == ("rounds", 12, 12)
    document = json.loads(json.dumps(small.to_json(), allow_nan=False))
    assert document["infer_ratio"]["verdict"] == small.infer_ratio.verdict


def test_measurements_are_made_in_turns_forwards_and_backwards():
    made = []

    def run(name):
        made.append(name)
        return len(made)

    measured = measure_in_turns({name: partial(run, name) for name in "ABC"}, rounds=8, warmup_rounds=2)
    assert "".join(made) == "ABCCBA" * 10
    assert measured["A"][:4] == [13, 18, 19, 24]
    assert measured["C"][:2] == [15, 16]


@pytest.mark.parametrize(
    "arguments", [{"min_rounds": 7}, {"batch_size": 0}, {"duration_s": -1.0}, {"warmup_rounds": -1}]
)
def test_numbers_out_of_range_are_usage_errors(colour_model, arguments):
    session = ModelSession(colour_model, device="cpu", threads=1)
    with pytest.raises(UsageError):
        compare_models({"a": session, "b": session}, **arguments)
    with pytest.raises(UsageError, match="no model"):
        compare_models({})
    with pytest.raises(ImageError):
        compare_models({"a": session, "b": session}, "missing.png", duration_s=0)
