"""The model file's contract as code: names, types and shapes of its input and output, and the spec inside it.

Input `image`: uint8 (N, H, W, 3) RGB, N symbolic. Output `probabilities`: float32 (N, C).
"""

from collections.abc import Iterable

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.light.structure import check_model
from edgeclf.runtime.spec import SPEC_KEY, ModelSpec

INPUT_NAME = "image"
OUTPUT_NAME = "probabilities"
# ONNX Runtime and the other engines that read these files lag behind the newest standard.
MAX_OPSET = 20
MAX_IR_VERSION = 10


def apply_contract_names(model: onnx.ModelProto) -> None:
    """Renames the single input and output to the contract's names, and the batch dimension of both to `N`, in place.

    Raises:
        ValueError: The graph does not have exactly one input and one output.
    """
    graph = model.graph
    if len(graph.input) != 1 or len(graph.output) != 1:
        raise ValueError(f"expected one input and one output, got {len(graph.input)} and {len(graph.output)}")
    _rename(graph, graph.input[0].name, INPUT_NAME)
    _rename(graph, graph.output[0].name, OUTPUT_NAME)
    for value in (graph.input[0], graph.output[0]):
        batch = value.type.tensor_type.shape.dim[0]
        batch.Clear()
        batch.dim_param = "N"
    # Inferred shapes of inner values still name the batch dimension as the converter did.
    del graph.value_info[:]


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for value in (*graph.input, *graph.output):
        if value.name == old:
            value.name = new


def check_contract(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """Checks that a model is valid ONNX and keeps the contract for `spec`.

    Raises:
        ValueError: It does not; the message says where. This is a fault of the exporter, not of the user.
    """
    check_model(model, full_check=True)
    elem = onnx.TensorProto
    height, width = spec.preprocess.size_hw
    _check_value(model.graph.input, INPUT_NAME, elem.UINT8, ["N", height, width, 3])
    _check_value(model.graph.output, OUTPUT_NAME, elem.FLOAT, ["N", len(spec.labels)])
    opset = next((item.version for item in model.opset_import if item.domain in {"", "ai.onnx"}), None)
    if opset is None or opset > MAX_OPSET or model.ir_version > MAX_IR_VERSION:
        raise ValueError(f"opset {opset} and IR version {model.ir_version} exceed {MAX_OPSET} and {MAX_IR_VERSION}")


def _check_value(values: Iterable[onnx.ValueInfoProto], name: str, elem_type: int, shape: list[object]) -> None:
    got = [
        (v.name, v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in values
    ]
    if got != [(name, elem_type, shape)]:
        raise ValueError(f"expected {[(name, elem_type, shape)]}, got {got}")


def attach_spec(model: onnx.ModelProto, spec: ModelSpec) -> None:
    """Writes `spec` into the model's metadata in place, replacing one that is there."""
    kept = [entry for entry in model.metadata_props if entry.key != SPEC_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    entry = model.metadata_props.add()
    entry.key, entry.value = SPEC_KEY, spec.to_json()
