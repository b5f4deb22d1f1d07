"""Augmentation: training images varied anew in every epoch, as uint8 on the CPU, never in the exported graph.

Flip, shift, zoom, aspect and rotation are one affine warp, brightness and contrast one look-up table, so that an image of
120 px costs about a tenth of a millisecond; every draw comes from the generator that is passed in.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edgeclf.runtime.arrays import Float64Array, FloatArray, UInt8Array
from edgeclf.runtime.images._opencv import cv2


@dataclass(frozen=True)
class Augmentation:
    """The amounts of an augmentation, each drawn uniformly unless stated otherwise.

    Attributes:
        name: One of `options.AUGMENTATIONS`.
        flip: Whether half of the images are mirrored left to right.
        shift: Largest shift along each axis, as a share of the side.
        zoom_out: Smallest magnification.
        zoom_in: Largest magnification; between the two it is drawn uniformly in its logarithm.
        stretch: Largest ratio of the magnifications along the two axes, drawn uniformly in its logarithm.
        rotate_degrees: Largest rotation to either side.
        brightness: Largest change of brightness, as a share of the range 0..255.
        contrast: Largest change of contrast: differences to the image's mean are multiplied by 1 - contrast..1 + contrast.
        saturation: Largest change of saturation, likewise for the differences to each pixel's grey value.
        erase: Share of the images from which a rectangle is cut out and filled with one random colour
            (Zhong et al. 2020, "Random Erasing Data Augmentation", arXiv 1708.04896).
    """

    name: str
    flip: bool = False
    shift: float = 0.0
    zoom_out: float = 1.0
    zoom_in: float = 1.0
    stretch: float = 1.0
    rotate_degrees: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    erase: float = 0.0

    @property
    def is_none(self) -> bool:
        """Whether images stay as they are."""
        return self == Augmentation(self.name)


_AUGMENTATIONS = {
    item.name: item
    for item in (
        Augmentation("none"),
        Augmentation(
            "light", flip=True, shift=0.08, zoom_out=0.95, zoom_in=1.15, rotate_degrees=8, brightness=0.1, contrast=0.15
        ),
        Augmentation(
            "strong",
            flip=True,
            shift=0.15,
            zoom_out=0.85,
            zoom_in=1.5,
            stretch=1.25,
            rotate_degrees=15,
            brightness=0.2,
            contrast=0.3,
            saturation=0.3,
            erase=0.25,
        ),
    )
}
# Rectangles that random erasing cuts: their area as a share of the image's, and the ratio of their sides.
_ERASED_AREA = (0.02, 0.25)
_ERASED_ASPECT = (0.4, 2.5)


def get_augmentation(name: str) -> Augmentation:
    """The augmentation of a name of `options.AUGMENTATIONS`."""
    return _AUGMENTATIONS[name]


def augment_batch(images_rgb: UInt8Array, augmentation: Augmentation, rng: np.random.Generator) -> UInt8Array:
    """Varies every image of a batch on its own; blending is `mix_up`'s.

    Args:
        images_rgb: (N, H, W, 3) uint8, RGB.
        augmentation: How far.
        rng: What the amounts are drawn from.

    Returns:
        (N, H, W, 3) uint8, RGB, a new array.
    """
    count, height, width = images_rgb.shape[:3]
    varied = np.empty_like(images_rgb)
    matrices = _affine_matrices(augmentation, count, (height, width), rng)
    tables = _draw_tones(augmentation, count, rng)
    holes = _draw_holes(augmentation, count, (height, width), rng)
    for i in range(count):
        # The border repeats the image mirrored: a border of one colour would be a shape to learn.
        image = cv2.warpAffine(
            images_rgb[i], matrices[i], (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
        image = _change_tones(image, *(float(amounts[i]) for amounts in tables))
        hole = holes[i]
        if hole is not None:
            image[hole.top : hole.bottom, hole.left : hole.right] = hole.colour
        varied[i] = image
    return varied


def mix_up(
    images_rgb: UInt8Array, targets: FloatArray, weights: FloatArray, alpha: float, rng: np.random.Generator
) -> tuple[UInt8Array, FloatArray, FloatArray]:
    """Blends each image and its target with those of another image of the batch (Zhang et al. 2018, arXiv 1710.09412).

    The loss of a blend is that of both images by their shares, each with its own weight: s w_a CE(a) + (1 - s) w_b CE(b). So
    the blend weighs s w_a + (1 - s) w_b, and in its target each image has its part of that weight.

    Args:
        images_rgb: (N, H, W, 3) uint8, RGB.
        targets: (N, C) float32 shares of the classes.
        weights: (N,) float32 weights of the images in the loss, larger than 0.
        alpha: Of the Beta distribution the shares of the two images are drawn from, larger than 0.
        rng: What they are drawn from.

    Returns:
        The blended images, uint8, and their targets and weights, float32.
    """
    count = len(images_rgb)
    partners = rng.permutation(count)
    shares = rng.beta(alpha, alpha, count)
    blended = np.empty_like(images_rgb)
    for i, (partner, share) in enumerate(zip(partners, shares, strict=True)):
        cv2.addWeighted(images_rgb[i], share, images_rgb[partner], 1.0 - share, 0.0, dst=blended[i])
    own = shares.astype(np.float32)[:, None] * weights[:, None]
    of_partner = (1 - shares).astype(np.float32)[:, None] * weights[partners, None]
    together = own + of_partner
    mixed = (own * targets + of_partner * targets[partners]) / together
    return blended, mixed.astype(np.float32), together[:, 0]


class _Hole(NamedTuple):
    top: int
    bottom: int
    left: int
    right: int
    colour: UInt8Array


def _affine_matrices(
    augmentation: Augmentation, count: int, size_hw: tuple[int, int], rng: np.random.Generator
) -> Float64Array:
    """(N, 2, 3) float64: for each image, output to source pixel coordinates inverted, as `cv2.warpAffine` takes them."""
    height, width = size_hw
    angle = np.deg2rad(rng.uniform(-1, 1, count) * augmentation.rotate_degrees)
    scale = np.exp(rng.uniform(np.log(augmentation.zoom_out), np.log(augmentation.zoom_in), count))
    stretch = np.exp(rng.uniform(-0.5, 0.5, count) * np.log(augmentation.stretch))
    scale_x, scale_y = scale * stretch, scale / stretch
    if augmentation.flip:
        scale_x = scale_x * rng.choice((-1.0, 1.0), count)
    shift_x, shift_y = rng.uniform(-1, 1, (2, count)) * augmentation.shift * np.array([[width], [height]])
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    matrices = np.empty((count, 2, 3))
    matrices[:, 0, 0], matrices[:, 0, 1] = np.cos(angle) * scale_x, -np.sin(angle) * scale_y
    matrices[:, 1, 0], matrices[:, 1, 1] = np.sin(angle) * scale_x, np.cos(angle) * scale_y
    matrices[:, 0, 2] = centre_x + shift_x - matrices[:, 0, 0] * centre_x - matrices[:, 0, 1] * centre_y
    matrices[:, 1, 2] = centre_y + shift_y - matrices[:, 1, 0] * centre_x - matrices[:, 1, 1] * centre_y
    return matrices


def _draw_tones(
    augmentation: Augmentation, count: int, rng: np.random.Generator
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """(N,) each: what is added to 0..255, and the factors of contrast and saturation."""
    brightness, contrast, saturation = rng.uniform(-1, 1, (3, count))
    return (
        brightness * augmentation.brightness * 255,
        1 + contrast * augmentation.contrast,
        1 + saturation * augmentation.saturation,
    )


def _change_tones(image_rgb: UInt8Array, brightness: float, contrast: float, saturation: float) -> UInt8Array:
    if saturation != 1.0:
        # pixel * s + grey * (1 - s), as one 3 x 3 matrix on the channels (ITU-R BT.601 grey).
        grey = np.array([0.299, 0.587, 0.114])
        image_rgb = cv2.transform(image_rgb, np.eye(3) * saturation + grey * (1 - saturation))
    if brightness == 0.0 and contrast == 1.0:
        return image_rgb
    mean = float(np.mean(cv2.mean(image_rgb)[:3]))
    table = np.clip((np.arange(256) - mean) * contrast + mean + brightness, 0, 255).round().astype(np.uint8)
    toned: UInt8Array = cv2.LUT(image_rgb, table)
    return toned


def _draw_holes(
    augmentation: Augmentation, count: int, size_hw: tuple[int, int], rng: np.random.Generator
) -> list[_Hole | None]:
    height, width = size_hw
    # All are drawn whether or not they are used: one amount more or less must not change every later image.
    used = rng.random(count) < augmentation.erase
    area = rng.uniform(_ERASED_AREA[0], _ERASED_AREA[1], count) * height * width
    aspect = np.exp(rng.uniform(np.log(_ERASED_ASPECT[0]), np.log(_ERASED_ASPECT[1]), count))
    rows = np.clip(np.sqrt(area * aspect).round(), 1, height).astype(int)
    columns = np.clip(np.sqrt(area / aspect).round(), 1, width).astype(int)
    top = (rng.random(count) * (height - rows + 1)).astype(int)
    left = (rng.random(count) * (width - columns + 1)).astype(int)
    colours = rng.integers(0, 256, (count, 3), dtype=np.uint8)
    return [
        _Hole(int(top[i]), int(top[i] + rows[i]), int(left[i]), int(left[i] + columns[i]), colours[i])
        if used[i]
        else None
        for i in range(count)
    ]
