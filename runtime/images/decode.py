"""Decoding of an image file to upright 8-bit BGR pixels.

`edgeclf.runtime.images.preprocess` calls this after it has looked at the header; nothing else does.
"""

import numpy as np

from edgeclf.runtime.arrays import AnyArray, UInt8Array
from edgeclf.runtime.images._opencv import cv2
from edgeclf.runtime.images.header import ImageHeader

_COLOUR_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def decode_pixels(data: bytes, header: ImageHeader, reduction: int = 1) -> UInt8Array | None:
    """Decodes the pixels of an image file whose header says that it is whole.

    Args:
        data: The encoded file.
        header: What `read_image_header` says about it.
        reduction: 2, 4 or 8 has a JPEG decoded at that part of its width and height, rounded up.

    Returns:
        (H, W, 3) uint8, BGR, upright; None where the file is damaged.
    """
    # JPEG and BMP have no transparency that viewers show, and OpenCV converts CMYK and grey by itself for them.
    # TIFF is oriented by its own decoder whatever the flags say; the other formats are oriented here, because which
    # of them OpenCV orients, and under which flags, has changed between its versions.
    may_have_alpha = header.format in {"png", "webp", "gif"} or (header.format == "tiff" and not header.is_cmyk)
    flags = cv2.IMREAD_UNCHANGED if may_have_alpha else _COLOUR_FLAGS[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
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
