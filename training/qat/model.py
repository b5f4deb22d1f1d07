"""Quantization-aware training: a trained network whose fits run in the arithmetic of its later int8 file.

The network that is fitted rounds what the exported file rounds: the weights of every layer with the batch normalisation
folded in, and the values that the file holds in 8 bits, but for those inside a hard swish or a swish, which is one value
here. Ranges begin as export chooses them, and are learned with the weights; export finds what they came to in the spec. At
the end the given network takes over weights that are on their 8-bit grid, so that export finds what was trained.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgeclf.export.int8.observe import count_values
from edgeclf.export.int8.ranges import QuantParams
from edgeclf.export.keras_backend import import_tensorflow
from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.errors import InputError
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.spec import ModelSpec

# What gives values that the file holds in 8 bits, among layers and the operators that Python writes (x + y, x * y).
_ARITHMETIC = frozenset(
    {
        "Add", "Multiply", "Concatenate", "GlobalAveragePooling2D", "AveragePooling2D", "ReLU", "LeakyReLU", "Activation",
        "BatchNormalization",
    }
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class FakeQuantized:
    """A network in simulated 8-bit arithmetic.

    Attributes:
        model: Images to probabilities. Layers without weights in 8 bits are the given network's own.
        settle: Gives the given network the trained weights, on their 8-bit grid, and its ReLUs the ends of their ranges.
        ranges: Gives the scale and zero point of every value in 8 bits as they are now, by the name of the given network's
            layer whose output it is.
    """

    model: Any
    settle: Callable[[], None]
    ranges: Callable[[], dict[str, QuantParams]]


def simulated_network(network: Any, spec: ModelSpec) -> Any:  # noqa: ANN401
    """A run's network in the 8-bit arithmetic it was trained in, which its int8 file is to reproduce.

    Args:
        network: The run's Keras model.
        spec: The run's spec.

    Returns:
        A Keras model, images to probabilities; None for a run that was not trained in 8-bit arithmetic.
    """
    ranges = spec.training.get("ranges_8bit") or {}
    params = {name: QuantParams.from_json(entry) for name, entry in ranges.items()}
    return fake_quantized(network, params, paired=True).model if params else None


def fake_quantized(
    network: Any,  # noqa: ANN401
    images_or_ranges: UInt8Array | Mapping[str, QuantParams],
    *,
    paired: bool,
    progress: Progress = no_progress,
) -> FakeQuantized:
    """Builds the network that simulates the int8 file of another.

    Args:
        network: A flat functional Keras model, uint8 images to a dense layer `logits` and a softmax.
        images_or_ranges: (N, H, W, 3) uint8 RGB training images, from which the ranges of its values are chosen; or these,
            as `FakeQuantized.ranges` gives them.
        paired: Whether weights respect the pair constraint, as for `--target any`.
        progress: Told how many images are done.

    Raises:
        InputError: The network is not flat, has convolutions of a kind that has no 8-bit form here, or gives values that are
            not finite.
    """
    import_tensorflow()
    from keras import models

    from edgeclf.training.qat.layers import FakeQuantizedLayer, FakeQuantizedValue

    graph = _Graph(network)
    rounding = {step.name: step.output for step in graph.steps if step.rounds_output}
    if isinstance(images_or_ranges, Mapping):
        params = {name: images_or_ranges[name] for name in rounding}
    else:
        params = _ranges(network, rounding, images_or_ranges, progress)
    quantized = {
        step.layers[0].name: FakeQuantizedLayer(
            step.layers[0], step.norm, paired=paired, name=f"{step.layers[0].name}_int8"
        )
        for step in graph.steps
        if step.weighted
    }
    rounded = {name: FakeQuantizedValue(params[name], f"{name}_u8") for name in rounding}
    folded = {step.norm.name for step in graph.steps if step.norm is not None}

    def call(operation: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        if operation.name in folded:
            (x,) = arguments
        else:
            x = quantized.get(operation.name, operation)(*arguments, **options)
        return rounded[operation.name](x) if operation.name in rounded else x

    model = models.clone_model(network, clone_function=_own_copy, call_function=call)

    def settle() -> None:
        for layer in quantized.values():
            layer.settle()
        for step in graph.steps:
            if step.name in rounded:
                _settle_ceiling(step.layers[-1], rounded[step.name].params())

    def ranges() -> dict[str, QuantParams]:
        return {name: value.params() for name, value in rounded.items()}

    return FakeQuantized(model, settle, ranges)


def _own_copy(operation: Any) -> Any:  # noqa: ANN401
    """A layer as the simulated network has it: the same one, which shares its weights."""
    if hasattr(operation, "seed_generator"):
        # Drawn from anew, by the seed of this training: that of the saved layer is left to chance.
        return type(operation).from_config(operation.get_config())
    return operation


def _settle_ceiling(layer: Any, params: QuantParams) -> None:  # noqa: ANN401
    """Gives a ReLU the end of the range it was trained with, so that the float network clips what 8 bits clip."""
    from keras import layers

    if not (isinstance(layer, layers.ReLU) and _is_relu(layer)) or params.zero_point:
        return
    layer.max_value = params.high if layer.max_value is None else min(float(layer.max_value), params.high)


@dataclass(frozen=True, eq=False)
class _Step:
    """Layers that one int8 operator carries out.

    Attributes:
        layers: In order.
        norm: The batch normalisation that is folded into the first.
        weighted: Whether the first has weights in 8 bits.
        rounds_output: Whether the value is one of those that the file holds in 8 bits.
    """

    layers: tuple[Any, ...]
    norm: Any
    weighted: bool
    rounds_output: bool

    @property
    def name(self) -> str:
        """Of the layer that gives its value."""
        return str(self.layers[-1].name)

    @property
    def output(self) -> Any:  # noqa: ANN401
        """The value they give."""
        return self.layers[-1].output


class _Graph:
    """A flat functional model cut into steps, in order of execution."""

    def __init__(self, network: Any) -> None:  # noqa: ANN401
        from keras import layers

        self._readers: dict[int, list[Any]] = {}
        known = {id(tensor) for tensor in network.inputs}
        operations = [item for item in network.operations if not isinstance(item, layers.InputLayer)]
        for operation in operations:
            try:
                inputs = _list(operation.input)
            except (AttributeError, ValueError) as error:
                # Keras has no single input to give of a layer that is used twice.
                raise _not_flat(operation) from error
            for tensor in inputs:
                self._readers.setdefault(id(tensor), []).append(operation)
                if id(tensor) not in known:
                    raise _not_flat(operation)
            if isinstance(operation, layers.Wrapper) or getattr(operation, "layers", None):
                raise _not_flat(operation)
            known.update(id(tensor) for tensor in _list(operation.output))
        taken: set[str] = set()
        self.steps: list[_Step] = []
        for operation in operations:
            if operation.name not in taken:
                self.steps.append(self._step(operation))
                taken.update(item.name for item in self.steps[-1].layers)

    def _step(self, layer: Any) -> _Step:  # noqa: ANN401
        from keras import layers

        from edgeclf.training.qat.layers import kind_of

        kind = kind_of(layer)
        if kind is None:
            if any("kernel" in weight.name for weight in getattr(layer, "weights", ())):
                raise InputError(
                    "cannot train this network for 8 bits",
                    got=f"{layer.name}, a {type(layer).__name__}",
                    expected="convolutions, depthwise convolutions and dense layers, channels last",
                    do="train without --qat",
                )
            chain: tuple[Any, ...] = (layer,)
            following = self._only_reader(layer.output)
            if type(layer).__name__ in {"Add", "BatchNormalization"} and _is_relu(following):
                chain = (layer, following)
            # A product with a number is the same codes with another scale.
            scaled = type(layer).__name__ == "Multiply" and len(_list(layer.input)) == 1
            rounds = type(layer).__name__ in _ARITHMETIC and not scaled
            return _Step(chain, None, weighted=False, rounds_output=rounds)
        norm = None
        chain = (layer,)
        following = self._only_reader(layer.output)
        plain = layer.activation is None or layer.activation.__name__ == "linear"
        if plain and kind != "dense" and isinstance(following, layers.BatchNormalization):
            chain, norm = (layer, following), following
            following = self._only_reader(following.output)
        if plain and _is_relu(following):
            chain = (*chain, following)
        return _Step(chain, norm, weighted=True, rounds_output=layer.name != "logits")

    def _only_reader(self, tensor: Any) -> Any:  # noqa: ANN401
        readers = self._readers.get(id(tensor), [])
        return readers[0] if len(readers) == 1 else None


def _is_relu(layer: Any) -> bool:  # noqa: ANN401
    from keras import layers

    if isinstance(layer, layers.ReLU):
        return not layer.negative_slope and not layer.threshold
    return isinstance(layer, layers.Activation) and layer.activation.__name__ in {"relu", "relu6"}


def _not_flat(layer: Any) -> InputError:  # noqa: ANN401
    return InputError(
        "cannot train this network for 8 bits",
        got=f"{layer.name}, a network of its own or one that is used twice",
        expected="a flat network, each layer used once",
        do="train without --qat",
    )


def _list(value: Any) -> list[Any]:  # noqa: ANN401
    return list(value) if isinstance(value, list | tuple) else [value]


def _ranges(
    network: Any,  # noqa: ANN401
    values: Mapping[str, Any],
    images_rgb: UInt8Array,
    progress: Progress,
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
