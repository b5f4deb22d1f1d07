"""NumPy array types by dtype, for signatures on every floor; shape, unit and axis order stand in each docstring."""

from typing import Any, TypeAlias

import numpy as np

# `numpy.typing.NDArray` is the same, and its module costs half a millisecond of every start.
UInt8Array: TypeAlias = np.ndarray[tuple[Any, ...], np.dtype[np.uint8]]
IntArray: TypeAlias = np.ndarray[tuple[Any, ...], np.dtype[np.int64]]
FloatArray: TypeAlias = np.ndarray[tuple[Any, ...], np.dtype[np.float32]]
Float64Array: TypeAlias = np.ndarray[tuple[Any, ...], np.dtype[np.float64]]
BoolArray: TypeAlias = np.ndarray[tuple[Any, ...], np.dtype[np.bool_]]
AnyArray: TypeAlias = np.ndarray[tuple[Any, ...], np.dtype[Any]]
