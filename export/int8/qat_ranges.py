"""Hand-over of quantization-aware training: activation ranges and weight scales by Keras layer, placed in the ONNX graph.

Training and export share one cut of the network into 8-bit values and weights: that of `int8.partition`, read by the layer
names that a converted graph carries. Training simulates what `layers_in_8_bits` names, and hands the scales over under these
names; export places each of them under the same, or says which it cannot place.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgeclf.export._onnx import onnx
from edgeclf.export.graph.float_graph import FloatGraph, read_graph
from edgeclf.export.graph.int8_forms import prepare_for_int8
from edgeclf.export.graph.layer_names import layer_of
from edgeclf.export.graph.pixel_normalisation import find_pixel_normalisation
from edgeclf.export.int8.partition import MOVING_OPS, Partition, QuantUnit, partition_graph
from edgeclf.export.int8.ranges import QuantParams
from edgeclf.runtime.arrays import Float64Array
from edgeclf.runtime.errors import InputError

_RANGES, _WEIGHTS = "ranges_8bit", "weights_8bit"
_HINT = "train the network for 8 bits again with edgeclf train --from RUN --qat"


@dataclass(frozen=True)
class LayersIn8Bits:
    """The cut of a network into 8-bit values and weights, by Keras layer.

    Attributes:
        values: For each tensor that has a range of its own, the layer whose output it holds. Tensors that have not: the
            pixels, whose range is given; what only moves or scales another, and has its range; and what lies inside one
            layer, such as the sigmoid of a swish: training simulates a layer as one value, calibration chooses these.
        weights: For each unit with 8-bit weights, the layer that they come from.
        norms: For each of these layers with another one folded into it, that one: its batch normalisation.
    """

    values: Mapping[str, str]
    weights: Mapping[str, str]
    norms: Mapping[str, str]


def layers_in_8_bits(graph: FloatGraph, partition: Partition) -> LayersIn8Bits:
    """Reads the cut of a converted Keras network from its partition."""
    by_output = {unit.output: unit for unit in partition.units}
    values = {}
    for tensor in sorted(partition.quantized_values):
        unit = by_output.get(tensor)
        # The scale of what moves or scales another tensor follows from that one's.
        follows = unit is not None and unit.quantized and (unit.moves or unit.factor is not None)
        if follows or (partition.pixels is not None and tensor == partition.pixels.output):
            continue
        layer = layer_of(_moved_from(graph, tensor))
        if _leaves(graph, tensor, layer):
            values[tensor] = layer
    weights = {unit.name: layer_of(unit.name) for unit in partition.layers}
    norms = {
        layer_of(unit.name): layer_of(unit.before_activation)
        for unit in partition.layers
        if layer_of(unit.before_activation) != layer_of(unit.name)
    }
    return LayersIn8Bits(values, weights, norms)


def cut_of(model: onnx.ModelProto) -> LayersIn8Bits:
    """The cut of a float32 contract model that was converted from Keras, see `layers_in_8_bits`."""
    graph = read_graph(prepare_for_int8(model, norms=False))
    return layers_in_8_bits(graph, partition_graph(graph, find_pixel_normalisation(graph.model)))


def _moved_from(graph: FloatGraph, tensor: str) -> str:
    """The tensor that a chain of operators which only move values begins with."""
    while (node := graph.producers.get(tensor)) is not None and node.op_type in MOVING_OPS:
        tensor = node.input[0]
    return tensor


def _leaves(graph: FloatGraph, tensor: str, layer: str) -> bool:
    """Whether another layer, or nobody but the caller of the network, reads a tensor, perhaps moved."""
    return tensor == graph.output or any(
        _leaves(graph, reader.output[0], layer) if reader.op_type in MOVING_OPS else layer_of(reader.name) != layer
        for reader in graph.readers.get(tensor, [])
    )


@dataclass(frozen=True, eq=False)
class TrainedWeights:
    """8-bit weights as quantization-aware training left them.

    Attributes:
        scales: (O,) float64, exact in float32, positive: of each output channel with the normalisation folded in.
        norm: Name of the batch normalisation that is folded in; None for none.
    """

    scales: Float64Array
    norm: str | None


@dataclass(frozen=True, eq=False)
class PlacedScales:
    """Trained scales by the names of an ONNX graph.

    Attributes:
        params: Of tensors.
        weight_scales: (O,) float64, of units with weights.
    """

    params: Mapping[str, QuantParams] = field(default_factory=dict)
    weight_scales: Mapping[str, Float64Array] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class TrainedScales:
    """The scales of quantization-aware training, by Keras layer.

    Attributes:
        values: Scale and zero point by the Keras layer whose output has them.
        weights: By the Keras layer whose kernel they are of. Empty for a run of a version that did not record them. Its
            weight scales are chosen by least error, as after training in float, and so are the ranges of values that this
            version did not simulate.
    """

    values: Mapping[str, QuantParams]
    weights: Mapping[str, TrainedWeights] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Fields for the training summary of a spec."""
        weights = {
            name: {
                # Nine digits give every float32 back.
                "scales": [float(f"{scale:.9g}") for scale in trained.scales],
                "norm": trained.norm,
            }
            for name, trained in self.weights.items()
        }
        return {_RANGES: {name: params.to_json() for name, params in self.values.items()}, _WEIGHTS: weights}

    def place(self, graph: FloatGraph, partition: Partition) -> PlacedScales:
        """The scales under the names of the converted network.

        Args:
            graph: The float graph.
            partition: Its partition, no unit excluded.

        Raises:
            InputError: A scale has no place in the graph, or one of its 8-bit values or weights has no scale.
        """
        cut = layers_in_8_bits(graph, partition)
        if not self.weights:
            return PlacedScales(
                {name: self.values[layer] for name, layer in cut.values.items() if layer in self.values}
            )
        _check_same("activation ranges", self.values, cut.values.values())
        params = {tensor: self.values[layer] for tensor, layer in cut.values.items()}
        _check_same("weight scales", self.weights, cut.weights.values())
        scales = {}
        for unit in partition.layers:
            trained = self.weights[cut.weights[unit.name]]
            _check_weights(unit, trained, cut)
            scales[unit.name] = trained.scales
        return PlacedScales(params, scales)


def trained_scales(training: Mapping[str, Any]) -> TrainedScales | None:
    """The scales in the training summary of a spec; None where the network was not trained for 8 bits.

    Raises:
        InputError: They are damaged.
    """
    if not training.get(_RANGES):
        return None
    try:
        return TrainedScales(
            {name: QuantParams.from_json(entry) for name, entry in training[_RANGES].items()},
            {
                name: TrainedWeights(_weight_scales(entry["scales"]), entry["norm"])
                for name, entry in training.get(_WEIGHTS, {}).items()
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            "cannot read the 8-bit scales of this run",
            got=f"{type(error).__name__}: {error}",
            expected="a scale and zero point for each value, and a scale for each output channel of the weights",
            hint=_HINT,
        ) from error


def _weight_scales(values: object) -> Float64Array:
    scales = np.asarray(values, np.float64)
    # As float32, which the file stores.
    if (
        scales.ndim != 1
        or not (scales > np.finfo(np.float32).tiny).all()
        or not (scales < np.finfo(np.float32).max).all()
    ):
        raise ValueError("a scale that is no positive float32")
    return scales.astype(np.float32).astype(np.float64)


def lacks_weight_scales(training: Mapping[str, Any]) -> bool:
    """Whether a network was trained for 8 bits by a version that recorded activation ranges alone."""
    return bool(training.get(_RANGES)) and not training.get(_WEIGHTS)


def without_weight_scales(training: Mapping[str, Any]) -> dict[str, Any]:
    """A training summary for an exported file, whose weights have their scales beside them."""
    return {key: value for key, value in training.items() if key != _WEIGHTS}


def without_ranges(training: Mapping[str, Any]) -> dict[str, Any]:
    """A training summary without the scales of quantization-aware training, for a network that is calibrated anew."""
    return {key: value for key, value in training.items() if key not in {_RANGES, _WEIGHTS}}


def _check_same(kind: str, trained: Mapping[str, object], in_graph: Iterable[str]) -> None:
    places = set(in_graph)
    if unplaced := sorted(set(trained) - places):
        raise _cannot_place(kind, f"nothing in 8 bits there for {', '.join(unplaced)}")
    if untrained := sorted(places - set(trained)):
        raise _cannot_place(kind, f"none for {', '.join(untrained)}")


def _check_weights(unit: QuantUnit, trained: TrainedWeights, cut: LayersIn8Bits) -> None:
    layer = cut.weights[unit.name]
    channels = 0 if unit.layer is None else unit.layer.outputs
    if trained.scales.shape != (channels,):
        raise _cannot_place("weight scales", f"{trained.scales.size} for the {channels} output channels of {layer}")
    if trained.norm != cut.norms.get(layer):
        raise _cannot_place("weight scales", f"{cut.norms.get(layer)} folded into {layer}, trained with {trained.norm}")


def _cannot_place(kind: str, got: str) -> InputError:
    return InputError(
        f"the trained {kind} do not fit the converted network",
        got=got,
        expected="one for each layer that is in 8 bits",
        hint=_HINT,
    )
