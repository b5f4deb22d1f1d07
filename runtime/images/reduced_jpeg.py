"""Large JPEGs decoded at a half, a quarter or an eighth of their size, for an input that needs no more.

A decoder that computes only the low frequencies of each 8 x 8 block saves most of its work, and the steps behind it have
fewer pixels to go through. Two rules keep the result close to that of full decoding. Enough pixels are left for each
pixel of the input that INTER_AREA still antialiases: two for a half, four for a quarter, eight for an eighth, as the
coarser transforms antialias less themselves. And the reduced image is resampled so that whole numbers of its pixels make
one of the input's; otherwise a crop could begin only at a whole reduced pixel.

Measured in benchmarks/README.md, "JPEGs decoded at a reduced size".
"""

import numpy as np

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.images._opencv import cv2
from edgeclf.runtime.images.fit_modes import filled_size, kept_region
from edgeclf.runtime.images.header import ImageHeader
from edgeclf.runtime.spec import AREA, Preprocess

# JPEG scale denominator -> least decoded pixels for each pixel of the input, along both axes.
_PIXELS_LEFT = {8: 8.0, 4: 4.0, 2: 2.0}
_MANY_LEFT = 4.0
# Beyond the part that the input shows: the next cut may round to one pixel more.
_MARGIN = 2
_SIDEWAYS = frozenset((5, 6, 7, 8))
# EXIF orientations whose upright image begins where the stored one ends, along each axis.
_ENDS_LEFT = frozenset((2, 3, 6, 7))
_ENDS_TOP = frozenset((3, 4, 7, 8))


def upright_size(header: ImageHeader) -> tuple[int, int]:
    """Height and width of the upright image."""
    return (header.width, header.height) if header.orientation in _SIDEWAYS else (header.height, header.width)


def jpeg_reduction(header: ImageHeader, preprocess: Preprocess) -> int:
    """The denominator of the scale at which a JPEG may be decoded for a model's input: 8, 4, 2 or 1.

    Args:
        header: What the file says about itself.
        preprocess: Input size and fit mode.

    Returns:
        8, 4 or 2 where as many pixels are left for every one of the input, along both axes, after fitting and cropping;
        otherwise, for other formats than JPEG, and for other interpolations than the area's, 1: those are for models whose
        trainer decoded all pixels.
    """
    if header.format != "jpeg" or preprocess.interpolation != AREA:
        return 1
    pixels = min(_pixels_per_input_pixel(upright_size(header), preprocess))
    return next((reduction for reduction, left in _PIXELS_LEFT.items() if pixels >= left * reduction), 1)


def lay_on_input(reduced_bgr: UInt8Array, header: ImageHeader, reduction: int, preprocess: Preprocess) -> UInt8Array:
    """Resamples a reduced image so that `preprocess_bgr` cuts the same region as of the full one, in whole pixels.

    Args:
        reduced_bgr: (H, W, 3) uint8, upright: the image at `1 / reduction` of its size, rounded up.
        header: What the file says about itself.
        reduction: 2, 4 or 8.
        preprocess: What comes next.

    Returns:
        (H, W, 3) uint8, of nearly the same size or somewhat smaller; black where `preprocess` cuts it away.
    """
    size_hw = upright_size(header)
    region, filled = kept_region(size_hw, preprocess), filled_size(size_hw, preprocess)
    # Pixels of the result for one of the input, a whole number along each axis; the same for both where aspect is kept.
    wholes = [_whole(pixels / reduction) for pixels in _pixels_per_input_pixel(size_hw, preprocess)]
    rows, columns = wholes if preprocess.fit == "stretch" else (min(wholes), min(wholes))
    # Pixels of the full image for one of the result.
    step_y, step_x = region.height / (rows * filled[0]), region.width / (columns * filled[1])
    result_hw = round(size_hw[0] / step_y), round(size_hw[1] / step_x)
    kept = kept_region(result_hw, preprocess)
    top, left = max(0, kept.top - _MARGIN), max(0, kept.left - _MARGIN)
    bottom = min(result_hw[0], kept.top + kept.height + _MARGIN)
    right = min(result_hw[1], kept.left + kept.width + _MARGIN)
    # The decoder rounds up; what it adds comes first where the image was turned round.
    added_y = reduced_bgr.shape[0] * reduction - size_hw[0] if header.orientation in _ENDS_TOP else 0
    added_x = reduced_bgr.shape[1] * reduction - size_hw[1] if header.orientation in _ENDS_LEFT else 0
    # Centre of a pixel of the result, to the full image, to the reduced one.
    begin_y = (region.top + (top - kept.top + 0.5) * step_y + added_y) / reduction - 0.5
    begin_x = (region.left + (left - kept.left + 0.5) * step_x + added_x) / reduction - 0.5
    matrix = np.array([[step_x / reduction, 0, begin_x], [0, step_y / reduction, begin_y]])
    result = np.zeros((*result_hw, 3), np.uint8)
    result[top:bottom, left:right] = cv2.warpAffine(
        reduced_bgr,
        matrix,
        (right - left, bottom - top),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return result


def _whole(left: float) -> int:
    # Where many are left, every pixel need not be kept to antialias.
    return round(left) if left < _MANY_LEFT else max(round(_MANY_LEFT * 0.7), round(left * 0.7))


def _pixels_per_input_pixel(size_hw: tuple[int, int], preprocess: Preprocess) -> tuple[float, float]:
    region, filled = kept_region(size_hw, preprocess), filled_size(size_hw, preprocess)
    return region.height / filled[0], region.width / filled[1]
