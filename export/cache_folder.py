"""The cache folder: files that save time, bounded in size, shared by all commands and processes of a user."""

import contextlib
import errno
import math
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeclf.runtime.errors import UsageError
from edgeclf.runtime.files import default_cache_folder, output_error

try:
    import fcntl
except ImportError:
    # Windows has none.
    fcntl = None  # type: ignore[assignment]

# Operations of `lock_file`, as `fcntl` numbers them on Linux and macOS.
LOCK_SHARED, LOCK_EXCLUSIVE, LOCK_WITHOUT_WAITING, UNLOCK = 1, 2, 4, 8

DEFAULT_LIMIT_BYTES = 20 * 10**9
_SIZE_VARIABLE = "EDGECLF_CACHE_SIZE"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(|[KMGT]I?)B?\s*", re.IGNORECASE)

# Nothing else is ever removed: the folder may be one in which a user keeps other files.
_EVICTABLE = re.compile(
    r"((?:pixels|features)-[0-9a-f]{32})\.(?:array|index)|[0-9a-f]{32}-\d+\.onnx|int8-[0-9a-f]{32}\.\w+"
    r"|(images-[0-9a-f]{32})(?:\.json|\.lock)?"
)
_OF_EARLIER_VERSIONS = re.compile(
    r"([0-9a-f]{16}-[0-9a-f]{32})\.(?:pixels|features|json)|digests\.sqlite3|(copies-[0-9a-f]{32})\.(?:array|index)"
)
# What says that the rest is whole goes first, and what the rest is locked by goes last.
_REMOVED_IN_ORDER = {".index": 0, ".json": 0, ".lock": 2}
# Digests of files, an emulated system and TensorRT engines count, but stay: they cannot be locked while they are used.
_STAYING = ("file-digests.sqlite3", "emulation", "engines")
_UNFINISHED = re.compile(r"\.[0-9a-f]{12}\.part\..*")
# An unfinished file older than this belongs to a process that was killed.
_ABANDONED_AFTER_S = 24 * 3600.0


_NO_LOCKS = frozenset((errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK))


@dataclass(frozen=True)
class CacheFolder:
    """A folder whose files are removed, those not used for longest first, when they exceed a size.

    The time of the last use of a file is its modification time. A file stays while a process holds a lock on it (flock).

    Attributes:
        path: The folder.
        limit_bytes: Size to keep to.
    """

    path: Path
    limit_bytes: int = DEFAULT_LIMIT_BYTES

    @property
    def digests_path(self) -> Path:
        """The file in which digests of images are remembered."""
        return self.path / "file-digests.sqlite3"

    def make(self) -> None:
        """Makes the folder where it is missing.

        Raises:
            OutputError: It cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(self.path, error) from error

    def make_room(self, new_bytes: int) -> int:
        """Removes the files used longest ago until new ones fit, and unfinished files of killed processes.

        Args:
            new_bytes: Size of the new files.

        Returns:
            Bytes by which the limit will still be exceeded, because the other files are in use or the new ones alone are
            larger; 0 for none.
        """
        total = new_bytes
        entries: dict[str, _Entry] = {}
        for path in self._list():
            # Another process may remove a file between the listing and `stat`.
            with contextlib.suppress(OSError):
                status = path.stat()
                old = _OF_EARLIER_VERSIONS.fullmatch(path.name)
                match = old or _EVICTABLE.fullmatch(path.name)
                if match:
                    name = next(filter(None, match.groups()), path.name)
                    entry = entries.setdefault(name, _Entry(is_current=old is None))
                    total += entry.add(path, status)
                elif path.name in _STAYING:
                    total += _size_of(path, status)
                elif _UNFINISHED.fullmatch(path.name) and time.time() - status.st_mtime > _ABANDONED_AFTER_S:
                    path.unlink()
        for entry in sorted(entries.values(), key=_Entry.last_use):
            if total <= self.limit_bytes:
                break
            if entry.remove():
                total -= entry.size_bytes
        return max(0, total - self.limit_bytes)

    def _list(self) -> list[Path]:
        try:
            return sorted(self.path.iterdir())
        except OSError:
            return []


class _Entry:
    """Files that are useful only together, such as an array and its index."""

    def __init__(self, *, is_current: bool) -> None:
        self.size_bytes = 0
        self._is_current = is_current
        self._paths: list[Path] = []
        self._mtime_ns = 0

    def add(self, path: Path, status: os.stat_result) -> int:
        """Adds a file, or a folder of files, and gives its size in bytes."""
        size_bytes = _size_of(path, status)
        self._paths.append(path)
        self.size_bytes += size_bytes
        self._mtime_ns = max(self._mtime_ns, status.st_mtime_ns)
        return size_bytes

    def last_use(self) -> tuple[bool, int]:
        """Order of removal: files of earlier versions, which this one cannot use, before all others; then by last use."""
        return self._is_current, self._mtime_ns

    def remove(self) -> bool:
        """Removes the files; False where a process uses them, or they cannot be removed."""
        with contextlib.ExitStack() as locks:
            try:
                for path in self._paths:
                    if not path.is_dir():
                        locks.enter_context(_locked(path))
                for path in sorted(self._paths, key=lambda path: _REMOVED_IN_ORDER.get(path.suffix, 1)):
                    if path.is_dir():
                        shutil.rmtree(path)
                    else:
                        path.unlink(missing_ok=True)
            except OSError:
                return False
        return True


def lock_file(descriptor: int, operation: int) -> bool:
    """Locks an open file; False where there are no locks: on Windows, and on some network file systems.

    What must not happen without a lock, such as removing what others may use, calls `require_lock`.

    Args:
        descriptor: The open file.
        operation: One of this module's.

    Raises:
        BlockingIOError: Another process holds the lock, and the operation does not wait.
        OSError: Anything else.
    """
    try:
        require_lock(descriptor, operation)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def require_lock(descriptor: int, operation: int) -> None:
    """Locks an open file (flock).

    Args:
        descriptor: The open file.
        operation: One of this module's.

    Raises:
        OSError: It cannot be locked: another process holds the lock, or there are no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    fcntl.flock(descriptor, operation)


def open_locked(path: Path, operation: int) -> int:
    """Opens a file of the cache, made where it is missing, with a lock, and as it lies at its path once the lock is held.

    Args:
        path: The file.
        operation: As of `lock_file`.

    Returns:
        Its descriptor, which the caller closes.

    Raises:
        OSError: It cannot be opened or locked.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            lock_file(descriptor, operation)
            # Another process may have removed it between the two calls.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR)
    try:
        require_lock(descriptor, LOCK_EXCLUSIVE | LOCK_WITHOUT_WAITING)
        yield
    finally:
        os.close(descriptor)


def _size_of(path: Path, status: os.stat_result) -> int:
    """Size in bytes of a file, or of all files in a folder."""
    if not stat.S_ISDIR(status.st_mode):
        return status.st_size
    return sum((Path(parent) / name).lstat().st_size for parent, _, names in os.walk(path) for name in names)


def chosen_cache_folder(path: Path | None = None, size: str | None = None) -> CacheFolder:
    """The cache folder from its place and size as a user gives them.

    Args:
        path: The folder; None takes `default_cache_folder()`.
        size: Its size, as for `parse_size`; None takes `$EDGECLF_CACHE_SIZE`, else 20 GB.

    Raises:
        UsageError: The size cannot be read.
    """
    if size is not None:
        limit_bytes = parse_size(size, "--cache-size")
    elif os.environ.get(_SIZE_VARIABLE):
        limit_bytes = parse_size(os.environ[_SIZE_VARIABLE], _SIZE_VARIABLE)
    else:
        limit_bytes = DEFAULT_LIMIT_BYTES
    return CacheFolder(path or default_cache_folder(), limit_bytes)


def parse_size(text: str, name: str) -> int:
    """Bytes, from text such as `500MB`, `20 GB`, `1.5T`, `512MiB` or `1000000`.

    Args:
        text: The size.
        name: Name of the option, for the error.

    Raises:
        UsageError: It is not a size.
    """
    match = _SIZE.fullmatch(text)
    size = math.inf if match is None else float(match[1]) * _UNITS[match[2].upper()]
    if not math.isfinite(size):
        raise UsageError(f"bad {name}", got=repr(text), expected="a size such as 500MB or 20GB")
    return math.floor(size)
