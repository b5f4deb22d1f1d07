"""The digest of each file's bytes, remembered so that files which have not changed need not be read again."""

import contextlib
import hashlib
import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgeclf.runtime.progress import Progress

# Absolute path as bytes (not every file name is Unicode), size in bytes, modification time in ns.
_FileState = tuple[bytes, int, int]


def digest_files(paths: Sequence[Path], memo_path: Path, threads: int, progress: Progress) -> list[str | None]:
    """Digests of files' contents.

    Args:
        paths: The files.
        memo_path: Where digests are remembered, by path, size and modification time. It only saves time: when it
            cannot be read or written, files are read again.
        threads: Files read at the same time.
        progress: Told how many of the files that must be read have been.

    Returns:
        For each path 32 hexadecimal digits, or None where it cannot be read.
    """
    memo = _Memo(memo_path)
    states = _file_states(paths)
    digests = memo.look_up(states)
    missing = [position for position, digest in enumerate(digests) if digest is None and states[position] is not None]
    with ThreadPoolExecutor(threads, thread_name_prefix="edgeclf-digest") as pool:
        read = pool.map(lambda position: _digest_file(paths[position]), missing)
        for done, (position, digest) in enumerate(zip(missing, read, strict=True), start=1):
            digests[position] = digest
            progress("read", done, len(missing))
    memo.remember([(states[position], digests[position]) for position in missing])
    return digests


def _file_states(paths: Sequence[Path]) -> list[_FileState | None]:
    # Resolving a path looks at every folder above it, which thousands of images have in common.
    folders: dict[Path, Path] = {}

    def state(path: Path) -> _FileState | None:
        try:
            folder = path.parent
            if folder not in folders:
                folders[folder] = folder.resolve()
            real = folders[folder] / path.name
            status = real.lstat()
            if stat.S_ISLNK(status.st_mode):
                real = real.resolve()
                status = real.stat()
            return os.fsencode(real), status.st_size, status.st_mtime_ns
        except (OSError, ValueError, RuntimeError):
            # Nothing there, a name with a NUL, or (before Python 3.13) a loop of links.
            return None

    return [state(path) for path in paths]


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
    """Digests by path, size and modification time, in a file that several processes may use at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self._path, timeout=10)) as connection, connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS digests (path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, digest TEXT)"
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
        try:
            with self._connected() as connection:
                connection.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)", rows)
        except sqlite3.DatabaseError as error:
            # A damaged file would be of no use for ever; one that is only busy, or a full disk, is left as it is.
            if not isinstance(error, sqlite3.OperationalError):
                with contextlib.suppress(OSError):
                    self._path.unlink()
