import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeclf.export.int8.gptq import gptq, output_errors
from edgeclf.export.int8.weights import PAIR_BOUND, largest_pair, quantize_rows, round_to_codes, split_bound

rows_strategy = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 6), st.integers(1, 9)),
    elements=st.floats(-1e3, 1e3, allow_nan=False, width=32),
)


def add_in_sixteen_bits(inputs, codes):
    """What vpmaddubsw makes of the products of neighbours: their sum, saturated to int16."""
    products = inputs.astype(np.int64) * codes.astype(np.int64)
    if products.shape[-1] % 2:
        products = np.concatenate([products, np.zeros((*products.shape[:-1], 1), np.int64)], axis=-1)
    sums = products[..., 0::2] + products[..., 1::2]
    return np.clip(sums, -32768, 32767).sum(axis=-1), sums.sum(axis=-1)


@settings(deadline=None)
@given(rows_strategy, st.integers(0, 2**32 - 1))
def test_paired_codes_never_saturate_whatever_the_inputs(rows, seed):
    codes, scales = quantize_rows(rows, paired=True)
    assert np.abs(codes).max() <= 127
    assert (scales > 0).all()
    np.testing.assert_array_equal(scales, scales.astype(np.float32))
    rng = np.random.default_rng(seed)
    for inputs in (
        np.full(rows.shape[1], 255),
        rng.integers(0, 256, rows.shape[1]),
        255 * rng.integers(0, 2, rows.shape[1]),
    ):
        saturated, exact = add_in_sixteen_bits(inputs, codes)
        np.testing.assert_array_equal(saturated, exact)


def test_full_range_codes_do_saturate():
    # The negative case: without it the test above could pass for want of large weights.
    rows = np.ones((1, 8))
    codes, _ = quantize_rows(rows, paired=False)
    saturated, exact = add_in_sixteen_bits(np.full(8, 255), codes)
    assert saturated[0] < exact[0]
    assert largest_pair(codes) > PAIR_BOUND


@settings(deadline=None)
@given(rows_strategy)
def test_the_error_is_no_larger_than_that_of_halving_every_weight(rows):
    codes, scales = quantize_rows(rows, paired=True)
    peak = np.abs(rows).max(axis=1)
    halved = np.maximum(peak / 63, np.finfo(np.float32).tiny).astype(np.float32).astype(np.float64)
    reduced = np.rint(rows / halved[:, None]).clip(-64, 64) * halved[:, None]
    ours = np.square(codes * scales[:, None] - rows).sum(axis=1)
    theirs = np.square(reduced - rows).sum(axis=1)
    assert (ours <= theirs * (1 + 1e-3) + 1e-9 * np.square(peak) + 1e-60).all()


def test_weights_that_crowd_nobody_keep_all_eight_bits():
    rng = np.random.default_rng(0)
    rows = rng.uniform(-1, 1, (4, 64))
    # Neighbours of opposite sign, and neighbours of which one is small.
    rows[:, 0::2], rows[:, 1::2] = np.abs(rows[:, 0::2]), -np.abs(rows[:, 1::2])
    codes, _ = quantize_rows(rows, paired=True)
    assert np.abs(codes).max(axis=1).min() > 100


def test_a_crowded_pair_is_split_where_least_is_lost():
    for a, b in ((120.0, 100.0), (127.0, 20.0), (65.0, 64.4), (127.0, 127.0), (3.0, 126.9)):
        p, q = split_bound(np.array([a]), np.array([b]))
        best = min((a - i) ** 2 + (b - (PAIR_BOUND - i)) ** 2 for i in range(1, 128))
        assert p[0] + q[0] == PAIR_BOUND
        assert (a - p[0]) ** 2 + (b - q[0]) ** 2 == pytest.approx(best)


def test_a_row_of_zeros_and_a_dead_channel_with_a_bias_have_usable_scales():
    rows = np.zeros((2, 4))
    rows[1] = 1e-12
    codes, scales = quantize_rows(rows, paired=True, smallest_scale=np.array([0.0, 1e-3]))
    assert not codes.any()
    assert np.isfinite(scales).all()
    assert scales[1] >= np.float32(1e-3)


def test_rows_beyond_one_chunk_are_all_quantized():
    rows = np.random.default_rng(0).normal(size=(300, 500))
    codes, scales = quantize_rows(rows, paired=True)
    alone, scale = quantize_rows(rows[[299]], paired=True)
    np.testing.assert_array_equal(codes[299], alone[0])
    assert scales[299] == scale[0]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_learned_rounding_respects_pairs_and_lowers_the_error_of_outputs(seed, paired, per_row):
    rng = np.random.default_rng(seed)
    outputs, width = int(rng.integers(1, 8)), int(rng.integers(1, 140))
    rows = rng.normal(size=(outputs, width)) * rng.uniform(0.01, 10)
    # Inputs with common causes, as neighbouring channels have.
    mixed = rng.normal(size=(4 * width, max(1, width // 4))) @ rng.normal(size=(max(1, width // 4), width))
    inputs = np.maximum(mixed + 0.1 * rng.normal(size=mixed.shape), 0)
    moments = inputs.T @ inputs / len(inputs)
    if per_row:
        moments = np.stack([moments] * outputs)
    _, scales = quantize_rows(rows, paired=paired)
    learned = gptq(rows, scales, moments, paired=paired)
    assert np.abs(learned).max() <= 127
    if paired:
        assert largest_pair(learned) <= PAIR_BOUND
    rounded = round_to_codes(rows / scales[:, None], paired=paired)
    assert (output_errors(rows, learned, scales, moments) <= output_errors(rows, rounded, scales, moments)).all()


def test_learned_rounding_gains_much_where_inputs_are_alike():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(16, 64))
    common = rng.normal(size=(4096, 4)) @ rng.normal(size=(4, 64))
    moments = common.T @ common / len(common) + 1e-3 * np.eye(64)
    codes, scales = quantize_rows(rows, paired=True)
    learned = gptq(rows, scales, moments, paired=True)
    assert output_errors(rows, learned, scales, moments).sum() < 0.3 * output_errors(rows, codes, scales, moments).sum()


def test_learned_rounding_of_inputs_that_never_vary_is_the_nearest():
    rows = np.random.default_rng(2).normal(size=(3, 5))
    codes, scales = quantize_rows(rows, paired=True)
    np.testing.assert_array_equal(gptq(rows, scales, np.zeros((5, 5)), paired=True), codes)
