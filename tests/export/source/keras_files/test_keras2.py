"""Files of Keras 2, most of which Keras 3 refuses by itself."""

import json

import numpy as np
import pytest

from edgeclf.export.source.keras_files.loading import load_keras_file
from edgeclf.runtime.errors import ModelFileError

from .old_files import functional, layer, randomise, sequential, teachable_machine, tensor, write_old_h5


def answers(model, images):
    return np.asarray(model(images, training=False))


def pixels(rng, *shape):
    return rng.uniform(-1, 1, shape).astype(np.float32)


def test_a_teachable_machine_file_answers_as_its_network(tmp_path, rng, keras):
    twin = teachable_machine(tmp_path / "keras_model.h5", rng)
    with pytest.raises(TypeError):
        keras.saving.load_model(tmp_path / "keras_model.h5", compile=False)
    images = pixels(rng, 5, 32, 32, 3)
    loaded = load_keras_file(tmp_path / "keras_model.h5")
    np.testing.assert_allclose(answers(loaded, images), answers(twin, images), atol=1e-6)


def test_its_name_does_not_matter(tmp_path, rng, keras):
    twin = teachable_machine(tmp_path / "keras_model.h5", rng)
    renamed = (tmp_path / "keras_model.h5").rename(tmp_path / "model.bin")
    images = pixels(rng, 2, 32, 32, 3)
    np.testing.assert_allclose(answers(load_keras_file(renamed), images), answers(twin, images), atol=1e-6)


def one_convolution(keras, path, rng, between, **last):
    """A file of a convolution, layers of the config between, and a global average."""
    image = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(image)
    twin = keras.Model(image, x)
    randomise(twin, rng)
    layers = [
        layer("InputLayer", "input", [], batch_input_shape=[None, 6, 6, 3], ragged=False),
        layer("Conv2D", "conv", [[tensor("input")]], filters=4, kernel_size=[3, 3], **last),
        *between,
    ]
    write_old_h5(path, twin, functional("net", layers, ["input"], [layers[-1]["config"]["name"]]))
    return twin


@pytest.mark.parametrize(
    ("function", "node", "expected"),
    [
        ("math.multiply", tensor("conv", y=2.5, name=None), lambda x: 2.5 * x),
        ("__operators__.add", tensor("conv", y=1.5, name=None), lambda x: x + 1.5),
        ("__operators__.rsub", tensor("conv", x=1.0), lambda x: 1.0 - x),
        ("__operators__.truediv", tensor("conv", y=["conv", 0, 0]), np.ones_like),
        ("math.subtract", ["_CONSTANT_VALUE", -1, 1.0, {"y": ["conv", 0, 0]}], lambda x: 1.0 - x),
        ("nn.relu6", tensor("conv"), lambda x: np.clip(x, 0, 6)),
        ("concat", [tensor("conv", axis=-1), tensor("conv", axis=-1)], lambda x: np.concatenate([x, x], -1)),
        ("compat.v1.nn.relu", tensor("conv"), lambda x: np.maximum(x, 0)),
    ],
)
def test_calls_of_tensorflow_between_layers_are_made(tmp_path, rng, keras, function, node, expected):
    call = {**layer("TFOpLambda", "call", [node], function=function)}
    twin = one_convolution(keras, tmp_path / "m.h5", rng, [call])
    images = pixels(rng, 3, 6, 6, 3)
    got = answers(load_keras_file(tmp_path / "m.h5"), images)
    np.testing.assert_allclose(got, expected(answers(twin, images)), rtol=1e-5, atol=1e-5)


def test_slices_of_tensors(tmp_path, rng, keras):
    spec = [{"class_name": "__ellipsis__", "config": {}}, {"start": None, "stop": None, "step": -1}]
    call = layer("SlicingOpLambda", "cut", [tensor("conv", slice_spec=spec)], function="__operators__.getitem")
    twin = one_convolution(keras, tmp_path / "m.h5", rng, [call])
    images = pixels(rng, 2, 6, 6, 3)
    got = answers(load_keras_file(tmp_path / "m.h5"), images)
    np.testing.assert_allclose(got, answers(twin, images)[..., ::-1], atol=1e-6)


def test_the_hard_sigmoid_of_keras_2_is_the_one_that_was_trained(tmp_path, rng, keras):
    twin = one_convolution(
        keras, tmp_path / "m.h5", rng, [layer("Activation", "end", [[tensor("conv")]], activation="hard_sigmoid")]
    )
    images = pixels(rng, 3, 6, 6, 3)
    expected = np.clip(0.2 * answers(twin, images) + 0.5, 0, 1)
    np.testing.assert_allclose(answers(load_keras_file(tmp_path / "m.h5"), images), expected, atol=1e-6)
    assert np.abs(expected - np.asarray(keras.activations.hard_sigmoid(answers(twin, images)))).max() > 0.01


def test_names_with_slashes_and_mixed_precision(tmp_path, rng, keras):
    policy = {"class_name": "Policy", "config": {"name": "mixed_float16"}}
    between = [
        {**layer("ReLU", "expanded/relu", [[tensor("conv")]]), "config": {"name": "expanded/relu", "dtype": policy}},
        layer("GlobalAveragePooling2D", "pool", [[tensor("expanded/relu")]]),
    ]
    twin = one_convolution(keras, tmp_path / "m.h5", rng, between)
    images = pixels(rng, 3, 6, 6, 3)
    loaded = load_keras_file(tmp_path / "m.h5")
    assert {item.compute_dtype for item in loaded.layers} == {"float32"}
    np.testing.assert_allclose(answers(loaded, images), np.maximum(answers(twin, images), 0).mean((1, 2)), atol=1e-6)


def test_augmentation_of_keras_2_does_nothing(tmp_path, rng, keras):
    inner = [
        layer(
            "RandomFlip", "flip", mode="horizontal", seed=None, rng_type="stateful", batch_input_shape=[None, 6, 6, 3]
        ),
        layer("RandomHeight", "height", factor=0.2, interpolation="bilinear", seed=None),
    ]
    nested = {
        **sequential("augment", inner),
        "name": "augment",
        "inbound_nodes": [[tensor("conv_input", training=True)]],
    }
    image = keras.Input((6, 6, 3))
    twin = keras.Model(image, keras.layers.Conv2D(4, 3, name="conv")(image))
    randomise(twin, rng)
    layers = [
        layer("InputLayer", "conv_input", [], batch_input_shape=[None, 6, 6, 3]),
        nested,
        layer("Conv2D", "conv", [[tensor("augment", node=1)]], filters=4, kernel_size=[3, 3]),
    ]
    write_old_h5(tmp_path / "m.h5", twin, functional("net", layers, ["conv_input"], ["conv"]))
    images = pixels(rng, 3, 6, 6, 3)
    np.testing.assert_allclose(answers(load_keras_file(tmp_path / "m.h5"), images), answers(twin, images), atol=1e-6)


def test_an_option_that_keras_3_does_not_have_is_named(tmp_path, rng, keras):
    one_convolution(keras, tmp_path / "m.h5", rng, [], unheard_of=3)
    with pytest.raises(ModelFileError, match=r"'conv' \(Conv2D\) with unheard_of 3"):
        load_keras_file(tmp_path / "m.h5")
    # One that is switched off changes nothing.
    twin = one_convolution(keras, tmp_path / "m.h5", rng, [], unheard_of=False)
    images = pixels(rng, 1, 6, 6, 3)
    np.testing.assert_allclose(answers(load_keras_file(tmp_path / "m.h5"), images), answers(twin, images), atol=1e-6)


@pytest.mark.parametrize("layers", [[], [{"class_name": "Dense"}], [{"class_name": 3, "config": {}}], [7]])
def test_a_config_that_describes_nothing_is_an_error(tmp_path, rng, keras, layers):
    one_convolution(keras, tmp_path / "m.h5", rng, [])
    import h5py

    with h5py.File(tmp_path / "m.h5", "r+") as file:
        file.attrs["model_config"] = json.dumps(sequential("empty", layers)).encode()
    with pytest.raises(ModelFileError):
        load_keras_file(tmp_path / "m.h5")
