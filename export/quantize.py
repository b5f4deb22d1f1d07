"""Static int8: ONNX Runtime's quantizer with a recipe that is safe on every CPU, and what it leaves undone.

The recipe: QDQ format, uint8 activations, int8 weights per output channel with reduced range. Kernels for x86 without
VNNI add two neighbouring u8 x s8 products in 16 bits, which overflows with full 8-bit weights; reduced range cannot.
"""

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.contract import INPUT_NAME, OUTPUT_NAME
from edgeclf.export.convert import keep_used_opsets
from edgeclf.export.stem import Stem, find_stem
from edgeclf.runtime.errors import InputError, MissingPackageError
from edgeclf.runtime.preprocess import UInt8Array
from edgeclf.runtime.progress import Progress, no_progress

# Besides the layers with weights, what stands between them must be quantized too, or every layer pays for a conversion
# to float and back. Softmax stays in float: eight bits of probability are too few.
_QUANTIZED_OPS = (
    "Conv",
    "Gemm",
    "MatMul",
    "Add",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "Clip",
    "Relu",
    "Reshape",
    "Flatten",
    "Squeeze",
    "Transpose",
    "Pad",
)
_CALIBRATION_BATCH = 8


@dataclass(frozen=True)
class QuantizationRecipe:
    """How an int8 model is made.

    Attributes:
        activation_type: Type of the activations.
        weight_type: Type of the weights.
        per_channel: One weight scale for each output channel.
        reduce_range: Weights in 7 bits, safe from saturation on CPUs without VNNI.
        calibration: How activation ranges follow from the calibration images.
    """

    activation_type: str = "uint8"
    weight_type: str = "int8"
    per_channel: bool = True
    reduce_range: bool = True
    calibration: str = "minmax"

    def to_json(self, images: int, *, normalisation_folded: bool) -> dict[str, Any]:
        """The recipe with what it was applied to, as plain JSON values."""
        return {
            "format": "QDQ",
            **asdict(self),
            "calibration_images": images,
            "normalisation_folded": normalisation_folded,
        }


@dataclass(frozen=True)
class Quantized:
    """An int8 model and how it was made.

    Attributes:
        model: The QDQ graph, same input and output as the float model.
        recipe: The recipe as JSON values, for the spec.
    """

    model: onnx.ModelProto
    recipe: dict[str, Any]


def quantize_int8(
    model: onnx.ModelProto,
    calibration_rgb: UInt8Array,
    recipe: QuantizationRecipe | None = None,
    progress: Progress = no_progress,
) -> Quantized:
    """Quantizes a float32 contract model to int8.

    Args:
        model: The float model, input `image` uint8 (N, H, W, 3).
        calibration_rgb: (N, H, W, 3) uint8 RGB, preprocessed images from which activation ranges are taken; images
            the model was trained on will do, images it is judged by must not be among them.
        recipe: How; None takes the default.
        progress: Told how many calibration images have passed.

    Returns:
        The int8 model and its recipe.

    Raises:
        InputError: There are no calibration images, or the network has no layer that can be quantized.
        MissingPackageError: A package of the extra [export] is not installed.
    """
    if len(calibration_rgb) == 0:
        raise InputError("cannot quantize", got="no calibration images", expected="at least one")
    recipe = recipe or QuantizationRecipe()
    with tempfile.TemporaryDirectory(prefix="edgeclf-int8-") as folder_name, _quiet_logging():
        folder = Path(folder_name)
        prepared = _preprocess_graph(model, folder)
        stem = find_stem(prepared)
        quantized = _quantize(prepared, stem, calibration_rgb, recipe=recipe, folder=folder, progress=progress)
    if not any(node.op_type == "DequantizeLinear" for node in quantized.graph.node):
        raise InputError("cannot quantize", got="a network without convolutions or dense layers", expected="some")
    folded = stem is not None and stem.zero_point is not None and _fold_stem(quantized, stem)
    _keep_logits_float(quantized)
    _drop_unused(quantized)
    keep_used_opsets(quantized)
    quantized.producer_name = "edgeclf"
    quantized.ir_version = model.ir_version
    onnx.checker.check_model(quantized)
    return Quantized(quantized, recipe.to_json(len(calibration_rgb), normalisation_folded=folded))


def _preprocess_graph(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Infers shapes and folds batch normalisation into the convolutions, as the quantizer needs it."""
    try:
        from onnxruntime.quantization.shape_inference import quant_pre_process

        quant_pre_process(model, str(folder / "prepared.onnx"))
    except ImportError as error:
        raise MissingPackageError(
            "ONNX Runtime's quantizer cannot be loaded",
            got=str(error),
            expected="the packages of the extra [export]",
            do='run pip install "edgeclf[headless,export]"',
        ) from error
    return onnx.load(str(folder / "prepared.onnx"))


def _quantize(
    prepared: onnx.ModelProto,
    stem: Stem | None,
    calibration_rgb: UInt8Array,
    *,
    recipe: QuantizationRecipe,
    folder: Path,
    progress: Progress,
) -> onnx.ModelProto:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc] # onnxruntime carries no types
        def __init__(self) -> None:
            self.position = 0

        def get_next(self) -> dict[str, UInt8Array] | None:
            batch = calibration_rgb[self.position : self.position + _CALIBRATION_BATCH]
            if len(batch) == 0:
                return None
            self.position += len(batch)
            progress("calibrate", self.position, len(calibration_rgb))
            return {INPUT_NAME: np.ascontiguousarray(batch)}

    types = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
    options: dict[str, Any] = {}
    if stem is not None and stem.zero_point is not None:
        # The pixels are already 8-bit: with the stem's own scale and zero point no pixel value is rounded, and the
        # first layer's bias is quantized for the very scale that stays in the file when the stem is folded away.
        scale_and_zero = {"scale": np.array(stem.scale, np.float32), "zero_point": np.array(stem.zero_point, np.uint8)}
        options["TensorQuantOverrides"] = {stem.output: [scale_and_zero]}
    quantize_static(
        prepared,
        str(folder / "int8.onnx"),
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(_QUANTIZED_OPS),
        nodes_to_exclude=list(stem.nodes) if stem else [],
        per_channel=recipe.per_channel,
        reduce_range=recipe.reduce_range,
        activation_type=types[recipe.activation_type],
        weight_type=types[recipe.weight_type],
        calibrate_method=CalibrationMethod.MinMax,
        extra_options=options,
    )
    return onnx.load(str(folder / "int8.onnx"))


def _fold_stem(model: onnx.ModelProto, stem: Stem) -> bool:
    """Lets the uint8 pixels enter the first DequantizeLinear untouched, in place of the stem and its QuantizeLinear.

    Pre-condition: the stem is exact in 8 bits (`stem.zero_point`), and quantized with its own scale and zero point.
    Post-condition: the first layer reads the same numbers as before, computed without the float stem.

    Returns:
        Whether it was done: not when something besides one QuantizeLinear reads the stem.
    """
    graph = model.graph
    users = [node for node in graph.node if stem.output in node.input]
    if len(users) != 1 or users[0].op_type != "QuantizeLinear":
        return False
    quantize = users[0]
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    scale, zero_point = constants[quantize.input[1]], constants[quantize.input[2]]
    if zero_point.dtype != np.uint8 or int(zero_point) != stem.zero_point or scale != np.float32(stem.scale):
        return False
    pixels = INPUT_NAME
    kept = [node for node in graph.node if node.name not in stem.nodes and node is not quantize]
    if stem.perm is not None:
        pixels = f"{INPUT_NAME}_nchw"
        # NHWC to NCHW (or whatever the stem did), now on bytes instead of floats.
        transpose = onnx.helper.make_node("Transpose", [INPUT_NAME], [pixels], "transpose_image", perm=list(stem.perm))
        kept.insert(0, transpose)
    for node in kept:
        node.input[:] = [pixels if name == quantize.output[0] else name for name in node.input]
    nodes = [type(node).FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(nodes)
    return True


def _keep_logits_float(model: onnx.ModelProto) -> None:
    """Removes the rounding of the logits to 8 bits just before the softmax, in place."""
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    last = producers.get(OUTPUT_NAME)
    if last is None or last.op_type != "Softmax":
        return
    dequantize = producers.get(last.input[0])
    quantize = producers.get(dequantize.input[0]) if dequantize is not None else None
    if dequantize is None or quantize is None:
        return
    if (dequantize.op_type, quantize.op_type) == ("DequantizeLinear", "QuantizeLinear"):
        last.input[0] = quantize.input[0]


def _drop_unused(model: onnx.ModelProto) -> None:
    """Removes nodes whose outputs nobody reads, and initializers nobody uses, in place."""
    graph = model.graph
    needed = {value.name for value in graph.output}
    kept = []
    # Nodes are in topological order, so one pass from the end sees every reader before what it reads.
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(type(node).FromString(node.SerializeToString()))
    tensors = [type(t).FromString(t.SerializeToString()) for t in graph.initializer if t.name in needed]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(tensors)


@contextlib.contextmanager
def _quiet_logging() -> Iterator[None]:
    """Holds back the quantizer's advice, which goes to the root logger; its errors still arrive as exceptions."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
