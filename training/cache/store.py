"""Files of rows that were computed from images, kept from one run to the next and shared by several processes.

An entry is what one computation - its configuration - gave for a list of images, named by their contents and their order:
moving a data set changes nothing, changing one pixel makes a new entry. A new entry takes the rows of images that an
earlier one of the same configuration has, so that another class or photograph costs no more than itself.
"""

import contextlib
import hashlib
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.files import output_error, replacing, write_text
from edgeclf.runtime.progress import Progress
from edgeclf.training.cache.array_file import RowFile

DEFAULT_LIMIT_GB = 20.0
# Converted backbones lie among the rows.
_PRUNED = ("*.pixels", "*.features", "*.onnx")
# An unfinished file older than this belongs to a process that was killed.
_ABANDONED_AFTER_S = 24 * 3600.0
_CHECKED_AT_ONCE = 64

Computed = Iterator[npt.NDArray[Any] | None]


@dataclass(frozen=True)
class Configuration:
    """A computation that makes rows of images.

    Attributes:
        suffix: What its files end in: `pixels` or `features`.
        key: Text that differs whenever its results would.
        row_shape: Shape of one row.
        dtype: Type of the elements.
    """

    suffix: str
    key: str
    row_shape: tuple[int, ...]
    dtype: str

    @property
    def name(self) -> str:
        """What the names of its entries begin with."""
        return _digest([self.suffix, self.key, str(self.row_shape), self.dtype])[:16]


class Entry:
    """The rows of some images: `NAME.pixels` or `NAME.features`, and `NAME.json` with what they are, written last.

    Args:
        folder: The cache.
        configuration: What makes the rows.
        digests: (N,) of each image's file, None where it cannot be read.
    """

    def __init__(self, folder: Path, configuration: Configuration, digests: Sequence[str | None]) -> None:
        self._folder = folder
        self._configuration = configuration
        self._digests = digests
        name = f"{configuration.name}-{_digest(map(str, digests))}"
        self.file = folder / f"{name}.{configuration.suffix}"
        self.facts = folder / f"{name}.json"

    def open(self, progress: Progress) -> tuple[RowFile, tuple[int, ...]] | None:
        """Opens the entry.

        Args:
            progress: Told how many rows have been checked.

        Returns:
            Its rows and the positions of their images among the digests; None when there is no such entry, or it is
            damaged, or another process removes it.
        """
        opened = self._open(self.file, self.facts, progress)
        if opened is None:
            return None
        rows, positions, _ = opened
        count = len(self._digests)
        if not positions or any(a >= b for a, b in zip((-1, *positions), (*positions, count), strict=True)):
            return None
        return rows, positions

    def _open(
        self, file: Path, facts: Path, progress: Progress
    ) -> tuple[RowFile, tuple[int, ...], list[str | None]] | None:
        try:
            document = json.loads(facts.read_text(encoding="utf-8"))
            positions = tuple(int(position) for position in document["rows"])
            digests = list(document["digests"])
            rows = RowFile(file, self._configuration.row_shape, self._configuration.dtype)
            if not len(rows) == len(positions) == len(digests) or _checksum(rows, progress) != document["crc32"]:
                return None
            # The time of the last use is what pruning goes by.
            os.utime(file)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return rows, positions, digests

    def write(
        self, compute: Callable[[list[int]], Computed], stage: str, progress: Progress
    ) -> tuple[RowFile, tuple[int, ...]]:
        """Makes the entry, from rows of earlier entries as far as they go.

        Args:
            compute: Gives the rows of the images at the given positions, in their order, None for an image without one.
            stage: What to call the work.
            progress: Told how many images are done.

        Returns:
            As `open`; no positions where no image has a row, and then nothing is kept.

        Raises:
            OutputError: The cache cannot be written.
        """
        found = self._earlier(progress)
        missing = [position for position, digest in enumerate(self._digests) if digest not in found]
        computed = compute(missing)
        lacking = set(missing)
        positions: list[int] = []
        checksum = 0
        done = 0
        with contextlib.suppress(_NothingError), replacing(self.file) as temporary:
            with temporary.open("wb") as file:
                for position, digest in enumerate(self._digests):
                    if position in lacking:
                        row = next(computed)
                        done += 1
                        progress(stage, done, len(missing))
                    else:
                        source, index = found[digest]
                        row = source[index]
                    if row is not None:
                        data = np.ascontiguousarray(row, self._configuration.dtype).data.cast("B")
                        file.write(data)
                        checksum = zlib.crc32(data, checksum)
                        positions.append(position)
            if not positions:
                raise _NothingError
            # Opened under its own name: under the entry's another process may replace or prune it.
            rows = RowFile(temporary, self._configuration.row_shape, self._configuration.dtype)
        if not positions:
            return self._empty(), ()
        digests = [self._digests[position] for position in positions]
        write_text(self.facts, json.dumps({"rows": positions, "digests": digests, "crc32": checksum}))
        prune(self._folder, keep=self.file)
        return rows, tuple(positions)

    def _empty(self) -> RowFile:
        return RowFile(Path(os.devnull), self._configuration.row_shape, self._configuration.dtype)

    def _earlier(self, progress: Progress) -> dict[str | None, tuple[RowFile, int]]:
        """Where earlier entries of the same configuration have rows of these images."""
        wanted = {digest for digest in self._digests if digest is not None}
        found: dict[str | None, tuple[RowFile, int]] = {}
        for facts in sorted(self._folder.glob(f"{self._configuration.name}-*.json"), key=_last_change, reverse=True):
            if not wanted:
                break
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                if not wanted.intersection(json.loads(facts.read_text(encoding="utf-8"))["digests"]):
                    continue
            opened = self._open(facts.with_suffix(f".{self._configuration.suffix}"), facts, progress)
            if opened is not None:
                rows, _, digests = opened
                found.update({digest: (rows, n) for n, digest in enumerate(digests) if digest in wanted})
                wanted.difference_update(digests)
        return found

    def forget(self) -> None:
        """Makes the next look miss."""
        self.facts.unlink(missing_ok=True)


class _NothingError(Exception):
    """No image has a row: what was begun is removed."""


def _digest(parts: Iterator[str] | Sequence[str]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(f"{part}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _last_change(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _checksum(rows: RowFile, progress: Progress) -> int:
    """CRC-32 of the rows, read once from start to end: some 2 GB/s, against 0.1 for decoding images."""
    checksum = 0
    for start in range(0, len(rows), _CHECKED_AT_ONCE):
        part = rows[start : start + _CHECKED_AT_ONCE]
        checksum = zlib.crc32(part.data.cast("B"), checksum)
        progress("check", start + len(part), len(rows))
    return checksum


def open_cache(folder: Path) -> None:
    """Makes the cache's folder.

    Raises:
        OutputError: It cannot be made.
        UsageError: `$EDGECLF_CACHE_GB` is not a number.
    """
    _limit_bytes()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error


def _limit_bytes() -> float:
    text = os.environ.get("EDGECLF_CACHE_GB") or str(DEFAULT_LIMIT_GB)
    try:
        limit_gb = float(text)
    except ValueError:
        limit_gb = math.nan
    if not limit_gb >= 0:
        raise UsageError("bad EDGECLF_CACHE_GB", got=repr(text), expected="a number of gigabytes")
    return limit_gb * 1e9


def prune(folder: Path, keep: Path) -> None:
    """Removes what killed processes left, and the files not used for longest until the rest fits `$EDGECLF_CACHE_GB`."""
    limit_bytes = _limit_bytes()
    files = []
    for pattern in _PRUNED:
        for path in folder.glob(pattern):
            # Another process may remove it between the listing and the look.
            with contextlib.suppress(OSError):
                status = path.stat()
                if not path.name.startswith("."):
                    files.append((status.st_mtime_ns, status.st_size, path))
                elif time.time() - status.st_mtime > _ABANDONED_AFTER_S:
                    path.unlink()
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit_bytes:
            return
        if path != keep:
            # The facts first, so that no entry is ever found without its rows.
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            total -= size
