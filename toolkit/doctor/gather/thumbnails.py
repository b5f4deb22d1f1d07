"""Every picture of a data set opened once: whether it can be read, its properties, and a thumbnail."""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgeclf.runtime.arrays import Float64Array, FloatArray, IntArray, UInt8Array
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.errors import EdgeclfError
from edgeclf.runtime.files import output_error
from edgeclf.runtime.images.header import read_image_header
from edgeclf.runtime.images.opencv_threads import opencv_threads_at_most
from edgeclf.runtime.images.preprocess import decode_image, load_image, resize
from edgeclf.runtime.progress import Progress
from edgeclf.toolkit.doctor.facts import THUMBNAIL
from edgeclf.toolkit.doctor.gather.properties import PROPERTIES, measure_properties
from edgeclf.training.prefetch import map_ahead


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """What is kept of one picture.

    Attributes:
        digest: Of its file's bytes.
        format: `jpeg`, `png`, ...
        properties: (P,) float64, in the order of `PROPERTIES`.
        thumbnail: (THUMBNAIL, THUMBNAIL, 3) uint8 BGR.
    """

    digest: str
    format: str
    properties: Float64Array
    thumbnail: UInt8Array


@dataclass
class ScanCache:
    """What was seen of pictures, by the digest of their bytes: for who looks at many data sets that have pictures in common.

    Attributes:
        pictures: Looked at before.
        vectors: Features computed before.
    """

    pictures: dict[str, ImageRecord] = field(default_factory=dict)
    vectors: dict[str, FloatArray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ImageRecords:
    """The pictures of some files.

    Attributes:
        rows: (N,) int64 positions of the readable ones among the files, ascending.
        digests: (N,) of the files' bytes.
        formats: (N,)
        properties: (N,) float64 by name.
        thumbnails: (N, THUMBNAIL, THUMBNAIL, 3) uint8 BGR, in a file.
        unreadable: Position and reason of each of the others.
    """

    rows: IntArray
    digests: tuple[str, ...]
    formats: tuple[str, ...]
    properties: dict[str, Float64Array]
    thumbnails: UInt8Array
    unreadable: tuple[tuple[int, str], ...]


def scan_images(paths: Sequence[Path], progress: Progress, memory: ScanCache | None = None) -> ImageRecords:
    """Opens pictures, a bounded number of them at a time.

    Args:
        paths: The files.
        progress: Told how many have been looked at.
        memory: What was seen before, and is added to; None remembers nothing.

    Raises:
        OutputError: There is no room for the thumbnails in the folder for temporary files.
    """
    threads = usable_cpus()
    rows: list[int] = []
    digests: list[str] = []
    formats: list[str] = []
    properties = np.empty((len(paths), len(PROPERTIES)), np.float64)
    unreadable: list[tuple[int, str]] = []
    try:
        # On disk: a thumbnail takes 12 KB, and there may be a million. The file has no name and goes with its map.
        with tempfile.TemporaryFile(prefix="edgeclf-doctor-") as file, opencv_threads_at_most(1):
            found = map_ahead(
                lambda path: see(path, memory), paths, threads=threads, ahead=4 * threads, name="edgeclf-doctor"
            )
            for position, picture in enumerate(found):
                progress("look", position + 1, len(paths))
                if isinstance(picture, str):
                    unreadable.append((position, picture))
                    continue
                properties[len(rows)] = picture.properties
                file.write(np.ascontiguousarray(picture.thumbnail).data)
                rows.append(position)
                digests.append(picture.digest)
                formats.append(picture.format)
            file.flush()
            shape = (len(rows), THUMBNAIL, THUMBNAIL, 3)
            thumbnails = np.memmap(file, np.uint8, "r", shape=shape) if rows else np.empty(shape, np.uint8)
    except OSError as error:
        raise output_error(Path(tempfile.gettempdir()), error) from error
    return ImageRecords(
        np.array(rows, np.int64),
        tuple(digests),
        tuple(formats),
        {name: properties[: len(rows), column].copy() for column, name in enumerate(PROPERTIES)},
        thumbnails,
        tuple(unreadable),
    )


def see(path: Path, memory: ScanCache | None = None) -> ImageRecord | str:
    """One picture, or in words why it cannot be read."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            # Reading a pipe would wait for somebody to write into it.
            return "a device or a pipe"
        data = path.read_bytes()
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        if memory is not None and digest in memory.pictures:
            return memory.pictures[digest]
        image_bgr = decode_image(data, source=str(path))
        header = read_image_header(data)
    except EdgeclfError as error:
        return error.got or error.what
    except OSError:
        try:
            load_image(path)
        except EdgeclfError as error:
            return error.got or error.what
        return "a file that changed while it was read"
    if header is None:
        raise AssertionError(path)
    measured = measure_properties(image_bgr, header, data)
    picture = ImageRecord(
        digest,
        header.format,
        np.array([measured[name] for name in PROPERTIES], np.float64),
        resize(image_bgr, (THUMBNAIL, THUMBNAIL)),
    )
    if memory is not None:
        memory.pictures[digest] = picture
    return picture
