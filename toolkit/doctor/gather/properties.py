"""Image and file properties: brightness, sharpness, noise, compression and others that differ between cameras and set-ups."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from edgeclf.runtime.arrays import AnyArray, FloatArray, IntArray, UInt8Array
from edgeclf.runtime.images._opencv import cv2
from edgeclf.runtime.images.header import ImageHeader
from edgeclf.runtime.images.preprocess import resize

# Short side in pixels of the downscaled copy for properties that do not depend on resolution.
_SHORT_SIDE = 256
# Side in pixels of the central crop at full resolution, where blur and compression show.
_CENTRE = 512
# Side of a corner patch as a fraction of the image's side.
_CORNER = 0.08
# Zero on planes; Immerkaer's filter.
_PLANES = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
# Largest standard deviation of a border line's pixels; above zero, because frames saved as JPEG ring.
_UNIFORM = 5.0

# Properties with a description of each; brightness and colours in units of 0..255.
PROPERTIES: Mapping[str, str] = {
    "file_bytes": "file size in bytes",
    "bytes_per_pixel": "file size for each pixel",
    "width": "width in pixels, upright",
    "height": "height in pixels, upright",
    "megapixels": "number of pixels in millions",
    "aspect": "width divided by height",
    "orientation": "EXIF orientation, 1 for upright",
    "jpeg_quality": "quality setting of the JPEG encoder, 1..100, by its quantization tables; none for other formats",
    "brightness": "mean luma",
    "contrast": "standard deviation of the luma",
    "dark_share": "fraction of pixels with a luma below 10",
    "bright_share": "fraction of pixels with a luma above 245",
    "saturation": "mean saturation (HSV)",
    "red": "mean of the red channel",
    "green": "mean of the green channel",
    "blue": "mean of the blue channel",
    "channel_spread": "mean difference between the largest and the smallest channel: about 0 for grey images",
    "sharpness": "logarithm of the variance of the Laplacian, image shrunk to a short side of 256 pixels",
    "fine_sharpness": "logarithm of the variance of the Laplacian over that of the luma, at the image's own resolution",
    "high_frequency": "fraction of the spectral energy above half the highest frequency, at the image's own resolution",
    "blockiness": "steps across the borders of 8 x 8 blocks over those inside, at the image's own resolution",
    "edge_sharpness": "steepest edges (99th percentile of the gradient) over those at half the resolution, as a power of two: "
    "near 0 where edges are crisp, -1 where they are blurred",
    "noise": "noise in units of the luma where the image is smoothest (10th percentile of 8 x 8 blocks)",
    "border": "fraction of the image that is a frame of one colour",
    "corner_spread": "largest difference between the four corners' mean luma and that of their neighbourhood",
}


def measure_properties(image_bgr: UInt8Array, header: ImageHeader, data: bytes) -> dict[str, float]:
    """Measures the properties of one image.

    Args:
        image_bgr: (H, W, 3) uint8 BGR, upright.
        header: Header of its file.
        data: Bytes of its file.

    Returns:
        Value by name, see `PROPERTIES`; NaN where a property is not defined for the file.
    """
    height, width = image_bgr.shape[:2]
    scale = min(1.0, _SHORT_SIDE / min(height, width))
    small = resize(image_bgr, (max(1, round(height * scale)), max(1, round(width * scale))))
    luma = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
    blue, green, red = (float(value) for value in cv2.mean(small)[:3])
    channels = cv2.split(small)
    spread = cv2.subtract(
        cv2.max(cv2.max(channels[0], channels[1]), channels[2]), cv2.min(cv2.min(channels[0], channels[1]), channels[2])
    )
    brightness, deviation = cv2.meanStdDev(luma)
    # Histogram of the 256 levels, for several properties at once.
    levels = np.bincount(luma.ravel(), minlength=256) / luma.size
    return {
        "file_bytes": float(len(data)),
        "bytes_per_pixel": len(data) / (height * width),
        "width": float(width),
        "height": float(height),
        "megapixels": height * width / 1e6,
        "aspect": width / height,
        "orientation": float(header.orientation),
        "jpeg_quality": jpeg_quality(data) if header.format == "jpeg" else float("nan"),
        "brightness": float(brightness[0, 0]),
        "contrast": float(deviation[0, 0]),
        "dark_share": float(levels[:10].sum()),
        "bright_share": float(levels[246:].sum()),
        "saturation": cv2.mean(cv2.cvtColor(small, cv2.COLOR_BGR2HSV))[1],
        "red": red,
        "green": green,
        "blue": blue,
        "channel_spread": cv2.mean(spread)[0],
        "sharpness": float(np.log10(_variance(cv2.Laplacian(luma, cv2.CV_16S)) + 1.0)),
        **_fine(_centre(image_bgr)),
        "border": _border_share(luma),
        "corner_spread": _corner_spread(luma),
    }


def jpeg_quality(data: bytes) -> float:
    """Quality setting of a JPEG file's encoder, 1..100, estimated from its luma quantization table; NaN without a table.

    The tables of the Independent JPEG Group scale with S = 5000 / q below q = 50, and 200 - 2 q from there on, in percent
    of the table in ITU-T T.81, annex K; an encoder with another table gets the q of the same mean.
    """
    table = _luma_table(data)
    if table is None:
        return float("nan")
    # The mean of the table in annex K.
    percent = 100.0 * float(table.mean()) / 57.625
    return float(np.clip(5000.0 / percent if percent > 100.0 else (200.0 - percent) / 2.0, 1.0, 100.0))


def _luma_table(data: bytes) -> IntArray | None:
    """(64,) first quantization table; None where there is none before the scan."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        # Fill bytes before a marker.
        if marker == 0xFF:
            position += 1
            continue
        if marker == 0xDB and position + 2 + length <= len(data):
            wide = data[position + 4] >> 4
            size = 128 if wide else 64
            values = data[position + 5 : position + 5 + size]
            if len(values) == size:
                return np.frombuffer(values, ">u2" if wide else np.uint8).astype(np.int64)
        if marker == 0xDA or length < 2:
            return None
        position += 2 + length
    return None


def _centre(image_bgr: UInt8Array) -> UInt8Array:
    """Luma of the central crop at full resolution, aligned to JPEG's 8 x 8 blocks."""
    height, width = image_bgr.shape[:2]
    top, left = (max(0, (side - _CENTRE) // 2) // 8 * 8 for side in (height, width))
    return np.asarray(cv2.cvtColor(image_bgr[top : top + _CENTRE, left : left + _CENTRE], cv2.COLOR_BGR2GRAY), np.uint8)


def _variance(values: AnyArray) -> float:
    return float(cv2.meanStdDev(values)[1][0, 0]) ** 2


def _fine(luma: UInt8Array) -> dict[str, float]:
    laplacian = _variance(cv2.Laplacian(luma, cv2.CV_16S))
    return {
        "fine_sharpness": float(np.log10((laplacian + 1e-3) / (_variance(luma) + 1.0))),
        "high_frequency": _high_frequency(luma),
        "blockiness": _blockiness(luma),
        "edge_sharpness": _edge_sharpness(luma),
        "noise": _noise(luma),
    }


def _edge_sharpness(luma: UInt8Array) -> float:
    """Log2 ratio of the steepest gradients at full and at half resolution; contrast and mild noise change both alike."""
    if min(luma.shape) < 16:
        return float("nan")
    half = resize(luma[..., None], (luma.shape[0] // 2, luma.shape[1] // 2))
    # Half a step of the luma keeps blank images from a division by zero.
    steepest = [_steepest(values) + 0.5 for values in (luma, half)]
    return float(np.log2(steepest[0] / steepest[1]))


def _steepest(luma: UInt8Array) -> float:
    # A Sobel filter's response to a slope of one is eight.
    slopes = [cv2.Sobel(luma, cv2.CV_32F, *order).ravel() / 8.0 for order in ((1, 0), (0, 1))]
    squared = slopes[0] ** 2 + slopes[1] ** 2
    position = int(0.99 * (len(squared) - 1))
    return float(np.sqrt(np.partition(squared, position)[position]))


def _noise(luma: UInt8Array) -> float:
    """Standard deviation of Gaussian noise by Immerkaer's filter (CVIU 64, 1996), 10th percentile over 8 x 8 blocks."""
    if min(luma.shape) < 16:
        return float("nan")
    detail = np.abs(cv2.filter2D(luma, cv2.CV_32F, _PLANES)) * (np.sqrt(np.pi / 2.0) / 6.0)
    blocks = cv2.resize(detail, (luma.shape[1] // 8, luma.shape[0] // 8), interpolation=cv2.INTER_AREA)
    return float(np.percentile(blocks, 10))


def _high_frequency(luma: UInt8Array) -> float:
    if min(luma.shape) < 16:
        return float("nan")
    window, counted, high = _spectrum_weights(luma.shape[0], luma.shape[1])
    # OpenCV's packed real transform in single precision is several times faster than NumPy's.
    packed = cv2.dft((luma - np.float32(cv2.mean(luma)[0])) * window)
    energy = cv2.multiply(packed, packed)
    total = float(np.multiply(energy, counted, out=packed).sum(dtype=np.float64))
    return float(np.multiply(energy, high, out=packed).sum(dtype=np.float64)) / (total + 1e-9)


@lru_cache(maxsize=16)
def _spectrum_weights(height: int, width: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Hann window, and weights that turn OpenCV's packed real spectrum into sums over half the plane.

    Column 0 holds the rows' frequencies from 0 to the highest, real and imaginary parts in turn, as does the last column
    of an even width; in the columns between lie, in turn, the real and imaginary parts for all the rows' frequencies
    (OpenCV's packed format). The sums are those over half the plane, which the other half repeats.

    Returns:
        (height, width) each: window, weight of each packed number, and its weight in the sum over high frequencies.
    """
    window = np.outer(np.hanning(height), np.hanning(width)).astype(np.float32)
    rows, half_rows = np.abs(np.fft.fftfreq(height)), (np.arange(height) + 1) // 2 / height
    columns = (np.arange(width) + 1) // 2 / width
    frequency = np.maximum(rows[:, None], columns[None, :])
    counted = np.ones((height, width), np.float32)
    for column in (0, width - 1) if width % 2 == 0 else (0,):
        frequency[:, column] = np.maximum(half_rows, columns[column])
        counted[1 : height - 1 if height % 2 == 0 else height, column] = 2.0
    return window, counted, counted * (frequency > 0.25)


def _blockiness(luma: UInt8Array) -> float:
    if min(luma.shape) < 24:
        return float("nan")
    ratios = []
    for steps in (
        cv2.reduce(cv2.absdiff(luma[:, 1:], luma[:, :-1]), 0, cv2.REDUCE_AVG, dtype=cv2.CV_64F).ravel(),
        cv2.reduce(cv2.absdiff(luma[1:], luma[:-1]), 1, cv2.REDUCE_AVG, dtype=cv2.CV_64F).ravel(),
    ):
        on_border = np.arange(len(steps)) % 8 == 7
        # The median, since a frame's edge is one large step that may be on a border.
        ratios.append((np.median(steps[on_border]) + 0.1) / (np.median(steps[~on_border]) + 0.1))
    return float(np.mean(ratios))


def _border_share(luma: UInt8Array) -> float:
    """Fraction of the area that uniform lines along the four sides take up."""
    height, width = luma.shape
    left_over = []
    for values in (luma, luma.T):
        inner = np.flatnonzero(values.std(axis=1) > _UNIFORM)
        left_over.append(0 if len(inner) == 0 else int(inner[-1] - inner[0] + 1))
    return float(1.0 - left_over[0] * left_over[1] / (height * width))


def _corner_spread(luma: UInt8Array) -> float:
    """Largest difference of mean luma between a corner patch and its surroundings."""
    rows, columns = (max(2, round(_CORNER * side)) for side in luma.shape)
    found = []
    for flipped in (luma, luma[::-1], luma[:, ::-1], luma[::-1, ::-1]):
        around = flipped[: 2 * rows, : 2 * columns].astype(np.float64)
        corner = around[:rows, :columns]
        rest = around.sum() - corner.sum()
        found.append(abs(corner.mean() - rest / max(1, around.size - corner.size)))
    return float(max(found))
