"""A file of events, one JSON line each."""

import contextlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeclf.runtime.spec.json_documents import json_line
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
        if path is None:
            with contextlib.suppress(AttributeError):  # not a file: an application's own stream
                # Machines read UTF-8 whatever the terminal's encoding is; escapes of another are no JSON.
                sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]  # AttributeError is suppressed
        self._lines = (
            CountedOutput(_print_at_once, "stdout", warn, "events")
            if path is None
            else AppendedFile(path, warn, "events")
        )
        self._lines.begin("")

    def on_result(self, result: "LiveResult") -> None:
        """Ignores results."""

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Writes one line."""
        self._lines.write(json_line(event) + "\n")

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
