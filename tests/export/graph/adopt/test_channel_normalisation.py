"""A network of Keras whose channels are normalised each in its own way reads bytes, and computes what it did."""

import numpy as np
import onnx
import pytest

from edgeclf.export.graph.convert import onnx_from_keras
from edgeclf.export.graph.pixel_normalisation import find_pixel_normalisation
from edgeclf.export.int8.calibrator import quantize_int8
from edgeclf.export.source.classifier import TrainedClassifier
from edgeclf.runtime.spec import ModelSpec, Preprocess

from .adopted import run
from .networks import operators

SIDE = 24
SPEC = ModelSpec(labels=("a", "b", "c"), preprocess=Preprocess((SIDE, SIDE)))
# As `keras.applications` has them: mean and deviation of ImageNet, and the mean alone.
SCALINGS = {
    "torch": (1 / np.array([58.395, 57.12, 57.375]), -np.array([123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]),
    "caffe": (np.ones(3), -np.array([123.68, 116.779, 103.939])),
}


def build_network(rng, scale, offset, pads, *, first="conv", bias=True):
    import keras
    from keras import layers

    keras.utils.set_random_seed(int(rng.integers(2**31)))
    image = keras.Input((SIDE, SIDE, 3), dtype="uint8", name="image")
    x = layers.Rescaling(scale.tolist(), offset=offset.tolist(), name="normalise")(image)
    if first == "pooling":
        x = layers.MaxPooling2D(2)(x)
    if pads == "zeros":
        x = layers.ZeroPadding2D(((1, 2), (0, 1)), name="pad")(x)
    gain = keras.initializers.VarianceScaling(1 / np.square(255 * scale.mean() / 2))
    same = "same" if pads == "same" else "valid"
    x = layers.Conv2D(8, 3, strides=2, padding=same, use_bias=bias, kernel_initializer=gain, name="conv0")(x)
    x = layers.Conv2D(8, 3, padding="same", name="conv1")(layers.LeakyReLU(0.3)(x))
    x = layers.GlobalAveragePooling2D()(layers.LeakyReLU(0.3)(x))
    x = layers.Dense(3, name="logits", kernel_initializer=keras.initializers.VarianceScaling(50.0))(x)
    return keras.Model(image, layers.Softmax(name="probabilities")(x))


def random_images(rng, count):
    images = rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    images[1:] = images[1:] // 3 + rng.integers(0, 170, (count - 1, 1, 1, 3), dtype=np.uint8)
    return images


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize(("pads", "bias"), [("none", True), ("none", False), ("same", True), ("zeros", False)])
def test_bytes_enter_the_first_convolution(rng, name, pads, bias):
    network = build_network(rng, *SCALINGS[name], pads, bias=bias)
    model = TrainedClassifier(network, SPEC).float_model()
    onnx.checker.check_model(model, full_check=True)
    pixels = find_pixel_normalisation(model)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    assert pixels is not None
    assert (pixels.zero_point is None, pixels.output) == (False, first.input[0])
    # A mean that is none for the pads stands beside the colours.
    assert ("Pad" in operators(model)) == (pads != "none")
    images = random_images(rng, 32)
    wanted, found = network(images).numpy(), run(model, images)
    # The images differ in what is told of them.
    assert np.abs(wanted - wanted[0]).max() > 1e-2
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)
    quantized = quantize_int8(model, images)
    assert quantized.recipe["normalisation_folded"]
    values = {node.output[0]: node for node in quantized.model.graph.node}
    ahead = [next(node for node in quantized.model.graph.node if node.op_type == "Conv").input[0]]
    while (node := values.get(ahead[-1])) is not None:
        assert node.op_type != "QuantizeLinear"
        ahead.append(node.input[0])
    assert ahead[-1] == "image"


def test_what_is_no_normalisation_of_each_channel_ahead_of_a_convolution_stays_as_it_is(rng):
    scale, offset = SCALINGS["torch"]
    for network in (
        build_network(rng, np.full(3, 1 / 255), np.full(3, -0.5), "zeros"),
        build_network(rng, scale, offset, "same", first="pooling"),
    ):
        model = TrainedClassifier(network, SPEC).float_model()
        assert model.SerializeToString() == onnx_from_keras(network).SerializeToString()


def test_a_network_that_was_trained_for_8_bits_keeps_the_weights_that_its_scales_are_of(rng):
    network = build_network(rng, *SCALINGS["torch"], "same")
    classifier = TrainedClassifier(network, SPEC, simulate=lambda: network)
    assert classifier.float_model().SerializeToString() == onnx_from_keras(network).SerializeToString()
