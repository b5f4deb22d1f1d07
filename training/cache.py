"""Images decoded and resized once, in parallel, into a file of raw pixels that later runs map into memory.

An entry is keyed by the content of the images, their order, and the preprocessing: moving a data set or touching its
files changes nothing, changing one pixel makes a new entry. What is read to learn the content is remembered by path,
size and modification time, so that a second run reads no image at all.
"""

import contextlib
import hashlib
import json
import os
import sqlite3
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

# Part of every key: a change of what the pixels of an entry mean must make old entries miss.
_FORMAT = "edgeclf-pixels-1"
DEFAULT_LIMIT_GB = 20.0


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
    folder = cache_folder or default_cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    threads = workers or usable_cpus()
    digests = _digest_files(paths, folder, threads, progress)
    entry = _Entry(folder, _entry_key(digests, preprocess), preprocess)
    rows = entry.rows()
    if rows is None:
        rows = _decode_into(entry, paths, threads, progress)
        _prune(folder, keep=entry.pixels)
    unreadable = _unreadable(paths, rows)
    return CachedImages(entry.open(len(rows)), rows, tuple(digests[row] or "" for row in rows), unreadable)


class _Entry:
    """One entry: `KEY.pixels` with the images and `KEY.json` with what they are; the second is written last."""

    def __init__(self, folder: Path, key: str, preprocess: Preprocess) -> None:
        self.pixels = folder / f"{key}.pixels"
        self.facts = folder / f"{key}.json"
        self.preprocess = preprocess
        self._shape = (*preprocess.size_hw, 3)

    def rows(self) -> tuple[int, ...] | None:
        """The rows of a complete entry; None when there is none, or its files do not fit each other."""
        try:
            rows = tuple(int(row) for row in json.loads(self.facts.read_text(encoding="utf-8"))["rows"])
            size = self.pixels.stat().st_size
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not rows or size != len(rows) * int(np.prod(self._shape)):
            return None
        # The time of the last use is what pruning goes by.
        with contextlib.suppress(OSError):
            os.utime(self.pixels)
        return rows

    def open(self, count: int) -> UInt8Array:
        return np.memmap(self.pixels, np.uint8, mode="r", shape=(count, *self._shape))


def _entry_key(digests: Sequence[str | None], preprocess: Preprocess) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{_FORMAT}\n{preprocess.key}\n".encode())
    for content in digests:
        digest.update(f"{content}\n".encode())
    return digest.hexdigest()


def _decode_into(entry: _Entry, paths: Sequence[Path], threads: int, progress: Progress) -> tuple[int, ...]:
    rows: list[int] = []
    with replacing(entry.pixels) as temporary, temporary.open("wb") as file:
        for position, image_rgb in enumerate(_preprocessed(paths, entry, threads)):
            if image_rgb is not None:
                file.write(image_rgb.data)
                rows.append(position)
            progress("decode", position + 1, len(paths))
        if not rows:
            _, error = _unreadable(paths, ())[0]
            raise InputError(
                f"none of the {len(paths)} images can be read", got=f"the first with: {error.what}, {error.got}"
            )
    write_text(entry.facts, json.dumps({"rows": rows}))
    return tuple(rows)


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


def _unreadable(paths: Sequence[Path], rows: Sequence[int]) -> tuple[tuple[Path, EdgeclfError], ...]:
    """Reads the files that have no row again, for the error that each ends in: they fail early, so this is quick."""
    readable = set(rows)
    errors: list[tuple[Path, EdgeclfError]] = []
    for position, path in enumerate(paths):
        if position not in readable:
            try:
                load_image(path)
            except EdgeclfError as error:
                errors.append((path, error))
            else:
                changed = InputError(f"{path} changed while it was read", do="run the command again")
                errors.append((path, changed))
    return tuple(errors)


def _digest_files(paths: Sequence[Path], folder: Path, threads: int, progress: Progress) -> list[str | None]:
    """The digest of each file's bytes, None where it cannot be read; remembered by path, size and time."""
    memo = _Memo(folder / "digests.sqlite3")
    states = [_file_state(path) for path in paths]
    digests = memo.look_up(states)
    missing = [position for position, digest in enumerate(digests) if digest is None and states[position] is not None]
    with ThreadPoolExecutor(threads, thread_name_prefix="edgeclf-digest") as pool:
        for done, (position, digest) in enumerate(
            zip(missing, pool.map(lambda i: _digest_file(paths[i]), missing, chunksize=16), strict=True), start=1
        ):
            digests[position] = digest
            progress("read", done, len(missing))
    memo.remember([(states[position], digests[position]) for position in missing])
    return digests


_FileState = tuple[str, int, int]


def _file_state(path: Path) -> _FileState | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return str(path.resolve()), status.st_size, status.st_mtime_ns


def _digest_file(path: Path) -> str | None:
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError:
        return None
    return digest.hexdigest()


class _Memo:
    """Digests by path, size and modification time, in a file that several processes may use at once.

    It only saves time: when it cannot be read or written, files are read again and the cache still works.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self._path, timeout=10)) as connection, connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, digest TEXT)"
            )
            yield connection

    def look_up(self, states: Sequence[_FileState | None]) -> list[str | None]:
        found: dict[_FileState, str] = {}
        names = {state[0] for state in states if state is not None}
        try:
            with self._connected() as connection:
                for path, size, mtime_ns, digest in connection.execute("SELECT * FROM digests"):
                    if path in names:
                        found[path, size, mtime_ns] = digest
        except sqlite3.Error:
            return [None] * len(states)
        return [None if state is None else found.get(state) for state in states]

    def remember(self, learnt: Sequence[tuple[_FileState | None, str | None]]) -> None:
        rows = [(*state, digest) for state, digest in learnt if state is not None and digest is not None]
        if not rows:
            return
        with contextlib.suppress(sqlite3.Error), self._connected() as connection:
            connection.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)", rows)


def _prune(folder: Path, keep: Path) -> None:
    """Removes the entries that were not used for longest until the rest fits the limit."""
    text = os.environ.get("EDGECLF_CACHE_GB", str(DEFAULT_LIMIT_GB))
    try:
        limit = float(text) * 1e9
    except ValueError as error:
        raise UsageError("bad EDGECLF_CACHE_GB", got=repr(text), expected="a number of gigabytes") from error
    entries = []
    for path in folder.glob("*.pixels"):
        # Another process may remove it between the listing and the look.
        with contextlib.suppress(OSError):
            status = path.stat()
            entries.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= limit:
            return
        if path != keep:
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
