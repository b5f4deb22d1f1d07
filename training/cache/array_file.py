"""Rows of numbers in a file, read into memory only as they are asked for."""

import os
import weakref
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
import numpy.typing as npt


class RowFile:
    """Rows of one shape and type in a file, such as images or features; read-only.

    Rows are read, not mapped: pages of a mapped file count as memory of the process, and a training that goes over more
    images than fit would hold them all. The file stays readable when its name is removed, and several threads may read
    at once.

    Args:
        path: The file, nothing but rows.
        row_shape: Shape of one row.
        dtype: Type of its elements.

    Attributes:
        shape: (N, *row_shape).
        dtype: Type of the elements.

    Raises:
        OSError: The file cannot be opened.
        ValueError: Its size is not a whole number of rows.
    """

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._row_bytes = int(np.prod(row_shape)) * self.dtype.itemsize
        self._descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        count, rest = divmod(os.fstat(self._descriptor).st_size, self._row_bytes)
        if rest:
            raise ValueError(f"{path} is cut off within a row")
        self.shape: tuple[int, ...] = (count, *row_shape)

    def __len__(self) -> int:
        """N."""
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of dimensions, N counted."""
        return len(self.shape)

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Copies rows into memory.

        Args:
            rows: (n,) int, each from 0 to N - 1, in any order, repeated or not.

        Returns:
            (n, *row_shape) of the file's type, in the order asked.

        Raises:
            IndexError: A row is out of range.
            OSError: The file cannot be read.
        """
        rows = np.asarray(rows, np.int64)
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"rows {rows.min()}..{rows.max()} of {len(self)}")
        taken = np.empty((len(rows), *self.shape[1:]), self.dtype)
        # Neighbours in the file that are neighbours in the result come in one read.
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        ends = np.append(starts, len(rows))[1:]
        for start, end in zip(starts, ends[: len(starts)], strict=True):
            self._read_into(taken[start:end], int(rows[start]) * self._row_bytes)
        return taken

    def _read_into(self, target: npt.NDArray[Any], offset: int) -> None:
        buffer = target.data.cast("B")
        while buffer:
            read = os.preadv(self._descriptor, [buffer], offset)
            if read == 0:
                raise OSError("a file of the cache became shorter while it was read")
            buffer, offset = buffer[read:], offset + read

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> npt.NDArray[Any]: ...
    @overload
    def __getitem__(self, index: slice, /) -> npt.NDArray[Any]: ...
    def __getitem__(self, index: SupportsIndex | slice, /) -> npt.NDArray[Any]:
        """One row, or some of them, copied into memory."""
        if isinstance(index, slice):
            return self.take(np.arange(*index.indices(len(self))))
        position = index.__index__()
        row: npt.NDArray[Any] = self.take(np.array([position + len(self) if position < 0 else position]))[0]
        return row

    def __array__(self, dtype: npt.DTypeLike | None = None, *, copy: bool | None = None) -> npt.NDArray[Any]:
        """All of it in memory; NumPy's functions ask for this."""
        if copy is False:
            raise ValueError("the rows of a file cannot become an array without a copy")
        return np.asarray(self[:], dtype or self.dtype)
