"""Images as applications have them - arrays, files, encoded bytes, Pillow images - become BGR pixels."""

import os
import sys
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.errors import ImageError, UsageError
from edgeclf.runtime.images._opencv import cv2
from edgeclf.runtime.images.decode import on_white
from edgeclf.runtime.images.memory import within_memory
from edgeclf.runtime.images.preprocess import MAX_PIXELS, check_image, decode_image, load_image
from edgeclf.runtime.spec import Preprocess

ChannelOrder = Literal["bgr", "rgb"]


class PillowImage(Protocol):
    """A `PIL.Image.Image`, as far as it is used here; Pillow itself is not needed."""

    @property
    def mode(self) -> str:
        """Pillow's name of the kind of pixels."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""

    def tobytes(self) -> bytes:
        """The pixels as bytes."""


GivenImage: TypeAlias = "UInt8Array | Path | str | os.PathLike[str] | bytes | bytearray | memoryview | PillowImage"


def check_channels(channels: str) -> None:
    """Raises UsageError unless it is an order of channels: `bgr` or `rgb`."""
    if channels not in {"bgr", "rgb"}:
        raise UsageError("bad channels", got=repr(channels), expected="'bgr' or 'rgb'")


def pixels_of(image: GivenImage, *, channels: ChannelOrder = "bgr", reduce_for: Preprocess | None = None) -> UInt8Array:
    """The pixels of an image, whatever an application has it as.

    Args:
        image: (H, W, 3) uint8; the path of a file; the bytes of one; or a Pillow image of any mode of 8 or 16 bits, which
            is turned upright and laid on white as a file is.
        channels: The order of an array's channels.
        reduce_for: As for `decode_image`.

    Returns:
        (H, W, 3) uint8, BGR, upright.

    Raises:
        ImageError: It cannot be read, or is none of these.
    """
    if isinstance(image, str | os.PathLike):
        return load_image(Path(image), reduce_for=reduce_for)
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_image(bytes(image), reduce_for=reduce_for)
    if _is_pillow(image):
        return _pixels_of_pillow(image)
    if not isinstance(image, np.ndarray):
        raise ImageError(
            "cannot use this image",
            got=f"a {type(image).__name__}",
            expected="a NumPy array (H, W, 3) uint8, the path of a file, the bytes of one, or a Pillow image",
            hint=_hint_for(image),
        )
    array: UInt8Array = image
    check_image(array)
    return array if channels == "bgr" else np.asarray(cv2.cvtColor(array, cv2.COLOR_RGB2BGR), np.uint8)


def _hint_for(image: object) -> str | None:
    """What to pass in place of what a program has."""
    if hasattr(image, "read"):
        return "pass what its read() gives"
    if isinstance(image, list | tuple):
        return "pass the images of a list to predict_batch, or its pixels as np.asarray(pixels, np.uint8)"
    return None


def _is_pillow(image: object) -> bool:
    # Where Pillow was never imported, there is no such image.
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(image, module.Image)


def _pixels_of_pillow(image: Any) -> UInt8Array:  # noqa: ANN401 - Pillow may not be installed
    from PIL import ImageOps

    width, height = image.size
    if width * height > MAX_PIXELS or not width * height:
        raise ImageError(
            "cannot use this Pillow image",
            got=f"{width} x {height} pixels",
            expected=f"1 to {MAX_PIXELS:,} pixels",
            hint="resize it first",
        )
    if image.mode in {"F", "I"} and not _is_16_bit(image):
        raise ImageError(
            "cannot use this Pillow image",
            got=f"mode {image.mode}",
            expected="8 or 16 bits a channel",
            hint="scale its values to 0 to 255 and convert it to L",
        )
    with within_memory("cannot use this Pillow image", f"{width} x {height} pixels"):
        try:
            upright = ImageOps.exif_transpose(image)
            if _is_16_bit(upright):
                # The high byte, as of files.
                grey = (np.asarray(upright).astype(np.uint16) >> 8).astype(np.uint8)
                return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), np.uint8)
            if upright.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in upright.info:
                rgba = np.asarray(upright.convert("RGBA"))
                return on_white(np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA)), is_premultiplied=False)
            return np.asarray(cv2.cvtColor(np.asarray(upright.convert("RGB")), cv2.COLOR_RGB2BGR), np.uint8)
        except (OSError, ValueError, SyntaxError) as error:
            # Pillow reads the pixels only now: the file may be truncated, or closed.
            raise ImageError(
                "cannot use this Pillow image",
                got=str(error) or type(error).__name__,
                expected="an image whose pixels can be loaded",
                hint="open the file again",
            ) from error


def _is_16_bit(image: Any) -> bool:  # noqa: ANN401 - as above
    """Whether it holds 16 bits, for which older Pillows have 32-bit integers."""
    return image.mode.startswith("I;16") or (image.mode == "I" and getattr(image, "format", None) == "PNG")
