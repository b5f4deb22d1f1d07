"""Image registration: affine alignment of two images (ECC), then a local comparison of detail and colour."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeclf.runtime.arrays import Float64Array, FloatArray, UInt8Array
from edgeclf.runtime.images._opencv import cv2
from edgeclf.runtime.images.preprocess import resize

# Orientations: quarter turns 0..3, then the same of the mirrored image.
ORIENTATIONS = 8
MIRRORED = 4
# Largest distance by which a contained image may reach beyond the containing one, as a fraction of the side: half a pixel at
# 112 pixels, and ten times the alignment error of re-encoded photographs.
_MAX_OVERHANG = 0.0045
# Smallest overlap of a match where neither image contains the other.
_MIN_OVERLAP = 0.9
# Difference in grey levels that strong JPEG compression may cause.
_NOISE = 3.0
# Largest difference of detail relative to its amplitude for agreement.
_MAX_DIFFERENCE = 0.5
# Largest fraction of detailed places that may disagree (copies stay below 0.009, different images that could be aligned above
# 0.45), and smallest fraction of all places that must be detailed.
_MAX_DISAGREEMENT = 0.03
_MIN_DETAIL = 0.05
# Largest difference in grey levels of the mean colour in a cell of an 8 x 8 grid.
_COLOUR = 16.0
_CELLS = 8


@dataclass(frozen=True)
class Match:
    """Registration of two images of the same photograph.

    Attributes:
        inner_in_outer: (2, 3) float64 affine map from the inner to the outer image, coordinates (0, 0)..(1, 1).
        orientation: Orientation that was given to the inner image first, see `oriented`.
        contained: Whether one of the two lies inside the other.
        overlap: Common area over that of the smaller image, 0..1.
        area_ratio: Area of the smaller image over that of the larger one.
    """

    inner_in_outer: Float64Array
    orientation: int
    contained: bool
    overlap: float
    area_ratio: float

    @property
    def inner_is_smaller(self) -> bool:
        """Whether the inner image covers less area than the outer one."""
        return abs(float(np.linalg.det(self.inner_in_outer[:, :2]))) < 1.0

    @property
    def off_centre(self) -> float:
        """Distance of the smaller image's centre from the larger one's, as a fraction of the larger one's side."""
        smaller = self.inner_in_outer if self.inner_is_smaller else _inverse(self.inner_in_outer)
        return float(np.abs(smaller @ [0.5, 0.5, 1.0] - 0.5).max())


def oriented(image: npt.NDArray[np.generic], orientation: int) -> npt.NDArray[np.generic]:
    """An image (H, W, ...) in another orientation: mirrored from 4 on, then `orientation % 4` quarter turns."""
    if orientation >= MIRRORED:
        image = image[:, ::-1]
    return np.ascontiguousarray(np.rot90(image, orientation % MIRRORED))


def match(outer_bgr: UInt8Array, inner_bgr: UInt8Array, start: Float64Array, orientation: int) -> Match | None:
    """Registers two images; None where they do not show the same photograph.

    Alignment maximizes the enhanced correlation coefficient over affine maps (Evangelidis and Psarakis 2008). The images
    match where, after one gain and one offset for brightness, local detail agrees to half of its amplitude or to JPEG noise
    nearly everywhere, and so do the mean colours of an 8 x 8 grid.

    Args:
        outer_bgr: (S, S, 3) uint8 BGR, the whole image stretched to a square.
        inner_bgr: (S, S, 3) uint8 BGR of the other image.
        start: (2, 3) initial affine map from the inner to the outer image, in fractions of the sides.
        orientation: Orientation to give to the inner image first.
    """
    inner_bgr = np.asarray(oriented(inner_bgr, orientation), np.uint8)
    warp = _align(_luma(outer_bgr), _luma(inner_bgr), _in_pixels(start, len(inner_bgr)))
    if warp is None or not _agree(outer_bgr, inner_bgr, warp):
        return None
    found = _in_fractions(warp, len(inner_bgr))
    overlap, area_ratio = _shared_area(found)
    contained = _overhang(found) <= _MAX_OVERHANG or _overhang(_inverse(found)) <= _MAX_OVERHANG
    return Match(found, orientation, contained, overlap, area_ratio) if contained or overlap >= _MIN_OVERLAP else None


def prealign(outer: UInt8Array, inner: UInt8Array, start: Float64Array, orientation: int) -> Float64Array | None:
    """Refined `start` for `match` from small images (S, S) uint8 luma; None where they cannot be aligned."""
    # Copies reach a correlation of 0.92 and more; of similar but different photographs one in ten reaches 0.88.
    turned = np.asarray(oriented(inner, orientation), np.float32)
    warp = _align(np.asarray(outer, np.float32), turned, _in_pixels(start, len(inner)), steps=8, enough=0.88)
    return None if warp is None else _in_fractions(warp, len(inner))


def square(image_bgr: UInt8Array, side: int) -> UInt8Array:
    """(side, side, 3): the whole image stretched to a square."""
    return resize(image_bgr, (side, side))


def _luma(image_bgr: UInt8Array) -> FloatArray:
    return np.asarray(cv2.cvtColor(image_bgr, cv2.COLOR_BGR2GRAY), np.float32)


def _align(
    outer: FloatArray, inner: FloatArray, start: FloatArray, steps: int = 40, enough: float = 0.9
) -> FloatArray | None:
    """(2, 3) affine map from inner to outer pixels with the best correlation; None where it stays below `enough`."""
    if min(float(outer.std()), float(inner.std())) < 1.0:
        return None
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, steps, 1e-5)
    try:
        correlation, warp = cv2.findTransformECC(inner, outer, start.copy(), cv2.MOTION_AFFINE, stop, None, 3)
    except cv2.error:
        # ECC did not converge, or the images do not overlap.
        return None
    if correlation < enough or not np.isfinite(warp).all() or abs(np.linalg.det(warp[:, :2])) < 0.25:
        return None
    return np.asarray(warp, np.float32)


def _agree(outer_bgr: UInt8Array, inner_bgr: UInt8Array, warp: FloatArray) -> bool:
    side = len(inner_bgr)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved_bgr = cv2.warpAffine(outer_bgr, warp, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(np.ones(outer_bgr.shape[:2], np.uint8), warp, (side, side), flags=flags) > 0
    moved, inner = _luma(moved_bgr), _luma(inner_bgr)
    gain = float(inner[inside].std() / max(1e-3, float(moved[inside].std())))
    if not 0.5 <= gain <= 2.0:
        return False
    moved_detail, inner_detail = gain * _detail(moved), _detail(inner)
    difference = _amplitude(inner_detail - moved_detail)
    amplitude = np.maximum(_amplitude(moved_detail), _amplitude(inner_detail))
    inside = cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    detailed = inside & (amplitude > 2.0 * _NOISE)
    if detailed.sum() < _MIN_DETAIL * inside.sum() or not detailed.any():
        return False
    disagrees = inside & (difference > np.maximum(_NOISE, _MAX_DIFFERENCE * amplitude))
    if disagrees.sum() > _MAX_DISAGREEMENT * detailed.sum():
        return False
    offset = float(inner[inside].mean() - gain * moved[inside].mean())
    colours = [cv2.resize(image, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA) for image in (moved_bgr, inner_bgr)]
    expected = gain * colours[0].astype(np.float32) + offset
    return bool(np.quantile(np.abs(expected - colours[1]), 0.95) <= _COLOUR)


def _detail(luma: FloatArray) -> FloatArray:
    """Band-pass of a few pixels' scale: JPEG compression and interpolation change finer detail."""
    return np.asarray(cv2.GaussianBlur(luma, (0, 0), 1.0) - cv2.GaussianBlur(luma, (0, 0), 3.0), np.float32)


def _amplitude(detail: FloatArray) -> FloatArray:
    """Local root mean square."""
    # Rounding of the running sum may give values slightly below zero.
    return np.asarray(np.sqrt(np.maximum(cv2.boxFilter(detail**2, -1, (8, 8)), 0.0)), np.float32)


# Fractions of a side run from the first pixel's outer edge to the last one's: pixel centres lie half a pixel inside.
def _in_pixels(fractions: Float64Array, side: int) -> FloatArray:
    linear = fractions[:, :2]
    return np.column_stack([linear, fractions[:, 2] * side + linear @ [0.5, 0.5] - 0.5]).astype(np.float32)


def _in_fractions(pixels: FloatArray, side: int) -> Float64Array:
    linear = pixels[:, :2].astype(np.float64)
    return np.column_stack([linear, (pixels[:, 2] + 0.5 - linear @ [0.5, 0.5]) / side])


def _inverse(fractions: Float64Array) -> Float64Array:
    inverse = np.linalg.inv(fractions[:, :2])
    return np.column_stack([inverse, -inverse @ fractions[:, 2]])


def _corners(fractions: Float64Array) -> Float64Array:
    """(4, 2) corners of the mapped unit square, in order."""
    return np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) @ fractions[:, :2].T + fractions[:, 2]


def _overhang(fractions: Float64Array) -> float:
    corners = _corners(fractions)
    return float(max(0.0, -corners.min(), corners.max() - 1.0))


def _shared_area(fractions: Float64Array) -> tuple[float, float]:
    """Overlap (common area over that of the smaller image), and area of the smaller image over that of the larger one."""
    # Counted on a grid of points: polygon clipping is inaccurate where edges almost coincide, as here.
    middles = (np.arange(100) + 0.5) / 100
    points = np.stack(np.meshgrid(middles, middles), axis=-1) @ fractions[:, :2].T + fractions[:, 2]
    area = abs(float(np.linalg.det(fractions[:, :2])))
    shared = area * float(((points >= 0.0) & (points <= 1.0)).all(axis=-1).mean())
    return shared / min(1.0, area), min(1.0, area) / max(1.0, area)
