"""Output of the commands: results on stdout, notes and warnings on stderr, progress bars on terminals."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from edgeclf.runtime.errors import EdgeclfError
    from edgeclf.runtime.progress import Progress

_QUIET_LEVELS = frozenset(("0", "OFF", "SILENT"))


def print_result(text: str) -> None:
    """Writes a line, or several, of the result to stdout."""
    sys.stdout.write(text + "\n")


def print_json(document: Mapping[str, Any] | Sequence[Any]) -> None:
    """Writes the result to stdout as one JSON document."""
    text = json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        # File names that are not Unicode, or a stdout that is not UTF-8: escapes can be encoded.
        text = json.dumps(document, indent=2, allow_nan=False)
    print_result(text)


def unreadable_json(unreadable: "Sequence[tuple[Path, EdgeclfError]]") -> list[dict[str, str]]:
    """Files that could not be read, each with its error, as plain JSON values."""
    return [{"source": str(path), "error": str(error)} for path, error in unreadable]


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: bool = True) -> None:
    """Writes a table to stdout.

    Args:
        title: Heading above the table; empty for none.
        columns: Column names.
        rows: Cells as text.
        numeric: Whether every column but the first is aligned to the right.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if numeric and index else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    # Cells hold file and class names, which may contain [brackets]: no markup, no highlighting.
    Console(file=sys.stdout, highlight=False, markup=False, width=None if sys.stdout.isatty() else 120).print(table)


def printable(text: str) -> str:
    """Text that every terminal and page shows on one line: control characters and bytes that are no text, escaped."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    # Python reads a byte of a file name that is not UTF-8 as a lone surrogate from U+DC80 to U+DCFF.
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def note(text: str) -> None:
    """Writes a note to stderr."""
    sys.stderr.write(text + "\n")


def warn(text: str) -> None:
    """Writes a warning to stderr."""
    note(f"warning: {text}")


@contextlib.contextmanager
def progress_bar(*, enabled: bool = True) -> Iterator["Progress"]:
    """Context manager with a `Progress` callback that draws one bar per stage on stderr, where stderr is a terminal.

    Args:
        enabled: False for no bars in any case.
    """
    if not enabled or not sys.stderr.isatty():
        from edgeclf.runtime.progress import no_progress

        yield no_progress
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column
    from rich.text import Text

    class Note(ProgressColumn):
        # The only column that may shrink in a narrow terminal; its text is cut, never wrapped.
        def render(self, task: Task) -> Text:
            return Text(task.fields["note"], no_wrap=True, overflow="ellipsis")

    def fixed() -> Column:
        return Column(no_wrap=True)

    columns = (
        TextColumn("{task.description}", table_column=fixed()),
        BarColumn(16, table_column=fixed()),
        MofNCompleteColumn(table_column=fixed()),
        # Remaining time, and in the end the elapsed time.
        TimeRemainingColumn(elapsed_when_finished=True, table_column=fixed()),
        Note(),
    )
    # A descriptor of its own: while TensorFlow loads, descriptor 2 is redirected.
    with (
        os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding=sys.stderr.encoding, errors="replace") as terminal,
        Progress(*columns, console=Console(file=terminal)) as bars,
    ):
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            # The stage's name up to the first colon identifies its bar; the rest is free text that may change.
            key, _, note = stage.partition(":")
            if key not in tasks:
                tasks[key] = bars.add_task(key, total=total, note="")
            bars.update(tasks[key], completed=done, total=total, note=note.strip())

        yield report


@contextlib.contextmanager
def silenced_decoders() -> Iterator[None]:
    """Context manager that discards what native image decoders write to stderr; Python's own stderr goes on.

    libpng and libjpeg write to file descriptor 2 ("Corrupt JPEG data", "known incorrect sRGB profile") whatever OpenCV's
    log level is. An unusable file gets a record of its own; for the others there is nothing to fix. Does nothing when
    `OPENCV_LOG_LEVEL` asks for OpenCV's log, such as `INFO`, or when `sys.stderr` is not descriptor 2.
    """
    level = os.environ.get("OPENCV_LOG_LEVEL", "SILENT").upper()
    try:
        is_descriptor_2 = sys.stderr.fileno() == 2
    except (AttributeError, OSError, ValueError):
        is_descriptor_2 = False
    if level not in _QUIET_LEVELS or not is_descriptor_2:
        yield
        return
    before = sys.stderr
    before.flush()
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        with open(saved, "w", encoding=before.encoding, errors=before.errors, buffering=1, closefd=False) as ours:
            sys.stderr = ours
            yield
    finally:
        sys.stderr = before
        os.dup2(saved, 2)
        os.close(saved)
