"""Files and streams that whole lines are written to for months: full disks, rotated logs and killed processes cost lines, never the run."""

import abc
import datetime as dt
import errno
import itertools
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

from edgeclf.runtime.errors import OutputError
from edgeclf.runtime.files import kind_of, output_error

# A disk, or the share of it that a user or process may fill, which may have room again.
_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))

_LONGEST_LINE_BYTES = 1 << 20


class CountedLines(abc.ABC):
    """Lines that are written or lost, both counted, and what is said of those that were lost.

    Attributes:
        written: Lines written, headings not counted.
        failed: Lines that could not be written.
    """

    def __init__(self, name: str, warn: Callable[[str], None], what: str) -> None:
        self._name = name
        self._warn = warn
        self._what = what
        self.written = self.failed = 0

    @abc.abstractmethod
    def begin(self, heading: str) -> None:
        """Writes a heading before the first line."""

    @abc.abstractmethod
    def write(self, text: str) -> None:
        """Writes a line, its end included."""

    def _count(self, error: OutputError | None) -> None:
        if error is None:
            self.written += 1
            return
        self.failed += 1
        if self.failed == 1:
            self._warn(f"{error} {self._what.capitalize()} are lost until it can be.")

    @property
    def summary(self) -> str:
        """How many lines were lost, as a phrase; empty where every one was written."""
        return f"{self.failed:,} {self._what} not written" if self.failed else ""

    def raise_for_lost(self) -> None:
        """Raises OutputError where lines were lost."""
        if self.failed:
            raise OutputError(
                f"cannot write all of {self._name}",
                got=f"{self.failed:,} {self._what} lost, {self.written:,} written",
                expected="room on the disk",
                hint="see the first warning",
            )


class CountedOutput(CountedLines):
    """An open stream, such as stdout, whose full disk costs lines, which are counted, and not the run.

    Args:
        emit: Writes a text.
        name: Name of the stream in errors.
        warn: See `AppendedFile`.
        what: See `AppendedFile`.
    """

    def __init__(self, emit: Callable[[str], object], name: str, warn: Callable[[str], None], what: str) -> None:
        super().__init__(name, warn, what)
        self._emit = emit
        self._heading = ""
        self._lock = threading.Lock()

    def begin(self, heading: str) -> None:
        """Sets a heading, written with the first line that is."""
        with self._lock:
            self._heading = heading

    def write(self, text: str) -> None:
        """Writes a line; raises OSError for any other reason than a full disk."""
        with self._lock:
            try:
                self._emit(self._heading + text)
                self._heading = ""
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                self._count(output_error(Path(self._name), error))
            else:
                self._count(None)


class AppendedFile(CountedLines):
    """A file that lines are appended to, each as a whole or not at all.

    A line that does not fit on a full disk is taken back, and counted; later ones are tried again. Where a process was killed
    in the middle of a line, the next one begins on a line of its own, and so does not fall into quotes of CSV that were begun. Where the
    file was moved or removed, as programs that rotate logs do, the next line goes into a new file of its name.

    Args:
        path: The file; its folder is made where it is missing.
        warn: Called with a sentence when a line cannot be written for the first time.
        what: Lines in the plural, as in "3 events not written".

    Raises:
        OutputError: The file cannot be opened.
    """

    def __init__(self, path: Path, warn: Callable[[str], None], what: str) -> None:
        super().__init__(str(path), warn, what)
        self._path = path
        self._heading = b""
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = self._open()
        except OSError as error:
            raise output_error(path, error) from error

    def begin(self, heading: str) -> None:
        """Writes a heading where the file has no line yet, now and whenever another file takes its place.

        A file that begins with another heading, such as that of fewer columns, gets a name of its own; so does one with a heading
        where there is to be none, but JSON.

        Raises:
            OutputError: That file cannot be renamed.
        """
        with self._lock:
            self._heading = _encoded(heading)
            if not self._fits() and (kept := keep_earlier(self._path)) is not None:
                self._warn(f"{self._path} began with another heading than these {self._what}; it is {kept} now")

    def write(self, text: str) -> None:
        """Appends a line, its end included."""
        with self._lock:
            try:
                if not self._is_in_place():
                    opened = self._open()
                    os.close(self._descriptor)
                    self._descriptor = opened
                self._append(_encoded(text))
            except OSError as error:
                self._count(output_error(self._path, error))
            else:
                self._count(None)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)

    def _open(self) -> int:
        # Read, for the end of the last line; a pipe that this process read from would never be broken.
        access = os.O_RDWR if kind_of(self._path) in {"file", None} else os.O_WRONLY
        # Unbuffered, so that a line that does not fit fails here and not at a later flush.
        return os.open(self._path, access | os.O_CREAT | os.O_APPEND, 0o666)

    def _is_in_place(self) -> bool:
        """Whether the path still names the open file."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def _append(self, data: bytes) -> None:
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            _write_whole(self._descriptor, data)
            return
        size = status.st_size
        if not size:
            data = self._heading + data
        elif os.pread(self._descriptor, 1, size - 1) != b"\n":
            data = self._end_of_line(size) + data
        try:
            _write_whole(self._descriptor, data)
        except OSError:
            os.ftruncate(self._descriptor, size)
            raise

    def _fits(self) -> bool:
        """Whether the file has no line, or begins as this one would."""
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            return True
        begin, newline, _ = os.pread(self._descriptor, _LONGEST_LINE_BYTES, 0).partition(b"\n")
        if not self._heading:
            return not begin.strip() or begin.startswith(b"{")
        # Of a table, the columns may be of another width; a process may have been killed in the middle of the heading.
        words, expected = begin.split(), self._heading.split()
        return words == expected if newline else self._heading.startswith(begin) or words == expected

    def _end_of_line(self, size: int) -> bytes:
        """What ends the line that a killed process left."""
        begin = max(0, size - _LONGEST_LINE_BYTES)
        left = os.pread(self._descriptor, size - begin, begin).rpartition(b"\n")[2]
        is_in_quotes = bool(self._heading) and left.count(b'"') % 2 == 1
        return b'"\n' if is_in_quotes else b"\n"


def keep_earlier(path: Path) -> Path | None:
    """Gives a file of an earlier run a name of its own, with the local time of its last change.

    A camera that is started again, by a service after a crash, has the same options.

    Returns:
        The new path; None where there was no file, or an empty one.

    Raises:
        OutputError: It cannot be renamed.
    """
    try:
        if kind_of(path) != "file" or not path.stat().st_size:
            return None
        changed = dt.datetime.fromtimestamp(path.stat().st_mtime).astimezone()
        for number in itertools.count(1):
            more = f"-{number}" if number > 1 else ""
            kept = path.with_name(f"{path.stem}.{changed:%Y%m%dT%H%M%S}{more}{path.suffix}")
            if kind_of(kept) is None:
                return path.rename(kept)
    except OSError as error:
        raise output_error(path, error) from error
    return None


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _write_whole(descriptor: int, data: bytes) -> None:
    if os.write(descriptor, data) < len(data):
        raise OSError(28, "no space left for a whole line")
