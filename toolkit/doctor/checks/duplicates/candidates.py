"""Candidates for copies: nearest neighbours by whitened thumbnails, without a pretrained network.

The descriptor of an image, and of five crops of it, is its luma on a 12 x 12 grid, whitened over the data set. It is compared
with those of all other images in eight orientations: N images take 18 N^2 products of 144-vectors and N x 144 floats; tiles
bound the rest. Beyond `EXHAUSTIVE` images it is compared with those of the nearest cells only (`inverted_file.py`), in the order
of N^1.5 products and twice N x 144 floats.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgeclf.runtime.arrays import BoolArray, Float64Array, FloatArray, IntArray, UInt8Array
from edgeclf.runtime.images._opencv import cv2
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.toolkit.doctor.checks.duplicates.inverted_file import InvertedFile
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
# Most images that are all compared with each other, images that the whitening is estimated from beyond that, cells that an image
# is then compared with in each crop and orientation, and images whose queries are in memory at a time.
EXHAUSTIVE = 20_000
_WHITENED, _PROBES, _ASKED = 10_000, 16, 1_024
# Orientations are compared by turning one image or the other, whose whitened similarities differ by a little.
_MARGIN = 0.05
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


def find_candidates(
    thumbnails: UInt8Array,
    rows: IntArray,
    splits: IntArray,
    progress: Progress = no_progress,
    exhaustive: int = EXHAUSTIVE,
) -> tuple[list[Candidate], int]:
    """Finds candidates for copies.

    Args:
        thumbnails: (N, THUMBNAIL, THUMBNAIL, 3) uint8 BGR.
        rows: (M,) rows to compare with each other.
        splits: (M,) splits of these rows.
        progress: Reports how many are compared.
        exhaustive: Most images that are all compared with each other.

    Returns:
        The candidates, most similar first, and the number of those left out beyond `MAX_PAIRS`.
    """
    if len(rows) < 2:
        return [], 0
    # The nearest of every split: many similar images in one split must not displace the one in another.
    order = np.argsort(splits, kind="stable")
    rows, splits = rows[order], splits[order]
    if len(rows) > exhaustive:
        return _among_cells(thumbnails, rows, splits, progress)
    whole = np.concatenate([_grids(thumbnails, rows[at : at + _ROWS], (0,))[0] for at in range(0, len(rows), _ROWS)])
    describe = _Whitening.of(whole)
    found: dict[tuple[int, int], Candidate] = {}
    for at in range(0, len(rows), _ROWS):
        progress("copies: compared", at, len(rows))
        chunk = np.arange(at, min(at + _ROWS, len(rows)))
        crops = _grids(thumbnails, rows[chunk], range(len(_CROPS)))
        outers = [describe(grids) for grids in crops]
        for outer, inner in _nearest(outers, describe, whole, splits, chunk):
            best = _best_way([crop[outer] for crop in outers], whole[inner], describe)
            _keep(found, Candidate(int(rows[chunk[outer]]), int(rows[inner]), *best))
    progress("copies: compared", len(rows), len(rows))
    return _most_similar(found)


def _best_way(outer: Sequence[FloatArray], inner: FloatArray, describe: _Whitening) -> tuple[int, int, float]:
    """Crop, orientation and similarity of the most similar way to lay an image over another one.

    Args:
        outer: (144,) descriptor of each crop of one image.
        inner: (grid, grid) of the other one.
        describe: The whitening.
    """
    turned = describe(np.stack([_turned(inner[None], orientation)[0] for orientation in range(ORIENTATIONS)]))
    scores = [float(outer[crop] @ turned[orientation]) for crop, orientation in _WAYS]
    best = int(np.argmax(scores))
    return (*_WAYS[best], scores[best])


def _keep(found: dict[tuple[int, int], Candidate], candidate: Candidate) -> None:
    """Keeps the more similar of two candidates of the same pair."""
    key = (min(candidate.outer, candidate.inner), max(candidate.outer, candidate.inner))
    if key not in found or found[key].similarity < candidate.similarity:
        found[key] = candidate


def _most_similar(found: dict[tuple[int, int], Candidate]) -> tuple[list[Candidate], int]:
    ranked = sorted(found.values(), key=lambda c: (-c.similarity, c.outer, c.inner))
    return ranked[:MAX_PAIRS], max(0, len(ranked) - MAX_PAIRS)


def _among_cells(
    thumbnails: UInt8Array, rows: IntArray, splits: IntArray, progress: Progress
) -> tuple[list[Candidate], int]:
    """`find_candidates` among the images of the nearest cells only."""
    sampled = rows[np.linspace(0, len(rows) - 1, min(_WHITENED, len(rows))).astype(np.int64)]
    sample = np.concatenate(
        [_grids(thumbnails, sampled[at : at + _ROWS], (0,))[0] for at in range(0, len(sampled), _ROWS)]
    )
    describe = _Whitening.of(sample)
    # Over all orientations, so that turning both images of a pair changes nothing.
    symmetric = _Whitening.of(np.concatenate([_turned(sample, orientation) for orientation in range(ORIENTATIONS)]))
    vectors = np.empty((len(rows), _GRID * _GRID), np.float32)
    for at in range(0, len(rows), _ROWS):
        progress("copies: described", at, len(rows))
        vectors[at : at + _ROWS] = symmetric(_grids(thumbnails, rows[at : at + _ROWS], (0,))[0])
    file = InvertedFile.of(vectors)
    del vectors
    # Columns: outer and inner position, similarity.
    kept, left_out = np.empty((0, 3)), 0
    for at in range(0, len(rows), _ASKED):
        progress("copies: compared", at, len(rows))
        chunk = np.arange(at, min(at + _ASKED, len(rows)))
        kept = np.concatenate([kept, _near(thumbnails, rows, splits, chunk, symmetric, file)])
        if len(kept) > 3 * MAX_PAIRS:
            kept, dropped = _nearest_pairs(kept)
            left_out += dropped
    kept, dropped = _nearest_pairs(kept)
    progress("copies: compared", len(rows), len(rows))
    found: dict[tuple[int, int], Candidate] = {}
    for at in range(0, len(kept), _ROWS):
        outers, inners = (rows[kept[at : at + _ROWS, column].astype(np.int64)] for column in (0, 1))
        crops = [describe(grids) for grids in _grids(thumbnails, outers, range(len(_CROPS)))]
        for position, inner in enumerate(_grids(thumbnails, inners, (0,))[0]):
            best = _best_way([crop[position] for crop in crops], inner, describe)
            if best[2] >= _MIN_SIMILARITY:
                _keep(found, Candidate(int(outers[position]), int(inners[position]), *best))
    ranked, more = _most_similar(found)
    return ranked, left_out + dropped + more


def _near(
    thumbnails: UInt8Array,
    rows: IntArray,
    splits: IntArray,
    chunk: IntArray,
    describe: _Whitening,
    file: InvertedFile,
) -> Float64Array:
    """(P, 3) positions of the images of a chunk and of their nearest in every split, and the similarities."""
    crops = _grids(thumbnails, rows[chunk], range(len(_CROPS)))
    # The outer image is turned back, in place of the inner one: a mirrored orientation is its own inverse.
    back = [orientation if orientation >= MIRRORED else -orientation % MIRRORED for orientation in range(ORIENTATIONS)]
    queries = np.concatenate([describe(_turned(crops[crop], back[orientation])) for crop, orientation in _WAYS])
    found = [
        np.column_stack([chunk[query % len(chunk)], row, similarity])
        for query, row, similarity in file.search(queries, _MIN_SIMILARITY - _MARGIN, _PROBES)
    ]
    pairs = np.concatenate(found) if found else np.empty((0, 3))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    # The best way of each pair, then the nearest of each image in each split.
    pairs = pairs[np.lexsort((-pairs[:, 2], pairs[:, 1], pairs[:, 0]))]
    pairs = pairs[_is_first(pairs[:, :2])]
    place = np.column_stack([pairs[:, 0], splits[pairs[:, 1].astype(np.int64)]])
    order = np.lexsort((-pairs[:, 2], place[:, 1], place[:, 0]))
    pairs, first = pairs[order], _is_first(place[order])
    rank = np.arange(len(pairs)) - np.maximum.accumulate(np.where(first, np.arange(len(pairs)), 0))
    return np.asarray(pairs[rank < _NEAREST], np.float64)


def _is_first(keys: Float64Array) -> BoolArray:
    """(P,) whether a row of sorted keys is unlike the one before."""
    return np.concatenate([np.ones(min(1, len(keys)), bool), (keys[1:] != keys[:-1]).any(axis=1)])


def _nearest_pairs(pairs: Float64Array) -> tuple[Float64Array, int]:
    """The most similar pairs, each once and the better way round, and the number of those left out."""
    low, high = pairs[:, :2].min(axis=1), pairs[:, :2].max(axis=1)
    order = np.lexsort((-pairs[:, 2], high, low))
    pairs = pairs[order][_is_first(np.column_stack([low, high])[order])]
    pairs = pairs[np.argsort(-pairs[:, 2], kind="stable")]
    return pairs[:MAX_PAIRS], max(0, len(pairs) - MAX_PAIRS)


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
