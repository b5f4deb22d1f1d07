"""Batch normalisation for training only: inserted into a network that has none, folded into its layers at the end."""

import numpy as np

from edgeclf.export.keras_backend import KerasLayer, KerasModel, KerasTensor, import_tensorflow
from edgeclf.training.networks.folding import batch_norm_affine, fold_affine
from edgeclf.training.networks.normalisation import BN_MOMENTUM

_LAST = "logits"


def with_batch_norm(network: KerasModel) -> KerasModel:
    """A new network, batch normalisation between each convolution or dense layer and its activation function.

    Training is quicker and generalises better with it (Ioffe & Szegedy 2015, "Batch Normalization"), and once trained it
    is a factor and an offset, which `fold_batch_norm` gives to the layer ahead of it.

    Args:
        network: A functional Keras model of convolutions and dense layers, without batch normalisation.

    Returns:
        Layers of the same names, but for biases, which the normalisation takes off again; weights are new, and the last
        layer, `logits`, is as it was.
    """
    import_tensorflow()
    from keras import layers, models

    def clone(layer: KerasLayer) -> KerasLayer:
        options = layer.get_config()
        if _is_normalised(layer):
            options |= {"activation": None, "use_bias": False}
        return type(layer).from_config(options)

    def call(layer: KerasLayer, *arguments: object, **options: object) -> KerasTensor:
        x = layer(*arguments, **options)
        if not _is_normalised(layer):
            return x
        x = layers.BatchNormalization(momentum=BN_MOMENTUM, name=_norm_of(layer))(x)
        return layers.Activation(network.get_layer(layer.name).activation, name=f"{layer.name}_activation")(x)

    return models.clone_model(network, clone_function=clone, call_function=call)


def fold_batch_norm(trained: KerasModel, network: KerasModel) -> None:
    """Folds the batch normalisation of a trained network into the weights of the network it was made from, in place.

    Args:
        trained: What `with_batch_norm` made of the network.
        network: The network.
    """
    for layer in network.layers:
        if not layer.weights:
            continue
        source = trained.get_layer(layer.name)
        if not _is_normalised(layer):
            layer.set_weights(source.get_weights())
            continue
        (kernel,) = source.get_weights()
        norm = trained.get_layer(_norm_of(layer))
        folded = fold_affine(kernel, None, *batch_norm_affine(*norm.get_weights(), epsilon=norm.epsilon))
        layer.set_weights([values.astype(np.float32) for values in folded])


def _is_normalised(layer: KerasLayer) -> bool:
    from keras import layers

    return isinstance(layer, layers.Conv2D | layers.Dense) and layer.name != _LAST


def _norm_of(layer: KerasLayer) -> str:
    return f"{layer.name}_bn"
