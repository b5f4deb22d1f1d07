"""Which pictures of a data set are copies of each other: the same file, or re-encoded, resized, cropped, mirrored, turned.

Candidates are found on thumbnails, so that no pretrained network is needed: every picture, and five crops of it, is
described by 144 numbers - its luma on a 12 x 12 grid, with the directions that all pictures of the data share damped - and
compared with every other one in its eight orientations. N pictures take 18 N^2 products of such vectors and N x 144 floats;
tiles keep the rest bounded. Each candidate is then verified on the pictures themselves (`same_picture.py`).
"""

import functools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.errors import EdgeclfError
from edgeclf.runtime.preprocess import load_image
from edgeclf.toolkit.doctor.facts import THUMBNAIL, DataFacts
from edgeclf.toolkit.doctor.same_picture import MIRRORED, ORIENTATIONS, Match, match, might_match, square
from edgeclf.training.ahead import map_ahead

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]
Kind: TypeAlias = Literal["exact", "re-encoded", "cropped", "mirrored", "turned"]

_GRID = 12
# Correlation of two descriptions from which a pair is verified. Of unrelated photographs one pair in 10,000 reaches 0.47;
# pictures cropped by 5 % have 0.77 (textures) to 0.87 (photographs) with their original in 98 of 100 cases.
_ALIKE = 0.5
# Pictures that are verified for each picture, in each part, and pairs that are verified at all.
_NEAREST = 8
MAX_PAIRS = 100_000
_ROWS, _COLUMNS = 512, 4096
# Side of the squares that pictures are compared on at last.
_SIDE = 192
# Where a copy may lie in its original: side, and position of its middle; what lies between is aligned later.
_CROPS = ((1.0, 0.0, 0.0), (0.95, 0.0, 0.0), *((0.93, x, y) for x in (-0.035, 0.035) for y in (-0.035, 0.035)))
# A copy that keeps less than this share of the area was cropped.
_WHOLE = 0.985


@dataclass(frozen=True)
class Pair:
    """Two pictures that are one.

    Attributes:
        rows: Positions in the image table, ascending.
        kind: What was done to one of them.
        contained: Whether one shows nothing that the other does not show; otherwise they overlap almost wholly.
        overlap: Area that both show, over that of the smaller one.
        cut: The one that was cut from the other, None where both show the whole.
        off_centre: How far the middle of that one is from the other's, in shares of the side.
    """

    rows: tuple[int, int]
    kind: Kind
    contained: bool
    overlap: float
    cut: int | None = None
    off_centre: float = 0.0


@dataclass(frozen=True, eq=False)
class Copies:
    """The copies in a data set.

    Attributes:
        groups: Positions of the pictures that are copies of each other, each group ascending.
        pairs: Pairs from which the groups follow.
        overlapping: Pairs of which neither holds the other, such as two crops of one picture or frames of a video; and
            pictures that hold a cut one which another holds more in the middle.
        left_out: Pairs that looked alike and were not verified.
    """

    groups: tuple[tuple[int, ...], ...]
    pairs: tuple[Pair, ...]
    overlapping: tuple[Pair, ...]
    left_out: int

    def group_of(self, count: int) -> IntArray:
        """(count,) the same number for all pictures of a group, different ones otherwise."""
        numbers = np.arange(count)
        for group in self.groups:
            numbers[list(group)] = group[0]
        return numbers


@functools.lru_cache(maxsize=1)
def find_copies(data: DataFacts) -> Copies:
    """The copies in a data set; computed once for all checks that need them."""
    same_files: defaultdict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(data.images.digests):
        same_files[digest].append(row)
    joined = _Groups(len(data.images))
    pairs = []
    for first, *others in same_files.values():
        for other in others:
            joined.join(first, other)
            pairs.append(Pair((first, other), "exact", contained=True, overlap=1.0))
    rows = np.array(sorted(members[0] for members in same_files.values()), np.int64)
    candidates, left_out = _candidates(data.images.thumbnails, rows, data.images.parts[rows])
    overlapping = []
    cut_from: dict[int, Pair] = {}
    for pair in _verified(data, candidates, joined):
        if not pair.contained:
            overlapping.append(pair)
        elif pair.cut is None:
            joined.join(*pair.rows)
            pairs.append(pair)
        # What lies in two pictures that overlap was cut from one of them: most likely from where it is in the middle.
        elif pair.cut not in cut_from or pair.off_centre < cut_from[pair.cut].off_centre:
            overlapping += [cut_from[pair.cut]] if pair.cut in cut_from else []
            cut_from[pair.cut] = pair
        else:
            overlapping.append(pair)
    for pair in cut_from.values():
        joined.join(*pair.rows)
        pairs.append(pair)
    overlapping = [pair for pair in overlapping if joined.find(pair.rows[0]) != joined.find(pair.rows[1])]
    return Copies(joined.groups(), tuple(pairs), tuple(overlapping), left_out)


@dataclass(frozen=True)
class _Candidate:
    outer: int
    inner: int
    crop: int
    orientation: int
    alike: float


class _Groups:
    """Disjoint sets of pictures."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def find(self, row: int) -> int:
        while self._parents[row] != row:
            self._parents[row] = self._parents[self._parents[row]]
            row = self._parents[row]
        return row

    def join(self, first: int, second: int) -> None:
        low, high = sorted((self.find(first), self.find(second)))
        self._parents[high] = low

    def groups(self) -> tuple[tuple[int, ...], ...]:
        members: defaultdict[int, list[int]] = defaultdict(list)
        for row in range(len(self._parents)):
            members[self.find(row)].append(row)
        return tuple(tuple(group) for group in members.values() if len(group) > 1)


def _luma(thumbnail: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(thumbnail), cv2.COLOR_BGR2GRAY), np.uint8)


def _crop_map(crop: int) -> npt.NDArray[np.float64]:
    """(2, 3), from a crop to the picture it is taken from, in shares of the sides."""
    side, x, y = _CROPS[crop]
    return np.array([[side, 0.0, (1.0 - side) / 2 + x], [0.0, side, (1.0 - side) / 2 + y]])


def _grids(thumbnails: npt.NDArray[np.uint8], rows: IntArray, crops: Sequence[int]) -> FloatArray:
    """(crops, rows, grid, grid): the luma, without its mean, of unit length; zero for pictures without contrast."""
    grids = np.empty((len(crops), len(rows), _GRID, _GRID), np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for position, row in enumerate(rows):
        luma = _luma(thumbnails[row])
        for number, crop in enumerate(crops):
            seen = luma
            if crop:
                # From pixel centres to pixel centres.
                warp = _crop_map(crop) * [1.0, 1.0, THUMBNAIL]
                warp[:, 2] += warp[:, :2] @ [0.5, 0.5] - 0.5
                seen = cv2.warpAffine(luma, warp, luma.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
            grids[number, position] = cv2.resize(seen.astype(np.float32), (_GRID, _GRID), interpolation=cv2.INTER_AREA)
    grids -= grids.mean(axis=(2, 3), keepdims=True)
    length = np.linalg.norm(grids, axis=(2, 3), keepdims=True)
    # Half a grey level of standard deviation is what compression makes of a picture of one colour.
    return np.where(length < 0.5 * _GRID, 0.0, grids / np.maximum(length, 1e-6)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class _Description:
    """Damps what the pictures of a data set have in common, so that a shared frame or background makes none alike."""

    mean: FloatArray
    directions: FloatArray

    @classmethod
    def of(cls, grids: FloatArray) -> "_Description":
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


def _candidates(thumbnails: npt.NDArray[np.uint8], rows: IntArray, parts: IntArray) -> tuple[list[_Candidate], int]:
    """Pairs that look alike, the most alike first, and how many more there are than are verified."""
    if len(rows) < 2:
        return [], 0
    # Of every part the nearest ones: a part's many alike pictures must not hide the one in another part.
    order = np.argsort(parts, kind="stable")
    rows, parts = rows[order], parts[order]
    whole = np.concatenate([_grids(thumbnails, rows[at : at + _ROWS], (0,))[0] for at in range(0, len(rows), _ROWS)])
    describe = _Description.of(whole)
    found: dict[tuple[int, int], _Candidate] = {}
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
            candidate = _Candidate(int(rows[chunk[outer]]), int(rows[inner]), crop, orientation, scores[best])
            key = (min(candidate.outer, candidate.inner), max(candidate.outer, candidate.inner))
            if key not in found or found[key].alike < candidate.alike:
                found[key] = candidate
    ranked = sorted(found.values(), key=lambda c: (-c.alike, c.outer, c.inner))
    return ranked[:MAX_PAIRS], max(0, len(ranked) - MAX_PAIRS)


def _nearest(
    outers: Sequence[FloatArray], describe: _Description, whole: FloatArray, parts: IntArray, chunk: IntArray
) -> Iterator[tuple[int, int]]:
    """For each picture of the chunk the nearest ones of every part: position in the chunk, position in `whole`."""
    for part in np.unique(parts):
        first, last = np.searchsorted(parts, [part, part + 1])
        kept: list[npt.NDArray[np.float64]] = []
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
            outer, inner = np.nonzero(best >= _ALIKE)
            kept.append(np.column_stack([outer, columns[inner], best[outer, inner]]))
        pairs = np.concatenate(kept)
        pairs = pairs[np.lexsort((pairs[:, 1], -pairs[:, 2], pairs[:, 0]))]
        taken: Counter[int] = Counter()
        for outer, inner, _ in pairs.tolist():
            taken[int(outer)] += 1
            if taken[int(outer)] <= _NEAREST:
                yield int(outer), int(inner)


def _verified(data: DataFacts, candidates: Sequence[_Candidate], joined: _Groups) -> Iterator[Pair]:
    """The candidates that are one picture; those that are known to be by others are passed over."""
    threads = usable_cpus()
    thumbnails = data.images.thumbnails

    def look(candidate: _Candidate) -> Match | None:
        # What the caller has joined since may or may not be seen here: it only saves time.
        if joined.find(candidate.outer) == joined.find(candidate.inner):
            return None
        outer, inner = thumbnails[candidate.outer], thumbnails[candidate.inner]
        small = [
            cv2.resize(_luma(image), (THUMBNAIL // 2, THUMBNAIL // 2), interpolation=cv2.INTER_AREA)
            for image in (outer, inner)
        ]
        start = might_match(small[0], small[1], _crop_map(candidate.crop), candidate.orientation)
        if start is None:
            return None
        found = match(np.asarray(outer), np.asarray(inner), start, candidate.orientation)
        return found and _match_files(data, candidate, found)

    matches = map_ahead(look, candidates, threads=threads, ahead=64 * threads, name="edgeclf-copies")
    for candidate, found in zip(candidates, matches, strict=True):
        if found is not None:
            rows = (min(candidate.outer, candidate.inner), max(candidate.outer, candidate.inner))
            cut = None
            if found.contained and found.kept < _WHOLE:
                cut = candidate.inner if found.inner_is_smaller else candidate.outer
            yield Pair(rows, _kind(found), found.contained, found.overlap, cut, found.off_centre)


def _match_files(data: DataFacts, candidate: _Candidate, found: Match) -> Match | None:
    """The match looked at again with the pixels that the smaller of the two files has."""
    try:
        images = [load_image(_path(data, row)) for row in (candidate.outer, candidate.inner)]
    except EdgeclfError:
        # Gone since it was looked at: the thumbnails have to do.
        return found
    side = min(_SIDE, *(min(image.shape[:2]) for image in images))
    if side <= THUMBNAIL:
        return found
    outer, inner = (square(image, side) for image in images)
    return match(outer, inner, found.inner_in_outer, found.orientation)


def _path(data: DataFacts, row: int) -> Path:
    return data.root / data.images.paths[row]


def _kind(found: Match) -> Kind:
    if found.orientation == MIRRORED:
        return "mirrored"
    if found.orientation:
        return "turned"
    return "re-encoded" if found.contained and found.kept >= _WHOLE else "cropped"
