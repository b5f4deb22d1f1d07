"""Inverted file of unit vectors: nearest neighbours among so many that not all can be compared with all.

The vectors are dealt out to cells by their nearest centre; a query is compared with those of the cells whose centres are nearest
to it (Jegou, Douze and Schmid, IEEE TPAMI 33, 2011). With four times the square root of N cells, N queries take in the order of
N^1.5 products in place of N^2.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgeclf.runtime.arrays import FloatArray, IntArray

# Cells as a multiple of the square root of the number of vectors, vectors of a cell that its centre is fitted to, and steps.
_CELLS, _SAMPLED, _STEPS = 4.0, 16, 4
# Rows of a matrix of similarities to the centres at a time.
_ROWS = 4_096


@dataclass(frozen=True, eq=False)
class InvertedFile:
    """Vectors in the order of their cells.

    Attributes:
        centres: (C, D) float32 unit vectors.
        starts: (C + 1,) position of each cell's first vector in `vectors`, and their number.
        rows: (N,) row of each vector, as it was given.
        vectors: (N, D) float32 in the order of `rows`.
    """

    centres: FloatArray
    starts: IntArray
    rows: IntArray
    vectors: FloatArray

    @classmethod
    def of(cls, vectors: FloatArray, seed: int = 0) -> "InvertedFile":
        """Divides vectors into cells by spherical k-means on a sample.

        Args:
            vectors: (N, D) float32 of unit length, or zero; at least one.
            seed: Seed of the sample.
        """
        rng = np.random.default_rng(seed)
        count = max(1, min(len(vectors), round(_CELLS * math.sqrt(len(vectors)))))
        sample = vectors[rng.permutation(len(vectors))[: _SAMPLED * count]]
        centres = sample[:count].copy()
        for _ in range(_STEPS):
            cells = _nearest(sample, centres, 1)[:, 0]
            for cell in np.unique(cells):
                centres[cell] = sample[cells == cell].sum(axis=0)
            centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-9)
        cells = _nearest(vectors, centres, 1)[:, 0]
        rows = np.argsort(cells, kind="stable")
        starts = np.searchsorted(cells[rows], np.arange(count + 1))
        return cls(centres, starts, rows, vectors[rows])

    def search(self, queries: FloatArray, least: float, probes: int) -> Iterator[tuple[IntArray, IntArray, FloatArray]]:
        """Yields positions of queries, rows of vectors and their similarities, those of a cell together.

        Args:
            queries: (Q, D) float32 unit vectors.
            least: Smallest dot product that counts.
            probes: Cells that each query is compared with.
        """
        cells = _nearest(queries, self.centres, min(probes, len(self.centres)))
        asked = np.argsort(cells, axis=None, kind="stable")
        bounds = np.searchsorted(cells.ravel()[asked], np.arange(len(self.centres) + 1))
        for cell in np.flatnonzero((np.diff(bounds) > 0) & (np.diff(self.starts) > 0)).tolist():
            members = asked[bounds[cell] : bounds[cell + 1]] // cells.shape[1]
            first, last = self.starts[cell], self.starts[cell + 1]
            similarity = queries[members] @ self.vectors[first:last].T
            near, found = np.nonzero(similarity >= least)
            if len(near):
                yield members[near], self.rows[first + found], similarity[near, found]


def _nearest(vectors: FloatArray, centres: FloatArray, count: int) -> IntArray:
    """(N, count) cells whose centres are nearest to each vector, in any order."""
    cells = np.empty((len(vectors), count), np.int64)
    for at in range(0, len(vectors), _ROWS):
        similarity = vectors[at : at + _ROWS] @ centres.T
        if count == 1:
            cells[at : at + _ROWS, 0] = similarity.argmax(axis=1)
        elif count == len(centres):
            cells[at : at + _ROWS] = np.arange(count)
        else:
            cells[at : at + _ROWS] = np.argpartition(similarity, -count, axis=1)[:, -count:]
    return cells
