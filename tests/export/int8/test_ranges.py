import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeclf.export.int8.layerwise.fitting import bias_shift
from edgeclf.export.int8.ranges import ValueHistogram, params_of_range


@settings(deadline=None)
@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_a_range_is_covered_and_zero_is_exact(a, b):
    low, high = min(a, b), max(a, b)
    params = params_of_range(low, high)
    assert 0 <= params.zero_point <= 255
    assert params.scale > 0
    slack = params.scale * 0.5001 + 1e-30
    if high - low > 1e-30:
        assert params.low <= min(low, 0) + slack
        assert params.high >= max(high, 0) - slack


@pytest.mark.parametrize("ends", [(np.nan, 1.0), (0.0, np.inf)])
def test_a_range_that_is_not_finite_is_an_error(ends):
    with pytest.raises(ValueError, match="finite"):
        params_of_range(*ends)


def quantized(values, params):
    codes = np.rint(values / params.scale + params.zero_point).clip(0, 255)
    return (codes - params.zero_point) * params.scale


def histogram_of(values):
    histogram = ValueHistogram(float(values.min()), float(values.max()))
    histogram.add(values.astype(np.float32))
    return histogram


@pytest.mark.parametrize("one_sided", [False, True])
def test_the_range_by_error_loses_less_than_the_extremes_where_there_are_outliers(one_sided):
    rng = np.random.default_rng(0)
    values = rng.normal(size=1_000_000)
    if one_sided:
        values = np.maximum(values, 0)
    values[0] = 12.0
    histogram = histogram_of(values)
    by_error, extremes = histogram.params("error"), histogram.params("extremes")
    assert extremes.high == pytest.approx(12.0, rel=0.01)
    errors = [np.square(quantized(values, params) - values).mean() for params in (by_error, extremes)]
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize("exact", [0.0, 6.0])
def test_values_that_have_a_code_of_their_own_are_charged_no_rounding(exact, rng):
    """Nearly all values are zero, as behind a ReLU, or the upper end, as behind a ReLU6: only the others can be rounded well."""
    values = np.concatenate([np.full(200_000, exact), np.abs(rng.normal(size=4_000)).clip(0, 6), [6.0]])
    chosen = histogram_of(values).params("error")
    errors = {
        high: np.square(quantized(values, params_of_range(0.0, high)) - values).mean()
        for high in np.linspace(0.5, 6.0, 111)
    }
    assert np.square(quantized(values, chosen) - values).mean() <= 1.1 * min(errors.values())


def test_the_range_by_error_keeps_values_that_are_evenly_spread():
    values = np.random.default_rng(0).uniform(-1, 3, 100_000)
    params = histogram_of(values).params("error")
    assert (params.low, params.high) == (pytest.approx(-1, abs=0.1), pytest.approx(3, abs=0.1))


def test_a_tensor_that_is_always_zero_has_parameters():
    params = histogram_of(np.zeros(10)).params("error")
    assert quantized(np.zeros(3), params).tolist() == [0, 0, 0]


def test_a_bias_takes_back_a_constant_error_and_spares_what_nobody_sees():
    rng = np.random.default_rng(0)
    wanted = rng.normal(size=(20_000, 2)).astype(np.float32)
    wanted[:, 1] -= 3
    got = wanted + np.float32(0.25)
    shift = bias_shift(wanted, got, -np.inf, np.inf)
    np.testing.assert_allclose(shift, -0.25, atol=1e-2)
    # Errors only where the activation function gives zero anyway: to be left alone.
    hidden = np.where(wanted < -1, wanted - 5, wanted).astype(np.float32)
    np.testing.assert_allclose(bias_shift(wanted, hidden, 0.0, 6.0), 0, atol=1e-2)
    assert np.abs(hidden.mean(axis=0) - wanted.mean(axis=0)).min() > 0.5


def test_a_bias_is_never_moved_by_a_channel_that_is_never_active():
    wanted = np.full((100, 1), -4.0, np.float32)
    np.testing.assert_array_equal(bias_shift(wanted, wanted - 1, 0.0, np.inf), [0.0])
