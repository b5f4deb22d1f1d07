"""Decoding of an image file to upright 8-bit BGR pixels.

`edgeclf.runtime.images.preprocess` calls this after it has looked at the header; nothing else does.
"""

import numpy as np

from edgeclf.runtime.arrays import AnyArray, UInt8Array
from edgeclf.runtime.images._opencv import cv2
from edgeclf.runtime.images.formats.heif import decode_heif
from edgeclf.runtime.images.formats.pnm import decode_pnm
from edgeclf.runtime.images.formats.tiff import has_damaged_strip
from edgeclf.runtime.images.header import ImageHeader
from edgeclf.runtime.images.jpeg_warnings import decoded_without_words, heard_damage
from edgeclf.runtime.images.memory import is_out_of_memory

_COLOUR_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}

_BLENDED_PIXELS = 1 << 20


def decode_pixels(data: bytes, header: ImageHeader, reduction: int = 1) -> UInt8Array | None:
    """Decodes the pixels of an image file whose header says that it is whole.

    Args:
        data: The encoded file.
        header: What `read_image_header` says about it.
        reduction: 2, 4 or 8 has a JPEG decoded at that part of its width and height, rounded up.

    Returns:
        (H, W, 3) uint8, BGR, upright; None where the file is damaged.

    Raises:
        MemoryError: There is no memory for the pixels.
    """
    if header.format == "pnm":
        return decode_pnm(data)
    if header.format == "heif":
        image = decode_heif(data)
        return None if image is None else _to_bgr8(image, header)
    # JPEG and BMP have no transparency that viewers show, and OpenCV converts CMYK and grey by itself for them.
    # TIFF is oriented by its own decoder whatever the flags say; the other formats are oriented here, because which
    # of them OpenCV orients, and under which flags, has changed between its versions.
    may_have_alpha = header.format in {"png", "webp", "gif"} or (header.format == "tiff" and not header.is_cmyk)
    flags = cv2.IMREAD_UNCHANGED if may_have_alpha else _COLOUR_FLAGS[reduction] | cv2.IMREAD_IGNORE_ORIENTATION

    def decode(encoded: bytes) -> AnyArray | None:
        return cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)

    try:
        if header.format == "jpeg":
            pixels, is_damaged = heard_damage(data, decode)
        else:
            is_damaged = header.format == "tiff" and has_damaged_strip(data)
            pixels = None if is_damaged else decoded_without_words(lambda: decode(header.mended or data))
        if is_damaged:
            return None
    except cv2.error as error:
        if is_out_of_memory(error):
            raise MemoryError from error
        return None
    if pixels is None:
        # OpenCV says the same of a decoder that got no memory. Where there is none for the pixels alone, it is that.
        np.empty(header.height * header.width * 4 // reduction**2, np.uint8)
    if pixels is None or pixels.dtype not in {np.dtype(np.uint8), np.dtype(np.uint16)}:
        return None
    image_bgr = _to_bgr8(pixels, header)
    return image_bgr if header.format == "tiff" else _orient(image_bgr, header.orientation)


def _to_bgr8(pixels: AnyArray, header: ImageHeader) -> UInt8Array:
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
        if header.alpha != "ignored" and int(pixels[..., 3].min()) < opaque:
            return on_white(pixels, is_premultiplied=header.alpha == "premultiplied")
        pixels = np.ascontiguousarray(pixels[..., :3])
    return _to_uint8(pixels)


def on_white(pixels: AnyArray, *, is_premultiplied: bool) -> UInt8Array:
    """Lays (H, W, 4) BGRA of uint8 or uint16 on white; (H, W, 3) uint8 BGR."""
    height, width = pixels.shape[:2]
    opaque = np.float32(np.iinfo(pixels.dtype).max)
    image_bgr = np.empty((height, width, 3), np.uint8)
    # Some rows at a time: blending takes eight times the memory of the pixels.
    rows = max(1, _BLENDED_PIXELS // width)
    for top in range(0, height, rows):
        part = pixels[top : top + rows]
        # Blended in float32: exact for both depths to within the final rounding.
        share = part[..., 3:].astype(np.float32) / opaque
        blended = part[..., :3].astype(np.float32)
        if not is_premultiplied:
            blended *= share
        blended += opaque * (1 - share)
        image_bgr[top : top + rows] = _to_uint8(np.rint(np.minimum(blended, opaque)).astype(pixels.dtype))
    return image_bgr


def _to_uint8(pixels: AnyArray) -> UInt8Array:
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
