"""A frozen ONNX graph as a Keras layer: its features are computed by ONNX Runtime, and its file lies in the Keras archive."""

import functools
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeclf.export.keras_backend import KerasLayer, KerasModel, KerasTensor, import_tensorflow
from edgeclf.runtime.arrays import FloatArray, UInt8Array
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.session.opening import open_session_from_bytes

if TYPE_CHECKING:
    from edgeclf.export._onnx import onnx
    from edgeclf.runtime.session._onnxruntime import OrtSession

_FILE = "backbone.onnx"
_PACKAGE = "edgeclf"


def feature_layer_class() -> KerasLayer:
    """The class of the layer, known to Keras, so that archives with such a layer can be loaded.

    Raises:
        MissingPackageError: TensorFlow is not installed.
    """
    layer_class = _layer_class()
    import keras

    # With each call: an application may have emptied Keras's list of custom objects, as Keras's documentation does.
    return keras.saving.register_keras_serializable(_PACKAGE)(layer_class)


@functools.cache
def _layer_class() -> KerasLayer:
    tensorflow = import_tensorflow()
    import keras

    class OnnxFeatures(keras.layers.Layer):  # type: ignore[misc, unused-ignore]  # Keras has no types
        """Features of a frozen ONNX graph: uint8 (N, H, W, 3) RGB to float32 (N, F); it cannot be trained."""

        def __init__(self, feature_count: int, digest: str, graph: bytes = b"", **options: Any) -> None:  # noqa: ANN401
            super().__init__(**{**options, "trainable": False})
            self.feature_count = feature_count
            # Part of what tells one network from another, see `backbone_digest`.
            self.digest = digest
            self.graph = graph
            self._session: OrtSession | None = None

        def call(self, images: KerasTensor) -> KerasTensor:
            features = tensorflow.numpy_function(self._run, [images], tensorflow.float32, stateful=False)
            features.set_shape((None, self.feature_count))
            return features

        def compute_output_spec(self, images: KerasTensor) -> KerasTensor:
            return keras.KerasTensor((images.shape[0], self.feature_count), dtype="float32")

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "feature_count": self.feature_count, "digest": self.digest}

        def save_assets(self, dir_path: str) -> None:
            (Path(dir_path) / _FILE).write_bytes(self.graph)

        def load_assets(self, dir_path: str) -> None:
            self.graph = (Path(dir_path) / _FILE).read_bytes()

        def _run(self, images_rgb: UInt8Array) -> FloatArray:
            if self._session is None:
                self._session = open_session_from_bytes(self.graph, threads=usable_cpus())
            name = self._session.get_inputs()[0].name
            return np.asarray(self._session.run(None, {name: images_rgb})[0], np.float32)

    return OnnxFeatures


def feature_layer_objects() -> dict[str, KerasLayer]:
    """The class of the layer by the name under which archives have it.

    Raises:
        MissingPackageError: TensorFlow is not installed.
    """
    cls = feature_layer_class()
    return {f"{_PACKAGE}>{cls.__name__}": cls}


def read_graph(path: Path) -> bytes:
    """The ONNX file of the layer in a Keras archive.

    Raises:
        ModelFileError: The archive has none.
    """
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.startswith("assets/") and name.endswith(f"/{_FILE}")]
        if len(names) != 1:
            raise ModelFileError(f"cannot read {path}", got=f"{len(names)} files {_FILE}", expected="one")
        return archive.read(names[0])


def feature_layer_of(model: KerasModel) -> KerasLayer | None:
    """The layer of a model that is a frozen ONNX graph; None where there is none."""
    return next((layer for layer in model.layers if type(layer).__name__ == "OnnxFeatures"), None)


def frozen_parameters(model: KerasModel) -> int:
    """Number of weights in the frozen ONNX graph of a model; 0 where it has none."""
    layer = feature_layer_of(model)
    if layer is None:
        return 0
    from edgeclf.export._onnx import onnx

    graph = onnx.load_from_string(layer.graph).graph
    return sum(int(np.prod(tensor.dims)) for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT)


def onnx_with_head(model: KerasModel) -> "onnx.ModelProto":
    """The ONNX graph of a model whose backbone is one already: the backbone as it is, and the head joined behind it.

    Args:
        model: A Keras model: the layer, dropout, `logits`, perhaps `temperature`, a softmax.

    Returns:
        A graph that follows the model contract, without a spec.
    """
    from edgeclf.export._onnx import onnx
    from edgeclf.export.graph.adopt.editing import GraphEditor, NodeChain
    from edgeclf.export.graph.contract import OUTPUT_NAME

    layer = feature_layer_of(model)
    if layer is None:
        raise ValueError("the model has no ONNX backbone")
    proto = onnx.load_from_string(layer.graph)
    del proto.metadata_props[:], proto.graph.value_info[:]
    graph = proto.graph
    graph.name = "classifier"
    editor = GraphEditor(proto)
    # Whoever made the file may have taken the contract's name for another value.
    editor.clear_name(OUTPUT_NAME)
    kernel, bias = (np.asarray(values, np.float32) for values in model.get_layer("logits").get_weights())
    head = NodeChain(editor, graph.output[0].name)
    head.add("MatMul", "logits", kernel)
    head.add("Add", "logits_bias", bias)
    if any(item.name == "temperature" for item in model.layers):
        head.add("Mul", "temperature", np.asarray(model.get_layer("temperature").scale, np.float32))
    head.add("Softmax", "softmax", axis=-1)
    head.nodes[-1].output[:] = [OUTPUT_NAME]
    graph.node.extend(head.nodes)
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info(OUTPUT_NAME, onnx.TensorProto.FLOAT, ["N", kernel.shape[1]]))
    return proto
