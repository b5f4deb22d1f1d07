"""Inputs that benchmarks make themselves: photographs, labelled folders, model files, a small network.

    python benchmarks/synthetic.py OUT [--seed 0]

writes the data set of ten classes, see `write_ten_classes`.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgeclf.export.keras_backend import KerasModel
    from edgeclf.runtime.arrays import UInt8Array

# Classes of `write_labelled_folder`: textures that scikit-image ships in its package.
TEXTURES = ("brick", "grass", "gravel")
_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
# Classes of `write_ten_classes`: grass is in two of them, faces, skies, round things and fine grain in several.
TEN_CLASSES = (*_PHOTOGRAPHS, *TEXTURES, "camera", "coins", "moon")
_CELL_PX, _SMALLEST_CROP_PX, _TEN_CLASSES_PX = 64, 32, 96


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


def write_ten_classes(folder: Path, *, train: int = 70, val: int = 20, test: int = 30, seed: int = 0) -> Path:
    """Writes `folder/{train,val,test}/LABEL/*.jpg`, ten photographs of scikit-image in small crops, and gives the folder.

    A photograph is a class. It is divided into cells of 64 px, each in one split, so that no pixel is in two. Crops of
    32 to 64 px are mirrored, lose most of their colour, are enlarged to 96 px, blurred, lit and compressed at random.

    Args:
        folder: The folder to write into.
        train: Images of each class, and so for the other splits.
        val: Images of each class.
        test: Images of each class.
        seed: Of every choice: the same seed writes the same bytes.
    """
    import cv2
    from skimage import data

    for number, label in enumerate(TEN_CLASSES):
        rng = np.random.default_rng((seed, number))
        image = getattr(data, label)()
        image_bgr = image[..., ::-1] if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
        rows, columns = (side // _CELL_PX for side in image_bgr.shape[:2])
        cells = rng.permutation(rows * columns)
        first, second = len(cells) // 5, 2 * len(cells) // 5
        for split, count, own in (
            ("test", test, cells[:first]),
            ("val", val, cells[first:second]),
            ("train", train, cells[second:]),
        ):
            (folder / split / label).mkdir(parents=True)
            for index in range(count):
                top, left = (_CELL_PX * place for place in divmod(int(own[index % len(own)]), columns))
                crop_bgr = _varied_crop(image_bgr[top : top + _CELL_PX, left : left + _CELL_PX], rng)
                quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 96))]
                cv2.imwrite(str(folder / split / label / f"{index:03d}.jpg"), crop_bgr, quality)
    return folder


def _varied_crop(cell_bgr: "UInt8Array", rng: np.random.Generator) -> "UInt8Array":
    """A random square of a cell: mirrored, paler, enlarged, blurred, lighter or darker."""
    import cv2

    side = int(rng.integers(_SMALLEST_CROP_PX, _CELL_PX + 1))
    top, left = rng.integers(0, _CELL_PX - side + 1, size=2)
    crop = cell_bgr[top : top + side, left : left + side].astype(np.float32)
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    gray = (crop @ np.array([0.114, 0.587, 0.299], np.float32))[..., None]
    # Full colour would tell most of these photographs apart.
    crop = gray + np.float32(rng.uniform(0, 0.5)) * (crop - gray)
    crop = cv2.resize(crop, (_TEN_CLASSES_PX, _TEN_CLASSES_PX), interpolation=cv2.INTER_LINEAR)
    crop = cv2.GaussianBlur(crop, (0, 0), rng.uniform(0.3, 1.5))
    lit = crop * rng.uniform(0.6, 1.4) + rng.uniform(-30, 30)
    return np.asarray(np.clip(lit, 0, 255), np.uint8)


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


def main() -> None:
    """Writes the data set of ten classes."""
    arguments = argparse.ArgumentParser(
        description="Writes a data set of ten classes, 1,200 images, from scikit-image."
    )
    arguments.add_argument("out", type=Path, metavar="OUT", help="a folder that is not there yet")
    arguments.add_argument("--seed", type=int, default=0, help="the same seed writes the same images (default: 0)")
    given = arguments.parse_args()
    if given.out.exists():
        arguments.error(f"{given.out} exists")
    print(write_ten_classes(given.out, seed=given.seed))


if __name__ == "__main__":
    main()
