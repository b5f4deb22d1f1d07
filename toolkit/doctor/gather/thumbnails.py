"""Scan of image files: digest, format, properties and thumbnail of each, or the reason why it cannot be read."""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgeclf.runtime import decode_image
from edgeclf.runtime.arrays import Float64Array, FloatArray, IntArray, UInt8Array
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.errors import EdgeclfError
from edgeclf.runtime.files import kind_of, output_error
from edgeclf.runtime.images.encoded_file import read_image_file
from edgeclf.runtime.images.header import read_image_header
from edgeclf.runtime.images.opencv_threads import opencv_threads_at_most
from edgeclf.runtime.images.preprocess import MAX_PIXELS, resize
from edgeclf.runtime.progress import Progress
from edgeclf.toolkit.doctor.facts import THUMBNAIL
from edgeclf.toolkit.doctor.gather.properties import PROPERTIES, measure_properties
from edgeclf.training.prefetch import prefetch_map


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """Scan result of one image.

    Attributes:
        digest: Digest of the file's bytes.
        format: File format: `jpeg`, `png`, ...
        properties: (P,) float64, in the order of `PROPERTIES`.
        thumbnail: (THUMBNAIL, THUMBNAIL, 3) uint8 BGR.
    """

    digest: str
    format: str
    properties: Float64Array
    thumbnail: UInt8Array


@dataclass
class ScanCache:
    """Cache in memory of scan results and features by file digest, for scans of several data sets with images in common.

    Attributes:
        records: Scan results.
        vectors: (F,) features.
    """

    records: dict[str, ImageRecord] = field(default_factory=dict)
    vectors: dict[str, FloatArray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ImageRecords:
    """Scan results of several files.

    Attributes:
        rows: (N,) int64 positions of the readable images among the files, ascending.
        digests: (N,) digests of the files' bytes.
        formats: (N,) file formats.
        properties: (N,) float64 by property name.
        thumbnails: (N, THUMBNAIL, THUMBNAIL, 3) uint8 BGR, a memory map of a temporary file.
        unreadable: Position and reason of each unreadable file.
    """

    rows: IntArray
    digests: tuple[str, ...]
    formats: tuple[str, ...]
    properties: dict[str, Float64Array]
    thumbnails: UInt8Array
    unreadable: tuple[tuple[int, str], ...]


def scan_images(paths: Sequence[Path], progress: Progress, scan_cache: ScanCache | None = None) -> ImageRecords:
    """Scans image files on all CPUs, a bounded number at a time.

    Args:
        paths: The files.
        progress: Reports how many are done.
        scan_cache: Results of earlier scans, extended by this call; None for none.

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
            found = prefetch_map(
                lambda path: scan_image(path, scan_cache),
                paths,
                threads=threads,
                ahead=4 * threads,
                name="edgeclf-doctor",
            )
            for position, record in enumerate(found):
                progress("look", position + 1, len(paths))
                if isinstance(record, str):
                    unreadable.append((position, record))
                    continue
                properties[len(rows)] = record.properties
                file.write(np.ascontiguousarray(record.thumbnail).data)
                rows.append(position)
                digests.append(record.digest)
                formats.append(record.format)
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


def scan_image(path: Path, scan_cache: ScanCache | None = None) -> ImageRecord | str:
    """Scans one image file; the reason as a phrase where it cannot be read."""
    try:
        if kind_of(path) == "other":
            # Reading a pipe would wait for somebody to write into it.
            return "a device or a pipe"
        data = read_image_file(path, MAX_PIXELS)
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        if scan_cache is not None and digest in scan_cache.records:
            return scan_cache.records[digest]
        image_bgr = decode_image(data, source=str(path))
        header = read_image_header(data)
    except EdgeclfError as error:
        return error.got or error.what
    except MemoryError:
        return "a file larger than the memory that is left"
    if header is None:
        raise AssertionError(path)
    measured = measure_properties(image_bgr, header, data)
    record = ImageRecord(
        digest,
        header.format,
        np.array([measured[name] for name in PROPERTIES], np.float64),
        resize(image_bgr, (THUMBNAIL, THUMBNAIL)),
    )
    if scan_cache is not None:
        scan_cache.records[digest] = record
    return record
