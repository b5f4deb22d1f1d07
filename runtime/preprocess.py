"""The one preprocessing: the only code that decodes, orients, converts colour and resizes.

Training, calibration, parity, evaluation and inference all call these functions, so a model sees on the device what
it saw in training. Images are BGR while OpenCV handles them; only the small result is turned to RGB, which is
cheaper than turning the large one and gives the same numbers, since every step treats the channels alike.
"""

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeclf.runtime._opencv import cv2
from edgeclf.runtime.errors import ImageError
from edgeclf.runtime.image_header import ImageHeader, begins_like_image, read_image_header
from edgeclf.runtime.spec import Preprocess

UInt8Array: TypeAlias = npt.NDArray[np.uint8]

# 200 million pixels are 600 MB as 8-bit BGR; the largest phone sensors stay just below.
MAX_PIXELS = 200_000_000
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"))
_FORMATS = "a JPEG, PNG, BMP, WebP, TIFF or GIF image"


def load_image(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> UInt8Array:
    """Reads and decodes an image file as a person would see it.

    Args:
        path: The file.
        max_pixels: Larger images are refused before decoding.

    Returns:
        (H, W, 3) uint8, BGR, upright.

    Raises:
        ImageError: The file is missing, unreadable, or not a whole image; see `decode_image`.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        got = "a dangling link" if path.is_symlink() and not path.exists() else _os_words(error)
        raise ImageError(
            f"cannot read {path}", got=got, expected="a readable image file", do="check the path and its permissions"
        ) from error
    return decode_image(data, source=str(path), max_pixels=max_pixels)


def decode_image(data: bytes, *, source: str = "image", max_pixels: int = MAX_PIXELS) -> UInt8Array:
    """Decodes an encoded image as a person would see it.

    Grey and palette images become colour, CMYK becomes RGB, 16 bits become 8, transparency is laid on white, and
    the EXIF orientation is applied.

    Args:
        data: The encoded file.
        source: What to call it in errors.
        max_pixels: Larger images are refused before decoding.

    Returns:
        (H, W, 3) uint8, BGR, upright.

    Raises:
        ImageError: The bytes are empty, not an image, truncated, damaged, or larger than `max_pixels`.
    """
    if not data:
        raise ImageError(f"cannot read {source}", got="0 bytes", expected=_FORMATS, do="copy the file again")
    header = read_image_header(data)
    if header is None:
        raise ImageError(
            f"cannot read {source}", got=_describe_bytes(data), expected=_FORMATS, do="replace or remove the file"
        )
    if header.width * header.height > max_pixels:
        raise ImageError(
            f"will not decode {source}",
            got=f"{header.width} x {header.height} pixels",
            expected=f"at most {max_pixels:,} pixels",
            do="shrink the image first",
        )
    if header.missing:
        raise ImageError(
            f"cannot read {source}",
            got=f"a truncated {header.format.upper()} file without {header.missing}",
            expected="a whole file",
            do="copy the file again",
        )
    if header.unsupported:
        raise ImageError(
            f"cannot decode {source}",
            got=header.unsupported,
            expected="8 or 16 bits a channel, grey, colour or colour with transparency",
            do="convert it to PNG",
        )
    image_bgr = None if header.damage else _decode_pixels(data, header)
    if image_bgr is None:
        raise ImageError(
            f"cannot decode {source}",
            got=f"a damaged {header.format.upper()} file" + (f" with {header.damage}" if header.damage else ""),
            expected="pixels that can be decoded",
            do="copy the file again",
        )
    return image_bgr


def _decode_pixels(data: bytes, header: ImageHeader) -> UInt8Array | None:
    # JPEG and BMP have no transparency that viewers show, and OpenCV converts CMYK and grey by itself for them.
    # TIFF is oriented by its own decoder whatever the flags say; the other formats are oriented here, because which
    # of them OpenCV orients, and under which flags, has changed between its versions.
    may_have_alpha = header.format in {"png", "webp", "gif"} or (header.format == "tiff" and not header.is_cmyk)
    flags = cv2.IMREAD_UNCHANGED if may_have_alpha else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    if pixels is None or pixels.dtype not in {np.dtype(np.uint8), np.dtype(np.uint16)}:
        return None
    image_bgr = _to_bgr8(pixels, header)
    return image_bgr if header.format == "tiff" else _orient(image_bgr, header.orientation)


def _to_bgr8(pixels: npt.NDArray[Any], header: ImageHeader) -> UInt8Array:
    """Brings decoded pixels to 8-bit BGR, transparency laid on white.

    Args:
        pixels: (H, W), (H, W, 1), (H, W, 3) BGR or (H, W, 4) BGRA; uint8 or uint16.
        header: What the file says about its transparency.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    opaque = np.iinfo(pixels.dtype).max
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        grey = pixels.reshape(pixels.shape[:2])
        if header.transparent_grey is not None:
            grey = np.where(grey == header.transparent_grey, opaque, grey).astype(grey.dtype)
        return np.asarray(cv2.cvtColor(_to_uint8(grey), cv2.COLOR_GRAY2BGR), np.uint8)
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:]
        if header.alpha != "ignored" and int(alpha.min()) < opaque:
            # Blended in float32: exact for both depths to within the final rounding.
            share = alpha.astype(np.float32) / np.float32(opaque)
            blended = pixels[..., :3].astype(np.float32)
            if header.alpha == "straight":
                blended *= share
            blended += np.float32(opaque) * (1 - share)
            pixels = np.rint(np.minimum(blended, np.float32(opaque))).astype(pixels.dtype)
        else:
            pixels = np.ascontiguousarray(pixels[..., :3])
    return _to_uint8(pixels)


def _to_uint8(pixels: npt.NDArray[Any]) -> UInt8Array:
    if pixels.dtype == np.uint16:
        # The high byte, as image viewers and OpenCV's own 16-to-8-bit reading take it.
        return (pixels >> 8).astype(np.uint8)
    return np.asarray(pixels, np.uint8)


def _orient(image: UInt8Array, orientation: int) -> UInt8Array:
    """Turns an image upright by its EXIF orientation (TIFF 6.0, tag 274)."""
    if orientation in {5, 6, 7, 8}:
        image = cv2.transpose(image)
    flip_code = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return np.asarray(image if flip_code is None else cv2.flip(image, flip_code), np.uint8)


def preprocess_bgr(image_bgr: UInt8Array, preprocess: Preprocess, out: UInt8Array | None = None) -> UInt8Array:
    """Fits a decoded image into the model's input.

    Args:
        image_bgr: (H, W, 3) uint8, BGR.
        preprocess: Input size and fit mode.
        out: Where to put the result: (height, width, 3) uint8, contiguous - such as one row of a batch. None makes a
            new array.

    Returns:
        (height, width, 3) uint8, RGB: `out`, when it was given.

    Raises:
        ImageError: `image_bgr` does not have that shape and dtype, or has no pixels.
    """
    check_image(image_bgr)
    height, width = preprocess.size_hw
    if preprocess.fit == "crop":
        image_bgr = _centre_crop(image_bgr, width / height, preprocess.crop_fraction)
    if out is None:
        out = np.empty((height, width, 3), np.uint8)
    if preprocess.fit == "letterbox":
        image_height, image_width = image_bgr.shape[:2]
        scale = min(height / image_height, width / image_width)
        inner_height = min(height, max(1, round(image_height * scale)))
        inner_width = min(width, max(1, round(image_width * scale)))
        top, left = (height - inner_height) // 2, (width - inner_width) // 2
        out[...] = preprocess.pad_value
        fitted = resize(image_bgr, (inner_height, inner_width))
        # BGR to RGB by reversing the last axis.
        out[top : top + inner_height, left : left + inner_width] = fitted[..., ::-1]
        return out
    cv2.cvtColor(resize(image_bgr, (height, width)), cv2.COLOR_BGR2RGB, dst=out)
    return out


def resize(image: UInt8Array, size_hw: tuple[int, int]) -> UInt8Array:
    """Resizes with antialiasing: INTER_AREA along an axis that shrinks, INTER_LINEAR along one that grows.

    OpenCV's bilinear resize does not antialias, and its INTER_AREA falls back to another method for the whole image
    as soon as one axis grows; hence two steps, of which at most one does anything for an ordinary photograph.

    Args:
        image: (H, W, C) uint8.
        size_hw: Height and width of the result.

    Returns:
        (height, width, C) uint8; `image` itself when it already has that size.
    """
    height, width = size_hw
    image_height, image_width = image.shape[:2]
    shrunk_hw = (min(height, image_height), min(width, image_width))
    if shrunk_hw != (image_height, image_width):
        image = cv2.resize(image, shrunk_hw[::-1], interpolation=cv2.INTER_AREA)
    if shrunk_hw != size_hw:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image


def check_image(image_bgr: UInt8Array) -> None:
    """Raises ImageError unless `image_bgr` is a (H, W, 3) uint8 array with at least one pixel."""
    if not isinstance(image_bgr, np.ndarray):
        raise ImageError(
            "cannot use this image",
            got=type(image_bgr).__name__,
            expected="a NumPy array (H, W, 3) uint8 in BGR order",
            do="pass what cv2.imread or VideoCapture.read gives",
        )
    if image_bgr.ndim != 3 or image_bgr.shape[2] != 3 or image_bgr.dtype != np.uint8 or image_bgr.size == 0:
        raise ImageError(
            "cannot use this image",
            got=f"shape {image_bgr.shape} {image_bgr.dtype}",
            expected="(H, W, 3) uint8 in BGR order with at least one pixel",
            do="convert it first, for example with cv2.cvtColor",
        )


def _centre_crop(image: UInt8Array, aspect: float, fraction: float) -> UInt8Array:
    """The centred region of the given aspect ratio (width / height), shrunk to `fraction` of each side."""
    image_height, image_width = image.shape[:2]
    crop_width = min(image_width, image_height * aspect) * fraction
    crop_height = min(image_height, image_width / aspect) * fraction
    crop_width, crop_height = max(1, round(crop_width)), max(1, round(crop_height))
    top, left = (image_height - crop_height) // 2, (image_width - crop_width) // 2
    return image[top : top + crop_height, left : left + crop_width]


def _describe_bytes(data: bytes) -> str:
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "an HTML page"
    if head.startswith((b"<?xml", b"<svg")):
        return "an XML or SVG document"
    if data[4:8] == b"ftyp":
        return "a HEIF, AVIF or video file"
    if begins_like_image(data):
        return "an image file that ends inside its header, or whose header is damaged"
    try:
        data[:512].decode("utf-8")
    except UnicodeDecodeError:
        return f"{len(data):,} bytes of an unknown format"
    return "text"


def _os_words(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
