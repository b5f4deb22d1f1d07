"""Scaling of the dropout rates of a network."""

from edgeclf.export.keras_backend import KerasModel, import_tensorflow


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
