"""Scaling of the dropout rates of a network."""

from edgeclf.export.keras_backend import KerasModel, import_tensorflow


def scale_dropout(network: KerasModel, scale: float) -> None:
    """Multiplies the rate of every dropout layer (Srivastava et al. 2014) of a new network, in place.

    Args:
        network: A Keras model that has not been run.
        scale: 1 leaves the rates alone, 0 takes dropout out.
    """
    import_tensorflow()
    from keras import layers

    for layer in network.layers:
        if isinstance(layer, layers.Dropout):
            layer.rate *= scale
