"""The QDQ writer: quantized units as ONNX operators between DequantizeLinear and QuantizeLinear."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.float_graph import FloatGraph, infer_value_types
from edgeclf.export.graph.layers import Layer
from edgeclf.export.graph.light.moving import WeightWriter
from edgeclf.export.graph.light.weights import is_large
from edgeclf.export.graph.pixel_normalisation import PixelNormalisation
from edgeclf.export.int8.fixed_point import FixedPoint, fixed_point_weights, integer_input
from edgeclf.export.int8.partition import QuantUnit
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
    def weights32(self) -> FloatArray:
        """(O, K) float32 dequantized weights, computed in float64 row by row: those of a wide dense layer take a gigabyte."""
        rows = np.empty(self.codes.shape, np.float32)
        for row, codes, scale in zip(rows, self.codes, self.scales, strict=True):
            row[:] = codes * scale
        return rows


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
        if unit.quantized and unit.layer is None and main.op_type in {"Relu", "Clip"} and final in self.params:
            # uint8 cuts off by itself; an operator of the same values whose int8 kernel is a table, as ReLU has none.
            node = onnx.helper.make_node("LeakyRelu", inputs[:1], [final], main.name, alpha=0.0)
            self.nodes.append(node)
        else:
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
        # Not by adding 1.5 * 2^23 and taking it away, which costs ONNX Runtime on x86 2 % less of the float file's time, as its
        # convolutions keep channels in blocks: an engine that computes in bfloat16, as OpenVINO does where the CPU can, would
        # be left with nothing, where from a Round it is left with all that bfloat16 holds.
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
        self._add(weight, layer.layer.weight_of(layer.weights32))
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
        if unit is None or keep or name not in quantized_constants(self.graph, unit):
            self._add(name, value)
            return name
        key = constant_key(unit, name)
        params = self.params.get(key) or params_of_constant(value)
        self._add(f"{key}_codes", constant_codes(value, params))
        self._add(f"{key}_scale", np.float32(params.scale))
        self._add(f"{key}_zero", np.uint8(params.zero_point))
        self.nodes.append(
            onnx.helper.make_node(
                "DequantizeLinear", [f"{key}_codes", f"{key}_scale", f"{key}_zero"], [key], f"{key}_dequantize"
            )
        )
        return key

    def _copy(self, node: onnx.NodeProto, inputs: list[str], outputs: list[str]) -> None:
        copied = type(node).FromString(node.SerializeToString())
        copied.input[:] = inputs
        copied.output[:] = outputs
        self.nodes.append(copied)

    def constant(self, name: str, values: npt.ArrayLike) -> None:
        """Writes a constant that nodes from outside read."""
        self._add(name, values)

    def _add(self, name: str, values: npt.ArrayLike) -> None:
        if name not in self.initializers:
            self.initializers[name] = np.asarray(values)


def write_pixels(writer: QdqWriter, pixels: PixelNormalisation, *, folded: bool) -> None:
    """Writes the pixel normalisation, or with bytes that the first layer reads as they are what makes these bytes.

    Args:
        writer: The network's writer.
        pixels: Its pixel normalisation.
        folded: Whether the normalisation is a scale and a zero point of the bytes.
    """
    is_quantized = pixels.output in writer.params
    is_folded = folded and is_quantized
    copied = set(pixels.byte_nodes if is_folded else pixels.nodes)
    for node in writer.graph.nodes:
        if node.name not in copied:
            continue
        sides = _padded_image(writer.graph, node) if is_folded else None
        if sides is None:
            writer.copy(node)
        else:
            _write_channel_pad(writer, node, sides)
    if is_folded:
        # The transposition of the normalisation, NHWC to NCHW, on bytes instead of floats.
        output = quantized_name(pixels.output)
        node = onnx.helper.make_node("Identity", [pixels.bytes], [output], "pixels")
        if pixels.perm is not None:
            node = onnx.helper.make_node(
                "Transpose", [pixels.bytes], [output], "transpose_image", perm=list(pixels.perm)
            )
        writer.nodes.append(node)
    elif is_quantized:
        writer.quantize(pixels.output)


def _padded_image(graph: FloatGraph, node: onnx.NodeProto) -> list[int] | None:
    """The sides (C, H, W) of images that get further channels behind theirs; None of another node, or of unknown sides."""
    pads = graph.constants.get(node.input[1]) if node.op_type == "Pad" and len(node.input) == 3 else None
    if (
        pads is None
        or node.input[2] not in graph.constants
        or pads.size != 8
        or np.delete(pads, 5).any()
        or pads[5] <= 0
    ):
        return None
    kind = infer_value_types(graph.model).get(node.output[0])
    sides = [side.dim_value for side in kind.shape.dim] if kind is not None else []
    return sides[1:] if len(sides) == 4 and all(sides[1:]) else None


def _write_channel_pad(writer: QdqWriter, node: onnx.NodeProto, sides: list[int]) -> None:
    """Writes the Pad of an image's channels on its pixels in one row.

    ONNX Runtime moves the image's transposition behind a Pad of four axes, which then copies the bytes of each pixel by
    themselves: half a millisecond for 224 x 224 pixels, a fifth of the time of MobileNetV3-Small, in place of a tenth.
    """
    output = node.output[0]
    row, padded = f"{output}_row", f"{output}_padded_row"
    further = int(writer.graph.constants[node.input[1]][5])
    writer.constant(f"{row}_shape", np.array([0, 0, -1], np.int64))
    writer.constant(f"{padded}_pads", np.array([0, 0, 0, 0, further, 0], np.int64))
    writer.constant(f"{output}_shape", np.array([0, *sides], np.int64))
    writer.constant(node.input[2], writer.graph.constants[node.input[2]])
    make = onnx.helper.make_node
    writer.nodes += [
        make("Reshape", [node.input[0], f"{row}_shape"], [row], f"{node.name}_row"),
        make("Pad", [row, f"{padded}_pads", node.input[2]], [padded], node.name),
        make("Reshape", [padded, f"{output}_shape"], [output], f"{node.name}_image"),
    ]


def quantized_constants(graph: FloatGraph, unit: QuantUnit) -> tuple[str, ...]:
    """The float constants that a quantized unit reads in 8 bits beside its inputs: operands of arithmetic, not weights."""
    if not unit.quantized or unit.factor is not None or unit.nodes[0].op_type not in {"Add", "Mul", "Concat"}:
        return ()
    names = dict.fromkeys(unit.nodes[0].input)
    return tuple(name for name in names if name in graph.constants and graph.constants[name].dtype == np.float32)


def constant_key(unit: QuantUnit, name: str) -> str:
    """The key of a constant's scale and zero point, which each unit that reads it has of its own."""
    return f"{name}_for_{unit.name}"


def params_of_constant(values: AnyArray) -> QuantParams:
    """Scale and zero point that hold all values of a constant."""
    return params_of_range(float(values.min()), float(values.max()))


def constant_codes(values: AnyArray, params: QuantParams) -> AnyArray:
    """The uint8 codes of a constant."""
    return np.asarray(np.rint(values / params.scale + params.zero_point).clip(0, 255).astype(np.uint8))


def quantized_name(value: str) -> str:
    """The name of a float value's 8-bit form."""
    return f"{value}_u8"


def fixed_name(value: str) -> str:
    """The name of a float value's fixed-point form: integers, in float32."""
    return f"{value}_fixed"


def model_from_writer(
    writer: QdqWriter,
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    like: onnx.ModelProto,
    weights: WeightWriter | None = None,
) -> onnx.ModelProto:
    """The model of the nodes and constants that a writer has collected.

    Args:
        writer: Nodes and constants.
        inputs: Value infos of the inputs.
        outputs: Value infos of the outputs.
        like: The model whose operator sets and IR version it takes.
        weights: Takes the large weights of a light model; None for one with all of them inside.
    """
    graph = onnx.helper.make_graph(writer.nodes, "classifier", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=list(like.opset_import), producer_name="edgeclf")
    # Only now, so that no weights are copied along with the graph.
    for name, values in writer.initializers.items():
        is_moved = weights is not None and is_large(values.nbytes)
        model.graph.initializer.append(
            weights.add(name, values)
            if is_moved and weights is not None
            else onnx.numpy_helper.from_array(values, name)
        )
    model.ir_version = like.ir_version
    return model
