"""Batch normalisation that is there for training alone: folded, the network is what it was before, and computes the same."""

import numpy as np
import pytest

from edgeclf.training.networks.batch_norm import fold_batch_norm, with_batch_norm
from edgeclf.training.networks.seed_cnn import build_seed_cnn

from ...randomness import fresh_rng

keras = pytest.importorskip("keras")


def residual(classes=3):
    """Layers with and without an activation function of their own, and one without a bias ahead of a sum."""
    image = keras.Input((24, 24, 3), dtype="uint8", name="image")
    x = keras.layers.Rescaling(1 / 127)(image)
    x = start = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="a")(x)
    x = keras.layers.Conv2D(8, 3, padding="same", name="b")(x)
    x = keras.layers.ReLU()(keras.layers.Add()([x, start]))
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(7, activation="sigmoid", name="c")(x)
    x = keras.layers.Dense(classes, name="logits")(x)
    return keras.Model(image, keras.layers.Softmax(name="probabilities")(x))


def norms(model):
    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


@pytest.mark.parametrize(("build", "count"), [(lambda: build_seed_cnn((89, 89), 3), 7), (residual, 3)])
def test_the_folded_network_computes_what_was_trained(build, count):
    rng = fresh_rng()
    network = build()
    before, names = network.count_params(), [layer.name for layer in network.layers]
    trained = with_batch_norm(network)
    assert len(norms(trained)) == count
    for norm in norms(trained):
        channels = norm.gamma.shape[0]
        values = (rng.uniform(0.3, 2, channels), rng.normal(0, 0.5, channels), rng.normal(0, 0.5, channels))
        norm.set_weights([*values, rng.uniform(0.3, 2, channels)])
    pixels = rng.integers(0, 256, (5, *network.input_shape[1:]), np.uint8)
    wanted = np.asarray(trained(pixels, training=False))
    assert np.abs(np.asarray(network(pixels, training=False)) - wanted).max() > 1e-3
    fold_batch_norm(trained, network)
    np.testing.assert_allclose(np.asarray(network(pixels, training=False)), wanted, atol=1e-5)
    assert (network.count_params(), [layer.name for layer in network.layers], norms(network)) == (before, names, [])


def test_what_is_trained_is_new_and_shares_no_weights():
    network = residual()
    trained = with_batch_norm(network)
    kernel = network.get_layer("a").get_weights()[0].copy()
    trained.get_layer("a").set_weights([np.zeros_like(kernel)])
    np.testing.assert_array_equal(network.get_layer("a").get_weights()[0], kernel)
    # The normalisation has an offset of its own.
    assert [len(layer.weights) for layer in trained.layers if layer.name in {"a", "b", "c"}] == [1, 1, 1]
    assert len(trained.get_layer("logits").weights) == 2
