"""Weight quantization to int8 per output channel: the scale and codes of least error under the pair constraint.

Kernels for x86 without VNNI multiply uint8 activations by int8 weights and add two neighbouring products in 16 bits
(`vpmaddubsw`), which saturates silently. Neighbours are the elements 2i and 2i + 1 of the reduction axis, input channels
innermost. Two products of opposite sign cannot overflow; two of the same sign stay within 255 * 128 = 32,640 when their
weights' magnitudes add up to no more than `PAIR_BOUND`. So only such pairs are held back, and every other weight keeps
all of its 8 bits.

Everything here works on rows: (O, K) float64, one row an output channel, K the reduction axis in that order.
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeclf.runtime.arrays import Float64Array, FloatArray, IntArray

Rows: TypeAlias = Float64Array
Codes: TypeAlias = IntArray
# As they are kept: an eighth of what they are computed in.
Int8Codes: TypeAlias = np.ndarray[tuple[Any, ...], np.dtype[np.int8]]

PAIR_BOUND = 128
MAX_CODE = 127
# Scales that are tried, as shares of the one that maps the largest weight to 127: up to the one that maps it to 63, where
# no pair needs holding back any more, and a little below, where the few largest weights are clipped.
_SCALE_SHARES = np.geomspace(0.85, MAX_CODE / 63.0, 40)
# How many rows are worked on at a time, so that scales x rows x weights stay in the cache.
_CHUNK_VALUES = 1 << 21


def quantize_rows(
    rows: Rows | FloatArray,
    *,
    paired: bool,
    importance: Float64Array | None = None,
    smallest_scale: Float64Array | None = None,
) -> tuple[Int8Codes, Float64Array]:
    """Chooses scales and codes of least error.

    Args:
        rows: (O, K) weights, float32 or float64; computed in float64, some rows at a time.
        paired: Whether neighbours must respect `PAIR_BOUND`.
        importance: (K,) or (O, K) weights of the squared errors, such as the mean square of the inputs each weight
            meets; None counts all alike.
        smallest_scale: (O,) scale below which a row must not go, whatever its weights; None for any.

    Returns:
        (O, K) int8 codes in -127..127, and (O,) float64 positive scales that float32 represents exactly.
    """
    importance = np.ones(rows.shape[1]) if importance is None else importance
    weight = np.broadcast_to(importance, rows.shape)
    codes = np.empty(rows.shape, np.int8)
    scales = np.empty(len(rows))
    step = max(1, _CHUNK_VALUES // max(1, rows.shape[1] * len(_SCALE_SHARES)))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        least = np.zeros(len(rows[part])) if smallest_scale is None else smallest_scale[part]
        codes[part], scales[part] = _best_scales(
            np.ascontiguousarray(rows[part], np.float64), weight[part], least, paired=paired
        )
    return codes, scales


def _best_scales(rows: Rows, weight: Rows, least: Float64Array, *, paired: bool) -> tuple[Codes, Float64Array]:
    largest = np.abs(rows).max(axis=1)
    # A row of zeros has no scale of its own; any will do.
    finest = np.where(largest > 0, largest / MAX_CODE, 1.0)
    shares = _SCALE_SHARES if paired else _SCALE_SHARES[_SCALE_SHARES <= 1.0]
    # (S, O): rounded to float32 before anything is divided by them, as the file will hold them.
    tried = np.maximum(finest * shares[:, None], least).astype(np.float32).astype(np.float64)
    tried = np.maximum(tried, np.finfo(np.float32).tiny)
    codes = round_to_codes(rows / tried[:, :, None], paired=paired)
    error = (np.square(codes * tried[:, :, None] - rows) * weight).sum(axis=2)
    best = error.argmin(axis=0)
    chosen = np.arange(len(rows))
    return codes[best, chosen], tried[best, chosen]


def round_to_codes(scaled: Float64Array, *, paired: bool) -> Codes:
    """Rounds weights divided by their scale to the nearest codes that are allowed.

    Args:
        scaled: (..., K) weights in units of the scale.
        paired: Whether neighbours must respect `PAIR_BOUND`.

    Returns:
        (..., K) int64 in -127..127.
    """
    codes = np.clip(np.rint(scaled), -MAX_CODE, MAX_CODE).astype(np.int64)
    if not paired or scaled.shape[-1] < 2:
        return codes
    even = scaled.shape[-1] // 2 * 2
    first, second = codes[..., 0:even:2], codes[..., 1:even:2]
    violated = (np.sign(first) == np.sign(second)) & (np.abs(first) + np.abs(second) > PAIR_BOUND)
    if violated.any():
        shrunk, partner = split_bound(np.abs(scaled[..., 0:even:2][violated]), np.abs(scaled[..., 1:even:2][violated]))
        sign = np.sign(first[violated])
        first[violated], second[violated] = sign * shrunk, sign * partner
    return codes


def split_bound(a: Float64Array, b: Float64Array) -> tuple[Codes, Codes]:
    """The non-negative integers p + q = `PAIR_BOUND`, each at most 127, that are nearest to two magnitudes in least squares.

    The minimum of (a - p)^2 + (b - q)^2 on the line p + q = B lies at p = (B + a - b) / 2.
    """
    p = np.clip(np.rint((PAIR_BOUND + a - b) / 2), PAIR_BOUND - MAX_CODE, MAX_CODE).astype(np.int64)
    return p, PAIR_BOUND - p


def largest_pair(codes: npt.NDArray[np.integer]) -> int:
    """The largest sum of the magnitudes of two neighbours of one sign: the bound that the rows keep.

    Args:
        codes: (O, K) integers; the last element of an odd row has no neighbour and counts alone.
    """
    even = codes.shape[1] // 2 * 2
    largest = 0
    step = max(1, _CHUNK_VALUES // max(1, codes.shape[1]))
    for start in range(0, len(codes), step):
        wide = np.asarray(codes[start : start + step], np.int64)
        first, second = wide[:, 0:even:2], wide[:, 1:even:2]
        same = np.sign(first) == np.sign(second)
        sums = np.where(same, np.abs(first) + np.abs(second), np.maximum(np.abs(first), np.abs(second)))
        alone = np.abs(wide[:, even:])
        largest = max(largest, int(sums.max(initial=0)), int(alone.max(initial=0)))
    return largest
