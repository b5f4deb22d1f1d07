"""Measurements for runs: a linear probe on pretrained features, and mild perturbations of images."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgeclf.runtime.arrays import BoolArray, Float64Array, FloatArray, IntArray, UInt8Array
from edgeclf.runtime.images._opencv import cv2

# Ridge strength relative to the mean squared length of a feature vector: there are many more features than images here, so
# that an unregularized head would fit any labels.
_RIDGE = 0.1

NOISE_SIGMA = 8.0
# Translation and side of the crop as fractions of the image's side.
_SHIFT, _CROP = 0.06, 0.9


def _add_noise(image: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    noisy = image + rng.normal(0.0, NOISE_SIGMA, image.shape).astype(np.float32)
    return np.asarray(np.clip(np.rint(noisy), 0, 255), np.uint8)


def _recompress(image: UInt8Array) -> UInt8Array:
    # Colour order does not matter here: both ways use the same.
    encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 50])[1]
    return np.ascontiguousarray(np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)[..., ::-1])


def _shift(image: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    angle = rng.uniform(0.0, 2 * np.pi)
    height, width = image.shape[:2]
    matrix = np.array([[1.0, 0.0, _SHIFT * width * np.cos(angle)], [0.0, 1.0, _SHIFT * height * np.sin(angle)]])
    return np.asarray(cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101), np.uint8)


def _crop(image: UInt8Array) -> UInt8Array:
    height, width = image.shape[:2]
    top, left = (round(side * (1 - _CROP) / 2) for side in (height, width))
    inner = image[top : height - top, left : width - left]
    return np.asarray(cv2.resize(inner, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


# Mild perturbations as any camera causes them, of images in the network's input size; the blur has a sigma of 1 px at 224 px.
PERTURBATIONS: Mapping[str, Callable[[UInt8Array, np.random.Generator], UInt8Array]] = {
    "brightness x0.8": lambda image, _: cv2.convertScaleAbs(image, alpha=0.8),
    "brightness x1.25": lambda image, _: cv2.convertScaleAbs(image, alpha=1.25),
    "blur": lambda image, _: cv2.GaussianBlur(image, (0, 0), max(0.5, image.shape[0] / 224)),
    "noise": _add_noise,
    "JPEG quality 50": lambda image, _: _recompress(image),
    "shifted by 6 %": _shift,
    "cropped to 90 %": lambda image, _: _crop(image),
}


def perturb_images(images_rgb: UInt8Array, name: str, seed: int = 0) -> UInt8Array:
    """Applies one mild perturbation to every image.

    Args:
        images_rgb: (N, H, W, 3) uint8 RGB.
        name: A key of `PERTURBATIONS`.
        seed: Seed of noise and translations.

    Returns:
        (N, H, W, 3) uint8 RGB, a new array.
    """
    rng = np.random.default_rng(seed)
    return np.stack([np.asarray(PERTURBATIONS[name](image, rng), np.uint8) for image in images_rgb])


def measure_linear_probe(vectors: FloatArray, labels: IntArray, training: BoolArray, classes: int) -> dict[str, Any]:
    """Accuracy of a linear probe: ridge regression from features to one-hot targets.

    On training images the accuracy is leave-one-out, by the residual e_i / (1 - H_ii) of a ridge regression (Allen 1974, the
    PRESS statistic).

    Args:
        vectors: (N, F) float32 features.
        labels: (N,) class indices.
        training: (N,) True for images of the training split, False for those of the validation split.
        classes: Number of classes.

    Returns:
        `training_images`, `training_accuracy` (leave-one-out) and `training_chance` (fraction of the largest class), and the
        same for `validation`, predicted by the probe that is fitted to all training images.
    """
    scaled = (vectors - vectors[training].mean(axis=0)) / (vectors[training].std(axis=0) + 1e-6)
    own, other = scaled[training].astype(np.float64), scaled[~training].astype(np.float64)
    targets = np.eye(classes)[labels[training]]
    gram = own @ own.T
    inverse = np.linalg.inv(gram + _RIDGE * max(1e-12, float(np.trace(gram)) / len(own)) * np.eye(len(own)))
    mean = targets.mean(axis=0)
    dual = inverse @ (targets - mean)
    left_out = targets - dual / np.diag(inverse)[:, None]
    found: dict[str, Any] = _accuracy("training", left_out, labels[training])
    return found | _accuracy("validation", other @ own.T @ dual + mean, labels[~training])


def _accuracy(split: str, scores: Float64Array, labels: IntArray) -> dict[str, Any]:
    if not len(labels):
        return {}
    return {
        f"{split}_images": len(labels),
        f"{split}_accuracy": float((scores.argmax(axis=1) == labels).mean()),
        f"{split}_chance": float(np.bincount(labels).max() / len(labels)),
    }
