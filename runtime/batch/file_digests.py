"""Digests of files' bytes, memoised by path and file identity, so that an unchanged file is not read again."""

import contextlib
import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from edgeclf.runtime.files import FileIdentity, file_identity, kind_of
from edgeclf.runtime.progress import Progress

# About 150 bytes per file. A memo of a million files is emptied, because entries of files that are gone stay in it.
_MOST_BYTES = 150 * 10**6
# Files that wait for a thread at a time: each is about a kilobyte, whatever the number of files in all.
_TOGETHER = 1024


@dataclass(frozen=True)
class FileDigest:
    """The digest of a file at one moment.

    Attributes:
        digest: 32 hexadecimal digits; None where the file cannot be read.
        identity: Identity of the file just before it was read; None where there is no file.
    """

    digest: str | None
    identity: FileIdentity | None


def digest_files(paths: Sequence[Path], memo_path: Path, threads: int, progress: Progress) -> list[FileDigest]:
    """Digests of files' contents, in the order of the paths.

    Args:
        paths: The files.
        memo_path: Where digests are remembered, by absolute path and `file_identity`. The memo only saves time: when it
            cannot be read or written, files are read again.
        threads: Files read at the same time.
        progress: Receives the number of files read, of those that are not in the memo.
    """
    memo = _Memo(memo_path)
    identities = [file_identity(path) for path in paths]
    keys = [
        None if identity is None else (os.fsencode(path.absolute()), repr(tuple(identity)))
        for path, identity in zip(paths, identities, strict=True)
    ]
    digests = memo.look_up(keys)
    missing = [position for position, digest in enumerate(digests) if digest is None and keys[position] is not None]
    with ThreadPoolExecutor(threads, thread_name_prefix="edgeclf-digest") as pool:
        for start in range(0, len(missing), _TOGETHER):
            part = missing[start : start + _TOGETHER]
            read = pool.map(lambda position: _digest_file(paths[position]), part)
            for done, (position, digest) in enumerate(zip(part, read, strict=True), start=start + 1):
                digests[position] = digest
                progress("read", done, len(missing))
    memo.remember([(keys[position], digests[position]) for position in missing])
    return [FileDigest(digest, identity) for digest, identity in zip(digests, identities, strict=True)]


def _digest_file(path: Path) -> str | None:
    # A device may have no end, and a pipe no writer.
    if kind_of(path) != "file":
        return None
    digest = hashlib.blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError:
        return None
    return digest.hexdigest()


# Absolute path as bytes (not every file name is Unicode), and identity.
_Key = tuple[bytes, str]


class _Memo:
    """Digests by path and identity, in a file that several processes may use at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self._path, timeout=10)) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS digests (path BLOB PRIMARY KEY, identity TEXT, digest TEXT)")
            yield connection

    def look_up(self, keys: Sequence[_Key | None]) -> list[str | None]:
        found: dict[_Key | None, str] = {}
        paths = {key[0] for key in keys if key is not None}
        try:
            with self._connected() as connection:
                for path, identity, digest in connection.execute("SELECT path, identity, digest FROM digests"):
                    if path in paths:
                        found[path, identity] = digest
        except sqlite3.Error:
            return [None] * len(keys)
        return [found.get(key) for key in keys]

    def remember(self, digests: Sequence[tuple[_Key | None, str | None]]) -> None:
        rows = [(*key, digest) for key, digest in digests if key is not None and digest is not None]
        if not rows:
            return
        try:
            with self._connected() as connection:
                if self._path.stat().st_size > _MOST_BYTES:
                    connection.execute("DELETE FROM digests")
                connection.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?)", rows)
        except sqlite3.DatabaseError as error:
            # A damaged file would be of no use for ever; one that is only busy, or a full disk, is left as it is.
            if not isinstance(error, sqlite3.OperationalError):
                with contextlib.suppress(OSError):
                    self._path.unlink()
