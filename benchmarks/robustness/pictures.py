"""Small photographs in every format that is read, and damage at random: the inputs of `damaged_pictures.py`."""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
_SMALLEST_PX, _LARGEST_PX = 24, 72
# By Pillow's name: the suffixes of its files.
_SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif", "jif", "jfi", "pjpeg", "pjp", "JPG"),
    "PNG": ("png", "PNG"),
    "BMP": ("bmp", "dib"),
    "GIF": ("gif",),
    "WEBP": ("webp",),
    "TIFF": ("tif", "tiff"),
    "PPM": ("ppm", "pnm"),
    "PGM": ("pgm",),
    "PBM": ("pbm",),
}
# Format, Pillow's mode, what is passed to its writer.
_VARIANTS: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("JPEG", "RGB", {"quality": 90}),
    ("JPEG", "RGB", {"quality": 60, "progressive": True}),
    ("JPEG", "RGB", {"quality": 80, "restart_marker_rows": 1}),
    ("JPEG", "L", {"quality": 80}),
    ("JPEG", "CMYK", {"quality": 80}),
    ("JPEG", "RGB", {"quality": 85, "exif": True}),
    ("PNG", "RGB", {}),
    ("PNG", "RGBA", {}),
    ("PNG", "LA", {}),
    ("PNG", "P", {}),
    ("PNG", "1", {}),
    ("PNG", "I;16", {}),
    ("BMP", "RGB", {}),
    ("BMP", "L", {}),
    ("BMP", "P", {}),
    ("BMP", "1", {}),
    ("GIF", "P", {}),
    ("GIF", "P", {"animated": True}),
    ("WEBP", "RGB", {"quality": 80}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("TIFF", "RGB", {}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
    ("TIFF", "RGB", {"compression": "jpeg"}),
    ("TIFF", "L", {}),
    ("TIFF", "1", {"compression": "group4"}),
    ("TIFF", "I;16", {}),
    ("TIFF", "CMYK", {}),
    ("PPM", "RGB", {}),
    ("PPM", "RGB", {"ascii": True}),
    ("PGM", "L", {}),
    ("PBM", "1", {}),
)
# Values that a damaged length may have.
_EXTREMES = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@dataclass(frozen=True)
class Picture:
    """An undamaged picture.

    Attributes:
        name: Its format and variant, for a table.
        suffixes: Those that its files have, without the full stop.
        data: The encoded file.
    """

    name: str
    suffixes: tuple[str, ...]
    data: bytes


def draw_pictures(rng: np.random.Generator, each: int) -> list[Picture]:
    """Crops of scikit-image's photographs, so many in each variant of each format."""
    from PIL import Image
    from skimage import data

    photographs = [getattr(data, name)() for name in _PHOTOGRAPHS]

    def crop() -> Image.Image:
        pixels_rgb = photographs[int(rng.integers(len(photographs)))]
        height, width = (int(side) for side in rng.integers(_SMALLEST_PX, _LARGEST_PX + 1, size=2))
        top, left = (
            int(rng.integers(0, side - own + 1))
            for side, own in zip(pixels_rgb.shape[:2], (height, width), strict=True)
        )
        return Image.fromarray(np.ascontiguousarray(pixels_rgb[top : top + height, left : left + width]))

    return [_encoded(crop, *variant, rng) for variant in _VARIANTS for _ in range(each)]


def _encoded(
    crop: "Callable[[], object]", kind: str, mode: str, options: Mapping[str, object], rng: np.random.Generator
) -> Picture:
    from PIL import Image

    image = crop()
    assert isinstance(image, Image.Image)
    size = image.size
    given = dict(options)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    if mode in {"RGBA", "LA"}:
        image.putalpha(Image.fromarray(rng.integers(0, 256, size[::-1], dtype=np.uint8)))
    if given.pop("exif", False):
        exif = Image.Exif()
        exif[0x0112] = int(rng.integers(1, 9))
        given["exif"] = exif
    if given.pop("animated", False):
        other = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        given |= {"save_all": True, "append_images": [other], "duration": 100}
    name = " ".join([kind, mode, *(f"{key} {value}" for key, value in options.items())])
    if given.pop("ascii", False):
        rows = np.asarray(image).reshape(size[1], -1)
        text = "\n".join(" ".join(map(str, row)) for row in rows)
        return Picture(name, _SUFFIXES[kind], f"P3\n{size[0]} {size[1]}\n255\n{text}\n".encode())
    stream = io.BytesIO()
    image.save(stream, "PPM" if kind in {"PGM", "PBM"} else kind, **given)
    return Picture(name, _SUFFIXES[kind], stream.getvalue())


# Damage by its name: bytes to bytes. What changes no pixel stands in HARMLESS.
Damage = Callable[[bytearray, np.random.Generator], bytearray]


def _bits(data: bytearray, rng: np.random.Generator) -> bytearray:
    for place in rng.integers(0, len(data), size=int(rng.integers(1, 9))):
        data[place] ^= 1 << int(rng.integers(8))
    return data


def _bytes(data: bytearray, rng: np.random.Generator) -> bytearray:
    for place in rng.integers(0, len(data), size=int(rng.geometric(0.1))):
        data[place] = int(rng.integers(256))
    return data


def _header(data: bytearray, rng: np.random.Generator) -> bytearray:
    for place in rng.integers(0, min(64, len(data)), size=int(rng.integers(1, 4))):
        data[place] = int(rng.integers(256))
    return data


def _length(data: bytearray, rng: np.random.Generator) -> bytearray:
    size = int(rng.choice((2, 4)))
    end = len(data) if rng.random() < 0.3 else min(256, len(data))
    place = int(rng.integers(0, max(1, end - size)))
    value = int(rng.choice(_EXTREMES)) % (1 << 8 * size)
    data[place : place + size] = value.to_bytes(size, "big" if rng.random() < 0.5 else "little")
    return data


def _span(data: bytearray, rng: np.random.Generator) -> slice:
    start = int(rng.integers(0, len(data)))
    return slice(start, start + 1 + int(rng.integers(0, max(1, len(data) // 4))))


def _zeroed(data: bytearray, rng: np.random.Generator) -> bytearray:
    span = _span(data, rng)
    data[span] = bytes(len(data[span]))
    return data


def _noise(data: bytearray, rng: np.random.Generator) -> bytearray:
    span = _span(data, rng)
    data[span] = rng.bytes(len(data[span]))
    return data


def _removed(data: bytearray, rng: np.random.Generator) -> bytearray:
    del data[_span(data, rng)]
    return data


def _doubled(data: bytearray, rng: np.random.Generator) -> bytearray:
    span = _span(data, rng)
    data[span.start : span.start] = data[span]
    return data


def _cut(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: int(rng.integers(0, len(data)))]


def _cut_end(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: -int(rng.integers(1, min(64, len(data))))]


def _appended(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data + rng.bytes(int(rng.integers(1, 2000)))


def _preceded(data: bytearray, rng: np.random.Generator) -> bytearray:
    return bytearray(rng.bytes(int(rng.integers(1, 200)))) + data


def _line_ends(data: bytearray, _rng: np.random.Generator) -> bytearray:
    # What a transfer as text makes of a file.
    return data.replace(b"\n", b"\r\n")


def _unchanged(data: bytearray, _rng: np.random.Generator) -> bytearray:
    return data


_DAMAGE: Mapping[str, Damage] = {
    "bits flipped": _bits,
    "bytes overwritten": _bytes,
    "header overwritten": _header,
    "a length or number extreme": _length,
    "a block zeroed": _zeroed,
    "a block of noise": _noise,
    "a block removed": _removed,
    "a block doubled": _doubled,
    "cut anywhere": _cut,
    "the last bytes cut": _cut_end,
    "garbage before": _preceded,
    "line ends translated": _line_ends,
}
_HARMLESS: Mapping[str, Damage] = {"none": _unchanged, "wrong suffix": _unchanged, "garbage appended": _appended}
# Of these the prediction must be that of the whole picture.
MUST_BE_READ = frozenset(("none", "wrong suffix"))
HARMLESS = frozenset(_HARMLESS)


@dataclass(frozen=True)
class Damaged:
    """A damaged picture.

    Attributes:
        origin: Position of the undamaged picture.
        kind: The damage, two joined by ` + `.
        suffix: That of its file, with the full stop.
        data: Its bytes.
    """

    origin: int
    kind: str
    suffix: str
    data: bytes


def draw_damage(pictures: list[Picture], count: int, rng: np.random.Generator) -> Iterator[Damaged]:
    """Damaged copies of pictures drawn at random: one in ten unharmed, one in six damaged twice.

    Args:
        pictures: What to damage.
        count: How many copies.
        rng: Of every choice.
    """
    kinds = list(_DAMAGE)
    every_suffix = sorted({suffix for suffixes in _SUFFIXES.values() for suffix in suffixes})
    for _ in range(count):
        origin = int(rng.integers(len(pictures)))
        picture = pictures[origin]
        chance = rng.random()
        if chance < 0.1:
            names = [list(_HARMLESS)[int(rng.integers(len(_HARMLESS)))]]
        else:
            names = [kinds[int(rng.integers(len(kinds)))] for _ in range(2 if chance < 0.25 else 1)]
        data = bytearray(picture.data)
        for name in names:
            # The first of two may have left nothing to damage.
            data = {**_DAMAGE, **_HARMLESS}[name](data, rng) if data else data
        suffixes = every_suffix if names == ["wrong suffix"] else picture.suffixes
        yield Damaged(origin, " + ".join(names), f".{suffixes[int(rng.integers(len(suffixes)))]}", bytes(data))
