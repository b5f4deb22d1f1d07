"""A float network of which chosen values and chosen layers' weights are rounded to 8 bits, and the error that costs."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime

from edgeclf.export.int8.calibrator import QuantizedNetwork, partition_network
from edgeclf.export.int8.layerwise.fitting import LayerMethods, quantize_layers
from edgeclf.export.int8.partition import QuantUnit
from edgeclf.export.int8.qdq_writer import QdqWriter, QuantizedLayer, model_from_writer
from edgeclf.export.int8.ranges import QuantParams
from edgeclf.runtime.arrays import Float64Array, FloatArray, UInt8Array
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.progress import no_progress

_BATCH = 4
# Probabilities below count as this much: their logarithms tell nothing.
_LEAST = 1e-9


@dataclass(frozen=True, eq=False)
class Reference:
    """What errors are measured against.

    Attributes:
        images_rgb: (N, H, W, 3) uint8 RGB.
        probabilities: (N, C) float32, of the float network.
    """

    images_rgb: UInt8Array
    probabilities: FloatArray

    def share(self, probabilities: FloatArray) -> float:
        """Energy of the error of the logits as a share of that of the float network's."""
        wanted = logits_of(self.probabilities)
        return float(np.square(logits_of(probabilities) - wanted).mean() / np.square(wanted).mean())

    def share_of(self, model: onnx.ModelProto) -> float:
        """The same of a model."""
        return self.share(run_model(model, self.images_rgb))


def logits_of(probabilities: FloatArray) -> Float64Array:
    """(N, C) float64 logits with mean 0, what a softmax ignores left out."""
    logs = np.log(np.maximum(probabilities.astype(np.float64), _LEAST))
    return np.asarray(logs - logs.mean(axis=1, keepdims=True))


def run_model(model: onnx.ModelProto, images_rgb: UInt8Array) -> FloatArray:
    """(N, C) float32 probabilities."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = usable_cpus()
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    starts = range(0, len(images_rgb), _BATCH)
    return np.concatenate([session.run(None, {name: images_rgb[at : at + _BATCH]})[0] for at in starts])


def rounded_model(
    network: QuantizedNetwork, values: Collection[str] = (), layers: Mapping[str, QuantizedLayer] | None = None
) -> onnx.ModelProto:
    """The float network with some values rounded to 8 bits, and some layers' weights dequantized.

    Args:
        network: Gives the graph, and scale and zero point of each value.
        values: Names of the values to round.
        layers: Quantized weights and biases by layer name; None for none.
    """
    layers = layers or {}
    writer = QdqWriter(network.graph, network.params, {})
    for node in network.graph.nodes:
        name = node.name or node.output[0]
        if name in layers:
            writer.copy_dequantized(node, layers[name])
        else:
            writer.copy(node)
        value = node.output[0]
        if value in values:
            exact = f"{value}_exact"
            writer.nodes[-1].output[0] = exact
            _round(writer, exact, value, network.params[value])
    source = network.graph.model
    return model_from_writer(writer, list(source.graph.input), list(source.graph.output), source)


def _round(writer: QdqWriter, source: str, value: str, params: QuantParams) -> None:
    """Rounds a value by arithmetic, which ONNX Runtime optimizes around; QuantizeLinear would make it quantize neighbours."""
    ends = -params.zero_point, 255 - params.zero_point
    names = [f"{value}_{name}" for name in ("step", "low", "high", "units", "rounded", "clipped")]
    for name, number in zip(names, (params.scale, *ends), strict=False):
        writer.initializers[name] = np.asarray(number, np.float32)
    step, low, high, units, rounded, clipped = names
    for kind, inputs, output in (
        ("Div", (source, step), units),
        ("Round", (units,), rounded),
        ("Clip", (rounded, low, high), clipped),
        ("Mul", (clipped, step), value),
    ):
        writer.nodes.append(onnx.helper.make_node(kind, list(inputs), [output], output))


def rounded_values(network: QuantizedNetwork) -> dict[str, QuantUnit]:
    """The units whose outputs are rounded to 8 bits, by output; of several values with the same codes the first alone."""
    units = partition_network(network.graph, network.recipe).units
    return {
        unit.output: unit
        for unit in units
        if unit.output in network.params and not unit.moves and (unit.factor is None or not unit.quantized)
    }


def layers_fitted_alone(network: QuantizedNetwork, images_rgb: UInt8Array) -> dict[str, QuantizedLayer]:
    """The layers, each fitted as if it were the only quantized one: its bias takes back no other layer's error.

    Args:
        network: A network without fixed-point layers.
        images_rgb: (N, H, W, 3) uint8 RGB, what they are fitted to.
    """
    recipe = network.recipe
    methods = LayerMethods(recipe.pair_constraint, recipe.gptq, recipe.correct_bias, sequential=False)
    partition = partition_network(network.graph, recipe)
    return quantize_layers(network.graph, partition, network.params, images_rgb, methods=methods, progress=no_progress)
