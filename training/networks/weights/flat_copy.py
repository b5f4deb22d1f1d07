"""A flat copy of a Keras network: its layers and those of the networks inside it, applied anew, under settled names."""

import re
from typing import Any

from edgeclf.export.keras_backend import KerasLayer, KerasModel, KerasTensor

LOGITS, PROBABILITIES, IMAGE, TO_FLOAT = "logits", "probabilities", "image", "to_float"
_RESERVED = (LOGITS, PROBABILITIES, IMAGE, TO_FLOAT, "temperature", "head_dropout")


def settled_layers(model: KerasModel) -> dict[str, KerasLayer]:
    """The layers of a network and of those inside it, by settled names: without what else the process has built.

    Args:
        model: A functional or Sequential model with one input.
    """
    import keras

    copies = LayerCopies(model)
    copies.apply(model, keras.Input(model.inputs[0].shape[1:], dtype=model.inputs[0].dtype))
    return copies.originals


def is_graph(model: KerasModel) -> bool:
    """Whether a model is a graph of layers, and no subclass with code of its own."""
    return type(model).__name__ in {"Functional", "Sequential"} and bool(getattr(model, "inputs", None))


class LayerCopies:
    """Copies of a network's layers, also of the networks inside it, applied anew one after the other."""

    def __init__(self, model: KerasModel) -> None:
        self._pairs: dict[int, tuple[KerasLayer, KerasLayer]] = {}
        self._names: set[str] = set(_RESERVED)
        self._last = last_layer(model)

    def apply(self, model: KerasModel, x: KerasTensor) -> KerasTensor:
        """The network's output for a tensor, computed by copies of its layers."""
        import keras

        # What a Sequential computes is a graph as well.
        graph = model if type(model).__name__ == "Functional" else keras.Model(model.inputs, model.outputs)
        found: dict[int, KerasTensor] = {}

        def call(operation: KerasLayer, *arguments: Any, **options: Any) -> KerasTensor:  # noqa: ANN401 - Keras's
            is_one = len(arguments) == 1 and not isinstance(arguments[0], list | tuple | dict)
            if isinstance(operation, keras.Model) and is_graph(operation) and is_one and len(operation.outputs) == 1:
                result = self.apply(operation, arguments[0])
            else:
                result = self._copy(operation)(*arguments, **options)
            found[id(operation)] = result
            return result

        inputs = keras.tree.pack_sequence_as(graph.input, [x])
        keras.models.clone_model(graph, input_tensors=inputs, clone_function=lambda item: item, call_function=call)
        return found[id(graph.outputs[0]._keras_history.operation)]

    @property
    def originals(self) -> dict[str, KerasLayer]:
        """The layers that were copied, by the names of the copies, in the order of their first calls."""
        return {copy.name: original for original, copy in self._pairs.values()}

    def copy_weights(self) -> None:
        """Gives the copies the weights of the layers that they are of."""
        for original, copy in self._pairs.values():
            copy.set_weights(original.get_weights())

    def _copy(self, operation: KerasLayer) -> KerasLayer:
        """The copy of a layer, one for all its calls; of an operation without weights, itself."""
        import keras

        if not isinstance(operation, keras.Layer):
            return operation
        if id(operation) not in self._pairs:
            config = operation.get_config()
            if operation is self._last and isinstance(operation, keras.layers.Dense):
                # Where its activation is a softmax, that comes behind it.
                config = {**config, "name": LOGITS}
                if activation_name(operation) == "softmax":
                    config["activation"] = "linear"
            else:
                config = {**config, "name": self._free_name(_plain_name(operation))}
            self._pairs[id(operation)] = (operation, type(operation).from_config(config))
        return self._pairs[id(operation)][1]

    def _free_name(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self._names:
            name, number = f"{wanted}_{number}", number + 1
        self._names.add(name)
        return name


def _plain_name(layer: KerasLayer) -> str:
    """The name of a layer, without the number that Keras gives it by what else the process has built.

    Weights are found by these names when a training goes on in another process.
    """
    stem = re.sub(r"_\d+$", "", layer.name)
    return stem if stem.replace("_", "") == type(layer).__name__.lower() else str(layer.name)


def last_layer(model: KerasModel) -> KerasLayer:
    """The layer that gives a network's logits: its last one, or the one before a softmax, also inside a network in it."""
    layer = model.outputs[0]._keras_history.operation
    while True:
        if hasattr(layer, "outputs") and is_graph(layer):
            layer = layer.outputs[0]._keras_history.operation
        elif is_softmax(layer):
            layer = layer.input._keras_history.operation
        else:
            return layer


def is_softmax(layer: KerasLayer) -> bool:
    """Whether a layer is a softmax and nothing else."""
    is_layer = type(layer).__name__ == "Softmax"
    return is_layer or (type(layer).__name__ == "Activation" and activation_name(layer) == "softmax")


def activation_name(layer: KerasLayer) -> str | None:
    """The name of a layer's activation; None of a layer that has none."""
    activation = getattr(layer, "activation", None)
    return None if activation is None else str(getattr(activation, "__name__", activation))
