"""The network of quantization-aware training: a trained network that computes in the arithmetic of its later int8 file.

The network that is fitted rounds what the exported file rounds, by the cut that export makes of it: the weights of every
layer with the batch normalisation folded in, and the values that the file holds in 8 bits; values inside one layer, such as
the sigmoid of a swish, stay in float. Ranges begin as MSE ranges, as export chooses them, and are learned with the weights. At the end
the given network takes over weights that are multiples of their scales, and export is handed all scales by layer name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeclf.export.graph.convert import onnx_from_keras
from edgeclf.export.int8.observe import count_values
from edgeclf.export.int8.qat_ranges import TrainedScales, TrainedWeights, cut_of, trained_scales
from edgeclf.export.int8.ranges import QuantParams
from edgeclf.export.keras_backend import KerasLayer, KerasModel, KerasTensor, import_tensorflow
from edgeclf.runtime.arrays import Float64Array, UInt8Array
from edgeclf.runtime.errors import InputError
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.spec import ModelSpec


@dataclass(frozen=True, eq=False)
class FakeQuantized:
    """A network in simulated 8-bit arithmetic.

    Attributes:
        model: Images to probabilities. Layers without weights in 8 bits are the given network's own.
        write_back: Assigns the given network the trained weights, as multiples of their scales, and its ReLUs the ends of
            their ranges.
        scales: The scales of all values and weights in 8 bits as they are now.
    """

    model: KerasModel
    write_back: Callable[[], None]
    scales: Callable[[], TrainedScales]


def simulated_network(network: KerasModel, spec: ModelSpec) -> KerasModel | None:
    """A run's network in the 8-bit arithmetic it was trained in, which its int8 file is to reproduce.

    Args:
        network: The run's Keras model.
        spec: The run's spec.

    Returns:
        A Keras model, images to probabilities; None for a run that was not trained in 8-bit arithmetic.

    Raises:
        InputError: The scales in the spec are damaged, or do not belong to the network.
    """
    scales = trained_scales(spec.training)
    return None if scales is None else fake_quantized(network, scales, paired=True).model


def fake_quantized(
    network: KerasModel,
    images_or_scales: UInt8Array | TrainedScales,
    *,
    paired: bool,
    progress: Progress = no_progress,
) -> FakeQuantized:
    """Builds the network that simulates the int8 file of another.

    Args:
        network: A flat functional Keras model, uint8 images to a dense layer `logits` and a softmax.
        images_or_scales: (N, H, W, 3) uint8 RGB training images, from which the ranges of its values are chosen, its weight
            scales being those of least error; or all scales, as `FakeQuantized.scales` gives them.
        paired: Whether weights respect the pair constraint, as for `--target any`.
        progress: Called with the number of images done.

    Raises:
        InputError: The network is not flat, has convolutions of a kind that has no 8-bit form here, gives values that are
            not finite, or is not the one that the scales are of.
    """
    import_tensorflow()
    from keras import models

    from edgeclf.training.qat.layers import FakeQuantizedLayer, FakeQuantizedValue

    operations = _checked_operations(network)
    weight_scales: dict[str, Float64Array] = {}
    if isinstance(images_or_scales, TrainedScales) and images_or_scales.weights:
        params = images_or_scales.values
        norms = {name: one.norm for name, one in images_or_scales.weights.items()}
        weight_scales = {name: one.scales for name, one in images_or_scales.weights.items()}
    else:
        cut = cut_of(onnx_from_keras(network))
        norms = {name: cut.norms.get(name) for name in cut.weights.values()}
        if isinstance(images_or_scales, TrainedScales):
            params = images_or_scales.values
        else:
            values = {name: operations[name].output for name in cut.values.values()}
            params = _ranges(network, values, images_or_scales, progress)
    _check_names(operations, [*params, *norms, *(norm for norm in norms.values() if norm is not None)])
    quantized: dict[str, KerasLayer] = {
        name: FakeQuantizedLayer(
            operations[name],
            None if norm is None else _batch_norm(operations[norm], behind=name),
            paired=paired,
            name=f"{name}_int8",
            scales=weight_scales.get(name),
        )
        for name, norm in norms.items()
    }
    rounded = {name: FakeQuantizedValue(one, f"{name}_u8") for name, one in params.items()}
    folded = set(norms.values())

    def call(operation: KerasLayer, *arguments: object, **options: object) -> KerasTensor:
        if operation.name in folded:
            (x,) = arguments
        else:
            layer: KerasLayer = quantized.get(operation.name, operation)
            x = layer(*arguments, **options)
        return rounded[operation.name](x) if operation.name in rounded else x

    model = models.clone_model(network, clone_function=_own_copy, call_function=call)

    def write_back() -> None:
        for layer in quantized.values():
            layer.write_back()
        for name, value in rounded.items():
            _write_back_ceiling(operations[name], value.params())

    def scales() -> TrainedScales:
        return TrainedScales(
            {name: value.params() for name, value in rounded.items()},
            {name: TrainedWeights(layer.scales(), norms[name]) for name, layer in quantized.items()},
        )

    return FakeQuantized(model, write_back, scales)


def _own_copy(operation: KerasLayer) -> KerasLayer:
    """A layer as the simulated network has it: the same one, which shares its weights."""
    if hasattr(operation, "seed_generator"):
        # Drawn from anew, by the seed of this training: that of the saved layer is left to chance.
        return type(operation).from_config(operation.get_config())
    return operation


def _write_back_ceiling(layer: KerasLayer, params: QuantParams) -> None:
    """Assigns a ReLU the upper end of the range it was trained with, so that the float network clips what 8 bits clip."""
    from keras import layers

    if not isinstance(layer, layers.ReLU) or layer.negative_slope or layer.threshold or params.zero_point:
        return
    layer.max_value = params.high if layer.max_value is None else min(float(layer.max_value), params.high)


def _checked_operations(network: KerasModel) -> dict[str, KerasLayer]:
    """The operations of a flat functional network by name, each known to have an 8-bit form or no kernel."""
    from keras import layers

    from edgeclf.training.qat.layers import kind_of

    known = {id(tensor) for tensor in network.inputs}
    operations = {item.name: item for item in network.operations if not isinstance(item, layers.InputLayer)}
    for operation in operations.values():
        try:
            inputs = _list(operation.input)
        except (AttributeError, ValueError) as error:
            # Keras has no single input to give of a layer that is used twice.
            raise _not_flat(operation) from error
        if isinstance(operation, layers.Wrapper) or getattr(operation, "layers", None):
            raise _not_flat(operation)
        if any(id(tensor) not in known for tensor in inputs):
            raise _not_flat(operation)
        known.update(id(tensor) for tensor in _list(operation.output))
        if kind_of(operation) is None and any("kernel" in weight.name for weight in getattr(operation, "weights", ())):
            raise InputError(
                "cannot train this network for 8 bits",
                got=f"{operation.name}, a {type(operation).__name__}",
                expected="convolutions, depthwise convolutions and dense layers, channels last",
                hint="train without --qat",
            )
    return operations


def _check_names(operations: Mapping[str, KerasLayer], names: list[str]) -> None:
    if missing := sorted(set(names) - set(operations)):
        raise InputError(
            "the 8-bit scales are not of this network",
            got=f"{', '.join(missing)}, which it does not have",
            expected="one for each of its layers that is in 8 bits",
            hint="train it for 8 bits again with edgeclf train --from RUN --qat",
        )


def _batch_norm(layer: KerasLayer, *, behind: str) -> KerasLayer:
    from keras import layers

    if not isinstance(layer, layers.BatchNormalization):
        raise InputError(
            "cannot train this network for 8 bits",
            got=f"{layer.name}, a {type(layer).__name__}, folded into {behind}",
            expected="batch normalisation, or an activation function, behind convolutions and dense layers",
            hint="train without --qat",
        )
    return layer


def _not_flat(layer: KerasLayer) -> InputError:
    return InputError(
        "cannot train this network for 8 bits",
        got=f"{layer.name}, a network of its own or one that is used twice",
        expected="a flat network, each layer used once",
        hint="train without --qat",
    )


def _list(value: KerasTensor) -> list[KerasTensor]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _ranges(
    network: KerasModel, values: Mapping[str, KerasTensor], images_rgb: UInt8Array, progress: Progress
) -> dict[str, QuantParams]:
    """Scale and zero point of values of the float network, by the least error, as export chooses them."""
    from keras import Model

    if not values:
        return {}
    model = Model(network.input, list(values.values()))

    def run(batch_rgb: UInt8Array) -> dict[str, Any]:
        given = _list(model(batch_rgb, training=False))
        return {name: np.asarray(value) for name, value in zip(values, given, strict=True)}

    counted = count_values(run, images_rgb, progress)
    return {name: histogram.params("error") for name, histogram in counted.items()}
