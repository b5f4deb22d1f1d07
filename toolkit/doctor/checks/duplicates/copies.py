"""Groups of copies in a data set: the same file, or re-encoded, resized, cropped, mirrored or rotated images.

Candidates are similar thumbnails (`candidates.py`); each pair is then verified by registration (`same_image.py`).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from edgeclf.runtime import load_image
from edgeclf.runtime.arrays import IntArray
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.errors import EdgeclfError
from edgeclf.runtime.images._opencv import cv2
from edgeclf.toolkit.doctor.checks.duplicates.candidates import Candidate, crop_map, find_candidates, luma
from edgeclf.toolkit.doctor.checks.duplicates.same_image import MIRRORED, Match, match, prealign, square
from edgeclf.toolkit.doctor.facts import THUMBNAIL, DataFacts
from edgeclf.training.prefetch import prefetch_map

Kind: TypeAlias = Literal["exact", "re-encoded", "cropped", "mirrored", "turned"]

# Largest side in pixels of the squares on which pairs are verified.
_SIDE = 192
# Fraction of the area below which a copy counts as cropped.
_UNCROPPED = 0.985


@dataclass(frozen=True)
class Pair:
    """A verified pair: two images of the same photograph.

    Attributes:
        rows: Rows in the image table, ascending.
        kind: Transformation between the two.
        contained: Whether one lies inside the other; otherwise they overlap by most of their area.
        overlap: Common area over that of the smaller one, 0..1.
        cut: Row of the one that was cropped from the other; None where neither was.
        off_centre: Distance of its centre from the other's, as a fraction of the side.
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
        groups: Rows of images that are copies of each other, each group ascending.
        pairs: Pairs that the groups are made of.
        overlapping: Pairs that overlap without being in one group: two crops of one image, frames of a video, or a crop and a
            second image that contains it off centre.
        left_out: Number of candidates that were not verified.
    """

    groups: tuple[tuple[int, ...], ...]
    pairs: tuple[Pair, ...]
    overlapping: tuple[Pair, ...]
    left_out: int

    def group_of(self, count: int) -> IntArray:
        """(count,) group numbers by row: equal within a group, different otherwise."""
        numbers = np.arange(count)
        for group in self.groups:
            numbers[list(group)] = group[0]
        return numbers


def find_copies(data: DataFacts) -> Copies:
    """Finds the copies in a data set. Use it through `DataFacts.derived`, since it takes seconds to hours; reports to `DataFacts.progress`."""
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
    candidates, left_out = find_candidates(data.images.thumbnails, rows, data.images.splits[rows], data.progress)
    overlapping = []
    cut_from: dict[int, Pair] = {}
    for pair in _verified(data, candidates, joined):
        if not pair.contained:
            overlapping.append(pair)
        elif pair.cut is None:
            joined.join(*pair.rows)
            pairs.append(pair)
        # A crop inside two overlapping images was most likely cut from the one where it is more central.
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


class _Groups:
    """Disjoint sets of rows (union-find)."""

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


def _verified(data: DataFacts, candidates: Sequence[Candidate], joined: _Groups) -> Iterator[Pair]:
    """Verifies candidates; skips those whose images are in one group already."""
    threads = usable_cpus()
    thumbnails = data.images.thumbnails

    def verify(candidate: Candidate) -> Match | None:
        # Groups may change meanwhile in the caller's thread: skipping only saves time.
        if joined.find(candidate.outer) == joined.find(candidate.inner):
            return None
        outer, inner = thumbnails[candidate.outer], thumbnails[candidate.inner]
        small = [
            cv2.resize(luma(image), (THUMBNAIL // 2, THUMBNAIL // 2), interpolation=cv2.INTER_AREA)
            for image in (outer, inner)
        ]
        start = prealign(small[0], small[1], crop_map(candidate.crop), candidate.orientation)
        if start is None:
            return None
        found = match(np.asarray(outer), np.asarray(inner), start, candidate.orientation)
        return found and _match_files(data, candidate, found)

    matches = prefetch_map(verify, candidates, threads=threads, ahead=64 * threads, name="edgeclf-copies")
    for number, (candidate, found) in enumerate(zip(candidates, matches, strict=True)):
        data.progress("copies: verified", number + 1, len(candidates))
        if found is not None:
            rows = (min(candidate.outer, candidate.inner), max(candidate.outer, candidate.inner))
            cut = None
            if found.contained and found.area_ratio < _UNCROPPED:
                cut = candidate.inner if found.inner_is_smaller else candidate.outer
            yield Pair(rows, _kind(found), found.contained, found.overlap, cut, found.off_centre)


def _match_files(data: DataFacts, candidate: Candidate, found: Match) -> Match | None:
    """Repeats a match of thumbnails at the resolution of the smaller file; None where it fails there."""
    try:
        images = [load_image(_path(data, row)) for row in (candidate.outer, candidate.inner)]
    except EdgeclfError:
        # Deleted since the scan: the match of the thumbnails stands.
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
    return "re-encoded" if found.contained and found.area_ratio >= _UNCROPPED else "cropped"
