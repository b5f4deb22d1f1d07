"""Content-addressed rows on disk: an append-only array file per configuration, and an index from image digest to row.

`KIND-NAME.array` holds nothing but rows, `KIND-NAME.index` one record for each: the digest of the image, the CRC-32 of
the row, and the CRC-32 of the record itself. A row counts once its record is whole, so that a process may be killed, or a
disk may fill up, at any moment. Every process that uses an array holds a shared lock (flock) on the array file, and an
exclusive one on the index while it appends.
"""

import contextlib
import hashlib
import os
import threading
import weakref
import zlib
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeclf.export.cache_folder import (
    LOCK_EXCLUSIVE,
    LOCK_SHARED,
    LOCK_WITHOUT_WAITING,
    UNLOCK,
    CacheFolder,
    lock_file,
    open_locked,
    require_lock,
)
from edgeclf.runtime.arrays import AnyArray
from edgeclf.runtime.errors import InputError
from edgeclf.runtime.files import output_error
from edgeclf.runtime.progress import Progress
from edgeclf.training.cache.array_file import ArrayFile

_DIGEST_BYTES = 16
_RECORD_BYTES = _DIGEST_BYTES + 4 + 4
# Bytes of rows that are appended together; a killed process loses at most as much.
_APPENDED_BYTES = 4 << 20

Compute = Callable[[Sequence[int]], Generator[AnyArray | None, None, None]]


@dataclass(frozen=True)
class Configuration:
    """A computation of one row per image.

    Attributes:
        kind: `pixels` or `features`.
        key: Text that differs whenever results would.
        row_shape: Shape of one row.
        dtype: Type of the elements.
    """

    kind: str
    key: str
    row_shape: tuple[int, ...]
    dtype: str

    @property
    def name(self) -> str:
        """File name of its array, without a suffix."""
        text = f"{self.key}\n{self.row_shape}\n{self.dtype}"
        return f"{self.kind}-{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return int(np.prod(self.row_shape)) * np.dtype(self.dtype).itemsize

    @property
    def stored_bytes(self) -> int:
        """Size of one row and its record."""
        return self.row_bytes + _RECORD_BYTES


def cached_rows(
    folder: CacheFolder,
    configuration: Configuration,
    digests: Sequence[str | None],
    compute: Compute,
    *,
    stage: str,
    progress: Progress,
) -> tuple[ArrayFile, tuple[int, ...]]:
    """One row per image, computed only for images that the cache has no row of.

    Args:
        folder: The cache.
        configuration: What `compute` computes.
        digests: (N,) of each image's file, 32 hexadecimal digits; None where it cannot be read.
        compute: Gives the rows of the images at the given positions, in their order, None for an image without one.
        stage: Name of the work, for `progress`.
        progress: Receives the number of rows computed, of those that were missing.

    Returns:
        The rows, and the position of the image of each among the digests, ascending.

    Raises:
        OutputError: The cache cannot be written.
        InputError: It cannot be read.
    """
    folder.make()
    keys = [None if digest is None else bytes.fromhex(digest) for digest in digests]
    store = OpenRows(folder.path, configuration)
    wanted = set(keys)
    if folder.make_room(len(store.missing(keys)) * configuration.stored_bytes) and store.rows.keys() - wanted:
        store.drop_all_but(wanted)
    missing = store.missing(keys)
    pending: list[tuple[bytes, memoryview]] = []
    most = max(1, _APPENDED_BYTES // configuration.row_bytes)
    with contextlib.closing(compute(missing)) as computed:
        for done, (position, row) in enumerate(zip(missing, computed, strict=True), start=1):
            key = keys[position]
            if row is not None and key is not None:
                pending.append((key, _bytes_of(row, configuration)))
            if len(pending) == most or done == len(missing):
                store.append(pending)
                pending.clear()
            progress(stage, done, len(missing))
    return store.array(keys, compute)


class OpenRows:
    """The array file of one configuration, locked against removal for as long as this object lives.

    Args:
        folder: The cache.
        configuration: The computation of its rows.

    Attributes:
        rows: Row number by digest.

    Raises:
        OutputError: A file cannot be opened or written.
        InputError: The index cannot be read.
    """

    def __init__(self, folder: Path, configuration: Configuration) -> None:
        self.rows: dict[bytes, int] = {}
        # By row number, also where the record is damaged.
        self._checksums: list[int] = []
        self._configuration = configuration
        # The lock of the index excludes other objects and processes, not other threads that use this object.
        self._append_lock = threading.Lock()
        self._path = folder / f"{configuration.name}.array"
        with self._reporting():
            # Which keeps it from being removed.
            self._array = open_locked(self._path, LOCK_SHARED)
            weakref.finalize(self, os.close, self._array)
            self._index = os.open(self._path.with_suffix(".index"), os.O_RDWR | os.O_CREAT, 0o666)
            weakref.finalize(self, os.close, self._index)
            # The time of the last use is what removal goes by.
            os.utime(self._path)
            self._refresh()

    def missing(self, keys: Sequence[bytes | None]) -> list[int]:
        """Positions of the digests without a row, None counted."""
        return [position for position, key in enumerate(keys) if key is None or key not in self.rows]

    def append(self, rows: Sequence[tuple[bytes, memoryview]]) -> None:
        """Appends rows, except those that another process has appended meanwhile.

        Args:
            rows: Digest of the image and bytes of each row.

        Raises:
            OutputError: The rows cannot be written; none of them counts.
        """
        with self._appending():
            new = {key: data for key, data in rows if key not in self.rows}
            first = len(self._checksums)
            records = [_record(first + n, key, zlib.crc32(data)) for n, (key, data) in enumerate(new.items())]
            _write(self._array, b"".join(new.values()), first * self._configuration.row_bytes)
            _write(self._index, b"".join(records), first * _RECORD_BYTES)
            self._refresh()

    def drop_all_but(self, keep: Collection[bytes | None]) -> None:
        """Drops the rows of all other images, unless another process, or another object of this one, uses the array.

        Args:
            keep: Digests of images.

        Raises:
            OutputError: The array cannot be written.
        """
        with self._reporting():
            try:
                require_lock(self._array, LOCK_EXCLUSIVE | LOCK_WITHOUT_WAITING)
            except OSError:
                # Another process uses it; or, without locks, may do so.
                pass
            else:
                self._reload()
                self._move_to_front(sorted((number, key) for key, number in self.rows.items() if key in keep))
            lock_file(self._array, LOCK_SHARED)
            # Changing a lock first gives it up: another process may have done the same in between.
            self._reload()

    def array(self, keys: Sequence[bytes | None], compute: Compute) -> tuple[ArrayFile, tuple[int, ...]]:
        """The rows of images, and the position of the image of each.

        Args:
            keys: (N,) digests of images; those without a row are left out.
            compute: As for `cached_rows`; called again for damaged rows.
        """
        positions = tuple(position for position, key in enumerate(keys) if key in self.rows)

        def recompute(numbers: Sequence[int]) -> list[AnyArray]:
            origin = {self.rows[key]: (position, key) for position, key in enumerate(keys) if key in self.rows}
            images = [origin[number] for number in numbers]
            with contextlib.closing(compute([position for position, _ in images])) as computed:
                return [
                    self._replace(number, key, row)
                    for number, (_, key), row in zip(numbers, images, computed, strict=True)
                ]

        array = ArrayFile(
            self._read_into,
            self._configuration.row_shape,
            self._configuration.dtype,
            rows=np.array([self.rows[key] for key in keys if key in self.rows], np.int64),
            checksums=np.array(self._checksums, np.uint32),
            recompute=recompute,
        )
        return array, positions

    def _move_to_front(self, kept: Sequence[tuple[int, bytes]]) -> None:
        row_bytes = self._configuration.row_bytes
        # A process that is killed from here on leaves an empty array.
        os.ftruncate(self._index, 0)
        records = []
        for target, (number, key) in enumerate(kept):
            row = np.empty(row_bytes, np.uint8)
            self._read_into(row.data, number * row_bytes)
            _write(self._array, row.data, target * row_bytes)
            records.append(_record(target, key, self._checksums[number]))
        _write(self._index, b"".join(records), 0)
        os.ftruncate(self._array, len(kept) * row_bytes)

    def _reload(self) -> None:
        self.rows.clear()
        self._checksums.clear()
        self._refresh()

    def _replace(self, number: int, key: bytes, row: AnyArray | None) -> AnyArray:
        if row is None:
            raise InputError(
                f"a row of {self._path} is damaged",
                got="an image that cannot be read any more",
                expected="the image, to compute the row again",
                hint="run the command again",
            )
        data = _bytes_of(row, self._configuration)
        with self._appending():
            _write(self._array, data, number * self._configuration.row_bytes)
            _write(self._index, _record(number, key, zlib.crc32(data)), number * _RECORD_BYTES)
        return row

    def _read_into(self, buffer: memoryview, offset: int) -> None:
        with _reading(self._path):
            while buffer:
                read = os.preadv(self._array, [buffer], offset)
                if read == 0:
                    raise OSError("a file that became shorter while it was used")
                buffer, offset = buffer[read:], offset + read

    @contextlib.contextmanager
    def _appending(self) -> Iterator[None]:
        """Excludes others that append, and cuts off what a killed process has left unfinished."""
        with self._append_lock, self._reporting():
            lock_file(self._index, LOCK_EXCLUSIVE)
            try:
                self._refresh()
                self._cut_off()
                try:
                    yield
                except OSError:
                    self._cut_off()
                    raise
            finally:
                lock_file(self._index, UNLOCK)

    def _cut_off(self) -> None:
        for descriptor, size in ((self._index, _RECORD_BYTES), (self._array, self._configuration.row_bytes)):
            if os.fstat(descriptor).st_size != len(self._checksums) * size:
                os.ftruncate(descriptor, len(self._checksums) * size)

    def _refresh(self) -> None:
        """Reads the records that were appended since the last time."""
        first = len(self._checksums)
        end = min(
            os.fstat(self._index).st_size // _RECORD_BYTES,
            os.fstat(self._array).st_size // self._configuration.row_bytes,
        )
        with _reading(self._path.with_suffix(".index")):
            if end < first:
                raise OSError("a file that became shorter while it was used")
            records = os.pread(self._index, (end - first) * _RECORD_BYTES, first * _RECORD_BYTES)
        for number, start in enumerate(range(0, len(records), _RECORD_BYTES), start=first):
            record = records[start : start + _RECORD_BYTES]
            key, checksum = record[:_DIGEST_BYTES], int.from_bytes(record[_DIGEST_BYTES:-4], "little")
            self._checksums.append(checksum)
            # A damaged record leaves its row unused.
            if record == _record(number, key, checksum):
                self.rows[key] = number

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise output_error(self._path, error) from error


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot read {path}",
            got=(error.strerror or str(error)).lower(),
            expected="what edgeclf wrote into its cache",
            hint="remove that file, and run the command again: all in it is computed anew",
        ) from error


def _record(number: int, key: bytes, checksum: int) -> bytes:
    """The index's entry of a row: digest, CRC-32 of the row, CRC-32 of both and of the row number."""
    record = key + checksum.to_bytes(4, "little")
    return record + zlib.crc32(record, number).to_bytes(4, "little")


def _bytes_of(row: AnyArray, configuration: Configuration) -> memoryview:
    return np.ascontiguousarray(row, configuration.dtype).data.cast("B")


def _write(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
