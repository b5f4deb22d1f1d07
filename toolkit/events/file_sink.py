"""A file of events, one JSON line each."""

import json
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from edgeclf.runtime.files import output_error

if TYPE_CHECKING:
    from edgeclf.runtime import LiveResult


class FileSink:
    """A sink that appends events to a file, one JSON line each. A full disk costs events, never the run.

    Args:
        path: The file; None for stdout.
        warn: Called with a sentence when an event cannot be written for the first time.

    Attributes:
        written: Events written.
        failed: Events that could not be written.

    Raises:
        OutputError: The file cannot be opened.
    """

    name = "events"

    def __init__(self, path: Path | None, warn: Callable[[str], None]) -> None:
        self._path = path
        self._warn = warn
        self._lock = threading.Lock()
        self.written = self.failed = 0
        self._file: IO[bytes] | None = None
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                # Unbuffered, so that a line that does not fit fails here and not at a later flush.
                self._file = path.open("ab", buffering=0)
            except OSError as error:
                raise output_error(path, error) from error

    def on_result(self, result: "LiveResult") -> None:
        """Ignores results."""

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Writes one line."""
        line = json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n"
        with self._lock:
            if self._file is None:
                sys.stdout.write(line)
                sys.stdout.flush()
                self.written += 1
                return
            data = line.encode("utf-8", "backslashreplace")
            failure: OSError | None = None
            try:
                if self._file.write(data) < len(data):
                    failure = OSError(28, "no space left for a whole line")
            except OSError as error:
                failure = error
            self.written += failure is None
            self.failed += failure is not None
            if failure is not None and self.failed == 1:
                self._warn(f"{output_error(self._path or Path('-'), failure)} Events are lost until it can be.")

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    @property
    def summary(self) -> str:
        """Counts as a phrase; empty where every event was written."""
        return f"{self.failed} events not written" if self.failed else ""
