"""Calibration of a static int8 network by a recipe, and the QDQ file written from it, whose results are alike on every CPU.

Each layer's weights keep 8 bits under the pair constraint of `int8.weights`, activations get min-max or MSE ranges,
weights are rounded by GPTQ and biases corrected layer by layer on the real outputs of the quantized layers before, and
uint8 pixels enter the first layer untouched.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.contract import OUTPUT_NAME
from edgeclf.export.graph.convert import keep_used_opsets
from edgeclf.export.graph.float_graph import FloatGraph, read_graph
from edgeclf.export.graph.int8_forms import prepare_for_int8
from edgeclf.export.graph.light.moving import moved_out_where_large
from edgeclf.export.graph.light.structure import check_model
from edgeclf.export.graph.pad_channels import pad_depthwise_channels
from edgeclf.export.graph.pixel_normalisation import PixelNormalisation, find_pixel_normalisation
from edgeclf.export.int8.determinism.alignment import align_scales
from edgeclf.export.int8.determinism.near_ties import units_with_ties
from edgeclf.export.int8.determinism.portability import what_binds
from edgeclf.export.int8.determinism.saturation import prove_no_saturation
from edgeclf.export.int8.equalization import equalize, find_streams
from edgeclf.export.int8.fixed_point import (
    FixedPoint,
    choose_fixed_point_prefix,
    fixed_point_of_range,
    is_fixed_point_layer,
)
from edgeclf.export.int8.float_prefix import MeasureLatency, choose_float_prefix, float_prefixes
from edgeclf.export.int8.layerwise.fitting import VALUE_BYTES, LayerMethods, activation_ends, quantize_layers
from edgeclf.export.int8.observe import Observed, observe
from edgeclf.export.int8.partition import Partition, partition_graph
from edgeclf.export.int8.qat_ranges import PlacedScales, TrainedScales
from edgeclf.export.int8.qdq_writer import (
    QdqWriter,
    QuantizedLayer,
    constant_key,
    model_from_writer,
    params_of_constant,
    quantized_constants,
    write_pixels,
)
from edgeclf.export.int8.ranges import QuantParams, ValueHistogram
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.errors import InputError, UsageError
from edgeclf.runtime.progress import Progress, no_progress

# Images that GPTQ and bias correction are fitted to (benchmarks/README.md, Choices that were measured).
SEQUENTIAL_IMAGES = 256
# Part by which a fixed-point value may go beyond what was observed; its step is a power of two in any case.
_HEADROOM = 1.25
_QUANTIZED_OPS = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "MatMulInteger"})


@dataclass(frozen=True)
class Quantized:
    """An int8 model and how it was made.

    Attributes:
        model: The QDQ graph, same input and output as the float model.
        recipe: The recipe as JSON values, for the spec.
        layers: Names of the layers that are in 8 bits.
        left_in_float: Names and operators of what has no int8 form here, or was kept in float.
    """

    model: onnx.ModelProto
    recipe: dict[str, Any]
    layers: tuple[str, ...]
    left_in_float: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class QuantizedNetwork:
    """A calibrated network; QDQ files with more layers in float are written from it without calibrating again.

    Attributes:
        graph: The float graph, equalized where that was asked for.
        params: Of every value that exists in 8 bits.
        fixed: Of every value between fixed-point layers.
        layers: The quantized layers by name.
        recipe: How it was made.
        calibration_images: How many images it was fitted to.
        equalized_streams: How many groups of values were equalized, see `find_streams`.
        ir_version: Of the model it came from.
    """

    graph: FloatGraph
    params: dict[str, QuantParams]
    fixed: dict[str, FixedPoint]
    layers: dict[str, QuantizedLayer]
    recipe: QuantizationRecipe
    calibration_images: int
    equalized_streams: int
    ir_version: int

    def write(self, keep_float: Collection[str] = ()) -> Quantized:
        """The network as a QDQ model.

        Args:
            keep_float: Names of layers to keep in float, besides those of the recipe.

        Raises:
            UsageError: There is no such layer.
        """
        recipe = replace(self.recipe, keep_float=tuple(dict.fromkeys([*self.recipe.keep_float, *keep_float])))
        partition = partition_network(self.graph, recipe)
        read = {constant_key(unit, name) for unit in partition.units for name in quantized_constants(self.graph, unit)}
        params = {value: params for value, params in self.params.items() if value in partition.quantized_values | read}
        folded = _is_exact(partition.pixels)
        fixed = {value: self.fixed[value] for value in partition.fixed_values}
        writer = QdqWriter(self.graph, params, self.layers, fixed)
        model = _write(writer, partition, folded=folded)
        pad_depthwise_channels(model)
        model.ir_version = self.ir_version
        check_model(model)
        proof = prove_no_saturation(model)
        if recipe.pair_constraint and not proof.holds:
            raise RuntimeError(f"the pair constraint does not hold in {', '.join(proof.violating)}")
        ties = [(unit.name, unit.nodes[0].op_type) for unit in units_with_ties(self.graph, partition.units, params)]
        reason = what_binds(recipe.target, partition.left_in_float, ties)
        record = {
            "format": "QDQ",
            "activation_type": "uint8",
            "weight_type": "int8",
            "per_channel": True,
            **recipe.to_json(),
            "pair_constraint": recipe.pair_constraint,
            "keep_float": list(recipe.keep_float),
            "float_entrance": list(recipe.float_prefix),
            "fixed_point": [unit.name for unit in partition.units if unit.exact],
            "equalized_streams": self.equalized_streams,
            "calibration_images": self.calibration_images,
            "normalisation_folded": folded,
            "saturation": proof.to_json(),
            "unsettled_sums": [name for name, _ in ties],
            "portable": not reason,
            "portable_reason": reason,
        }
        return Quantized(model, record, tuple(unit.name for unit in partition.layers), partition.left_in_float)


def partition_network(graph: FloatGraph, recipe: QuantizationRecipe) -> Partition:
    """The partition of a graph into 8-bit and float units under a recipe.

    Raises:
        UsageError: The recipe keeps a layer in float that does not exist.
        InputError: There is nothing to quantize.
    """
    pixels = find_pixel_normalisation(graph.model)
    exact = {*recipe.exact}
    if recipe.has_fixed_point_prefix and pixels is not None and pixels.zero_point is not None:
        exact.update(choose_fixed_point_prefix(graph, pixels.output))
    partition = partition_graph(graph, pixels, recipe.in_float, exact=exact)
    unknown = {*recipe.in_float, *recipe.exact} - {unit.name for unit in partition.units}
    if unknown:
        raise UsageError(
            f"no layer {min(unknown)!r} to keep in float", expected=", ".join(unit.name for unit in partition.layers)
        )
    if not partition.layers and not recipe.in_float and not exact:
        raise InputError("cannot quantize", got="a network without convolutions or dense layers", expected="some")
    return partition


def _is_exact(pixels: PixelNormalisation | None) -> bool:
    return pixels is not None and pixels.zero_point is not None


def _write(writer: QdqWriter, partition: Partition, *, folded: bool) -> onnx.ModelProto:
    graph = writer.graph
    if partition.pixels is not None:
        write_pixels(writer, partition.pixels, folded=folded)
    for unit in partition.units:
        writer.write_unit(unit)
    model = model_from_writer(writer, list(graph.model.graph.input), list(graph.model.graph.output), graph.model)
    if model.graph.output[0].name != OUTPUT_NAME:
        raise ValueError(f"expected the output {OUTPUT_NAME}, got {model.graph.output[0].name}")
    keep_used_opsets(model)
    return model


def quantize_int8(
    model: onnx.ModelProto,
    calibration_rgb: UInt8Array,
    recipe: QuantizationRecipe | None = None,
    progress: Progress = no_progress,
) -> Quantized:
    """Quantizes a float32 contract model to int8.

    Args:
        model: The float model.
        calibration_rgb: (N, H, W, 3) uint8 RGB, preprocessed images.
        recipe: How; None takes the default.
        progress: Called with each pass.

    Raises:
        EdgeclfError: As `Calibrator`.
    """
    return calibrate_network(model, calibration_rgb, recipe, progress).write()


def calibrate_network(
    model: onnx.ModelProto,
    calibration_rgb: UInt8Array,
    recipe: QuantizationRecipe | None = None,
    progress: Progress = no_progress,
) -> QuantizedNetwork:
    """Calibrates a float32 contract model once, see `Calibrator`.

    Raises:
        EdgeclfError: As `Calibrator`.
    """
    return Calibrator(model, calibration_rgb, progress).network(recipe or QuantizationRecipe())


class Calibrator:
    """Quantizes one float network by any number of recipes; observed values and equalized weights are computed once.

    Args:
        model: The float model, input `image` uint8 (N, H, W, 3).
        calibration_rgb: (N, H, W, 3) uint8 RGB, preprocessed images that ranges, GPTQ and biases are fitted to;
            images the model was trained on will do, images it is judged by must not be among them.
        progress: Called with each pass.
        sequential_images: How many of the images GPTQ and bias correction are fitted to; ranges are fitted to all.
        trained: Scales from quantization-aware training, for recipes that ask for them; None where there was none.
        value_bytes: Memory for the values of these images in both networks; what goes beyond is kept in temporary files,
            with the same results.

    Raises:
        InputError: There are no calibration images, the model is quantized already, has no layer that can be, or gives
            values that are not finite; or trained scales do not fit it.
        UsageError: A recipe keeps a layer in float that does not exist.
        MissingPackageError: A package of the extra [export] is not installed.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        calibration_rgb: UInt8Array,
        progress: Progress = no_progress,
        *,
        sequential_images: int = SEQUENTIAL_IMAGES,
        trained: TrainedScales | None = None,
        value_bytes: int = VALUE_BYTES,
    ) -> None:
        if len(calibration_rgb) == 0:
            raise InputError("cannot quantize", got="no calibration images", expected="at least one")
        if any(node.op_type in _QUANTIZED_OPS for node in model.graph.node):
            raise InputError(
                "cannot quantize",
                got="a model that is already quantized",
                expected="its float file",
                hint="export it anew",
            )
        self._images = calibration_rgb
        self._progress = progress
        self._few = calibration_rgb[:sequential_images]
        self._ir_version = model.ir_version
        # Layers and sessions read large weights from files as they need them.
        model, files = moved_out_where_large(model)
        self._graph = read_graph(prepare_for_int8(model, norms=trained is None), files=files)
        self._equalized: tuple[FloatGraph, int] | None = None
        self._seen: dict[bool, Observed] = {}
        self._trained = trained
        self._value_bytes = value_bytes
        self._placed: PlacedScales | None = None

    @property
    def has_uneven_channels(self) -> bool:
        """Whether equalization would change any channel."""
        return self._equalize()[1] > 0

    def network(self, recipe: QuantizationRecipe) -> QuantizedNetwork:
        """The network quantized by a recipe."""
        graph, streams = self._graph, 0
        # Checks the recipe before anything is run.
        partition = partition_network(graph, recipe)
        if recipe.equalize:
            graph, streams = self._equalize()
            partition = partition_network(graph, recipe)
        trained = self._place() if recipe.trained_ranges else PlacedScales()
        seen = self._observe(graph, equalized=streams > 0)
        params = _choose_params(graph, partition, seen, recipe, trained.params)
        fixed = {
            unit.output: _fixed_point(seen.histograms[unit.output], activation_ends(graph, unit))
            for unit in partition.units
            if unit.output in partition.fixed_values
        }
        methods = LayerMethods(recipe.pair_constraint, recipe.gptq, recipe.correct_bias)
        # Ranges need many images, for what is rare; rounding and biases are means, which settle soon.
        layers = quantize_layers(
            graph,
            partition,
            params,
            self._few,
            methods=methods,
            progress=self._progress,
            fixed=fixed,
            weight_scales=trained.weight_scales,
            value_bytes=self._value_bytes,
        )
        return QuantizedNetwork(graph, params, fixed, layers, recipe, len(self._images), streams, self._ir_version)

    @property
    def convolutions(self) -> frozenset[str]:
        """Names of the layers that can be computed in fixed point."""
        units = partition_graph(self._graph, find_pixel_normalisation(self._graph.model)).layers
        return frozenset(unit.name for unit in units if is_fixed_point_layer(unit.layer))

    def float_prefixes(self, recipe: QuantizationRecipe) -> list[tuple[str, ...]]:
        """The candidates for the float prefix, see `float_prefixes`: from the very first layer on."""
        return float_prefixes(self.layers(recipe))

    def layers(self, recipe: QuantizationRecipe) -> list[str]:
        """Names of all layers that can be in 8 bits beside those that a recipe keeps in float, in order of execution."""
        plain = replace(recipe, fixed_point=False, exact=(), float_prefix=(), equalize=False)
        return [unit.name for unit in partition_network(self._graph, plain).layers]

    def find_float_prefix(self, recipe: QuantizationRecipe, measure_latency: MeasureLatency) -> tuple[str, ...]:
        """The first layers that are no slower in float, for `QuantizationRecipe.float_prefix`.

        Args:
            recipe: What else stays in float.
            measure_latency: Gives each model's latency as a ratio to the first one's, measured in turns.
        """
        prefixes = self.float_prefixes(recipe)
        if len(prefixes) < 2:
            return ()
        # Latency does not depend on the values of weights, so the methods that take least time will do. What a prefix is
        # compared with is the network all in 8 bits: one in fixed point is often faster, but not as close.
        plain = replace(recipe, gptq=False, correct_bias=False, equalize=False, fixed_point=False, exact=())
        network = self.network(plain)
        return choose_float_prefix(prefixes, measure_latency([network.write(prefix).model for prefix in prefixes]))

    def _equalize(self) -> tuple[FloatGraph, int]:
        if self._equalized is None:
            self._equalized = self._graph, 0
            if streams := find_streams(self._graph):
                measured = [value for stream in streams for value in stream.measured]
                peaks = observe(self._graph, measured, self._images, self._progress)
                model, count = equalize(self._graph.model, self._graph, peaks.channel_peaks)
                if count:
                    # Into a folder of its own where no weight stayed as it was.
                    model, files = moved_out_where_large(model)
                    self._equalized = read_graph(model, files=files or self._graph.files), count
        return self._equalized

    def _place(self) -> PlacedScales:
        if self._trained is None:
            raise ValueError("a recipe asks for trained ranges of a network that has none")
        if self._placed is None:
            self._placed = self._trained.place(
                self._graph, partition_graph(self._graph, find_pixel_normalisation(self._graph.model))
            )
        return self._placed

    def _observe(self, graph: FloatGraph, *, equalized: bool) -> Observed:
        if equalized not in self._seen:
            # Of every value that any recipe may want in 8 bits, those among them that have another's scale in this one.
            wanted = sorted(partition_graph(graph, find_pixel_normalisation(graph.model)).quantized_values)
            self._seen[equalized] = observe(graph, wanted, self._images, self._progress)
        return self._seen[equalized]


def _fixed_point(histogram: ValueHistogram, ends: tuple[float, float]) -> FixedPoint:
    """Fixed point of a value, with room for images that go beyond those of calibration as far as the activation function."""
    return fixed_point_of_range(max(histogram.low * _HEADROOM, ends[0]), min(histogram.high * _HEADROOM, ends[1]))


def _choose_params(
    graph: FloatGraph,
    partition: Partition,
    seen: Observed,
    recipe: QuantizationRecipe,
    trained: Mapping[str, QuantParams],
) -> dict[str, QuantParams]:
    """Scale and zero point of every 8-bit value: trained ones where there are any, else chosen from its histogram."""
    params = {
        name: trained.get(name) or histogram.params(recipe.ranges)
        for name, histogram in seen.histograms.items()
        if name in partition.quantized_values
    }
    pixels = partition.pixels
    if pixels is not None and pixels.output in params and pixels.zero_point is not None:
        # The pixels are bytes already: with the scale and zero point of their normalisation none is rounded.
        params[pixels.output] = QuantParams(float(np.float32(pixels.scale)), pixels.zero_point)
    for unit in partition.units:
        if unit.moves and unit.quantized:
            params[unit.output] = params[unit.inputs[0]]
        if unit.factor is not None and {unit.inputs[0], unit.output} <= params.keys():
            source = params[unit.inputs[0]]
            params[unit.output] = QuantParams(float(np.float32(source.scale * unit.factor)), source.zero_point)
        for name in quantized_constants(graph, unit):
            params[constant_key(unit, name)] = params_of_constant(graph.constants[name])
    return align_scales(graph, partition.units, params)
