"""A file of events, one JSON line each."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeclf.toolkit.events.appended_file import AppendedFile, CountedOutput

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
        self._lines = (
            CountedOutput(_print_at_once, "stdout", warn, "events")
            if path is None
            else AppendedFile(path, warn, "events")
        )

    def on_result(self, result: "LiveResult") -> None:
        """Ignores results."""

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Writes one line."""
        self._lines.write(json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n")

    def close(self) -> None:
        """Closes the file."""
        if isinstance(self._lines, AppendedFile):
            self._lines.close()

    @property
    def summary(self) -> str:
        """Counts as a phrase; empty where every event was written."""
        return self._lines.summary


def _print_at_once(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
