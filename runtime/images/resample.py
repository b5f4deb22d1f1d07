"""Antialiased bilinear and bicubic resampling as Pillow computes it, in NumPy; no files, no model.

PyTorch trainers - torchvision on PIL images, timm, Hugging Face - evaluate on images that `PIL.Image.resize` made, and
OpenCV has no interpolation that gives the same pixels. The algorithm is that of Pillow's `src/libImaging/Resample.c`:
filters whose support grows with the factor of the reduction (a = -0.5 in the bicubic one, R. Keys, "Cubic convolution
interpolation for digital image processing", 1981), coefficients rounded to 22 fractional bits, columns before rows, and
8-bit pixels in between.

A pass is a product of matrices that are zero outside a band, block by block, in float32: the coefficients are split into a
high and a low part of so few bits that every partial sum is a whole number below 2 ** 24. So the sums are exact, and the
pixels are the same on every CPU and with every BLAS.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from edgeclf.runtime.arrays import Float64Array, FloatArray, IntArray, UInt8Array
from edgeclf.runtime.images._opencv import cv2
from edgeclf.runtime.images.fit_modes import Region
from edgeclf.runtime.spec import Interpolation

# Half the width of each filter, in pixels of whichever of image and result has the larger ones.
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
# Fractional bits of Pillow's coefficients: 32 less 8 of the pixels and 2 for sums below 0 and above 1.
_COEFFICIENT_BITS = 32 - 8 - 2
# Absolute coefficients sum to less than 1.5, and 1.5 * 255 * 2 ** (22 - 7) < 2 ** 24; so do up to 1,028 low parts of 2 ** 6.
_LOW_BITS = 7
# OpenBLAS starts threads, which would compete with the other workers, only for products of more multiplications than these.
_SINGLE_THREAD_PRODUCT = 2**18
# The longest side of an image: JPEG has 16 bits for it. Coefficients take some 1 KB of memory for each of its pixels.
MAX_SIDE = 2**16
# Up to here coefficients are kept for the next image of that size.
_KEPT_SIDE = 2**13
# float32 values that are converted at a time, where one product has fewer: they stay in a core's second-level cache.
_STRIP_VALUES = 2**18


class _Band(NamedTuple):
    """The coefficients of one axis, for blocks of neighbouring pixels of the result.

    Attributes:
        starts: (blocks,) position of the first pixel that each block reads, counted from `begin`.
        matrices: (blocks, pixels read * 3, 2 * block * 3) float32: high and low parts, the same for each of three channels.
        begin: First pixel of the image that any block reads.
        end: One past the last.
        size: Number of pixels of the result.
    """

    starts: tuple[int, ...]
    matrices: FloatArray
    begin: int
    end: int
    size: int


def resample(image: UInt8Array, size_hw: tuple[int, int], interpolation: Interpolation, window: Region) -> UInt8Array:
    """The pixels of a window of a resized image, as `PIL.Image.resize(...).crop(...)` gives them.

    Pixels beside the window contribute at its edges as they do in the whole; none outside of it is computed.

    Args:
        image: (H, W, 3) uint8, the channels in any order, no side longer than `MAX_SIDE`.
        size_hw: Height and width to which the whole image is resized.
        interpolation: `bilinear` or `bicubic`.
        window: The part of the resized image that is wanted, inside `size_hw`.

    Returns:
        (window.height, window.width, 3) uint8; perhaps a view of `image`.
    """
    rows = None
    # An axis that keeps its length is not filtered.
    if image.shape[0] == size_hw[0]:
        image = image[window.top : window.top + window.height]
    else:
        rows = _band_of(image.shape[0], size_hw[0], window.top, window.height, interpolation)
        image = image[rows.begin : rows.end]
    if image.shape[1] == size_hw[1]:
        image = image[:, window.left : window.left + window.width]
    else:
        columns = _band_of(image.shape[1], size_hw[1], window.left, window.width, interpolation)
        image = _resample_columns(image[:, columns.begin : columns.end], columns)
    if rows is not None:
        image = cv2.transpose(_resample_columns(cv2.transpose(np.ascontiguousarray(image)), rows))
    return np.asarray(image, np.uint8)


def _band_of(image_px: int, resized_px: int, begin: int, size: int, interpolation: Interpolation) -> _Band:
    make = _kept_band if image_px <= _KEPT_SIDE else _band
    return make(image_px, resized_px, begin, size, interpolation)


def _resample_columns(image: UInt8Array, band: _Band) -> UInt8Array:
    """(H, W, 3) to (H, band.size, 3)."""
    height, width = image.shape[:2]
    blocks, values_read, values_made = band.matrices.shape
    rows_a_product = max(1, min(height, _SINGLE_THREAD_PRODUCT // (values_read * values_made)))
    products = max(1, min(-(-height // rows_a_product), _STRIP_VALUES // (rows_a_product * width * 3)))
    rows_a_strip = rows_a_product * products
    strip = np.zeros((rows_a_strip, width, 3), np.float32)
    by_product = strip.reshape(products, rows_a_product, width * 3)
    sums = np.empty((products, rows_a_product, blocks, values_made), np.float32)
    # rows, blocks, high and low part, pixels of a block with their channels
    parts = sums.reshape(rows_a_strip, blocks, 2, values_made // 2)
    pixels, low = np.empty((2, rows_a_strip, blocks, values_made // 2), np.int32)
    result = np.empty((height, band.size, 3), np.uint8)
    for top in range(0, height, rows_a_strip):
        count = min(rows_a_strip, height - top)
        strip[:count] = image[top : top + count]
        for block, start in enumerate(band.starts):
            np.matmul(by_product[..., 3 * start : 3 * start + values_read], band.matrices[block], out=sums[:, :, block])
        np.copyto(pixels, parts[:, :, 0], casting="unsafe")
        np.copyto(low, parts[:, :, 1], casting="unsafe")
        pixels <<= _LOW_BITS
        pixels += low
        pixels += 1 << (_COEFFICIENT_BITS - 1)
        pixels >>= _COEFFICIENT_BITS
        np.clip(pixels, 0, 255, out=pixels)
        # The last block may reach beyond the result.
        result[top : top + count] = pixels.reshape(rows_a_strip, -1, 3)[:count, : band.size]
    return result


def _band(image_px: int, resized_px: int, begin: int, size: int, interpolation: Interpolation) -> _Band:
    """The coefficients of pixels `begin` to `begin + size` of an axis of `image_px` pixels that becomes `resized_px` long."""
    first, coefficients = _coefficients(image_px, resized_px, begin, size, interpolation)
    taps = coefficients.shape[1]
    # A block reads what any of its pixels does: few a block waste few multiplications, many make products efficient.
    block = min(size, _pixels_a_block(image_px / resized_px))
    blocks = -(-size // block)
    lowest, highest = int(first[0]), min(image_px, int(first[-1]) + taps)
    starts = first[::block] - lowest
    read = (
        int(max(first[min(size, (number + 1) * block) - 1] - first[number * block] for number in range(blocks))) + taps
    )
    read = min(read, highest - lowest)
    starts = np.minimum(starts, highest - lowest - read)
    parts = np.zeros((blocks, read, 3, 2, block, 3), np.float32)
    high = (coefficients + (1 << (_LOW_BITS - 1))) >> _LOW_BITS
    for part, values in enumerate((high, coefficients - (high << _LOW_BITS))):
        pixel, tap = np.nonzero(values)
        number = pixel // block
        position = first[pixel] + tap - lowest - starts[number]
        for channel in range(3):
            parts[number, position, channel, part, pixel % block, channel] = values[pixel, tap]
    matrices = parts.reshape(blocks, read * 3, 2 * block * 3)
    matrices.flags.writeable = False
    return _Band(tuple(starts.tolist()), matrices, lowest, highest, size)


_kept_band = lru_cache(maxsize=8)(_band)


def _pixels_a_block(factor: float) -> int:
    # Measured: the fastest for photographs of 0.2 to 12 megapixels.
    return 8 if factor < 1 else 4 if factor < 4 else 2


def _coefficients(
    image_px: int, resized_px: int, begin: int, size: int, interpolation: Interpolation
) -> tuple[IntArray, IntArray]:
    """Pillow's coefficients for pixels `begin` to `begin + size` of an axis.

    Returns:
        (size,) int64, the first pixel of the image that each of them reads, and (size, taps) int64, its coefficients times
        2 ** 22; 0 past the last pixel that it reads.
    """
    factor = image_px / resized_px
    stretch = max(1.0, factor)
    support = _SUPPORT[interpolation] * stretch
    centre = (np.arange(begin, begin + size) + 0.5) * factor
    # Truncated towards 0 and then kept inside of the image, which is the same as rounding down first.
    first = np.maximum(0, np.floor(centre - support + 0.5)).astype(np.int64)
    end = np.minimum(image_px, np.floor(centre + support + 0.5)).astype(np.int64)
    position = first[:, None] + np.arange(int((end - first).max()))
    weights = _filter((position - centre[:, None] + 0.5) * (1.0 / stretch), interpolation)
    weights[position >= end[:, None]] = 0.0
    # Added up one after the other: the pairwise sum of `numpy.sum` may differ in the last bit.
    weights /= np.cumsum(weights, axis=1)[:, -1:]
    return first, np.trunc(weights * (1 << _COEFFICIENT_BITS) + np.copysign(0.5, weights)).astype(np.int64)


def _filter(distance: Float64Array, interpolation: Interpolation) -> Float64Array:
    x = np.abs(distance)
    if interpolation == "bilinear":
        return np.maximum(0.0, 1.0 - x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
