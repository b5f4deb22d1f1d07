"""A small network trained on crops of real colour photographs, shared by the tests of this folder."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

LABELS = ("astronaut", "chelsea", "coffee")
SIZE_HW = (48, 48)


@dataclass(frozen=True)
class Trained:
    model: Any
    train_rgb: np.ndarray
    train_indices: np.ndarray
    held_out_rgb: np.ndarray
    held_out_indices: np.ndarray


def crops_of(image_rgb: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    import cv2

    height, width = image_rgb.shape[:2]
    crops = []
    for _ in range(count):
        top, left = int(rng.integers(0, height - 96)), int(rng.integers(0, width - 96))
        crops.append(
            cv2.resize(image_rgb[top : top + 96, left : left + 96], SIZE_HW[::-1], interpolation=cv2.INTER_AREA)
        )
    return np.stack(crops)


def build_network(seed: int = 0) -> Any:
    from edgeclf.export.keras_backend import import_tensorflow

    import_tensorflow()
    import keras

    keras.utils.set_random_seed(seed)
    image = keras.Input((*SIZE_HW, 3), dtype="uint8", name="image")
    x = keras.layers.Rescaling(1 / 128, offset=-127 / 128)(image)

    def block(x: Any, filters: int, stride: int) -> Any:
        x = keras.layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.8)(x)
        x = keras.layers.ReLU(6.0)(x)
        x = keras.layers.Conv2D(filters, 1, use_bias=False)(x)
        x = keras.layers.BatchNormalization(momentum=0.8)(x)
        return keras.layers.ReLU(6.0)(x)

    x = keras.layers.Conv2D(12, 3, strides=2, padding="same")(x)
    x = keras.layers.ReLU(6.0)(x)
    x = y = block(x, 16, 2)
    x = keras.layers.Add()([block(x, 16, 1), y])
    x = block(x, 32, 2)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dropout(0.2)(x)
    x = keras.layers.Dense(len(LABELS), name="logits")(x)
    return keras.Model(image, keras.layers.Softmax(name="probabilities")(x))


@pytest.fixture(scope="session")
def trained() -> Trained:
    from skimage import data

    rng = np.random.default_rng(7)
    photographs = [data.astronaut(), data.chelsea(), data.coffee()]
    # The upper part of each photograph trains, the lower part is held out.
    train = [crops_of(photo[: photo.shape[0] * 6 // 10], 96, rng) for photo in photographs]
    held_out = [crops_of(photo[photo.shape[0] * 6 // 10 :], 40, rng) for photo in photographs]
    model = build_network()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    train_rgb, train_indices = np.concatenate(train), np.repeat(np.arange(3), 96)
    model.fit(train_rgb, train_indices, epochs=25, batch_size=32, verbose=0)
    return Trained(model, train_rgb, train_indices, np.concatenate(held_out), np.repeat(np.arange(3), 40))


@pytest.fixture(scope="session")
def fp32(trained: Trained) -> Any:
    """The network as a float ONNX model; tests that change it take a copy."""
    from edgeclf.export.graph.convert import onnx_from_keras

    return onnx_from_keras(trained.model)
