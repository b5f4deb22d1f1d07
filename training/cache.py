"""Images decoded and resized once, in parallel, into a file of raw pixels that later runs map into memory.

An entry is keyed by the content of the images, their order, and the preprocessing: moving a data set or touching its
files changes nothing, changing one pixel makes a new entry. What is read to learn the content is remembered by path,
size and modification time, so that a second run reads no image at all.
"""

import contextlib
import hashlib
import json
import math
import os
import time
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeclf.runtime._opencv import cv2
from edgeclf.runtime.cpus import usable_cpus
from edgeclf.runtime.errors import EdgeclfError, InputError, UsageError
from edgeclf.runtime.files import output_error, replacing, write_text
from edgeclf.runtime.preprocess import UInt8Array, load_image, preprocess_bgr
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.runtime.spec import Preprocess
from edgeclf.training.digests import digest_files

# Part of every key: a change of what the pixels of an entry mean must make old entries miss.
_FORMAT = "edgeclf-pixels-2"
DEFAULT_LIMIT_GB = 20.0
# An unfinished file older than this belongs to a process that was killed.
_ABANDONED_AFTER_S = 24 * 3600.0


@dataclass(frozen=True, eq=False)
class CachedImages:
    """Preprocessed images on disk.

    Attributes:
        images: (N, H, W, 3) uint8, RGB, a read-only memory map.
        rows: (N,) position in the given paths of each image.
        digests: (N,) digest of each image file's bytes.
        unreadable: The paths that are not among the images, and why.
    """

    images: UInt8Array
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
    limit_bytes = _limit_bytes()
    folder = cache_folder or default_cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    threads = workers or usable_cpus()
    digests = digest_files(paths, folder / "digests.sqlite3", threads, progress)
    entry = _Entry(folder, _entry_key(digests, preprocess), preprocess)
    found = entry.open(len(paths), progress)
    if found is not None:
        images, rows = found
        unreadable, passing = _unreadable(paths, rows)
    if found is None or passing:
        images, rows = _decode_into(entry, paths, threads, progress)
        _prune(folder, limit_bytes, keep=entry.pixels)
        unreadable, passing = _unreadable(paths, rows)
        if passing:
            entry.forget()
    return CachedImages(images, rows, tuple(digests[row] or "" for row in rows), unreadable)


class _Entry:
    """One entry: `KEY.pixels` with the images and `KEY.json` with what they are; the second is written last."""

    def __init__(self, folder: Path, key: str, preprocess: Preprocess) -> None:
        self.pixels = folder / f"{key}.pixels"
        self.facts = folder / f"{key}.json"
        self.preprocess = preprocess
        self._shape = (*preprocess.size_hw, 3)

    def open(self, count: int, progress: Progress) -> tuple[UInt8Array, tuple[int, ...]] | None:
        """Opens a complete entry.

        Args:
            count: Number of files the entry was made from.
            progress: Told how many images have been checked.

        Returns:
            The (N, H, W, 3) memory map and the positions of its images among the files; None when there is no such
            entry, or it is damaged, or another process removes it.
        """
        try:
            facts = json.loads(self.facts.read_text(encoding="utf-8"))
            rows = tuple(int(row) for row in facts["rows"])
            if not rows or any(a >= b for a, b in zip((-1, *rows), (*rows, count), strict=True)):
                return None
            images = self.map(len(rows))
            if self.pixels.stat().st_size != images.size or _checksum(images, progress) != facts["crc32"]:
                return None
            # The time of the last use is what pruning goes by.
            os.utime(self.pixels)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return images, rows

    def map(self, count: int, file: Path | None = None) -> UInt8Array:
        """The first `count` images of the file (None: `pixels`), read-only; they stay when the file is removed."""
        return np.memmap(file or self.pixels, np.uint8, mode="r", shape=(count, *self._shape))

    def forget(self) -> None:
        """Makes the next look miss."""
        self.facts.unlink(missing_ok=True)


def _checksum(images: UInt8Array, progress: Progress) -> int:
    """CRC-32 of the pixels, read once from start to end: some 2 GB/s, against 0.1 for decoding them."""
    checksum = 0
    for position, image in enumerate(images):
        checksum = zlib.crc32(image.data, checksum)
        if position % 256 == 255 or position == len(images) - 1:
            progress("check", position + 1, len(images))
    return checksum


def _entry_key(digests: Sequence[str | None], preprocess: Preprocess) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{_FORMAT}\n{preprocess.key}\n".encode())
    for content in digests:
        digest.update(f"{content}\n".encode())
    return digest.hexdigest()


def _decode_into(
    entry: _Entry, paths: Sequence[Path], threads: int, progress: Progress
) -> tuple[UInt8Array, tuple[int, ...]]:
    rows: list[int] = []
    checksum = 0
    with replacing(entry.pixels) as temporary:
        with temporary.open("wb") as file:
            for position, image_rgb in enumerate(_preprocessed(paths, entry, threads)):
                if image_rgb is not None:
                    file.write(image_rgb.data)
                    checksum = zlib.crc32(image_rgb.data, checksum)
                    rows.append(position)
                progress("decode", position + 1, len(paths))
        if not rows:
            (_, error), *_ = _unreadable(paths, ())[0]
            raise InputError(
                f"none of the {len(paths)} images can be read", got=f"the first with: {error.what}, {error.got}"
            )
        # Mapped under its own name: under the entry's another process may replace or prune it.
        images = entry.map(len(rows), temporary)
    write_text(entry.facts, json.dumps({"rows": rows, "crc32": checksum}))
    return images, tuple(rows)


def _preprocessed(paths: Sequence[Path], entry: _Entry, threads: int) -> Iterator[UInt8Array | None]:
    """The images in order, None where one is unreadable; a bounded number is ever in memory."""
    preprocess = entry.preprocess

    def load(path: Path) -> UInt8Array | None:
        try:
            return preprocess_bgr(load_image(path), preprocess)
        except EdgeclfError:
            return None

    pending: deque[Future[UInt8Array | None]] = deque()
    with _single_threaded_opencv(), ThreadPoolExecutor(threads, thread_name_prefix="edgeclf-decode") as pool:
        try:
            for path in paths:
                pending.append(pool.submit(load, path))
                if len(pending) >= 8 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


@contextlib.contextmanager
def _single_threaded_opencv() -> Iterator[None]:
    """Keeps OpenCV's own pool out of the way while every CPU already has a decoding thread."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


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


def _limit_bytes() -> float:
    text = os.environ.get("EDGECLF_CACHE_GB") or str(DEFAULT_LIMIT_GB)
    try:
        limit_gb = float(text)
    except ValueError:
        limit_gb = math.nan
    if not limit_gb >= 0:
        raise UsageError("bad EDGECLF_CACHE_GB", got=repr(text), expected="a number of gigabytes")
    return limit_gb * 1e9


def _prune(folder: Path, limit_bytes: float, keep: Path) -> None:
    """Removes what killed processes left, and the entries not used for longest until the rest fits the limit."""
    entries = []
    for path in folder.glob("*.pixels"):
        # Another process may remove it between the listing and the look.
        with contextlib.suppress(OSError):
            status = path.stat()
            if not path.name.startswith("."):
                entries.append((status.st_mtime_ns, status.st_size, path))
            elif time.time() - status.st_mtime > _ABANDONED_AFTER_S:
                path.unlink()
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= limit_bytes:
            return
        if path != keep:
            # The facts first, so that no entry is ever found without its pixels.
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            total -= size


def select_rows(images: UInt8Array, rows: npt.NDArray[np.int64]) -> UInt8Array:
    """Copies chosen rows of a memory map into memory, (N, H, W, 3) uint8 RGB, reading them in the order on disk."""
    order = np.argsort(rows, kind="stable")
    chosen = np.empty((len(rows), *images.shape[1:]), np.uint8)
    for target in order:
        chosen[target] = images[rows[target]]
    return chosen
