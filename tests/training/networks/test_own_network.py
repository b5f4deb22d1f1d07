"""Networks of the user: called by name, brought to the contract, refused with a sentence where they are none."""

import importlib
import sys

import numpy as np
import pytest

from edgeclf.export.graph.convert import onnx_from_keras
from edgeclf.runtime.errors import InputError, UsageError
from edgeclf.training.networks.own_network import build_own_network, is_own_network
from edgeclf.training.networks.registry import get_architecture

MODULE = """
import keras
L = keras.layers

class Halve(L.Layer):
    def call(self, x):
        return x / 2

def sequential(classes, image_size):
    return keras.Sequential([
        keras.Input((*image_size, 3)), L.Rescaling(1 / 255), L.Conv2D(4, 3), Halve(), L.GlobalAveragePooling2D(),
        L.Dense(classes, activation="softmax"),
    ])

def nested(num_classes, input_shape, width=4):
    image = keras.Input(input_shape, dtype="uint8")
    inner = keras.Input((*input_shape[:2], 3))
    shared = L.Conv2D(3, 3, padding="same")
    base = keras.Model(inner, L.BatchNormalization()(shared(inner) + shared(inner * 0.5)))
    base.trainable = False
    x = base(L.RandomFlip()(L.Rescaling(1 / 255)(image)), training=False)
    x = L.Conv2D(width, 3)(x)
    head = keras.Sequential([L.GlobalMaxPooling2D(), L.Dense(num_classes)])
    return keras.Model(image, L.Softmax()(head(x)))

def average(n_classes, size):
    image = keras.Input((*size, 3))
    return keras.Model(image, L.GlobalAveragePooling2D()(L.Conv2D(n_classes, 3)(L.Rescaling(1 / 255)(image))))

def sigmoid(classes, image_size):
    image = keras.Input((*image_size, 3))
    return keras.Model(image, L.Dense(classes, activation="sigmoid")(L.GlobalAveragePooling2D()(image)))

def other_size(classes, image_size):
    image = keras.Input((7, 7, 3))
    return keras.Model(image, L.Dense(classes)(L.GlobalAveragePooling2D()(image)))

def two_outputs(classes, image_size):
    image = keras.Input((*image_size, 3))
    x = L.GlobalAveragePooling2D()(image)
    return keras.Model(image, [L.Dense(classes)(x), L.Dense(classes)(x)])

def fixed_classes(classes, image_size):
    image = keras.Input((*image_size, 3))
    return keras.Model(image, L.Dense(7)(L.GlobalAveragePooling2D()(image)))

def with_code(classes, image_size):
    image = keras.Input((*image_size, 3))
    return keras.Model(image, L.Dense(classes)(L.GlobalAveragePooling2D()(L.Lambda(lambda x: x / 2)(image))))

class Net(keras.Model):
    def call(self, x):
        return x

def subclass(classes, image_size):
    return Net()

def raises(classes, image_size):
    raise KeyError("no such thing")

def gives_text(classes, image_size):
    return "network"

def strange(classes, alpha):
    return None

def no_classes(image_size):
    return None

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    from edgeclf.export.keras_backend import import_tensorflow

    import_tensorflow()
    name = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.mark.parametrize("function", ["sequential", "nested", "average"])
def test_it_computes_what_the_users_network_computes(module, rng, function):
    import keras

    size = (20, 16)
    seed = int(rng.integers(1000))
    keras.utils.set_random_seed(seed)
    network = build_own_network(f"{module}:{function}", size, 5)
    keras.utils.set_random_seed(seed)
    theirs = getattr(importlib.import_module(module), function)(5, (*size, 3) if function == "nested" else size)
    images = rng.integers(0, 256, (3, *size, 3), dtype=np.uint8)
    expected = np.asarray(theirs(images.astype(theirs.inputs[0].dtype), training=False))
    if function == "average":
        expected = np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
    np.testing.assert_allclose(network(images, training=False), expected, atol=1e-5)
    assert [(item.name, item.dtype, tuple(item.shape)) for item in network.inputs] == [
        ("image", "uint8", (None, *size, 3))
    ]
    assert network.layers[-1].name == "probabilities"
    assert network.get_layer("logits").output.shape == (None, 5)
    # Flat, and every name once.
    assert not [layer for layer in network.layers if hasattr(layer, "layers")]
    assert len({layer.name for layer in network.layers}) == len(network.layers)
    assert network.count_params() == theirs.count_params()
    assert len(network.trainable_weights) == len(theirs.trainable_weights)
    operators = {node.op_type for node in onnx_from_keras(network).graph.node}
    assert not [name for name in operators if "Random" in name]


def test_its_names_do_not_depend_on_what_was_built_before(module):
    first, second = (build_own_network(f"{module}:nested", (16, 16), 3) for _ in range(2))
    assert [layer.name for layer in first.layers if layer.weights] == [
        layer.name for layer in second.layers if layer.weights
    ]


@pytest.mark.parametrize(
    ("function", "error", "said"),
    [
        ("sigmoid", UsageError, "sigmoid at its end"),
        ("other_size", UsageError, "--image-size 7"),
        ("two_outputs", UsageError, "one input and one output"),
        ("fixed_classes", UsageError, "for 3 classes"),
        ("with_code", InputError, "could not be opened again.*Lambda"),
        ("subclass", UsageError, r"a subclass of keras.Model.*keras.Model\(inputs, outputs\)"),
        ("raises", InputError, "no such thing.*classes=3"),
        ("gives_text", UsageError, "a str"),
        ("strange", UsageError, "got alpha"),
        ("no_classes", UsageError, "takes no classes"),
        ("number", UsageError, "is no function"),
        ("absent", UsageError, "has no 'absent'"),
    ],
)
def test_what_is_no_network_to_train_is_refused(module, function, error, said):
    with pytest.raises(error, match=said):
        build_own_network(f"{module}:{function}", (16, 16), 3)


def test_names_of_networks_of_the_user():
    assert is_own_network("my.module:build")
    assert not is_own_network("keras:MobileNetV2")
    assert not is_own_network("onnx:resnet18")
    assert not is_own_network("small-cnn")
    # Nothing is imported to read about a run of it.
    assert get_architecture("no_such_module:build").is_own
    assert "no_such_module" not in sys.modules
    with pytest.raises(UsageError, match="no module 'no_such_module'"):
        get_architecture("no_such_module:build").check_available("none")
