"""Fit modes: the region of an image that the input shows, and the part of the input that it fills; no pixels."""

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
