"""Which pictures look alike: candidates for copies, found on thumbnails, so that no pretrained network is needed.

Every picture, and five crops of it, is described by 144 numbers - its luma on a 12 x 12 grid, with the directions that all
pictures of the data share damped - and compared with every other one in its eight orientations. N pictures take 18 N^2
products of such vectors and N x 144 floats; tiles keep the rest bounded.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from edgeclf.runtime.arrays import Float64Array, FloatArray, IntArray, UInt8Array
from edgeclf.toolkit.doctor.checks.duplicates.same_image import MIRRORED, ORIENTATIONS
from edgeclf.toolkit.doctor.facts import THUMBNAIL

_GRID = 12
# Correlation of two descriptions from which a pair is verified. Of unrelated photographs one pair in 10,000 reaches 0.47;
# pictures cropped by 5 % have 0.77 (textures) to 0.87 (photographs) with their original in 98 of 100 cases.
_MIN_SIMILARITY = 0.5
# Pictures that are verified for each picture, in each part, and pairs that are verified at all.
_NEAREST = 8
MAX_PAIRS = 100_000
_ROWS, _COLUMNS = 512, 4096
# Where a copy may lie in its original: side, and position of its middle; what lies between is aligned later.
_CROPS = ((1.0, 0.0, 0.0), (0.95, 0.0, 0.0), *((0.93, x, y) for x in (-0.035, 0.035) for y in (-0.035, 0.035)))


@dataclass(frozen=True)
class Candidate:
    """Two pictures that look alike.

    Attributes:
        outer: Row of the one that may hold the other.
        inner: Row of the other.
        crop: Which crop of the outer one looks like the inner one, see `crop_map`.
        orientation: What is done to the inner one first, see `oriented`.
        alike: Correlation of the descriptions.
    """

    outer: int
    inner: int
    crop: int
    orientation: int
    alike: float


def luma(thumbnail: UInt8Array) -> UInt8Array:
    """(H, W) of (H, W, 3) BGR."""
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(thumbnail), cv2.COLOR_BGR2GRAY), np.uint8)


def crop_map(crop: int) -> Float64Array:
    """(2, 3), from a crop to the picture it is taken from, in shares of the sides."""
    side, x, y = _CROPS[crop]
    return np.array([[side, 0.0, (1.0 - side) / 2 + x], [0.0, side, (1.0 - side) / 2 + y]])


def _grids(thumbnails: UInt8Array, rows: IntArray, crops: Sequence[int]) -> FloatArray:
    """(crops, rows, grid, grid): the luma, without its mean, of unit length; zero for pictures without contrast."""
    grids = np.empty((len(crops), len(rows), _GRID, _GRID), np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for position, row in enumerate(rows):
        whole = luma(thumbnails[row])
        for number, crop in enumerate(crops):
            seen = whole
            if crop:
                # From pixel centres to pixel centres.
                warp = crop_map(crop) * [1.0, 1.0, THUMBNAIL]
                warp[:, 2] += warp[:, :2] @ [0.5, 0.5] - 0.5
                seen = cv2.warpAffine(whole, warp, whole.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
            grids[number, position] = cv2.resize(seen.astype(np.float32), (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    grids -= grids.mean(axis=(2, 3), keepdims=True)
    length = np.linalg.norm(grids, axis=(2, 3), keepdims=True)
    # Half a grey level of standard deviation is what compression makes of a picture of one colour.
    return np.where(length < 0.5 * _GRID, 0.0, grids / np.maximum(length, 1e-6)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Whitening:
    """Damps what the pictures of a data set have in common, so that a shared frame or background makes none alike."""

    mean: FloatArray
    directions: FloatArray

    @classmethod
    def of(cls, grids: FloatArray) -> "_Whitening":
        vectors = grids.reshape(len(grids), -1)
        mean = vectors.mean(axis=0)
        variances, directions = np.linalg.eigh(
            np.cov(vectors - mean, rowvar=False) if len(vectors) > 1 else np.eye(144)
        )
        # Adding the mean variance keeps directions that hardly vary from being blown up.
        damped = np.maximum(variances, 0.0) + max(float(variances.mean()), 1e-9)
        return cls(mean, (directions / np.sqrt(damped)).astype(np.float32))

    def __call__(self, grids: FloatArray) -> FloatArray:
        """(n, 144) of unit length, zero for pictures without contrast."""
        vectors = grids.reshape(len(grids), -1)
        seen = (vectors - self.mean) @ self.directions
        seen /= np.maximum(np.linalg.norm(seen, axis=1, keepdims=True), 1e-9)
        return np.asarray(np.where(np.any(vectors, axis=1, keepdims=True), seen, 0.0), np.float32)


def _turned(grids: FloatArray, orientation: int) -> FloatArray:
    """As `oriented` turns pictures, for (n, grid, grid)."""
    if orientation >= MIRRORED:
        grids = grids[:, :, ::-1]
    return np.rot90(grids, orientation % MIRRORED, axes=(1, 2))


# Crops are looked for upright and mirrored only.
_WAYS = tuple(
    (crop, orientation)
    for crop in range(len(_CROPS))
    for orientation in (range(ORIENTATIONS) if crop == 0 else (0, MIRRORED))
)


def find_candidates(thumbnails: UInt8Array, rows: IntArray, parts: IntArray) -> tuple[list[Candidate], int]:
    """Pairs that look alike, the most alike first, and how many more there are than are verified."""
    if len(rows) < 2:
        return [], 0
    # Of every part the nearest ones: a part's many alike pictures must not hide the one in another part.
    order = np.argsort(parts, kind="stable")
    rows, parts = rows[order], parts[order]
    whole = np.concatenate([_grids(thumbnails, rows[at : at + _ROWS], (0,))[0] for at in range(0, len(rows), _ROWS)])
    describe = _Whitening.of(whole)
    found: dict[tuple[int, int], Candidate] = {}
    for at in range(0, len(rows), _ROWS):
        chunk = np.arange(at, min(at + _ROWS, len(rows)))
        crops = _grids(thumbnails, rows[chunk], range(len(_CROPS)))
        outers = [describe(grids) for grids in crops]
        for outer, inner in _nearest(outers, describe, whole, parts, chunk):
            scores = [
                float(outers[crop][outer] @ describe(_turned(whole[inner : inner + 1], orientation))[0])
                for crop, orientation in _WAYS
            ]
            best = int(np.argmax(scores))
            crop, orientation = _WAYS[best]
            candidate = Candidate(int(rows[chunk[outer]]), int(rows[inner]), crop, orientation, scores[best])
            key = (min(candidate.outer, candidate.inner), max(candidate.outer, candidate.inner))
            if key not in found or found[key].alike < candidate.alike:
                found[key] = candidate
    ranked = sorted(found.values(), key=lambda c: (-c.alike, c.outer, c.inner))
    return ranked[:MAX_PAIRS], max(0, len(ranked) - MAX_PAIRS)


def _nearest(
    outers: Sequence[FloatArray], describe: _Whitening, whole: FloatArray, parts: IntArray, chunk: IntArray
) -> Iterator[tuple[int, int]]:
    """For each picture of the chunk the nearest ones of every part: position in the chunk, position in `whole`."""
    for part in np.unique(parts):
        first, last = np.searchsorted(parts, [part, part + 1])
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
