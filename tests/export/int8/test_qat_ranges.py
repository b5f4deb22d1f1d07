import numpy as np
import pytest

from edgeclf.export.graph.convert import onnx_from_keras
from edgeclf.export.graph.float_graph import prepare_model, read_graph
from edgeclf.export.graph.pixel_normalisation import find_stem
from edgeclf.export.int8.calibrator import Calibrator
from edgeclf.export.int8.partition import plan_steps
from edgeclf.export.int8.qat_ranges import trained_ranges
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.runtime.errors import UsageError

SIZE = 32


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(7).integers(0, 256, (16, SIZE, SIZE, 3), np.uint8)


def network(seed):
    import keras
    from keras import Input, Model, layers

    keras.utils.set_random_seed(seed)
    image = Input((SIZE, SIZE, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="normalise")(image)
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="a")(x)
    x = entry = layers.ReLU(name="a_relu")(layers.BatchNormalization(name="a_bn")(x))
    x = layers.Conv2D(8, 3, padding="same", name="b")(x)
    x = layers.ReLU(name="add_relu")(layers.Add(name="add")([x, entry]))
    x = layers.GlobalAveragePooling2D(name="features")(x)
    x = layers.Dense(4, name="logits")(x)
    return Model(image, layers.Softmax(name="probabilities")(x), name="net")


RANGES = {
    "a_relu": {"scale": 0.011, "zero_point": 0},
    "b": {"scale": 0.012, "zero_point": 101},
    "add_relu": {"scale": 0.013, "zero_point": 0},
    "features": {"scale": 0.014, "zero_point": 0},
}


def in_8_bits(model):
    graph = read_graph(prepare_model(model))
    return graph, plan_steps(graph, find_stem(graph.model)).in_bytes


def test_every_trained_value_is_found_in_the_converted_graph(images):
    model = network(1)
    graph, names = in_8_bits(onnx_from_keras(model))
    found = trained_ranges(model, RANGES, images[:2]).locate(graph, names)
    # All but the pixels, which have their own scale; the pooled values once as they are and once flattened.
    assert len(found) == len(names) - 1
    producers = {(params.scale, graph.producers[name].op_type) for name, params in found.items()}
    pooled = {(0.014, "GlobalAveragePool"), (0.014, "Squeeze")}
    assert producers == {(0.011, "Relu"), (0.012, "Conv"), (0.013, "Relu"), *pooled}


def test_values_of_another_network_are_not_found(images):
    graph, names = in_8_bits(onnx_from_keras(network(2)))
    assert trained_ranges(network(1), RANGES, images[:2]).locate(graph, names) == {}


def test_a_recipe_takes_them_and_another_does_not(images):
    model = network(1)
    fp32 = onnx_from_keras(model)
    calibrator = Calibrator(fp32, images, trained=trained_ranges(model, RANGES, images[:2]))
    trained = calibrator.network(QuantizationRecipe(trained_ranges=True)).params
    usual = calibrator.network(QuantizationRecipe()).params
    wanted = {(np.float32(entry["scale"]), entry["zero_point"]) for entry in RANGES.values()}
    # Scales of sums are moved by a hair, so that none of their codes is halfway between two.
    got = {(np.float32(round(params.scale, 3)), params.zero_point) for params in trained.values()}
    assert wanted <= got
    assert not wanted & {(np.float32(round(params.scale, 3)), params.zero_point) for params in usual.values()}


def test_trained_ranges_are_refused_where_they_cannot_be(images):
    with pytest.raises(UsageError, match="do not go with equalized channels"):
        QuantizationRecipe(trained_ranges=True, equalize=True)
    with pytest.raises(ValueError, match="has none"):
        Calibrator(onnx_from_keras(network(1)), images).network(QuantizationRecipe(trained_ranges=True))
