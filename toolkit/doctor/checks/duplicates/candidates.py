"""Candidates for copies: nearest neighbours by whitened thumbnails, without a pretrained network.

The descriptor of an image, and of five crops of it, is its luma on a 12 x 12 grid, whitened over the data set. It is compared
with those of all other images in eight orientations: N images take 18 N^2 products of 144-vectors and N x 144 floats; tiles
bound the rest.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgeclf.runtime.arrays import Float64Array, FloatArray, IntArray, UInt8Array
from edgeclf.runtime.images._opencv import cv2
from edgeclf.toolkit.doctor.checks.duplicates.same_image import MIRRORED, ORIENTATIONS
from edgeclf.toolkit.doctor.facts import THUMBNAIL

_GRID = 12
# Similarity from which on a pair is verified: 1 of 10,000 pairs of unrelated photographs reaches 0.47, and crops by 5 % reach
# 0.77 with their original.
_MIN_SIMILARITY = 0.5
# Most neighbours verified per image and split, and most pairs verified in total.
_NEAREST = 8
MAX_PAIRS = 100_000
_ROWS, _COLUMNS = 512, 4096
# Crops that are tried: side and offset of the centre as fractions of the image; registration refines them.
_CROPS = ((1.0, 0.0, 0.0), (0.95, 0.0, 0.0), *((0.93, x, y) for x in (-0.035, 0.035) for y in (-0.035, 0.035)))


@dataclass(frozen=True)
class Candidate:
    """A pair of images with similar descriptors.

    Attributes:
        outer: Row of the image that may contain the other.
        inner: Row of the other image.
        crop: Number of the outer image's crop that is similar to the inner image, see `crop_map`.
        orientation: Orientation of the inner image, see `oriented`.
        similarity: Dot product of the unit descriptors, -1..1.
    """

    outer: int
    inner: int
    crop: int
    orientation: int
    similarity: float


def luma(thumbnail: UInt8Array) -> UInt8Array:
    """(H, W) uint8 luma of (H, W, 3) uint8 BGR."""
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(thumbnail), cv2.COLOR_BGR2GRAY), np.uint8)


def crop_map(crop: int) -> Float64Array:
    """(2, 3) affine map from a crop to its image, in fractions of the sides."""
    side, x, y = _CROPS[crop]
    return np.array([[side, 0.0, (1.0 - side) / 2 + x], [0.0, side, (1.0 - side) / 2 + y]])


def _grids(thumbnails: UInt8Array, rows: IntArray, crops: Sequence[int]) -> FloatArray:
    """(crops, rows, grid, grid) luma minus its mean, unit length; zero for images without contrast."""
    grids = np.empty((len(crops), len(rows), _GRID, _GRID), np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for position, row in enumerate(rows):
        whole = luma(thumbnails[row])
        for number, crop in enumerate(crops):
            view = whole
            if crop:
                # From pixel centres to pixel centres.
                warp = crop_map(crop) * [1.0, 1.0, THUMBNAIL]
                warp[:, 2] += warp[:, :2] @ [0.5, 0.5] - 0.5
                view = cv2.warpAffine(whole, warp, whole.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
            grids[number, position] = cv2.resize(view.astype(np.float32), (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    grids -= grids.mean(axis=(2, 3), keepdims=True)
    length = np.linalg.norm(grids, axis=(2, 3), keepdims=True)
    # Compression adds up to half a grey level of standard deviation to an image of one colour.
    return np.where(length < 0.5 * _GRID, 0.0, grids / np.maximum(length, 1e-6)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Whitening:
    """Regularized whitening over a data set, so that a shared frame or background makes no images similar."""

    mean: FloatArray
    directions: FloatArray

    @classmethod
    def of(cls, grids: FloatArray) -> "_Whitening":
        vectors = grids.reshape(len(grids), -1)
        mean = vectors.mean(axis=0)
        variances, directions = np.linalg.eigh(
            np.cov(vectors - mean, rowvar=False) if len(vectors) > 1 else np.eye(144)
        )
        # The added mean variance keeps directions of little variance from being amplified.
        damped = np.maximum(variances, 0.0) + max(float(variances.mean()), 1e-9)
        return cls(mean, (directions / np.sqrt(damped)).astype(np.float32))

    def __call__(self, grids: FloatArray) -> FloatArray:
        """(n, 144) whitened descriptors of unit length; zero for images without contrast."""
        vectors = grids.reshape(len(grids), -1)
        whitened = (vectors - self.mean) @ self.directions
        whitened /= np.maximum(np.linalg.norm(whitened, axis=1, keepdims=True), 1e-9)
        return np.asarray(np.where(np.any(vectors, axis=1, keepdims=True), whitened, 0.0), np.float32)


def _turned(grids: FloatArray, orientation: int) -> FloatArray:
    """`oriented` for (n, grid, grid)."""
    if orientation >= MIRRORED:
        grids = grids[:, :, ::-1]
    return np.rot90(grids, orientation % MIRRORED, axes=(1, 2))


# Crops are tried upright and mirrored only.
_WAYS = tuple(
    (crop, orientation)
    for crop in range(len(_CROPS))
    for orientation in (range(ORIENTATIONS) if crop == 0 else (0, MIRRORED))
)


def find_candidates(thumbnails: UInt8Array, rows: IntArray, splits: IntArray) -> tuple[list[Candidate], int]:
    """Finds candidates for copies.

    Args:
        thumbnails: (N, THUMBNAIL, THUMBNAIL, 3) uint8 BGR.
        rows: (M,) rows to compare with each other.
        splits: (M,) splits of these rows.

    Returns:
        The candidates, most similar first, and the number of those left out beyond `MAX_PAIRS`.
    """
    if len(rows) < 2:
        return [], 0
    # The nearest of every split: many similar images in one split must not displace the one in another.
    order = np.argsort(splits, kind="stable")
    rows, splits = rows[order], splits[order]
    whole = np.concatenate([_grids(thumbnails, rows[at : at + _ROWS], (0,))[0] for at in range(0, len(rows), _ROWS)])
    describe = _Whitening.of(whole)
    found: dict[tuple[int, int], Candidate] = {}
    for at in range(0, len(rows), _ROWS):
        chunk = np.arange(at, min(at + _ROWS, len(rows)))
        crops = _grids(thumbnails, rows[chunk], range(len(_CROPS)))
        outers = [describe(grids) for grids in crops]
        for outer, inner in _nearest(outers, describe, whole, splits, chunk):
            scores = [
                float(outers[crop][outer] @ describe(_turned(whole[inner : inner + 1], orientation))[0])
                for crop, orientation in _WAYS
            ]
            best = int(np.argmax(scores))
            crop, orientation = _WAYS[best]
            candidate = Candidate(int(rows[chunk[outer]]), int(rows[inner]), crop, orientation, scores[best])
            key = (min(candidate.outer, candidate.inner), max(candidate.outer, candidate.inner))
            if key not in found or found[key].similarity < candidate.similarity:
                found[key] = candidate
    ranked = sorted(found.values(), key=lambda c: (-c.similarity, c.outer, c.inner))
    return ranked[:MAX_PAIRS], max(0, len(ranked) - MAX_PAIRS)


def _nearest(
    outers: Sequence[FloatArray], describe: _Whitening, whole: FloatArray, splits: IntArray, chunk: IntArray
) -> Iterator[tuple[int, int]]:
    """Yields the nearest images of every split: position in the chunk, position in `whole`."""
    for split in np.unique(splits):
        first, last = np.searchsorted(splits, [split, split + 1])
        kept: list[Float64Array] = []
        for at in range(int(first), int(last), _COLUMNS):
            columns = np.arange(at, min(at + _COLUMNS, int(last)))
            turned = [describe(_turned(whole[columns], orientation)) for orientation in range(ORIENTATIONS)]
            best = np.full((len(chunk), len(columns)), -1.0, np.float32)
            product = np.empty_like(best)
            for crop, orientation in _WAYS:
                np.matmul(outers[crop], turned[orientation].T, out=product)
                np.maximum(best, product, out=best)
            best[chunk[:, None] == columns[None, :]] = -1.0
            if len(columns) > _NEAREST:
                # Everything below the k-th best of its row.
                limit = np.partition(best, len(columns) - _NEAREST, axis=1)[:, len(columns) - _NEAREST]
                best[best < limit[:, None]] = -1.0
            outer, inner = np.nonzero(best >= _MIN_SIMILARITY)
            kept.append(np.column_stack([outer, columns[inner], best[outer, inner]]))
        pairs = np.concatenate(kept)
        pairs = pairs[np.lexsort((pairs[:, 1], -pairs[:, 2], pairs[:, 0]))]
        taken: Counter[int] = Counter()
        for outer, inner, _ in pairs.tolist():
            taken[int(outer)] += 1
            if taken[int(outer)] <= _NEAREST:
                yield int(outer), int(inner)
