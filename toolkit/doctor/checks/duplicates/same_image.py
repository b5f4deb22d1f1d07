"""Whether two pictures are one: laid on each other by their content, then compared detail by detail."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edgeclf.runtime.arrays import Float64Array, FloatArray, UInt8Array
from edgeclf.runtime.images.preprocess import resize

# Quarter turns 0..3, then the same after swapping left and right.
ORIENTATIONS = 8
MIRRORED = 4
# A side of a copy may reach this share of the side beyond the picture it was taken from: half of what one pixel of a
# 112-pixel picture is, and ten times what the alignment errs by on re-encoded photographs.
_BEYOND = 0.0045
# Where no picture holds the other, they show the same if this share of the smaller one lies in both.
_OVERLAP = 0.9
# Beyond this, in grey levels, two pixels differ by more than strong JPEG compression changes them.
_NOISE = 3.0
# Detail agrees where its difference has less than this share of its amplitude.
_DIFFERENCE = 0.5
# Share of the places that have detail which may disagree, and share of all places that must have detail. Measured: at most
# 0.009 disagree of photographs and textures cropped by 10 %, mirrored, halved and compressed at quality 50; of different
# pictures that could be aligned, 0.45 and more.
_MAY_DISAGREE = 0.03
_MUST_TELL = 0.05
# Grey levels by which the mean colour of a sixty-fourth of the picture may differ.
_COLOUR = 16.0
_CELLS = 8


@dataclass(frozen=True)
class Match:
    """How one picture lies in another.

    Attributes:
        inner_in_outer: (2, 3) float64, from the inner picture to the outer one, both (0, 0)..(1, 1).
        orientation: What was done to the inner picture first, see `oriented`.
        contained: Whether one of the two shows nothing that the other does not show.
        overlap: Area that both show, over that of the smaller one.
        kept: Area of the smaller one over that of the larger one.
    """

    inner_in_outer: Float64Array
    orientation: int
    contained: bool
    overlap: float
    kept: float

    @property
    def inner_is_smaller(self) -> bool:
        """Whether the inner picture shows less than the outer one."""
        return abs(float(np.linalg.det(self.inner_in_outer[:, :2]))) < 1.0

    @property
    def off_centre(self) -> float:
        """How far the smaller one's middle is from the larger one's, in shares of the larger one's side."""
        smaller = self.inner_in_outer if self.inner_is_smaller else _inverse(self.inner_in_outer)
        return float(np.abs(smaller @ [0.5, 0.5, 1.0] - 0.5).max())


def oriented(image: npt.NDArray[np.generic], orientation: int) -> npt.NDArray[np.generic]:
    """A picture (H, W, ...) mirrored from 4 on, then turned by a quarter `orientation % 4` times."""
    if orientation >= MIRRORED:
        image = image[:, ::-1]
    return np.ascontiguousarray(np.rot90(image, orientation % MIRRORED))


def match(outer_bgr: UInt8Array, inner_bgr: UInt8Array, start: Float64Array, orientation: int) -> Match | None:
    """How `inner_bgr` lies in `outer_bgr`, None where they are not the same picture.

    The alignment maximizes the correlation of the two (Evangelidis and Psarakis 2008, ECC) over affine maps. They are the
    same picture where, after one gain and one offset for brightness, the detail of every place agrees to half of its
    amplitude or to what JPEG compression leaves, and so do the mean colours of an 8 x 8 grid.

    Args:
        outer_bgr: (S, S, 3) uint8 BGR, the whole picture stretched to a square.
        inner_bgr: The same of the other picture.
        start: (2, 3), where the inner picture may lie in the outer one, in shares of the sides.
        orientation: What is done to the inner picture first.
    """
    inner_bgr = np.asarray(oriented(inner_bgr, orientation), np.uint8)
    warp = _align(_luma(outer_bgr), _luma(inner_bgr), _in_pixels(start, len(inner_bgr)))
    if warp is None or not _agree(outer_bgr, inner_bgr, warp):
        return None
    found = _in_shares(warp, len(inner_bgr))
    overlap, kept = _shared_area(found)
    contained = _beyond(found) <= _BEYOND or _beyond(_inverse(found)) <= _BEYOND
    return Match(found, orientation, contained, overlap, kept) if contained or overlap >= _OVERLAP else None


def prealign(outer: UInt8Array, inner: UInt8Array, start: Float64Array, orientation: int) -> Float64Array | None:
    """A better `start` for `match` from small copies (S, S) uint8 luma, None where they cannot be brought to agree."""
    # Measured: copies cropped by 10 %, mirrored, halved and compressed at quality 50 reach 0.92 and more, of different
    # photographs that look alike one in ten reaches 0.88.
    turned = np.asarray(oriented(inner, orientation), np.float32)
    warp = _align(np.asarray(outer, np.float32), turned, _in_pixels(start, len(inner)), steps=8, enough=0.88)
    return None if warp is None else _in_shares(warp, len(inner))


def square(image_bgr: UInt8Array, side: int) -> UInt8Array:
    """The whole picture stretched to a square."""
    return resize(image_bgr, (side, side))


def _luma(image_bgr: UInt8Array) -> FloatArray:
    return np.asarray(cv2.cvtColor(image_bgr, cv2.COLOR_BGR2GRAY), np.float32)


def _align(
    outer: FloatArray, inner: FloatArray, start: FloatArray, steps: int = 40, enough: float = 0.9
) -> FloatArray | None:
    """The affine map from inner to outer pixels that correlates best; None where the correlation stays below `enough`."""
    if min(float(outer.std()), float(inner.std())) < 1.0:
        return None
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, steps, 1e-5)
    try:
        correlation, warp = cv2.findTransformECC(inner, outer, start.copy(), cv2.MOTION_AFFINE, stop, None, 3)
    except cv2.error:
        # It does not converge, or the two do not overlap.
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
    tells = inside & (amplitude > 2.0 * _NOISE)
    if tells.sum() < _MUST_TELL * inside.sum() or not tells.any():
        return False
    disagrees = inside & (difference > np.maximum(_NOISE, _DIFFERENCE * amplitude))
    if disagrees.sum() > _MAY_DISAGREE * tells.sum():
        return False
    offset = float(inner[inside].mean() - gain * moved[inside].mean())
    colours = [cv2.resize(image, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA) for image in (moved_bgr, inner_bgr)]
    expected = gain * colours[0].astype(np.float32) + offset
    return bool(np.quantile(np.abs(expected - colours[1]), 0.95) <= _COLOUR)


def _detail(luma: FloatArray) -> FloatArray:
    """Detail of a few pixels: JPEG compression and interpolation change what is finer."""
    return np.asarray(cv2.GaussianBlur(luma, (0, 0), 1.0) - cv2.GaussianBlur(luma, (0, 0), 3.0), np.float32)


def _amplitude(detail: FloatArray) -> FloatArray:
    """Root mean square around every place."""
    # A running sum may end a little below zero.
    return np.asarray(np.sqrt(np.maximum(cv2.boxFilter(detail**2, -1, (8, 8)), 0.0)), np.float32)


# Shares of a side run from the first pixel's outer edge to the last one's: pixel centres lie half a pixel inside.
def _in_pixels(shares: Float64Array, side: int) -> FloatArray:
    linear = shares[:, :2]
    return np.column_stack([linear, shares[:, 2] * side + linear @ [0.5, 0.5] - 0.5]).astype(np.float32)


def _in_shares(pixels: FloatArray, side: int) -> Float64Array:
    linear = pixels[:, :2].astype(np.float64)
    return np.column_stack([linear, (pixels[:, 2] + 0.5 - linear @ [0.5, 0.5]) / side])


def _inverse(shares: Float64Array) -> Float64Array:
    inverse = np.linalg.inv(shares[:, :2])
    return np.column_stack([inverse, -inverse @ shares[:, 2]])


def _corners(shares: Float64Array) -> Float64Array:
    """(4, 2), in order around the picture."""
    return np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) @ shares[:, :2].T + shares[:, 2]


def _beyond(shares: Float64Array) -> float:
    corners = _corners(shares)
    return float(max(0.0, -corners.min(), corners.max() - 1.0))


def _shared_area(shares: Float64Array) -> tuple[float, float]:
    """The area that both show over that of the smaller picture, and the smaller picture's over the larger one's."""
    # Counted on a grid of points of the inner picture: clipping polygons errs where edges almost coincide, as they do here.
    middles = (np.arange(100) + 0.5) / 100
    points = np.stack(np.meshgrid(middles, middles), axis=-1) @ shares[:, :2].T + shares[:, 2]
    area = abs(float(np.linalg.det(shares[:, :2])))
    shared = area * float(((points >= 0.0) & (points <= 1.0)).all(axis=-1).mean())
    return shared / min(1.0, area), min(1.0, area) / max(1.0, area)
