"""A classifier of red, green and blue that needs no training."""

from pathlib import Path

from onnx import TensorProto, helper

from benchmarks.camera.scripted_camera import COLOURS_BGR
from edgeclf.runtime.spec import SPEC_KEY, ModelSpec, Preprocess


def write_colour_model(path: Path, architecture: str) -> Path:
    """Writes a classifier of red, green and blue, by the mean of each channel, and gives the path."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("Softmax", ["means"], ["probabilities"], axis=1),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 32, 32, 3])
    probabilities = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph(nodes, "colours", [image], [probabilities])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    entry = model.metadata_props.add()
    spec = ModelSpec(labels=tuple(COLOURS_BGR), preprocess=Preprocess((32, 32)), architecture=architecture)
    entry.key, entry.value = SPEC_KEY, spec.to_json()
    path.write_bytes(model.SerializeToString())
    return path
