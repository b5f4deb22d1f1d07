"""Dropout of a network: its rates scaled, and restored to those of a new build."""

from edgeclf.export.keras_backend import KerasLayer, KerasModel, import_tensorflow


def scale_dropout(network: KerasModel, scale: float) -> int:
    """Multiplies the rate of every dropout layer (Srivastava et al. 2014) of a new network, in place.

    Also of those in models that are layers of it.

    Args:
        network: A Keras model that has not been run.
        scale: 1 leaves the rates alone, 0 takes dropout out.

    Returns:
        The number of dropout layers.
    """
    import_tensorflow()
    from keras import layers

    count = 0
    for layer in network.layers:
        if isinstance(layer, layers.Dropout):
            layer.rate *= scale
            count += 1
        elif hasattr(layer, "layers"):
            count += scale_dropout(layer, scale)
    return count


def with_dropout_of(network: KerasModel, own: KerasModel) -> KerasModel:
    """A copy of a network whose dropout has the rates of another build of it, whatever training has scaled them to.

    Args:
        network: A flat functional Keras model, trained.
        own: The same layers, built anew.
    """
    from keras import layers, models

    rates = {layer.name: layer.rate for layer in own.layers if isinstance(layer, layers.Dropout)}

    def copy(layer: KerasLayer) -> KerasLayer:
        config = layer.get_config()
        if isinstance(layer, layers.Dropout):
            # A new layer: Keras gives one that was loaded with rate 0 no random generator.
            config["rate"] = rates.get(layer.name, layer.rate)
        return type(layer).from_config(config)

    copied = models.clone_model(network, clone_function=copy)
    for layer, source in zip(copied.layers, network.layers, strict=True):
        if layer.weights:
            layer.set_weights(source.get_weights())
    return copied


def has_dropout(network: KerasModel) -> bool:
    """Whether a flat network has a dropout layer."""
    from keras import layers

    return any(isinstance(layer, layers.Dropout) for layer in network.layers)
