"""The QDQ writer: quantized units as ONNX operators between DequantizeLinear and QuantizeLinear."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.float_graph import FloatGraph
from edgeclf.export.int8.fixed_point import FixedPoint, fixed_point_weights, integer_input
from edgeclf.export.int8.partition import Layer, QuantUnit
from edgeclf.export.int8.ranges import QuantParams, params_of_range
from edgeclf.export.int8.weights import Codes, Int8Codes
from edgeclf.runtime.arrays import AnyArray, Float64Array, FloatArray

_INT32_MAX = 2**31 - 1


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """Quantized weights and the bias of a layer.

    Attributes:
        layer: The layer.
        codes: (O, K) weights in -127..127.
        scales: (O,) float64, exact in float32.
        bias: (O,) float64, in real units.
    """

    layer: Layer
    codes: Codes | Int8Codes
    scales: Float64Array
    bias: Float64Array

    def with_bias(self, bias: Float64Array) -> "QuantizedLayer":
        """The same weights with another bias."""
        return QuantizedLayer(self.layer, self.codes, self.scales, bias)

    @property
    def weights(self) -> Float64Array:
        """(O, K) dequantized weights."""
        return np.asarray(self.codes * self.scales[:, None])


def smallest_scales(bias: Float64Array, input_scale: float) -> Float64Array:
    """(O,) weight scales below which a bias would not fit into 32 bits of the input's scale times the weights'.

    A channel of tiny weights - a dead one - would ask for such a scale; a factor of two is left for corrections.
    """
    return np.asarray(np.abs(bias) * 2.0 / (input_scale * _INT32_MAX))


@dataclass
class QdqWriter:
    """Collects the ONNX nodes and constants of units.

    Attributes:
        graph: The float graph the units are of.
        params: Of every value that exists in 8 bits.
        layers: The quantized layers by unit name; of fixed-point layers those whose bias was corrected.
        fixed: Of every value between fixed-point layers.
        nodes: Written so far.
        initializers: Constants written so far.
    """

    graph: FloatGraph
    params: Mapping[str, QuantParams]
    layers: Mapping[str, QuantizedLayer]
    fixed: Mapping[str, FixedPoint] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: dict[str, AnyArray] = field(default_factory=dict)

    def write_unit(self, unit: QuantUnit, *, quantize_output: bool = True) -> None:
        """Writes a unit.

        Args:
            unit: The unit; what it reads in 8 bits is expected under `quantized_name(value)`, the rest under its own name.
            quantize_output: Whether its output is given in 8 bits where it exists in them.
        """
        main = unit.nodes[0]
        if unit.exact:
            self._write_exact(unit, quantize_output=quantize_output)
            return
        if unit.factor is not None and {unit.inputs[0], unit.output} <= self.params.keys() and quantize_output:
            # The same codes with another scale: nothing is computed.
            source, target = quantized_name(unit.inputs[0]), quantized_name(unit.output)
            self.nodes.append(onnx.helper.make_node("Identity", [source], [target], f"{unit.name}_codes"))
            return
        renamed = {name: self._read(name, unit) for name in unit.inputs}
        if unit.quantized and unit.layer is not None:
            inputs = [renamed[main.input[0]], *self._weights(unit)]
        else:
            inputs = [renamed.get(name, name) for name in main.input]
            inputs = [self._constant(name, unit) for name in inputs]
        final = unit.output
        last = main.output[0]
        # The absorbed activation function is what uint8 does at its ends; in float it must be there.
        written = [] if unit.quantized and final in self.params and quantize_output else list(unit.nodes[1:])
        self._copy(main, inputs, [last if written else final, *main.output[1:]])
        for node in written:
            self._copy(node, [self._constant(n, unit, keep=True) for n in node.input], list(node.output))
        for value in (final, *main.output[1:]) if quantize_output else ():
            if value in self.params:
                self.quantize(value)

    def stored_name(self, value: str) -> str:
        """The name of the form in which units read a value: in 8 bits, in fixed point, or in float."""
        if value in self.fixed:
            return fixed_name(value)
        return quantized_name(value) if value in self.params else value

    def _write_exact(self, unit: QuantUnit, *, quantize_output: bool) -> None:
        """Writes a fixed-point layer: integers times weights on a power-of-two grid."""
        layer = unit.layer
        if layer is None:
            raise ValueError(f"{unit.name} has no weights")
        main, name, source = unit.nodes[0], unit.name, unit.inputs[0]
        integers = fixed_name(source) if source in self.fixed else self._codes_as_floats(source, unit)
        worth, largest = integer_input(self.fixed[source] if source in self.fixed else self.params[source])
        target = self.fixed.get(unit.output) if quantize_output else None
        bias = self.layers[name].bias if name in self.layers else layer.bias
        rows, bias = fixed_point_weights(
            layer.rows, bias, unit=worth, largest=largest, step=1.0 if target is None else target.step
        )
        self._add(f"{name}_fixed_weight", layer.weight_of(rows).astype(np.float32))
        self._add(f"{name}_fixed_bias", bias.astype(np.float32))
        inputs = [integers, f"{name}_fixed_weight", f"{name}_fixed_bias"]
        if target is None:
            written = [] if unit.output in self.params and quantize_output else list(unit.nodes[1:])
            self._copy(main, inputs, [main.output[0] if written else unit.output])
            for node in written:
                self._copy(node, [self._constant(n, unit, keep=True) for n in node.input], list(node.output))
            if unit.output in self.params and quantize_output:
                self.quantize(unit.output)
            return
        low, high, unrounded = f"{name}_low", f"{name}_high", f"{unit.output}_unrounded"
        self._add(low, np.float32(target.low))
        self._add(high, np.float32(target.high))
        clipped = f"{unit.output}_clipped"
        self._copy(main, inputs, [unrounded])
        self.nodes.append(onnx.helper.make_node("Clip", [unrounded, low, high], [clipped], f"{name}_clip"))
        self.nodes.append(onnx.helper.make_node("Round", [clipped], [fixed_name(unit.output)], f"{name}_round"))

    def _codes_as_floats(self, value: str, unit: QuantUnit) -> str:
        """The codes of a value less its zero point, in float: integers."""
        channels = unit.layer.input_channels if unit.layer is not None else 1
        output, ones, zeros = f"{value}_for_{unit.name}", f"{value}_ones", f"{value}_zeros"
        # One scale for each channel, as for float layers below: ONNX Runtime would quantize the weights otherwise.
        self._add(ones, np.ones(channels, np.float32))
        self._add(zeros, np.full(channels, self.params[value].zero_point, np.uint8))
        self.nodes.append(
            onnx.helper.make_node(
                "DequantizeLinear", [quantized_name(value), ones, zeros], [output], f"{output}_dequantize"
            )
        )
        return output

    def quantize(self, value: str) -> None:
        """Writes the QuantizeLinear of a float value."""
        self.nodes.append(
            onnx.helper.make_node(
                "QuantizeLinear", [value, *self._params(value)], [quantized_name(value)], f"{value}_quantize"
            )
        )

    def copy(self, node: onnx.NodeProto) -> None:
        """Writes a node of the float graph as it is."""
        self._copy(node, [self._constant(name, None, keep=True) for name in node.input], list(node.output))

    def copy_dequantized(self, node: onnx.NodeProto, layer: QuantizedLayer) -> None:
        """Writes a layer's node in float with its quantized weights: their rounding without that of any activation."""
        weight, bias = f"{layer.layer.name}_dequantized_weight", f"{layer.layer.name}_dequantized_bias"
        self._add(weight, layer.layer.weight_of(layer.weights).astype(np.float32))
        inputs = [node.input[0], weight]
        if layer.layer.kind != "MatMul":
            self._add(bias, layer.bias.astype(np.float32))
            inputs.append(bias)
        self._copy(node, inputs, list(node.output))

    def _read(self, value: str, unit: QuantUnit) -> str:
        if value not in self.params:
            return value
        output = f"{value}_for_{unit.name}"
        if unit.layer is not None and not unit.quantized:
            # ONNX Runtime quantizes float weights by itself, per tensor and with all eight bits, where it finds a layer
            # between DequantizeLinear and QuantizeLinear (WeightBiasQuantization). The same scale given once for every
            # channel is the form that it leaves alone.
            channels = unit.layer.input_channels
            scale, zero = f"{value}_scales", f"{value}_zeros"
            self._add(scale, np.full(channels, self.params[value].scale, np.float32))
            self._add(zero, np.full(channels, self.params[value].zero_point, np.uint8))
        else:
            scale, zero = self._params(value)
        self.nodes.append(
            onnx.helper.make_node(
                "DequantizeLinear", [quantized_name(value), scale, zero], [output], f"{output}_dequantize"
            )
        )
        return output

    def _weights(self, unit: QuantUnit) -> list[str]:
        quantized = self.layers[unit.name]
        layer, name = quantized.layer, unit.name
        codes = layer.weight_of(quantized.codes).astype(np.int8, copy=False)
        scales = quantized.scales.astype(np.float32)
        weight = self._dequantized(f"{name}_weight", codes, scales, np.zeros(len(scales), np.int8), layer.channel_axis)
        if layer.kind == "MatMul":
            return [weight]
        input_scale = self.params[unit.inputs[0]].scale
        # The engines compute this product in float32 as well.
        bias_scales = (np.float32(input_scale) * scales).astype(np.float32)
        bias = np.rint(quantized.bias / bias_scales.astype(np.float64)).clip(-_INT32_MAX, _INT32_MAX).astype(np.int32)
        zeros = np.zeros(len(scales), np.int32)
        return [weight, self._dequantized(f"{name}_bias", bias, bias_scales, zeros, 0)]

    def _dequantized(self, name: str, codes: AnyArray, scales: FloatArray, zeros: AnyArray, axis: int) -> str:
        for suffix, values in (("codes", codes), ("scale", scales), ("zero", zeros)):
            self._add(f"{name}_{suffix}", values)
        self.nodes.append(
            onnx.helper.make_node(
                "DequantizeLinear",
                [f"{name}_codes", f"{name}_scale", f"{name}_zero"],
                [f"{name}_dq"],
                f"{name}_dequantize",
                axis=axis,
            )
        )
        return f"{name}_dq"

    def _params(self, value: str) -> tuple[str, str]:
        params = self.params[value]
        self._add(f"{value}_scale", np.float32(params.scale))
        self._add(f"{value}_zero", np.uint8(params.zero_point))
        return f"{value}_scale", f"{value}_zero"

    def _constant(self, name: str, unit: QuantUnit | None, *, keep: bool = False) -> str:
        """Name of an operand; float constants of quantized arithmetic are written in 8 bits, other constants as they are."""
        value = self.graph.constants.get(name)
        if value is None:
            return name
        arithmetic = unit is not None and unit.quantized and unit.nodes[0].op_type in {"Add", "Mul", "Concat"}
        if keep or not arithmetic or value.dtype != np.float32:
            self._add(name, value)
            return name
        params = params_of_range(float(value.min()), float(value.max()))
        codes = np.rint(value / params.scale + params.zero_point).clip(0, 255).astype(np.uint8)
        self._add(f"{name}_codes", codes)
        self._add(f"{name}_scale", np.float32(params.scale))
        self._add(f"{name}_zero", np.uint8(params.zero_point))
        output = f"{name}_for_{unit.name if unit else ''}"
        self.nodes.append(
            onnx.helper.make_node(
                "DequantizeLinear",
                [f"{name}_codes", f"{name}_scale", f"{name}_zero"],
                [output],
                f"{output}_dequantize",
            )
        )
        return output

    def _copy(self, node: onnx.NodeProto, inputs: list[str], outputs: list[str]) -> None:
        copied = type(node).FromString(node.SerializeToString())
        copied.input[:] = inputs
        copied.output[:] = outputs
        self.nodes.append(copied)

    def _add(self, name: str, values: npt.ArrayLike) -> None:
        if name not in self.initializers:
            self.initializers[name] = np.asarray(values)


def quantized_name(value: str) -> str:
    """The name of a float value's 8-bit form."""
    return f"{value}_u8"


def fixed_name(value: str) -> str:
    """The name of a float value's fixed-point form: integers, in float32."""
    return f"{value}_fixed"


def model_from_writer(
    writer: QdqWriter, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto], like: onnx.ModelProto
) -> onnx.ModelProto:
    """The model of the nodes and constants that a writer has collected.

    Args:
        writer: Nodes and constants.
        inputs: Value infos of the inputs.
        outputs: Value infos of the outputs.
        like: The model whose operator sets and IR version it takes.
    """
    graph = onnx.helper.make_graph(writer.nodes, "classifier", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=list(like.opset_import), producer_name="edgeclf")
    # Only now, so that no weights are copied along with the graph.
    for name, values in writer.initializers.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    model.ir_version = like.ir_version
    return model
