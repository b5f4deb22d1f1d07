"""Output of the commands: results on stdout, notes and warnings on stderr, progress bars on terminals; streams that fail."""

import contextlib
import errno
import faulthandler
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeclf.runtime.errors import EdgeclfError, InputError, OutputError

if TYPE_CHECKING:
    from pathlib import Path

    from edgeclf.runtime.progress import Progress

# What the user's disks and descriptors cause, and no bug.
_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
_NOT_WRITABLE = frozenset((errno.EROFS, errno.EACCES, errno.EPERM))
_LITTLE_BYTES = 1 << 20
# What the names of temporary files and folders begin with: edgeclf's own, and those of Python where nobody gives another.
_TEMPORARY = ("edgeclf-", "tmp")
_BROKEN_STREAM = _NO_ROOM | {errno.EBADF, errno.EIO, errno.EROFS}


def print_result(text: str) -> None:
    """Writes a line, or several, of the result to stdout; names in files of others may hold what moves a terminal's cursor."""
    sys.stdout.write(_printable_lines(text) + "\n")


def print_json(document: Mapping[str, Any] | Sequence[Any]) -> None:
    """Writes the result to stdout as one JSON document."""
    from edgeclf.runtime.spec.json_documents import json_text

    sys.stdout.write(json_text(document, sys.stdout.encoding or "utf-8") + "\n")


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

    table = Table(title=printable(title) or None, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(printable(column), justify="right" if numeric and index else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(_printable_lines, row))
    # Cells hold file and class names, which may contain [brackets]: no markup, no highlighting.
    Console(file=sys.stdout, highlight=False, markup=False, width=None if sys.stdout.isatty() else 120).print(table)


def printable(text: str) -> str:
    """Text that every terminal and page shows on one line: control characters and bytes that are no text, escaped."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def _escaped(character: str) -> str:
    # Python reads a byte of a file name that is not UTF-8 as a lone surrogate from U+DC80 to U+DCFF.
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def note(text: str) -> None:
    """Writes a note to stderr, of one line or several; names in files of others may hold what moves a terminal's cursor."""
    say(_printable_lines(text) + "\n")


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
        TextColumn("{task.description}", markup=False, table_column=fixed()),
        BarColumn(16, table_column=fixed()),
        MofNCompleteColumn(table_column=fixed()),
        # Remaining time, and in the end the elapsed time.
        TimeRemainingColumn(elapsed_when_finished=True, table_column=fixed()),
        Note(),
    )
    # A descriptor of its own: while TensorFlow loads, descriptor 2 is redirected.
    with (
        os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding=sys.stderr.encoding, errors="replace") as terminal,
        # Otherwise results that are printed meanwhile would go to the terminal and not into the file that stdout is.
        Progress(*columns, console=Console(file=terminal), redirect_stdout=sys.stdout.isatty()) as bars,
    ):
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            # The stage's name up to the first colon identifies its bar; the rest is free text that may change.
            key, _, note = printable(stage).partition(":")
            if key not in tasks:
                tasks[key] = bars.add_task(key, total=total, note="")
            bars.update(tasks[key], completed=done, total=total, note=note.strip())

        yield report


def tell_crashes() -> None:
    """A crash in native code leaves the lines of Python that led to it on stderr, behind the words of that code."""
    if not faulthandler.is_enabled():
        with contextlib.suppress(AttributeError, OSError, ValueError):
            faulthandler.enable()


def open_missing_streams() -> None:
    """Opens the standard streams that are closed, as with `2>&-` or under some supervisors.

    The next file opened would otherwise get the number of one, and native libraries would write their messages into it.
    What goes to stderr is lost, as was asked for; writing a result to stdout fails.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is given; what can be read alone refuses to be written to.
            opened = os.open(os.devnull, os.O_RDONLY if descriptor == 1 else os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - lives until the exit
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115


def show_any_text() -> None:
    """Lets stdout escape what it cannot encode: names of files that are not Unicode, terminals that are not UTF-8."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def environment_error(error: Exception) -> EdgeclfError | None:
    """The error to show for one that the machine causes and nothing has made a sentence of; None where it is a bug.

    Args:
        error: A full disk or a closed descriptor behind stdout, temporary files that cannot be written, or no memory left.
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return _no_memory(error)
    return _no_place(error) if isinstance(error, OSError) else None


def _no_memory(error: Exception) -> InputError:
    words = str(error.strerror if isinstance(error, OSError) else error)
    return InputError(
        "there is not enough memory",
        got=words[:1].lower() + words[1:] if words else "none left",
        expected="as much as this takes",
        hint="take smaller images or fewer at once, or close other programs",
    )


def _no_place(error: OSError) -> OutputError | None:
    words = (error.strerror or type(error).__name__).lower()
    if "No usable temporary directory" in str(error):
        return _temporary("no folder that can be written to")
    # An error of a descriptor has its number there.
    place = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else None
    if place is None and error.errno in _BROKEN_STREAM and not _is_full(_temporary_folder()):
        return OutputError(
            "cannot write the result to stdout",
            got="a closed file" if error.errno == errno.EBADF else words,
            expected="a place that takes all of it",
            hint="free some space, or write to another place",
        )
    if _is_own_temporary(place) and error.errno in _NO_ROOM | _NOT_WRITABLE:
        return _temporary(words)
    if error.errno in _NO_ROOM:
        return OutputError(
            "cannot write" if place is None else f"cannot write {place}",
            got=words,
            expected=f"room for results and for temporary files in {_temporary_folder()}",
            hint="free some space, or set TMPDIR to a folder that has some",
        )
    return None


def end_streams(status: int) -> int:
    """Writes what is still buffered, so that a failure has a sentence and a status; the status to exit with.

    Args:
        status: What the process would exit with.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        silence_stdout()
    except (OSError, ValueError) as error:
        shown = environment_error(error) if isinstance(error, OSError) else None
        if shown is not None:
            say(f"edgeclf: {shown}\n")
        silence_stdout()
        status = status or OutputError.exit_code
    say("")
    return status


def silence_stdout() -> None:
    """Lets nothing that is still buffered raise again at the exit."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - lives until the exit


def say(text: str) -> None:
    """Writes to stderr; one that takes nothing costs no result. A full disk may have room again, others are not tried again."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _NO_ROOM and sys.stderr.fileno() == 2:
            # Without what is left in the buffer of the last one, which would fail again, at the exit at last.
            encoding = sys.stderr.encoding
            sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
            return
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - lives until the exit


def _is_own_temporary(place: str | None) -> bool:
    """Whether a path is a temporary file of edgeclf or of a package that it uses, and not a file of the user in that folder."""
    if place is None:
        return False
    folder = os.path.join(os.path.realpath(_temporary_folder()), "")  # noqa: PTH118 - pathlib is not loaded for --help
    path = os.path.realpath(place)
    return path.startswith(folder) and path[len(folder) :].startswith(_TEMPORARY)


def _is_full(folder: str) -> bool:
    """Whether the disk of a folder has next to no room left."""
    try:
        return shutil.disk_usage(folder).free < _LITTLE_BYTES
    except OSError:
        return False


def _temporary(got: str) -> OutputError:
    return OutputError(
        "cannot write temporary files",
        got=got,
        expected="a writable folder with free space",
        hint="set TMPDIR to one",
    )


def _temporary_folder() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:
        return os.environ.get("TMPDIR", "/tmp")  # noqa: S108 - for a message
