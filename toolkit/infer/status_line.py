"""The status line: one line on stderr that changes in place, with notes and warnings above it."""

import os
import sys
import threading
import time

from edgeclf.toolkit.console import note, printable, warn

_LINE_EVERY_S = 0.1


class StatusLine:
    """A line that changes in place. Thread-safe; each source has its own part of it.

    Args:
        enabled: False writes nothing but notes and warnings.
    """

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled
        self._shown_at_s = 0.0
        self._parts: dict[str, str] = {}
        self._lock = threading.Lock()

    def show(self, source: str, text: str) -> None:
        """Replaces a source's part; the line is redrawn at most ten times a second."""
        if not self._enabled:
            return
        now_s = time.monotonic()
        with self._lock:
            self._parts[source] = text
            if now_s - self._shown_at_s < _LINE_EVERY_S:
                return
            self._shown_at_s = now_s
            self._draw(" | ".join(self._parts.values()))

    def _draw(self, text: str) -> None:
        from rich.cells import cell_len, set_cell_size

        # A line that wraps could not be replaced. Not the last column either: some terminals wrap there.
        columns = max(1, os.get_terminal_size(sys.stderr.fileno()).columns - 1)
        text = printable(text)
        text = set_cell_size(text, columns) if cell_len(text) > columns else text
        # Carriage return, and erase to the end of the line.
        sys.stderr.write(f"\r{text}\x1b[K")
        sys.stderr.flush()

    def warn(self, text: str) -> None:
        """Writes a warning above the line."""
        with self._lock:
            self._erase()
            warn(printable(text))

    def note(self, text: str) -> None:
        """Writes a line above the line."""
        with self._lock:
            self._erase()
            note(printable(text))

    def _erase(self) -> None:
        if self._shown_at_s:
            sys.stderr.write("\r\x1b[K")

    def end(self) -> None:
        """Leaves the line as it is for good; later output begins below it."""
        with self._lock:
            self._enabled = False
            if self._shown_at_s:
                sys.stderr.write("\n")
                self._shown_at_s = 0.0
