"""Simplification of a graph at a fixed input shape, by ONNX Runtime's basic optimizations, and patterns it leaves.

With all shapes known, what computes shapes becomes constants; constants are folded, batch normalisation too, and what
passes values on unchanged is removed. Only ONNX's own operators are written.
"""

import tempfile
from pathlib import Path

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.adopt.editing import constants_to_initializers
from edgeclf.export.graph.light.sessions import basic_optimized
from edgeclf.export.graph.light.weights import is_light
from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.session._onnxruntime import onnxruntime


def fix_input_shape(model: onnx.ModelProto, shape: tuple[int | str, ...]) -> None:
    """Gives the one input of a model a shape, in place, and drops what was inferred from another.

    Args:
        model: The model.
        shape: Sides in numbers; the names of those that stay free.
    """
    sides = model.graph.input[0].type.tensor_type.shape
    del sides.dim[:]
    for side in shape:
        if isinstance(side, int):
            sides.dim.add().dim_value = side
        else:
            sides.dim.add().dim_param = side
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]


def optimized(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model after ONNX Runtime's basic optimizations.

    Raises:
        ModelFileError: ONNX Runtime cannot open it.
    """
    try:
        result = basic_optimized(model) if is_light(model) else _optimized_in_memory(model)
    except Exception as error:
        # ONNX Runtime's exceptions share no base class but Exception; whatever it raises here is about this model.
        raise ModelFileError(
            "ONNX Runtime cannot open the model at this image size",
            got=str(error).split("\n", 1)[0][:300],
            expected="a graph of operators that the installed ONNX Runtime has",
            hint="check the image size, or export the model again",
        ) from error
    constants_to_initializers(result.graph)
    used = {node.domain for node in result.graph.node} | {""}
    kept = [item for item in result.opset_import if item.domain in used]
    del result.opset_import[:]
    result.opset_import.extend(kept)
    del result.graph.value_info[:]
    return result


def _optimized_in_memory(model: onnx.ModelProto) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory(prefix="edgeclf-adopt-") as folder:
        given, path = Path(folder) / "given.onnx", Path(folder) / "optimized.onnx"
        onnx.save(model, str(given))
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 4
        onnxruntime.InferenceSession(str(given), options, providers=["CPUExecutionProvider"])
        return onnx.load(str(path))
