"""Dropout is part of a network; how much of it there is while it is trained is the recipe's business."""

import numpy as np
import pytest

from edgeclf.training.networks.dropout import scale_dropout

from ...randomness import fresh_rng

keras = pytest.importorskip("keras")


def network(rate=0.4):
    inputs = keras.Input((2000,))
    x = keras.layers.Dropout(rate, name="first")(inputs)
    x = keras.layers.Dropout(rate / 2, name="second")(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize("scale", [0.0, 0.25, 1.0])
def test_the_share_of_values_left_out_is_the_scaled_rate(scale):
    rate = float(fresh_rng().uniform(0.2, 0.8))
    model = network(rate)
    scale_dropout(model, scale)
    values = np.asarray(model(np.ones((16, 2000), np.float32), training=True))
    kept = (1 - rate * scale) * (1 - rate * scale / 2)
    # Five standard deviations of 32,000 draws.
    assert abs((values != 0).mean() - kept) <= 5 * np.sqrt(max(kept * (1 - kept), 1e-12) / values.size)
    assert values.mean() == pytest.approx(1.0, abs=0.05)


def test_dropout_of_models_inside_is_scaled_and_counted():
    inner = network(0.4)
    inputs = keras.Input((2000,))
    model = keras.Model(inputs, keras.layers.Dropout(0.8)(inner(inputs)))
    assert scale_dropout(model, 0.5) == 3
    assert [layer.rate for layer in inner.layers[1:]] == pytest.approx([0.2, 0.1])
    assert model.layers[-1].rate == pytest.approx(0.4)
    assert scale_dropout(keras.Sequential([keras.Input((3,)), keras.layers.ReLU()]), 0.5) == 0
