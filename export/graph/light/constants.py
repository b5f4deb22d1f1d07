"""Constants of a graph: the values of its initializers, those of large weights read as they are asked for."""

from collections.abc import Collection, Iterator, MutableMapping
from typing import Any

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.light.weights import is_large, tensor_values
from edgeclf.runtime.arrays import AnyArray


class Constants(MutableMapping[str, AnyArray]):
    """Values of the initializers of a graph by name; large weights are read anew each time that they are asked for.

    Args:
        graph: The graph.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._held: dict[str, AnyArray | onnx.TensorProto] = {tensor.name: tensor for tensor in graph.initializer}

    def __getitem__(self, name: str) -> AnyArray:
        held = self._held[name]
        if not isinstance(held, onnx.TensorProto):
            return held
        values = tensor_values(held)
        if not is_large(values.nbytes):
            self._held[name] = values
        return values

    def shape_of(self, name: str) -> tuple[int, ...]:
        """The shape of one, which is not read for that."""
        held = self._held[name]
        return tuple(held.dims) if isinstance(held, onnx.TensorProto) else held.shape

    def dtype_of(self, name: str) -> "np.dtype[Any]":
        """The element type of one."""
        held = self._held[name]
        if isinstance(held, onnx.TensorProto):
            return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(held.data_type))
        return held.dtype

    def __setitem__(self, name: str, values: AnyArray) -> None:
        self._held[name] = values

    def __delitem__(self, name: str) -> None:
        del self._held[name]

    def __contains__(self, name: object) -> bool:
        return name in self._held

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def rename(self, old: str, new: str) -> None:
        """Renames one, where it is there."""
        if old in self._held:
            self._held[new] = self._held.pop(old)

    def keep(self, names: Collection[str]) -> None:
        """Drops all but those of these names."""
        self._held = {name: held for name, held in self._held.items() if name in names}
