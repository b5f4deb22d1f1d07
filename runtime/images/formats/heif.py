"""HEIC and AVIF, the photographs of telephones, by the packages of the extra `heif`."""

import importlib.util
import io
import struct

import numpy as np

from edgeclf.runtime.arrays import AnyArray
from edgeclf.runtime.files import STILL_BRANDS

HEIF_SUFFIXES = frozenset((".heic", ".heif", ".hif", ".avif"))
_AVIF_BRANDS = frozenset((b"avif", b"avis"))


def can_read_heif() -> bool:
    """Whether the packages are installed."""
    return importlib.util.find_spec("pillow_heif") is not None and importlib.util.find_spec("PIL") is not None


def begins_like_heif(data: bytes) -> bool:
    """Whether the first bytes are those of a still image in an ISO base media file."""
    return data[4:8] == b"ftyp" and data[8:12] in STILL_BRANDS


def heif_size(data: bytes) -> tuple[int, int] | None:
    """Largest width and height that a file says one of its images has; None where it says none."""
    sizes = []
    position = -1
    while (position := data.find(b"ispe", position + 1)) >= 0 and position + 16 <= len(data):
        # The type, version and flags, width, height (ISO/IEC 23008-12, image spatial extents).
        sizes.append(struct.unpack_from(">II", data, position + 8))
    whole = [(width, height) for width, height in sizes if width and height]
    return max(whole, key=lambda size: size[0] * size[1]) if whole else None


def heif_kind(data: bytes) -> str:
    """`AVIF` or `HEIC`."""
    brands = {data[at : at + 4] for at in range(8, min(int.from_bytes(data[:4], "big"), 64), 4)}
    return "AVIF" if brands & _AVIF_BRANDS else "HEIC"


def decode_heif(data: bytes) -> AnyArray | None:
    """The pixels of a file, upright: (H, W, 3) or (H, W, 4) uint8, BGR with or without transparency; None where it is damaged.

    Needs the packages, see `can_read_heif`.
    """
    import pillow_heif
    from PIL import Image, ImageOps

    try:
        if heif_kind(data) == "HEIC":
            image = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=True, bgr_mode=True)
            return np.asarray(image)
        with Image.open(io.BytesIO(data)) as opened:
            upright = ImageOps.exif_transpose(opened)
            pixels = np.asarray(upright.convert("RGBA" if upright.has_transparency_data else "RGB"))
    except (ValueError, OSError, SyntaxError, RuntimeError, EOFError):
        return None
    return np.ascontiguousarray(pixels[..., [2, 1, 0, 3][: pixels.shape[2]]])
