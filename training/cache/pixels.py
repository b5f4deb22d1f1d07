"""Images decoded and resized once, in parallel, into a file of raw pixels that later runs read from.

What is read to learn the contents of the images is remembered by path, size and modification time, so that a second run
reads no image at all.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgeclf.runtime.arrays import UInt8Array
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.errors import EdgeclfError, InputError
from edgeclf.runtime.images.opencv_threads import opencv_threads_at_most
from edgeclf.runtime.images.preprocess import load_image, preprocess_bgr
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.spec import Preprocess
from edgeclf.training.cache.array_file import RowFile
from edgeclf.training.cache.file_digests import digest_files
from edgeclf.training.cache.store import Configuration, Entry, open_cache
from edgeclf.training.prefetch import map_ahead

# Part of every key: a change of what the pixels of an entry mean must make old entries miss.
_FORMAT = "edgeclf-pixels-3"


@dataclass(frozen=True, eq=False)
class CachedImages:
    """Preprocessed images on disk.

    Attributes:
        images: (N, H, W, 3) uint8, RGB, in a file.
        rows: (N,) position in the given paths of each image.
        digests: (N,) digest of each image file's bytes.
        unreadable: The paths that are not among the images, and why.
    """

    images: RowFile
    rows: tuple[int, ...]
    digests: tuple[str, ...]
    unreadable: tuple[tuple[Path, EdgeclfError], ...]


def default_cache_folder() -> Path:
    """`$EDGECLF_CACHE`, else `$XDG_CACHE_HOME/edgeclf`, else `~/.cache/edgeclf`."""
    if os.environ.get("EDGECLF_CACHE"):
        return Path(os.environ["EDGECLF_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgeclf"


def cached_images(
    paths: Sequence[Path],
    preprocess: Preprocess,
    *,
    cache_folder: Path | None = None,
    progress: Progress = no_progress,
    workers: int | None = None,
) -> CachedImages:
    """Preprocesses images, or finds them preprocessed.

    Args:
        paths: The files, in the order wanted.
        preprocess: Input size and fit mode.
        cache_folder: Where entries are kept; None takes `default_cache_folder()`. Entries that were not used for
            longest are removed when all together exceed `$EDGECLF_CACHE_GB` (20) gigabytes.
        progress: Told how many files have been read and decoded.
        workers: Threads; None takes the CPUs this process may use.

    Raises:
        InputError: None of the files is a readable image.
        OutputError: The cache cannot be written, for example because the disk is full; nothing is left half-written.
        UsageError: `$EDGECLF_CACHE_GB` is not a number.
    """
    folder = cache_folder or default_cache_folder()
    open_cache(folder)
    threads = workers or usable_cpus()
    digests = digest_files(paths, folder / "digests.sqlite3", threads, progress)
    entry = Entry(
        folder, Configuration("pixels", f"{_FORMAT} {preprocess.key}", (*preprocess.size_hw, 3), "|u1"), digests
    )
    found = entry.open(progress)
    if found is not None:
        images, rows = found
        unreadable, passing = _unreadable(paths, rows)
    if found is None or passing:
        images, rows = entry.write(
            lambda positions: _preprocessed([paths[position] for position in positions], preprocess, threads),
            "decode",
            progress,
        )
        unreadable, passing = _unreadable(paths, rows)
        if not rows:
            (_, error), *_ = unreadable
            raise InputError(
                f"none of the {len(paths)} images can be read", got=f"the first with: {error.what}, {error.got}"
            )
        if passing:
            entry.forget()
    return CachedImages(images, rows, tuple(digests[row] or "" for row in rows), unreadable)


def _preprocessed(paths: Sequence[Path], preprocess: Preprocess, threads: int) -> Iterator[UInt8Array | None]:
    """The images in order, None where one is unreadable; a bounded number is ever in memory."""

    def load(path: Path) -> UInt8Array | None:
        try:
            return preprocess_bgr(load_image(path), preprocess)
        except EdgeclfError:
            return None

    # Every CPU already has a decoding thread.
    with opencv_threads_at_most(1):
        yield from map_ahead(load, paths, threads=threads, ahead=8 * threads, name="edgeclf-decode")


def _unreadable(paths: Sequence[Path], rows: Sequence[int]) -> tuple[tuple[tuple[Path, EdgeclfError], ...], bool]:
    """Reads the files that have no row again, for the error that each ends in: they fail early, so this is quick.

    Returns:
        The files and their errors, and whether one of them can be read now, so that its error was a passing one.
    """
    readable = set(rows)
    errors: list[tuple[Path, EdgeclfError]] = []
    passing = False
    for position, path in enumerate(paths):
        if position not in readable:
            try:
                load_image(path)
            except EdgeclfError as error:
                errors.append((path, error))
            else:
                passing = True
                changed = InputError(f"{path} changed while it was read", do="run the command again")
                errors.append((path, changed))
    return tuple(errors), passing
