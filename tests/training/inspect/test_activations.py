"""Looking inside a network: the scale its first layer sees, and the units that never answer."""

import numpy as np
import pytest
from skimage import data

from edgeclf.export.keras_backend import import_tensorflow
from edgeclf.training.inspect.activations import probe_network

import_tensorflow()
import keras  # noqa: E402 - after the settings that TensorFlow reads when it loads
from keras import layers  # noqa: E402

IMAGES = np.stack([data.astronaut()[top : top + 24, top : top + 24] for top in range(0, 400, 10)])


def network(scale=1 / 128, offset=-127 / 128, *, norm=False, bias=0.1):
    keras.utils.set_random_seed(3)
    image = keras.Input((24, 24, 3), dtype="uint8", name="image")
    x = layers.Rescaling(scale, offset=offset, name="normalise")(image)
    x = layers.Conv2D(8, 3, activation="relu", name="conv", bias_initializer=keras.initializers.Constant(bias))(x)
    if norm:
        x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="later")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.3, name="drop")(x)
    return keras.Model(image, layers.Dense(2, activation="softmax", name="logits")(x))


@pytest.mark.parametrize(("scale", "offset"), [(1 / 128, -127 / 128), (255.0, 0.0), (1 / 255, 0.0)])
def test_what_reaches_the_first_layer_is_what_the_scaling_gives(scale, offset):
    probe = probe_network(network(scale, offset), IMAGES)
    expected = IMAGES * scale + offset
    assert (probe.first_layer, probe.images) == ("conv", len(IMAGES))
    assert probe.input_min == pytest.approx(expected.min(), abs=1e-3 * abs(expected).max())
    assert probe.input_max == pytest.approx(expected.max(), rel=1e-3)
    assert probe.input_mean == pytest.approx(expected.mean(), rel=1e-3, abs=1e-3)
    assert probe.input_std == pytest.approx(expected.std(), rel=1e-3)
    assert probe.dropout == {"drop": 0.3}


def test_dead_units_are_those_that_are_zero_for_every_image():
    model = network()
    kernel, bias = model.get_layer("conv").get_weights()
    bias[[1, 4]] = -1e4
    model.get_layer("conv").set_weights([kernel, bias])
    layer = probe_network(model, IMAGES).relu_layers[0]
    assert (layer.name, layer.units) == ("conv", 8)
    inside = keras.Model(model.input, model.get_layer("conv").output)
    assert layer.dead == int((inside.predict(IMAGES, verbose=0).max(axis=(0, 1, 2)) <= 0).sum()) >= 2


def test_statistics_that_belong_to_other_pixels_are_far_off():
    model = network(norm=True)
    conv = keras.Model(model.input, model.get_layer("conv").output).predict(IMAGES, verbose=0)
    norm = model.get_layer("norm")
    norm.moving_variance.assign(conv.var(axis=(0, 1, 2)))
    assert probe_network(model, IMAGES).batch_norm_log10_ratio < 0.05
    model.get_layer("normalise").scale = 255.0 / 128
    assert probe_network(model, IMAGES).batch_norm_log10_ratio > 3
    assert probe_network(network(), IMAGES).batch_norm_log10_ratio is None


def test_weights_that_were_never_moved_are_told_from_trained_ones():
    untouched = network(bias=0.0)
    assert probe_network(untouched, IMAGES).bias_to_kernel == 0.0
    model = network(bias=0.0)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.learning_rate = 0.01
    model.fit(IMAGES, np.arange(len(IMAGES)) % 2, epochs=5, verbose=0)
    assert probe_network(model, IMAGES).bias_to_kernel > 0.02
