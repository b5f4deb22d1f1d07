"""Preprocessing: loading, decoding, orientation, colour and resizing, for training and inference alike.

Training, calibration, parity, evaluation and inference all call these functions, so a model sees on the device what
it saw in training. Images are BGR while OpenCV handles them; only the small result is turned to RGB, which is
cheaper than turning the large one and gives the same numbers, since every step treats the channels alike.
"""

import threading
from pathlib import Path

import numpy as np

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.errors import ImageError, install_hint
from edgeclf.runtime.files import OTHER_IMAGES, kind_of_bytes
from edgeclf.runtime.images._opencv import cv2
from edgeclf.runtime.images.decode import decode_pixels
from edgeclf.runtime.images.encoded_file import read_image_file
from edgeclf.runtime.images.fit_modes import filled_size, kept_region, resized_window
from edgeclf.runtime.images.formats.heif import HEIF_SUFFIXES, begins_like_heif, can_read_heif, heif_kind
from edgeclf.runtime.images.header import ImageHeader, begins_like_image, read_image_header
from edgeclf.runtime.images.memory import within_memory
from edgeclf.runtime.images.reduced_jpeg import jpeg_reduction, lay_on_input
from edgeclf.runtime.images.resample import MAX_SIDE, resample
from edgeclf.runtime.spec import AREA, Preprocess

# 200 million pixels are 600 MB as 8-bit BGR; the largest phone sensors stay just below.
MAX_PIXELS = 200_000_000
IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "jif", "jfi", "pjpeg", "pjp"),
        *("png", "bmp", "dib", "webp", "tif", "tiff", "gif"),
        *("ppm", "pgm", "pbm", "pnm"),
    )
) | (HEIF_SUFFIXES if can_read_heif() else frozenset())
_FORMATS = "a JPEG, PNG, BMP, WebP, TIFF, GIF, PNM, HEIC or AVIF image"


def load_image(path: Path | str, *, max_pixels: int = MAX_PIXELS, reduce_for: Preprocess | None = None) -> UInt8Array:
    """The pixels of an image file, upright, in colour.

    Args:
        path: The file.
        max_pixels: Larger images are refused before decoding.
        reduce_for: As for `decode_image`.

    Returns:
        (H, W, 3) uint8, BGR, upright.

    Raises:
        ImageError: The file is missing, unreadable, too large, or not a whole image; see `decode_image`. A pipe or a
            device is read as well, but not without end.
    """
    path = Path(path)
    with within_memory(f"cannot read {path}", "a file larger than the memory that is left"):
        data = read_image_file(path, max_pixels)
    return decode_image(data, source=str(path), max_pixels=max_pixels, reduce_for=reduce_for)


def decode_image(
    data: bytes, *, source: str = "image", max_pixels: int = MAX_PIXELS, reduce_for: Preprocess | None = None
) -> UInt8Array:
    """The pixels of an encoded image, upright, in colour.

    Grey and palette images become colour, CMYK becomes RGB, 16 bits become 8, transparency is laid on white, and
    the EXIF orientation is applied.

    Args:
        data: The encoded file.
        source: What to call it in errors.
        max_pixels: Larger images are refused before decoding.
        reduce_for: The preprocessing that comes next; a JPEG much larger than it needs is then decoded at about a half,
            a quarter or an eighth of its size, in a fraction of the time, and only as far as it is kept; see
            `edgeclf.runtime.images.reduced_jpeg`. None decodes all pixels, and so do the bilinear and bicubic interpolations.

    Returns:
        (H, W, 3) uint8, BGR, upright.

    Raises:
        ImageError: The bytes are empty, not an image, truncated, damaged, or larger than `max_pixels`; or HEIC or AVIF, and
            the packages of the extra `heif` are not installed.
    """
    if not data:
        raise ImageError(f"cannot read {source}", got="0 bytes", expected=_FORMATS, hint="copy the file again")
    header = read_image_header(data)
    if begins_like_heif(data) and not can_read_heif():
        raise ImageError(
            f"cannot read {source}",
            got=f"a HEIF image ({heif_kind(data)}), which the extra heif reads",
            expected="a JPEG or PNG image",
            hint=install_hint("heif") + ", or convert it, for example with heif-convert or by sending it as JPEG",
        )
    if header is None:
        kind = _describe_bytes(data)
        raise ImageError(
            f"cannot read {source}",
            got=kind,
            expected=_FORMATS,
            hint="convert it to PNG or JPEG" if kind in OTHER_IMAGES else "replace or remove the file",
        )
    if header.width * header.height > max_pixels:
        raise ImageError(
            f"will not decode {source}",
            got=f"{header.width} x {header.height} pixels",
            expected=f"at most {max_pixels:,} pixels",
            hint="shrink the image first",
        )
    if header.missing:
        raise ImageError(
            f"cannot read {source}",
            got=f"a truncated {header.format.upper()} file without {header.missing}",
            expected="a whole file",
            hint="copy the file again",
        )
    if header.unsupported:
        raise _unsupported(source, header.unsupported)
    with within_memory(f"cannot decode {source}", f"{header.width} x {header.height} pixels"):
        image_bgr = None if header.damage else _decoded(data, header, reduce_for)
    if image_bgr is None and header.rare and not header.damage:
        raise _unsupported(source, header.rare)
    if image_bgr is None:
        raise ImageError(
            f"cannot decode {source}",
            got=f"a damaged {header.format.upper()} file" + (f" with {header.damage}" if header.damage else ""),
            expected="pixels that can be decoded",
            hint="copy the file again",
        )
    return image_bgr


def _unsupported(source: str, what: str) -> ImageError:
    return ImageError(
        f"cannot decode {source}",
        got=what,
        expected="8 or 16 bits a channel, grey, colour or colour with transparency",
        hint="convert it to PNG",
    )


def _decoded(data: bytes, header: ImageHeader, reduce_for: Preprocess | None) -> UInt8Array | None:
    """The pixels, at a part of their size where the input needs no more; None where they are damaged."""
    reduction = 1 if reduce_for is None else jpeg_reduction(header, reduce_for)
    image_bgr = decode_pixels(data, header, reduction)
    if image_bgr is None or reduce_for is None or reduction == 1:
        return image_bgr
    return lay_on_input(image_bgr, header, reduction, reduce_for)


def preprocess_bgr(image_bgr: UInt8Array, preprocess: Preprocess, out: UInt8Array | None = None) -> UInt8Array:
    """The model's input for a decoded image.

    Args:
        image_bgr: (H, W, 3) uint8, BGR.
        preprocess: Input size and fit mode.
        out: Where to put the result: (height, width, 3) uint8, contiguous - such as one row of a batch. None makes a
            new array.

    Returns:
        (height, width, 3) uint8, RGB: `out`, when it was given.

    Raises:
        ImageError: `image_bgr` does not have that shape and dtype, has no pixels, or there is no memory to resize it.
    """
    check_image(image_bgr)
    height, width = preprocess.size_hw
    inner_height, inner_width = filled_size(image_bgr.shape[:2], preprocess)
    fit = _fit_area if preprocess.interpolation == AREA else _fit_pillow
    with within_memory("cannot resize this image", f"{image_bgr.shape[1]} x {image_bgr.shape[0]} pixels"):
        fitted = fit(image_bgr, preprocess)
    if out is None:
        out = np.empty((height, width, 3), np.uint8)
    if preprocess.fit == "letterbox":
        top, left = (height - inner_height) // 2, (width - inner_width) // 2
        out[...] = preprocess.pad_value
        # BGR to RGB by reversing the last axis.
        out[top : top + inner_height, left : left + inner_width] = fitted[..., ::-1]
        return out
    cv2.cvtColor(fitted, cv2.COLOR_BGR2RGB, dst=out)
    return out


def _fit_area(image_bgr: UInt8Array, preprocess: Preprocess) -> UInt8Array:
    """The pixels of an image that fill the input, in BGR, cut and then resized."""
    size_hw = filled_size(image_bgr.shape[:2], preprocess)
    region = kept_region(image_bgr.shape[:2], preprocess)
    image_bgr = image_bgr[region.top : region.top + region.height, region.left : region.left + region.width]
    return resize(image_bgr, size_hw, scratch=_scratch(*size_hw))


def _fit_pillow(image_bgr: UInt8Array, preprocess: Preprocess) -> UInt8Array:
    """The pixels of an image that fill the input, in BGR, resized and then cut, as Pillow and torchvision do."""
    if max(image_bgr.shape) > MAX_SIDE:
        raise ImageError(
            f"cannot resize this image with {preprocess.interpolation} interpolation",
            got=f"{image_bgr.shape[1]} x {image_bgr.shape[0]} pixels",
            expected=f"at most {MAX_SIDE:,} pixels along each side",
            hint="shrink the image first",
        )
    resized_hw, window = resized_window(image_bgr.shape[:2], preprocess)
    return resample(image_bgr, resized_hw, preprocess.interpolation, window)


class _Scratch(threading.local):
    """One thread's scratch memory for resized pixels: new memory costs a page fault every 4 KB."""

    def __init__(self) -> None:
        self.flat: UInt8Array = np.empty(0, np.uint8)


_memory = _Scratch()


def _scratch(height: int, width: int) -> UInt8Array:
    """This thread's (height, width, 3) uint8 scratch array; the next call gives the same memory."""
    size = height * width * 3
    if _memory.flat.size < size:
        _memory.flat = np.empty(size, np.uint8)
    return _memory.flat[:size].reshape(height, width, 3)


def resize(image: UInt8Array, size_hw: tuple[int, int], *, scratch: UInt8Array | None = None) -> UInt8Array:
    """Resizes with antialiasing: INTER_AREA along an axis that shrinks, INTER_LINEAR along one that grows.

    OpenCV's bilinear resize does not antialias, and its INTER_AREA falls back to another method for the whole image
    as soon as one axis grows; hence two steps, of which at most one does anything for an ordinary photograph.

    Args:
        image: (H, W, C) uint8.
        size_hw: Height and width of the result.
        scratch: (height, width, C) uint8 to put the result into; None makes a new array.

    Returns:
        (height, width, C) uint8: `image` itself when it already has that size, else `scratch` when it was given.
    """
    height, width = size_hw
    image_height, image_width = image.shape[:2]
    shrunk_hw = (min(height, image_height), min(width, image_width))
    if shrunk_hw != (image_height, image_width):
        dst = scratch if shrunk_hw == size_hw else None
        image = cv2.resize(image, shrunk_hw[::-1], dst=dst, interpolation=cv2.INTER_AREA)
    if shrunk_hw != size_hw:
        image = cv2.resize(image, (width, height), dst=scratch, interpolation=cv2.INTER_LINEAR)
    return image


def check_image(image_bgr: UInt8Array) -> None:
    """Raises ImageError unless `image_bgr` is a (H, W, 3) uint8 array with at least one pixel."""
    if not isinstance(image_bgr, np.ndarray):
        raise ImageError(
            "cannot use this image",
            got=type(image_bgr).__name__,
            expected="a NumPy array (H, W, 3) uint8 in BGR order",
            hint="pass what cv2.imread or VideoCapture.read gives",
        )
    if image_bgr.ndim != 3 or image_bgr.shape[2] != 3 or image_bgr.dtype != np.uint8 or image_bgr.size == 0:
        raise ImageError(
            "cannot use this image",
            got=f"shape {image_bgr.shape} {image_bgr.dtype}",
            expected="(H, W, 3) uint8 in BGR order with at least one pixel",
            hint="convert it first, for example with cv2.cvtColor",
        )


def _describe_bytes(data: bytes) -> str:
    kind = kind_of_bytes(data[:4096])
    if kind == "a HEIF or AVIF image":
        return f"{kind} that ends inside its header, or whose header is damaged"
    if kind == "an image" or (kind == "binary data" and begins_like_image(data)):
        return "an image file that ends inside its header, or whose header is damaged"
    return f"{len(data):,} bytes of an unknown format" if kind == "binary data" else kind
