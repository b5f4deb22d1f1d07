from dataclasses import replace

import keras
import numpy as np
import onnx
import pytest
from keras import Input, Model, layers

from edgeclf.export.graph.convert import onnx_from_keras
from edgeclf.export.graph.float_graph import prepare_model, read_graph
from edgeclf.export.graph.pixel_normalisation import find_pixel_normalisation
from edgeclf.export.int8.calibrator import Calibrator
from edgeclf.export.int8.observe import session_with_outputs
from edgeclf.export.int8.partition import partition_graph
from edgeclf.export.int8.qat_ranges import (
    TrainedScales,
    TrainedWeights,
    cut_of,
    lacks_weight_scales,
    layers_in_8_bits,
    trained_scales,
    without_weight_scales,
)
from edgeclf.export.int8.ranges import QuantParams
from edgeclf.export.int8.recipe import QuantizationRecipe
from edgeclf.runtime.errors import InputError, UsageError
from edgeclf.training.networks.registry import ARCHITECTURES, get_architecture

SIZE = 32
AS_TRAINED = QuantizationRecipe(trained_ranges=True, gptq=False, correct_bias=False)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(7).integers(0, 256, (16, SIZE, SIZE, 3), np.uint8)


def network(seed=1):
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


def handed_over():
    values = {
        "a_relu": QuantParams(0.011, 0),
        "b": QuantParams(0.012, 101),
        "add_relu": QuantParams(0.013, 0),
        "features": QuantParams(0.014, 0),
    }
    rng = np.random.default_rng(4)
    weights = {
        name: TrainedWeights(rng.uniform(0.004, 0.008, channels).astype(np.float32).astype(np.float64), norm)
        for name, channels, norm in (("a", 8, "a_bn"), ("b", 8, None), ("logits", 4, None))
    }
    return TrainedScales(values, weights)


def with_statistics(model):
    """The model with batch normalisation that shifts and scales, as a trained one does."""
    rng = np.random.default_rng(2)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            for weight in layer.weights:
                weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    return model


# The larger EfficientNet-Lites have more of the same blocks.
NETWORKS = [name for name in ARCHITECTURES if not name.startswith("efficientnet-lite")]
SLOW_NETWORKS = [
    pytest.param(name, marks=pytest.mark.slow) for name in ("efficientnet-lite0", "keras:MobileNetV3Small")
]


@pytest.mark.parametrize("architecture", [*NETWORKS, *SLOW_NETWORKS])
def test_the_cut_of_every_network_names_the_layers_whose_values_it_cuts_at(architecture):
    chosen = get_architecture(architecture)
    size = max(chosen.min_size, 64)
    keras.utils.set_random_seed(5)
    model = with_statistics(chosen.build_network((size, size), 3, "none"))
    graph = read_graph(prepare_model(onnx_from_keras(model)))
    plan = partition_graph(graph, find_pixel_normalisation(graph.model))
    cut = layers_in_8_bits(graph, plan)
    operations = {operation.name: operation for operation in model.operations}
    # Each layer with a kernel of four dimensions or before the softmax, once.
    with_kernel = [one.name for one in model.layers if any(len(weight.shape) > 1 for weight in one.weights)]
    assert sorted(cut.weights.values()) == sorted(with_kernel)
    norms = [one.name for one in model.layers if isinstance(one, layers.BatchNormalization)]
    assert sorted(cut.norms.values()) == sorted(norms)
    assert len(set(cut.values.values())) == len(cut.values)
    pixels = np.random.default_rng(1).integers(0, 256, (1, size, size, 3), np.uint8)
    tensors = list(cut.values)
    kinds = dict.fromkeys(tensors, onnx.TensorProto.FLOAT)
    got = session_with_outputs(graph.model, kinds, threads=1).run(None, {graph.input: pixels})
    wanted = Model(model.input, [operations[cut.values[tensor]].output for tensor in tensors])(pixels, training=False)
    for tensor, theirs, keras_value in zip(tensors, got, wanted, strict=True):
        mine = np.asarray(keras_value)
        # (N, H, W, C) to (N, C, H, W), but where a converter has moved a transposition.
        layouts = [mine, mine.transpose(0, 3, 1, 2)] if mine.ndim == 4 else [mine.reshape(theirs.shape)]
        errors = [np.abs(theirs - values).max() for values in layouts if values.shape == theirs.shape]
        error = min(errors) / max(np.abs(mine).max(), 1e-9)
        assert error < 1e-3, f"{tensor} is not the output of {cut.values[tensor]}"


def test_scales_are_placed_by_layer_and_stand_in_the_file(images):
    model = network()
    given = handed_over()
    calibrated = Calibrator(onnx_from_keras(model), images, trained=given).network(AS_TRAINED)
    # Scales of sums are moved by a hair, so that none of their codes is halfway between two.
    got = {(round(params.scale, 3), params.zero_point) for params in calibrated.params.values()}
    assert {(params.scale, params.zero_point) for params in given.values.values()} <= got
    for name, layer in calibrated.layers.items():
        np.testing.assert_array_equal(layer.scales, given.weights[name.split("/")[0]].scales)
    usual = Calibrator(onnx_from_keras(model), images, trained=given).network(QuantizationRecipe())
    assert not {round(params.scale, 3) for params in usual.params.values()} & {0.011, 0.012, 0.013, 0.014}


def test_weights_that_are_multiples_of_their_scales_are_written_as_they_are(images):
    model = network()
    given = handed_over()
    codes = np.random.default_rng(3).integers(-60, 61, (4, 8))
    scales = given.weights["logits"].scales
    model.get_layer("logits").set_weights([(codes * scales[:, None]).T.astype(np.float32), np.zeros(4, np.float32)])
    calibrated = Calibrator(onnx_from_keras(model), images, trained=given).network(AS_TRAINED)
    (logits,) = [layer for name, layer in calibrated.layers.items() if name.startswith("logits/")]
    np.testing.assert_array_equal(logits.codes, codes)


def changed(part, name, value):
    given = handed_over()
    entries = {**getattr(given, part)}
    if value is None:
        del entries[name]
    else:
        entries[name] = value
    return replace(given, **{part: entries})


@pytest.mark.parametrize(
    ("scales", "said"),
    [
        (changed("values", "b", None), "activation ranges do not fit the converted network: got none for b,"),
        (changed("values", "c", QuantParams(0.1, 0)), "got nothing in 8 bits there for c,"),
        (changed("weights", "a", None), "weight scales do not fit the converted network: got none for a,"),
        (changed("weights", "a_bn", TrainedWeights(np.ones(8), None)), "got nothing in 8 bits there for a_bn,"),
        (changed("weights", "b", TrainedWeights(np.ones(7), None)), "got 7 for the 8 output channels of b,"),
        (changed("weights", "a", TrainedWeights(np.ones(8), None)), "got a_bn folded into a, trained with None,"),
    ],
)
def test_a_scale_that_cannot_be_placed_is_an_error_that_says_which(images, scales, said):
    calibrator = Calibrator(onnx_from_keras(network()), images, trained=scales)
    with pytest.raises(InputError) as error:
        calibrator.network(AS_TRAINED)
    assert said in str(error.value)
    assert "edgeclf train --from RUN --qat" in str(error.value)


def test_scales_outlive_a_spec_to_the_last_bit():
    given = handed_over()
    document = {"epochs": 3, **given.to_json()}
    again = trained_scales(document)
    assert again.values == given.values
    assert again.weights.keys() == given.weights.keys()
    for name, weights in again.weights.items():
        np.testing.assert_array_equal(weights.scales, given.weights[name].scales)
        assert weights.norm == given.weights[name].norm
    assert trained_scales({"epochs": 3}) is None
    assert set(without_weight_scales(document)) == {"epochs", "ranges_8bit"}
    assert lacks_weight_scales(without_weight_scales(document))
    assert not lacks_weight_scales(document)
    assert not lacks_weight_scales({"epochs": 3})
    with pytest.raises(InputError, match="cannot read the 8-bit scales"):
        trained_scales({"ranges_8bit": {"a": {"scale": 1.0}}})


def test_a_run_of_a_version_that_recorded_ranges_alone_is_exported_with_them(images):
    old = trained_scales(without_weight_scales(handed_over().to_json()))
    calibrated = Calibrator(onnx_from_keras(network()), images, trained=old).network(AS_TRAINED)
    got = {(round(params.scale, 3), params.zero_point) for params in calibrated.params.values()}
    assert {(params.scale, params.zero_point) for params in old.values.values()} <= got


def test_trained_ranges_are_refused_where_they_cannot_be(images):
    with pytest.raises(UsageError, match="do not go with equalized channels"):
        QuantizationRecipe(trained_ranges=True, equalize=True)
    with pytest.raises(ValueError, match="has none"):
        Calibrator(onnx_from_keras(network()), images).network(QuantizationRecipe(trained_ranges=True))


def test_what_lies_inside_a_layer_has_no_range_of_its_own():
    image = Input((SIZE, SIZE, 3), dtype="uint8", name="image")
    x = layers.Conv2D(8, 3, name="a")(layers.Rescaling(1 / 128, offset=-1)(image))
    x = layers.Conv2D(8, 3, name="b")(layers.Activation("swish", name="swish")(x))
    x = layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D(name="features")(x))
    cut = cut_of(onnx_from_keras(Model(image, layers.Softmax(name="probabilities")(x))))
    assert sorted(cut.values.values()) == ["a", "b", "features", "swish"]
