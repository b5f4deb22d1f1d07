"""Light models in ONNX Runtime: sessions, and its basic optimizations, through files that refer to the weights beside them."""

import tempfile
from pathlib import Path

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.light import weights
from edgeclf.export.graph.light.weights import file_place, is_light, is_outside, set_place, tensor_bytes
from edgeclf.export.graph.light.whole_file import write_model
from edgeclf.runtime.session._onnxruntime import OrtSession, onnxruntime
from edgeclf.runtime.session.opening import open_session, open_session_from_bytes

# A model of more goes to ONNX Runtime through a file, which it reads without another copy in memory.
_LARGE_MODEL_BYTES = 1 << 27


def write_beside_weights(model: onnx.ModelProto) -> Path:
    """Writes a light model as ONNX Runtime reads it, into the folder of its weights; the caller removes the file."""
    places = [file_place(tensor)[0] for tensor in model.graph.initializer if is_outside(tensor)]
    (folder,) = {path.parent for path in places}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if is_outside(tensor):
            path, start, end = file_place(tensor)
            set_place(tensor, path.name, start, end - start)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".onnx", delete=False) as file:
        file.write(copy.SerializeToString())
    return Path(file.name)


def read_beside_weights(path: Path) -> onnx.ModelProto:
    """Reads a model that has weights in other files of its folder as a light one."""
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        if is_outside(tensor):
            entries = {entry.key: entry.value for entry in tensor.external_data}
            start, length = int(entries.get("offset", 0)), int(entries.get("length") or tensor_bytes(tensor))
            set_place(tensor, str(path.absolute().parent / entries["location"]), start, length)
    return model


def basic_optimized(model: onnx.ModelProto) -> onnx.ModelProto:
    """A light model after ONNX Runtime's basic optimizations, its large weights in a new file of the same folder.

    Raises:
        Exception: Whatever ONNX Runtime raises about a model that it cannot open.
    """
    given = write_beside_weights(model)
    path = given.with_suffix(".optimized")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    for key, value in (("file_name", f"{given.stem}.weights"), ("min_size_in_bytes", str(weights.LARGE_BYTES))):
        options.add_session_config_entry(f"session.optimized_model_external_initializers_{key}", value)
    try:
        onnxruntime.InferenceSession(str(given), options, providers=["CPUExecutionProvider"])
        return read_beside_weights(path)
    finally:
        given.unlink()
        path.unlink(missing_ok=True)


def open_model(model: onnx.ModelProto, *, threads: int) -> OrtSession:
    """An ONNX Runtime session of a model, light or not.

    Args:
        model: The model.
        threads: Threads inside one inference.
    """
    if is_light(model):
        path = write_beside_weights(model)
        try:
            # Its weights are mapped.
            return open_session(path, threads=threads)
        finally:
            path.unlink()
    if sum(map(tensor_bytes, model.graph.initializer)) < _LARGE_MODEL_BYTES:
        return open_session_from_bytes(model.SerializeToString(), threads=threads)
    with tempfile.TemporaryDirectory(prefix="edgeclf-model-") as folder:
        path = Path(folder) / "model.onnx"
        write_model(model, path)
        return open_session(path, threads=threads)
