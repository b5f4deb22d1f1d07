"""Structure of a model: its graph without weights, or without the values of the larger ones, which is enough to check it."""

from typing import Any

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.light.weights import has_large_weights, is_large, is_outside, tensor_bytes


def structure_of(model: onnx.ModelProto, *, most_bytes: int | None = None) -> onnx.ModelProto:
    """The model without the values of its larger weights, which become inputs: enough to check it and to infer shapes.

    Args:
        model: It is not changed.
        most_bytes: Weights of so many bytes become inputs; None for large ones alone.
    """
    light = without_initializers(model)
    for tensor in model.graph.initializer:
        size = tensor_bytes(tensor)
        if is_outside(tensor) or (is_large(size) if most_bytes is None else size >= most_bytes):
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            light.graph.input.append(info)
        else:
            light.graph.initializer.append(tensor)
    return light


def check_model(model: onnx.ModelProto, *, full_check: bool = False) -> None:
    """ONNX's checker, which copies a model several times, without the large weights.

    Raises:
        onnx.checker.ValidationError: The model is not valid.
    """
    onnx.checker.check_model(structure_of(model) if has_large_weights(model) else model, full_check=full_check)


def without_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model without its initializers."""
    light = onnx.ModelProto()
    _copy_fields(model, light, without="graph")
    _copy_fields(model.graph, light.graph, without="initializer")
    return light


def _copy_fields(source: Any, target: Any, *, without: str) -> None:  # noqa: ANN401 - any message
    for field, value in source.ListFields():
        if field.name == without:
            continue
        if hasattr(value, "extend"):
            getattr(target, field.name).extend(value)
        elif field.message_type is not None:
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)
