"""Where an int8 file loses precision: each layer's weights and outputs next to those of the float network."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.float_graph import FloatGraph, prepare_model, read_graph
from edgeclf.export.graph.pixel_normalisation import find_stem
from edgeclf.export.int8.partition import WEIGHTED_OPS, Layer, Step, plan_steps
from edgeclf.runtime.arrays import AnyArray, FloatArray, UInt8Array
from edgeclf.runtime.errors import ModelFileError
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.session.opening import open_session_from_bytes

_BATCH = 8


@dataclass(frozen=True)
class LayerFacts:
    """One layer of an int8 file next to the same layer of the float network.

    Attributes:
        position: From 1, in order of execution.
        name: In the int8 file.
        operator: `Conv`, `Gemm` or `MatMul`; `Conv (depthwise)`.
        precision: `int8`, or `fp32` where the layer was kept in float.
        weight_sqnr_db: Signal-to-quantization-noise ratio of the weights in decibels, 10 log10(sum w^2 / sum (w - w')^2);
            None where they are equal, or scaled by equalization.
        output_sqnr_db: The same of the outputs behind the activation function, errors of all layers before included;
            None where they are equal.
        lost_db: By how much the outputs' ratio lies below the lowest ratio of the layers that feed this one: what this layer
            itself loses. None where its inputs are exact, as those of the first layer are, or its outputs.
    """

    position: int
    name: str
    operator: str
    precision: str
    weight_sqnr_db: float | None
    output_sqnr_db: float | None
    lost_db: float | None

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return asdict(self)


def compare_layers(
    reference: onnx.ModelProto,
    model: onnx.ModelProto,
    images_rgb: UInt8Array,
    *,
    equalized: bool = False,
    progress: Progress = no_progress,
) -> tuple[LayerFacts, ...]:
    """Runs both networks and compares them layer by layer.

    Args:
        reference: The float model.
        model: A QDQ model made from it.
        images_rgb: (N, H, W, 3) uint8 RGB images.
        equalized: Whether channels were equalized: each channel is then compared up to its own factor.
        progress: Told how many images have passed.

    Returns:
        The layers, in order of execution.

    Raises:
        ModelFileError: The two are different networks, or the model has no quantized layer.
    """
    prepared = read_graph(prepare_model(reference))
    steps = [step for step in plan_steps(prepared, find_stem(prepared.model)).steps if step.layer is not None]
    quantized = read_graph(model)
    nodes = [node for node in quantized.nodes if _weights(quantized, node) is not None]
    kinds = [(step.nodes[0].op_type, step.layer.rows.shape) for step in steps if step.layer is not None]
    found = [(node.op_type, _rows_shape(_weights(quantized, node), node)) for node in nodes]
    if kinds != found or not any(_codes(quantized, node) is not None for node in nodes):
        raise ModelFileError(
            "cannot compare these models layer by layer",
            got=f"{len(found)} layers with weights and {len(kinds)} in the reference"
            if len(found) != len(kinds)
            else "layers of other shapes, or none in int8",
            expected="an int8 file and the float network it was made from",
            do="compare it with the run it was exported from",
        )
    ratios = _output_ratios(prepared, quantized, steps, nodes, images_rgb, equalized=equalized, progress=progress)
    facts = []
    ratios_so_far: dict[str, float | None] = {}
    for number, (step, node) in enumerate(zip(steps, nodes, strict=True)):
        layer = step.layer
        if layer is None:
            continue
        codes = _codes(quantized, node)
        weights = None if codes is None or equalized else _weight_ratio(layer, codes, quantized, node)
        before = _ratio_before(prepared, step, ratios_so_far)
        ratio = ratios[number]
        ratios_so_far[step.output] = ratio
        facts.append(
            LayerFacts(
                number + 1,
                str(node.name or node.output[0]),
                f"{layer.kind} (depthwise)" if layer.depthwise else layer.kind,
                "fp32" if codes is None else "int8",
                weights,
                ratio,
                None if before is None or ratio is None else before - ratio,
            )
        )
    return tuple(facts)


def worst_first(facts: tuple[LayerFacts, ...]) -> tuple[LayerFacts, ...]:
    """The layers by the decibels that each loses by itself, the most first.

    A layer whose inputs are exact has no ratio to fall from: all of its noise is its own. Such layers stand first, the
    noisiest of them before the others; layers whose outputs are exact stand last.
    """

    def rank(item: LayerFacts) -> tuple[int, float]:
        if item.output_sqnr_db is None:
            return 2, 0.0
        return (0, item.output_sqnr_db) if item.lost_db is None else (1, -item.lost_db)

    return tuple(sorted(facts, key=rank))


def sqnr_db(signal: AnyArray, noisy: AnyArray) -> float | None:
    """10 log10 of the signal's energy over that of the difference, in decibels; None where they are equal."""
    wide = signal.astype(np.float64)
    return _decibels(float(np.square(wide).sum()), float(np.square(noisy.astype(np.float64) - wide).sum()))


def _decibels(signal: float, noise: float) -> float | None:
    return None if noise == 0.0 else float(10 * np.log10(max(signal, 1e-300) / noise))


def _ratio_before(graph: FloatGraph, step: Step, known: dict[str, float | None]) -> float | None:
    """The lowest ratio among the layers that a layer's input comes from."""
    waiting, seen, ratios = list(step.inputs), set[str](), []
    while waiting:
        value = waiting.pop()
        if value in seen:
            continue
        seen.add(value)
        if value in known:
            ratio = known[value]
            if ratio is not None:
                ratios.append(ratio)
            continue
        producer = graph.producers.get(value)
        if producer is not None:
            waiting.extend(name for name in producer.input if name and name not in graph.constants)
    return min(ratios) if ratios else None


def _output_ratios(
    prepared: FloatGraph,
    quantized: FloatGraph,
    steps: list[Step],
    nodes: list[Any],
    images_rgb: UInt8Array,
    *,
    equalized: bool,
    progress: Progress,
) -> list[float | None]:
    wanted = [step.output for step in steps]
    given = [_final_value(quantized, node, len(step.nodes)) for node, step in zip(nodes, steps, strict=True)]
    float_session = _session(prepared.model, dict.fromkeys(wanted, onnx.TensorProto.FLOAT))
    int8_session = _session(
        quantized.model, {name: onnx.TensorProto.UINT8 if quant else onnx.TensorProto.FLOAT for name, quant in given}
    )
    signal, noise = np.zeros(len(steps)), np.zeros(len(steps))
    for start in range(0, len(images_rgb), _BATCH):
        batch = np.ascontiguousarray(images_rgb[start : start + _BATCH])
        for number, (a, b) in enumerate(
            zip(
                float_session.run(wanted, {prepared.input: batch}),
                int8_session.run([n for n, _ in given], {quantized.input: batch}),
                strict=True,
            )
        ):
            real = _real(quantized, b, *given[number])
            if equalized:
                real = _aligned(a, real)
            signal[number] += np.square(a, dtype=np.float64).sum()
            noise[number] += np.square(real - a, dtype=np.float64).sum()
        progress("compare layers", start + len(batch), len(images_rgb))
    return [_decibels(float(energy), float(lost)) for energy, lost in zip(signal, noise, strict=True)]


def _final_value(graph: FloatGraph, node: Any, nodes: int) -> tuple[str, bool]:  # noqa: ANN401
    """The value behind a layer and its activation function, and whether that is in 8 bits."""
    value = node.output[0]
    # In float the activation function is still there; quantization has absorbed it.
    for _ in range(nodes - 1):
        following = graph.only_reader(value)
        if following is not None and following.op_type in {"Relu", "Clip"}:
            value = following.output[0]
    following = graph.only_reader(value)
    if following is not None and following.op_type == "QuantizeLinear":
        return following.output[0], True
    return value, False


def _real(graph: FloatGraph, values: AnyArray, name: str, quantized: bool) -> FloatArray:  # noqa: FBT001
    if not quantized:
        return np.asarray(values, np.float32)
    _, scale, zero = graph.producers[name].input
    centred = values.astype(np.float32) - np.float32(graph.constants[zero])
    return np.asarray(centred * np.float32(graph.constants[scale]), np.float32)


def _aligned(reference: FloatArray, values: FloatArray) -> FloatArray:
    """Each channel times the factor that brings it closest to the reference."""
    channel = 1 if values.ndim == 4 else values.ndim - 1
    axes = tuple(axis for axis in range(values.ndim) if axis != channel)
    own = np.square(values, dtype=np.float64).sum(axis=axes, keepdims=True)
    factor = (values.astype(np.float64) * reference).sum(axis=axes, keepdims=True) / np.where(own > 0, own, 1)
    return np.asarray(values * factor, np.float32)


def _session(model: onnx.ModelProto, outputs: dict[str, int]) -> Any:  # noqa: ANN401 - onnxruntime carries no types
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items())
    return open_session_from_bytes(copy.SerializeToString(), threads=1)


def _weights(graph: FloatGraph, node: Any) -> AnyArray | None:  # noqa: ANN401
    """A layer's weights as they stand in the file, codes or floats; None for another node."""
    if node.op_type not in WEIGHTED_OPS:
        return None
    codes = _codes(graph, node)
    return graph.constants.get(node.input[1]) if codes is None else codes


def _codes(graph: FloatGraph, node: Any) -> npt.NDArray[np.int8] | None:  # noqa: ANN401
    producer = graph.producers.get(node.input[1])
    if producer is None or producer.op_type != "DequantizeLinear":
        return None
    return graph.constants.get(producer.input[0])


def _rows_shape(weights: AnyArray | None, node: Any) -> tuple[int, ...]:  # noqa: ANN401
    if weights is None:
        return ()
    if node.op_type == "Conv":
        return len(weights), int(np.prod(weights.shape[1:]))
    transposed = any(item.name == "transB" and item.i for item in node.attribute)
    return tuple(weights.shape if transposed else weights.shape[::-1])


def _weight_ratio(layer: Layer, codes: npt.NDArray[np.int8], graph: FloatGraph, node: Any) -> float | None:  # noqa: ANN401
    scales = graph.constants[graph.producers[node.input[1]].input[1]].astype(np.float64)
    shape = [1] * codes.ndim
    shape[layer.channel_axis] = -1
    return sqnr_db(layer.weight_of(layer.rows), codes * scales.reshape(shape))
