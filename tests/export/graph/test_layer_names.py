import os
import subprocess
import sys

import numpy as np
import pytest

from edgeclf.export.graph.convert import onnx_from_keras
from edgeclf.export.graph.layer_names import layer_of
from edgeclf.runtime.session.opening import open_session_from_bytes

SIZE = 32


def operators_that_python_writes():
    """Names that only a number sets apart, products without a layer, and a convolution that tf2onnx makes anew."""
    from keras import Input, Model, layers

    image = Input((SIZE, SIZE, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 128, offset=-1, name="normalise")(image)
    x = layers.Conv2D(8, 3, use_bias=False, name="conv")(x)
    x = layers.BatchNormalization(name="norm")(x)
    y = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv_1")(x)
    y = layers.BatchNormalization(name="norm_1")(y)
    x = y * (layers.ReLU(6.0, name="cut")(x + 3.0) * (1.0 / 6.0))
    x = layers.GlobalAveragePooling2D(name="features")(x)
    x = layers.Dense(3, name="logits")(x)
    return Model(image, layers.Softmax(name="probabilities")(x))


def test_every_node_and_tensor_is_named_after_the_operation_whose_value_it_is():
    from keras import Model

    model = operators_that_python_writes()
    operations = {operation.name: operation for operation in model.operations}
    converted = onnx_from_keras(model)
    assert {layer_of(node.name) for node in converted.graph.node} <= set(operations)
    images = np.random.default_rng(1).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    seen = set()
    for node in converted.graph.node[1:-1]:
        if node.op_type == "Transpose":
            # Moved past the operation that it is named after.
            continue
        (tensor,) = node.output
        layer = layer_of(tensor)
        readers = [other for other in converted.graph.node if tensor in other.input]
        if all(layer_of(reader.name) == layer for reader in readers):
            continue
        changed = type(converted).FromString(converted.SerializeToString())
        del changed.graph.output[:]
        changed.graph.output.add().name = tensor
        changed.graph.output[0].type.tensor_type.elem_type = 1
        session = open_session_from_bytes(changed.SerializeToString(), threads=1)
        (got,) = session.run(None, {"image": images})
        wanted = np.asarray(Model(model.input, operations[layer].output)(images, training=False))
        if wanted.ndim == 4 and got.shape != wanted.shape:
            wanted = wanted.transpose(0, 3, 1, 2)
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3, err_msg=f"{tensor} is not the output of {layer}")
        seen.add(layer)
    assert {"norm", "norm_1", "cut", "features", "logits"} <= seen


@pytest.mark.parametrize("kind", ["sequential", "nested"])
def test_other_models_are_converted_as_well(kind):
    from keras import Input, Model, Sequential, layers

    parts = [
        Input((SIZE, SIZE, 3), dtype="uint8"),
        layers.Rescaling(1 / 255),
        layers.Conv2D(4, 3),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2, activation="softmax"),
    ]
    model = Sequential(parts)
    if kind == "nested":
        image = Input((SIZE, SIZE, 3), dtype="uint8", name="image")
        model = Model(image, model(image))
    images = np.random.default_rng(1).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    session = open_session_from_bytes(onnx_from_keras(model).SerializeToString(), threads=1)
    (got,) = session.run(None, {"image": images})
    np.testing.assert_allclose(got, np.asarray(model(images, training=False)), atol=1e-5)


# Thresholds and epsilons that tf2onnx merges, under the name of whichever it meets first in a set.
CONVERSION = """
import hashlib
from edgeclf.export.graph.convert import onnx_from_keras
from edgeclf.export.keras_backend import import_tensorflow
import_tensorflow()
from keras import Input, Model, layers, utils
utils.set_random_seed(1)
image = Input((16, 16, 3), dtype="uint8", name="image")
x = layers.Rescaling(1 / 128, offset=-1, name="normalise")(image)
for number in range(4):
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"depthwise{number}")(x)
    x = layers.BatchNormalization(name=f"norm{number}")(x)
    x = layers.ReLU(6.0, name=f"cut{number}")(x)
x = layers.GlobalAveragePooling2D(name="features")(x)
x = layers.Dense(3, name="logits")(x)
model = onnx_from_keras(Model(image, layers.Softmax(name="probabilities")(x)))
assert not [name for node in model.graph.node for name in (node.name, *node.input, *node.output) if "__" in name]
print(hashlib.md5(model.SerializeToString()).hexdigest())
"""


def test_the_same_network_is_the_same_file_in_every_process():
    digests = set()
    for seed in ("1", "2", "3"):
        done = subprocess.run(
            [sys.executable, "-c", CONVERSION],
            env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1
