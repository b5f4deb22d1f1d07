"""Weights moved out of a model into files, and back into it."""

import tempfile
from pathlib import Path

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.light.folder import ModelFolder
from edgeclf.export.graph.light.structure import without_initializers
from edgeclf.export.graph.light.weights import (
    file_place,
    has_large_weights,
    is_large_tensor,
    is_light,
    is_outside,
    outside_tensor,
    set_values,
    tensor_values,
)
from edgeclf.runtime.arrays import AnyArray

# A page, so that ONNX Runtime can map each weight by itself.
_ALIGNMENT = 4096


class WeightWriter:
    """Appends large weights to a new file.

    Args:
        folder: Where the file is made.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.NamedTemporaryFile(dir=folder, suffix=".weights", delete=False)  # noqa: SIM115 - it is a context manager
        self._path = Path(self._file.name)

    def __enter__(self) -> "WeightWriter":  # noqa: PYI034 - typing.Self is newer than Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, name: str, values: AnyArray) -> onnx.TensorProto:
        """Writes a weight, and gives the tensor that stands for it."""
        start = -(-self._file.tell() // _ALIGNMENT) * _ALIGNMENT
        self._file.seek(start)
        np.ascontiguousarray(values).tofile(self._file)
        kind = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
        return outside_tensor(name, kind, values.shape, self._path, start)


def moved_out(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The model with its large weights in a new file; those that are in a file already stay there.

    Args:
        model: It is not changed.
        folder: Folder for the file, that of the weights outside where there are any.
    """
    light = without_initializers(model)
    with WeightWriter(folder) as writer:
        for tensor in model.graph.initializer:
            if is_outside(tensor) or not is_large_tensor(tensor):
                light.graph.initializer.append(tensor)
                continue
            outside = writer.add(tensor.name, tensor_values(tensor))
            if tensor.HasField("doc_string"):
                outside.doc_string = tensor.doc_string
            light.graph.initializer.append(outside)
    return light


def moved_in(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with all of its weights in the message; as it is where they are."""
    if not is_light(model):
        return model
    whole = without_initializers(model)
    for tensor in model.graph.initializer:
        added = whole.graph.initializer.add()
        added.CopyFrom(tensor)
        if is_outside(tensor):
            set_values(added, tensor_values(tensor))
    return whole


def moved_out_where_large(model: onnx.ModelProto) -> tuple[onnx.ModelProto, ModelFolder | None]:
    """The model with all of its large weights in files, and the folder that was made for them.

    Returns:
        The model and None where it has no large weights, or those of the message went beside others that are in files already.
    """
    if not has_large_weights(model):
        return model, None
    places = [file_place(tensor)[0].parent for tensor in model.graph.initializer if is_outside(tensor)]
    folder = None if places else ModelFolder()
    return moved_out(model, places[0] if folder is None else folder.path), folder
