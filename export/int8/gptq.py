"""GPTQ: rounds weights in order, each rounding error compensated by the weights that are rounded after it.

For one output channel with weights w, codes q, scale s and inputs x, the squared error of the output is
d^T H d with d = s q - w and H = E[x x^T]. Rounding to the nearest code minimises only its diagonal. Here the weights are
rounded in order, and each error is spread over the weights that are still free by the columns of the Cholesky factor of
H's inverse (Frantar et al. 2023, "GPTQ", after Hassibi & Stork 1993, "Optimal Brain Surgeon"); the pair constraint
bounds each code by what its neighbour has left.
"""

from collections.abc import Sequence

import numpy as np

from edgeclf.export.int8.weights import MAX_CODE, PAIR_BOUND, Codes, Int8Codes, Rows, round_to_codes, split_bound
from edgeclf.runtime.arrays import Float64Array, FloatArray

# Added to the diagonal of H as a share of its mean, so that inputs which never vary do not make it singular.
_DAMPING = 0.01
_BLOCK = 64


def gptq_with_scales(
    rows: Rows | FloatArray, scales: Sequence[Float64Array], second_moments: Sequence[Float64Array], *, paired: bool
) -> tuple[Int8Codes, Float64Array]:
    """Codes and scales of least output error: each row takes the scale with which GPTQ comes closest.

    Args:
        rows: (O, K) weights.
        scales: Several (O,) scales to try.
        second_moments: As for `gptq`, of consecutive blocks of columns whose widths add up to K, all but the last even:
            inputs of different blocks count as uncorrelated.
        paired: Whether neighbours must respect `PAIR_BOUND`.

    Returns:
        (O, K) codes and (O,) scales.
    """
    codes = np.zeros((len(scales), *rows.shape), np.int8)
    errors = np.zeros((len(scales), len(rows)))
    start = 0
    for moments in second_moments:
        part = slice(start, start + moments.shape[-1])
        block = np.ascontiguousarray(rows[:, part], np.float64)
        factors = _inverse_factors(moments)
        for number, tried in enumerate(scales):
            codes[number][:, part], found = _gptq(block, tried, moments, factors, paired=paired)
            errors[number] += found
        start = part.stop
    best, row = errors.argmin(axis=0), np.arange(len(rows))
    return codes[best, row], np.stack(scales)[best, row]


def gptq(
    rows: Rows,
    scales: Float64Array,
    second_moments: Float64Array,
    *,
    paired: bool,
) -> Int8Codes:
    """Chooses codes for given scales by GPTQ, which minimises the error of the outputs rather than of the weights.

    Args:
        rows: (O, K) weights.
        scales: (O,) their scales.
        second_moments: H = E[x x^T] of the inputs, (K, K) for all rows or (O, K, K) for each.
        paired: Whether neighbours must respect `PAIR_BOUND`.

    Returns:
        (O, K) codes in -127..127. No row has a larger output error d^T H d than nearest codes give it.
    """
    return _gptq(rows, scales, second_moments, _inverse_factors(second_moments), paired=paired)[0]


def _gptq(
    rows: Rows, scales: Float64Array, second_moments: Float64Array, factors: Float64Array, *, paired: bool
) -> tuple[Int8Codes, Float64Array]:
    """As `gptq`, with the Cholesky factors of H's damped inverse; (O, K) codes, and (O,) their output errors."""
    nearest = round_to_codes(rows / scales[:, None], paired=paired).astype(np.int8)
    left = rows / scales[:, None]
    codes = np.zeros(rows.shape, np.int64)
    width = rows.shape[1]
    # Blocks begin at even places, so that no pair is torn; what lies behind a block is moved once for all of its errors.
    for start in range(0, width, _BLOCK):
        end = min(start + _BLOCK, width)
        errors = np.zeros((len(rows), end - start))
        for k in range(start, end):
            codes[:, k] = _allowed_codes(left, codes, k, paired=paired)
            # (O or 1, end - k): what one unit of error here moves the following weights of the block by.
            row = factors[..., k, k:end]
            errors[:, k - start] = (left[:, k] - codes[:, k]) / row[..., 0]
            left[:, k:end] -= errors[:, k - start, None] * row
        rest = factors[..., start:end, end:]
        left[:, end:] -= np.matmul(errors[:, None, :], rest)[:, 0] if rest.ndim == 3 else errors @ rest
    del left
    chosen = codes.astype(np.int8)
    errors, nearest_errors = (output_errors(rows, item, scales, second_moments) for item in (chosen, nearest))
    worse = errors > nearest_errors
    chosen[worse] = nearest[worse]
    return chosen, np.where(worse, nearest_errors, errors)


def output_errors(
    rows: Rows, codes: Codes | Int8Codes, scales: Float64Array, second_moments: Float64Array
) -> Float64Array:
    """(O,) d^T H d: the mean squared error of each output channel."""
    difference = codes * scales[:, None] - rows
    if second_moments.ndim == 3:
        return np.asarray(np.einsum("ok,okl,ol->o", difference, second_moments, difference))
    return np.asarray(((difference @ second_moments) * difference).sum(axis=1))


def _allowed_codes(left: Rows, codes: Codes, k: int, *, paired: bool) -> Codes:
    """(O,) nearest codes of weight k that the pair constraint allows beside its neighbour."""
    wanted = np.clip(np.rint(left[:, k]), -MAX_CODE, MAX_CODE).astype(np.int64)
    if not paired:
        return wanted
    if k % 2 == 0:
        if k + 1 == left.shape[1]:
            return wanted
        here, there = left[:, k], left[:, k + 1]
        crowded = (np.sign(here) == np.sign(there)) & (np.abs(here) + np.abs(there) > PAIR_BOUND)
        share, _ = split_bound(np.abs(here), np.abs(there))
        return np.where(crowded, np.sign(wanted) * np.minimum(share, np.abs(wanted)), wanted)
    before = codes[:, k - 1]
    room = np.where(np.sign(before) == np.sign(wanted), PAIR_BOUND - np.abs(before), MAX_CODE)
    return np.sign(wanted) * np.minimum(np.abs(wanted), room)


def _inverse_factors(second_moments: Float64Array) -> Float64Array:
    """Upper Cholesky factors U of the damped inverse, U^T U = H^-1; (K, K) or (O, K, K)."""
    size = second_moments.shape[-1]
    mean = np.trace(second_moments, axis1=-2, axis2=-1) / size
    # Inputs that are always zero leave a row without information: rounding there is to the nearest code.
    mean = np.where(mean > 0, mean, 1.0)
    damped = second_moments.copy()
    places = np.arange(size)
    damped[..., places, places] += (_DAMPING * mean)[..., None]
    inverse = np.linalg.inv(damped)
    # Matrices of wide layers are large: one is given back, or written to again, as soon as it has served.
    np.add(inverse, np.swapaxes(inverse, -1, -2), out=damped)
    del inverse
    damped /= 2
    lower = np.linalg.cholesky(damped)
    return np.asarray(np.swapaxes(lower, -1, -2))
