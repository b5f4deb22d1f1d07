"""The momentum of batch normalisation for networks trained from random weights on few images."""

from edgeclf.export.keras_backend import KerasModel

# Networks made for ImageNet average the statistics over a hundred or a thousand steps (momentum 0.99 to 0.999), where an
# epoch has thousands. In one of eighty steps they lag behind, and inference normalises with statistics of older weights.
BN_MOMENTUM = 0.9


def follow_statistics(network: KerasModel) -> None:
    """Lets the statistics of a network's batch normalisation follow its weights within a short epoch, in place."""
    from keras import layers

    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = min(layer.momentum, BN_MOMENTUM)
