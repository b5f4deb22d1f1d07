"""Images decoded and resized once, in parallel, into a file of raw pixels that later runs read from."""

import hashlib
from collections import defaultdict
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeclf.export.cache_folder import CacheFolder, chosen_cache_folder
from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.batch.file_digests import digest_files
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.errors import EdgeclfError, InputError
from edgeclf.runtime.files import file_identity
from edgeclf.runtime.images._opencv import cv2
from edgeclf.runtime.images.opencv_threads import opencv_threads_at_most
from edgeclf.runtime.images.preprocess import load_image, preprocess_bgr
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.spec import Preprocess
from edgeclf.training.cache.array_file import ArrayFile
from edgeclf.training.cache.store import Configuration, cached_rows
from edgeclf.training.prefetch import prefetch_map

# Part of every key: a change of what edgeclf's own preprocessing computes must make old rows miss.
_FORMAT = "edgeclf-pixels-3"


@dataclass(frozen=True, eq=False)
class CachedImages:
    """Preprocessed images on disk.

    Attributes:
        images: (N, H, W, 3) uint8, RGB, in a file.
        rows: (N,) position in the given paths of each image.
        digests: (N,) digest of each image file's bytes.
        unreadable: The paths that are not among the images, and why.
        key: Text that differs whenever the pixels of a file would: preprocessing and the version of OpenCV.
    """

    images: ArrayFile
    rows: tuple[int, ...]
    digests: tuple[str, ...]
    unreadable: tuple[tuple[Path, EdgeclfError], ...]
    key: str


def cached_images(
    paths: Sequence[Path],
    preprocess: Preprocess,
    *,
    cache_folder: CacheFolder | None = None,
    progress: Progress = no_progress,
    workers: int | None = None,
) -> CachedImages:
    """Preprocesses images, or finds them preprocessed.

    Args:
        paths: The files, in the order wanted.
        preprocess: Input size and fit mode.
        cache_folder: Where pixels are kept; None takes the default.
        progress: Receives the numbers of files read and decoded.
        workers: Threads; None takes the CPUs this process may use.

    Raises:
        InputError: None of the files is a readable image.
        OutputError: The cache cannot be written, for example because the disk is full.
        UsageError: `$EDGECLF_CACHE_SIZE` is not a size.
    """
    folder = cache_folder or chosen_cache_folder()
    folder.make()
    threads = workers or usable_cpus()
    files = digest_files(paths, folder.digests_path, threads, progress)
    errors: dict[int, EdgeclfError] = {}

    def load(position: int) -> UInt8Array | None:
        path, file = paths[position], files[position]
        try:
            pixels = preprocess_bgr(load_image(path), preprocess)
            if file.digest is None or file_identity(path) != file.identity:
                raise InputError(f"{path} changed while it was read", hint="run the command again")
        except EdgeclfError as error:
            errors[position] = error
            return None
        return pixels

    def compute(positions: Sequence[int]) -> Generator[UInt8Array | None, None, None]:
        # Every CPU already has a decoding thread.
        with opencv_threads_at_most(1):
            yield from prefetch_map(load, positions, threads=threads, ahead=8 * threads, name="edgeclf-decode")

    key = f"{_FORMAT} {preprocess.key} OpenCV {cv2.__version__}"
    configuration = Configuration("pixels", key, (*preprocess.size_hw, 3), "|u1")
    digests = [file.digest for file in files]
    images, rows = cached_rows(folder, configuration, digests, compute, stage="decode", progress=progress)
    unreadable = tuple((paths[position], errors[position]) for position in sorted(errors))
    if not rows:
        (_, error), *_ = unreadable
        raise InputError(
            f"none of the {len(paths)} images can be read", got=f"the first with: {error.what}, {error.got}"
        )
    return CachedImages(images, rows, tuple(digests[row] or "" for row in rows), unreadable, key)


def equal_pictures(cached: CachedImages, paths: Sequence[Path]) -> list[list[int]]:
    """Images with the same pixels in files that differ: another format, or other facts beside the pixels.

    Images whose preprocessed pixels have the same checksum are decoded once more, and compared at their full size.

    Args:
        cached: Preprocessed images.
        paths: What they were preprocessed from, as given to `cached_images`.

    Returns:
        Positions in `paths`, those of each picture together.
    """
    alike: defaultdict[int, dict[str, int]] = defaultdict(dict)
    for checksum, digest, position in zip(cached.images.checksums.tolist(), cached.digests, cached.rows, strict=True):
        alike[checksum].setdefault(digest, position)
    found: defaultdict[tuple[tuple[int, ...], bytes], list[int]] = defaultdict(list)
    for several in alike.values():
        for position in several.values() if len(several) > 1 else ():
            try:
                pixels = load_image(paths[position])
            except EdgeclfError:
                # It went away since.
                continue
            found[pixels.shape, hashlib.blake2b(np.ascontiguousarray(pixels).data).digest()].append(position)
    return [positions for positions in found.values() if len(positions) > 1]
