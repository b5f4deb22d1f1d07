"""The decoders' own words, which no Python setting reaches, kept off the terminal."""

import contextlib
import os
import sys
from collections.abc import Iterator

_QUIET_LEVELS = frozenset(("0", "OFF", "SILENT"))


@contextlib.contextmanager
def silenced_decoders() -> Iterator[None]:
    """Lets only Python write to stderr while the block runs.

    libpng and libjpeg write to the process's file descriptor 2 ("Corrupt JPEG data", "known incorrect sRGB profile"),
    past OpenCV's log level. A file that cannot be used gets a record of ours; about the others there is nothing to
    do. A user who asks OpenCV for its log (`OPENCV_LOG_LEVEL=INFO`) gets theirs too.
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
