"""Weights of light models: ONNX initializers whose values are in the message, or in a file as their external data says.

Such an initializer has its name, type and shape, and as its external data the absolute path of a file, where in it the bytes
begin, and how many they are. ONNX's own mechanism is the same with paths relative to the model's folder.
"""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.runtime.arrays import AnyArray

# Weights of so many bytes are large: a million of float32.
LARGE_BYTES = 1 << 22
_EXTERNAL = onnx.TensorProto.EXTERNAL
# Types of weights that go into files.
MOVED_TYPES = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.INT8})


def is_large(size_bytes: int) -> bool:
    """Whether a weight of so many bytes belongs into a file."""
    return size_bytes >= LARGE_BYTES


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor's values, by its type and shape."""
    return int(math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def is_outside(tensor: onnx.TensorProto) -> bool:
    """Whether the values of a tensor are in a file."""
    return bool(tensor.data_location == _EXTERNAL)


def is_light(model: onnx.ModelProto) -> bool:
    """Whether any of a model's weights are in a file."""
    return any(map(is_outside, model.graph.initializer))


def is_large_tensor(tensor: onnx.TensorProto) -> bool:
    """Whether the values of a tensor belong into a file: those that are there, and large ones with their bytes in the message."""
    return is_outside(tensor) or (
        tensor.data_type in MOVED_TYPES and is_large(tensor_bytes(tensor)) and tensor.HasField("raw_data")
    )


def has_large_weights(model: onnx.ModelProto) -> bool:
    """Whether a model has large weights, in a file or in the message."""
    return any(map(is_large_tensor, model.graph.initializer))


def tensor_values(tensor: onnx.TensorProto) -> AnyArray:
    """The values of a tensor, wherever they are."""
    if not is_outside(tensor):
        return onnx.numpy_helper.to_array(tensor)
    path, start, _ = file_place(tensor)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return np.fromfile(path, dtype, math.prod(tensor.dims), offset=start).reshape(tuple(tensor.dims))


def place_of(tensor: onnx.TensorProto) -> tuple[Path, int, int] | None:
    """The file in which the values of a tensor are, and where they begin and end in it; None where they are in the message."""
    return file_place(tensor) if is_outside(tensor) else None


def file_place(tensor: onnx.TensorProto) -> tuple[Path, int, int]:
    """The file of a tensor whose values are in one, and where they begin and end in it."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    start = int(entries.get("offset", 0))
    return Path(entries["location"]), start, start + int(entries["length"])


def outside_tensor(name: str, data_type: int, dims: Iterable[int], path: Path, start: int) -> onnx.TensorProto:
    """A tensor whose values are in a file."""
    tensor = onnx.TensorProto(name=name, data_type=data_type, dims=list(dims))
    set_place(tensor, str(path), start, tensor_bytes(tensor))
    return tensor


def set_place(tensor: onnx.TensorProto, location: str, start: int, length: int) -> None:
    """Says of a tensor in which file its values are, and where in it."""
    tensor.data_location = _EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", start), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def set_values(tensor: onnx.TensorProto, values: AnyArray) -> None:
    """Writes its values into a tensor that had them in a file, in place."""
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = values.tobytes()
