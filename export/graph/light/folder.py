"""Temporary folders and files of models, which are removed with the objects that stand for them."""

import shutil
import tempfile
import weakref
from pathlib import Path

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.light.whole_file import read_light, write_model


class ModelFolder:
    """A temporary folder for a model's files; it is removed with this object."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="edgeclf-model-"))
        self._remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class StoredModel:
    """A model that is kept in a temporary file, and takes no memory until it is read.

    Args:
        model: The model, light or not.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._folder = ModelFolder()
        self.path = self._folder.path / "model.onnx"
        write_model(model, self.path)

    def read(self) -> onnx.ModelProto:
        """The model: a light one where it has large weights, which lasts as long as this object; it may be changed."""
        return read_light(self.path)
