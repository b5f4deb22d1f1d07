"""Inputs that benchmarks make themselves: photographs, labelled folders, model files, a small network."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgeclf.export.keras_backend import KerasModel

# Classes of `write_labelled_folder`: textures that scikit-image ships in its package.
TEXTURES = ("brick", "grass", "gravel")
_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


def write_photographs(folder: Path, count: int, size_px: int = 240) -> Path:
    """Writes JPEG files, square crops of scikit-image's photographs, and gives the folder."""
    import cv2
    from skimage import data

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        image_bgr = getattr(data, _PHOTOGRAPHS[number % len(_PHOTOGRAPHS)])()[..., ::-1]
        top, left = (int(rng.integers(0, side - size_px + 1)) for side in image_bgr.shape[:2])
        cv2.imwrite(str(folder / f"{number:04d}.jpg"), image_bgr[top : top + size_px, left : left + size_px])
    return folder


def write_labelled_folder(folder: Path, *, train: int = 24, test: int = 8, classes: int = 2) -> Path:
    """Writes `folder/{train,test}/LABEL/*.jpg`, so many 64 px crops of each class's texture, and gives the folder.

    Crops of train and test come from different halves of a texture.
    """
    import cv2
    from skimage import data

    rng = np.random.default_rng(0)
    for label in TEXTURES[:classes]:
        texture = getattr(data, label)()
        middle = texture.shape[1] // 2
        for split, count, half in (("train", train, texture[:, :middle]), ("test", test, texture[:, middle:])):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                top, left = (int(rng.integers(0, side - 63)) for side in half.shape)
                crop = cv2.cvtColor(half[top : top + 64, left : left + 64], cv2.COLOR_GRAY2BGR)
                cv2.imwrite(str(folder / split / label / f"{number:03d}.jpg"), crop)
    return folder


def write_model(path: Path, layers: int = 2, *, size_px: int = 112) -> Path:
    """Writes a classifier of two classes, as many 3 x 3 convolutions with random weights, and gives the path."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from edgeclf.runtime.spec import SPEC_KEY, ModelSpec, Preprocess

    rng = np.random.default_rng(0)
    channels = 16
    weights = {
        "first": rng.normal(0, 0.01, (channels, 3, 3, 3)),
        "kernel": rng.normal(0, 0.05, (channels, channels, 3, 3)),
        "dense": rng.normal(0, 0.1, (channels, 2)),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        # NHWC -> NCHW
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "first"], ["c0"], pads=[1, 1, 1, 1]),
    ]
    for layer in range(layers):
        nodes += [
            helper.make_node("Conv", [f"c{layer}", "kernel"], [f"k{layer}"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"k{layer}"], [f"c{layer + 1}"]),
        ]
    nodes += [
        helper.make_node("ReduceMean", [f"c{layers}"], ["pooled"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["pooled", "dense"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", size_px, size_px, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    entry = model.metadata_props.add()
    entry.key = SPEC_KEY
    entry.value = ModelSpec(labels=("one", "other"), preprocess=Preprocess((size_px, size_px))).to_json()
    onnx.save(model, str(path))
    return path


def build_small_mobile_network(size_px: int, classes: int) -> "KerasModel":
    """A network of EfficientNet-Lite's kind with three blocks and random weights.

    Returns:
        A Keras model, uint8 (None, size_px, size_px, 3) RGB `image` in, float32 (None, classes) `probabilities` out.
    """
    from edgeclf.export.keras_backend import import_tensorflow

    import_tensorflow()
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    # Zero biases would be left out of the ONNX file.
    bias = keras.initializers.RandomUniform(-0.1, 0.1, seed=0)
    image = keras.Input((size_px, size_px, 3), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 128, offset=-127 / 128)(image)
    x = layers.ReLU(6.0)(layers.Conv2D(8, 3, strides=2, padding="same", bias_initializer=bias)(x))
    x = layers.ReLU(6.0)(layers.DepthwiseConv2D(3, padding="same", bias_initializer=bias)(x))
    x = layers.Conv2D(8, 1, bias_initializer=bias)(x)
    for has_shortcut in (False, True):
        entry = x
        x = layers.ReLU(6.0)(layers.Conv2D(24, 1, bias_initializer=bias)(x))
        x = layers.ReLU(6.0)(layers.DepthwiseConv2D(3, padding="same", bias_initializer=bias)(x))
        x = layers.Conv2D(8, 1, bias_initializer=bias)(x)
        x = layers.Add()([x, entry]) if has_shortcut else x
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(classes, name="logits")(x)
    return keras.Model(image, layers.Softmax(name="probabilities")(x))
