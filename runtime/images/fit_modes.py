"""Fit modes: the region of an image that the input shows, and the part of the input that it fills; no pixels."""

import math
from typing import NamedTuple

from edgeclf.runtime.spec import Preprocess


class Region(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def kept_region(size_hw: tuple[int, int], preprocess: Preprocess) -> Region:
    """The region of an image that reaches the input: with `crop` the centred one of its aspect ratio, else all.

    This is cut before resizing, as the area interpolation does; `resized_window` is for the others.

    Args:
        size_hw: Height and width of the upright image.
        preprocess: Input size and fit mode.
    """
    image_height, image_width = size_hw
    if preprocess.fit != "crop":
        return Region(0, 0, image_height, image_width)
    input_height, input_width = preprocess.size_hw
    aspect = input_width / input_height
    height = max(1, round(min(image_height, image_width / aspect) * preprocess.crop_fraction))
    width = max(1, round(min(image_width, image_height * aspect) * preprocess.crop_fraction))
    return Region((image_height - height) // 2, (image_width - width) // 2, height, width)


def filled_size(size_hw: tuple[int, int], preprocess: Preprocess) -> tuple[int, int]:
    """Height and width that the image fills of the input: less than all of it with `letterbox` alone.

    Args:
        size_hw: Height and width of the upright image.
        preprocess: Input size and fit mode.
    """
    input_height, input_width = preprocess.size_hw
    if preprocess.fit != "letterbox":
        return input_height, input_width
    image_height, image_width = size_hw
    scale = min(input_height / image_height, input_width / image_width)
    return (
        min(input_height, max(1, round(image_height * scale))),
        min(input_width, max(1, round(image_width * scale))),
    )


def resized_window(size_hw: tuple[int, int], preprocess: Preprocess) -> tuple[tuple[int, int], Region]:
    """The size to which a whole image is resized, and the part of the result that reaches the input.

    With `crop` and a square input, the short side becomes `size / crop_fraction`, rounded down, and the long one keeps the
    aspect ratio, rounded down: torchvision's `Resize` of one number. Where the input is not square, both sides keep the
    aspect ratio, rounded to the nearest, and cover it: timm's `ResizeKeepRatio`. The centre is that of torchvision's
    `CenterCrop`, which rounds halves to even.

    Args:
        size_hw: Height and width of the upright image.
        preprocess: Input size and fit mode.

    Returns:
        Height and width of the resized image, and the window in it: `preprocess.size_hw` large, but for `letterbox`.
    """
    if preprocess.fit != "crop":
        height, width = filled_size(size_hw, preprocess)
        return (height, width), Region(0, 0, height, width)
    height, width = preprocess.size_hw
    target_hw = _floor(height / preprocess.crop_fraction), _floor(width / preprocess.crop_fraction)
    resized_height, resized_width = _cover(size_hw, target_hw)
    window = Region(round((resized_height - height) / 2), round((resized_width - width) / 2), height, width)
    return (resized_height, resized_width), window


def _cover(size_hw: tuple[int, int], target_hw: tuple[int, int]) -> tuple[int, int]:
    """The size of an image whose aspect ratio is kept, so that it covers the target."""
    image_height, image_width = size_hw
    height, width = target_hw
    if height == width:
        side = height
        if image_width <= image_height:
            return int(side * image_height / image_width), side
        return side, int(side * image_width / image_height)
    ratio = min(image_height / height, image_width / width)
    return max(height, round(image_height / ratio)), max(width, round(image_width / ratio))


def _floor(pixels: float) -> int:
    # 160 / (160 / 232) is less than 232 in floating point.
    nearest = round(pixels)
    return nearest if math.isclose(pixels, nearest, rel_tol=1e-9) else math.floor(pixels)
