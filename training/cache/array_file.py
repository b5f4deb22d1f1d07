"""An array in a file: rows are read, and checked, only when they are accessed."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from edgeclf.runtime.arrays import AnyArray, IntArray


class ArrayFile:
    """Rows of an array file, in any order; read-only, from any number of threads.

    Rows are read, not mapped: pages of a mapped file count as memory of the process, and a training that goes over more
    images than fit would hold them all. The checksum of a row is compared the first time it is read.

    Args:
        read_into: Fills a buffer from a byte offset on; a slice of the file.
        row_shape: Shape of one row.
        dtype: Type of its elements.
        rows: (N,) int64, row numbers in the file, repeated or not.
        checksums: (M,) uint32, CRC-32 of each row of the file.
        recompute: Computes the rows with the given numbers, in their order, in place of damaged ones.

    Attributes:
        shape: (N, *row_shape).
        dtype: Type of the elements.
    """

    def __init__(
        self,
        read_into: Callable[[memoryview, int], None],
        row_shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        *,
        rows: IntArray,
        checksums: npt.NDArray[np.uint32],
        recompute: Callable[[Sequence[int]], list[AnyArray]],
    ) -> None:
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self.shape: tuple[int, ...] = (len(rows), *row_shape)
        self._read_into = read_into
        self._row_bytes = int(np.prod(row_shape)) * self.dtype.itemsize
        self._rows = rows
        self._checksums = checksums
        self._checked = np.zeros(len(checksums), bool)
        self._recompute = recompute

    @property
    def checksums(self) -> npt.NDArray[np.uint32]:
        """(N,) uint32, CRC-32 of each row as it was written: equal rows have equal ones."""
        of_rows: npt.NDArray[np.uint32] = self._checksums[self._rows]
        return of_rows

    def __len__(self) -> int:
        """N."""
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of dimensions, N counted."""
        return len(self.shape)

    def select(self, positions: IntArray) -> "ArrayFile":
        """The rows at some positions, without reading them.

        Args:
            positions: (n,) int, each from 0 to N - 1, in any order, repeated or not.
        """
        rows = self._rows[positions]
        selected = ArrayFile(
            self._read_into,
            self.shape[1:],
            self.dtype,
            rows=rows,
            checksums=self._checksums,
            recompute=self._recompute,
        )
        selected._checked = self._checked
        return selected

    def take(self, positions: IntArray) -> AnyArray:
        """Copies rows into memory.

        Args:
            positions: (n,) int, each from 0 to N - 1, in any order, repeated or not.

        Returns:
            (n, *row_shape) of the file's type, in the order of the positions.

        Raises:
            IndexError: A position is out of range.
            InputError: The file cannot be read, or a row is damaged and cannot be computed again.
        """
        positions = np.asarray(positions, np.int64)
        if len(positions) and not (positions.min() >= 0 and positions.max() < len(self)):
            raise IndexError(f"rows {positions.min()}..{positions.max()} of {len(self)}")
        rows = self._rows[positions]
        taken = np.empty((len(rows), *self.shape[1:]), self.dtype)
        # Decided before the rows are read: another thread may repair one, and mark it, between its reading and its check.
        unchecked = np.flatnonzero(~self._checked[rows])
        # Neighbours in the file that are neighbours in the result come in one read.
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        ends = np.append(starts, len(rows))[1:]
        for start, end in zip(starts, ends[: len(starts)], strict=True):
            self._read_into(taken[start:end].data.cast("B"), int(rows[start]) * self._row_bytes)
        if len(unchecked):
            self._check(taken, rows, unchecked)
        return taken

    def _check(self, taken: AnyArray, rows: IntArray, unchecked: npt.NDArray[np.intp]) -> None:
        """Compares checksums, and computes damaged rows again, in place."""
        damaged = [at for at in unchecked if zlib.crc32(taken[at].data.cast("B")) != self._checksums[rows[at]]]
        if damaged:
            taken[damaged] = self._recompute([int(rows[at]) for at in damaged])
        self._checked[rows[unchecked]] = True

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> AnyArray: ...
    @overload
    def __getitem__(self, index: slice, /) -> AnyArray: ...
    def __getitem__(self, index: SupportsIndex | slice, /) -> AnyArray:
        """One row, or some of them, copied into memory."""
        if isinstance(index, slice):
            return self.take(np.arange(*index.indices(len(self))))
        position = index.__index__()
        row: AnyArray = self.take(np.array([position + len(self) if position < 0 else position]))[0]
        return row

    def __array__(self, dtype: npt.DTypeLike | None = None, *, copy: bool | None = None) -> AnyArray:
        """The whole array in memory, as NumPy's functions request it."""
        if copy is False:
            raise ValueError("the rows of a file cannot become an array without a copy")
        return np.asarray(self[:], dtype or self.dtype)
