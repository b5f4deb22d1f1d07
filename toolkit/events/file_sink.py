"""A file of events, one JSON line each."""

import json
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeclf.toolkit.events.appended_file import AppendedFile

if TYPE_CHECKING:
    from edgeclf.runtime import LiveResult


class FileSink:
    """A sink that appends events to a file, one JSON line each, see `AppendedFile`.

    Args:
        path: The file; None for stdout.
        warn: Called with a sentence when an event cannot be written for the first time.

    Raises:
        OutputError: The file cannot be opened.
    """

    name = "events"

    def __init__(self, path: Path | None, warn: Callable[[str], None]) -> None:
        self._file = None if path is None else AppendedFile(path, warn, "events")
        self._lock = threading.Lock()

    def on_result(self, result: "LiveResult") -> None:
        """Ignores results."""

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Writes one line."""
        line = json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n"
        if self._file is not None:
            self._file.write(line)
            return
        with self._lock:
            sys.stdout.write(line)
            sys.stdout.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    @property
    def summary(self) -> str:
        """Counts as a phrase; empty where every event was written."""
        return "" if self._file is None else self._file.summary
