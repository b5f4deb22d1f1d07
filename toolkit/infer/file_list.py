"""Lists of files for `edgeclf infer --files-from`: names divided by newlines or NULs, as `find`, `ls` and `find -print0` write them."""

import os
import sys
from pathlib import Path

from edgeclf.runtime.errors import SourceError
from edgeclf.runtime.files import content_kind


def read_file_list(name: str) -> list[Path]:
    """The files that a list names, in its order; relative names are relative to the present folder.

    Args:
        name: The list's file, or `-` for stdin. A list with a NUL in it is divided by NULs, every other one by newlines,
            with or without carriage returns; empty names are passed over.

    Raises:
        SourceError: The list cannot be read, or names nothing.
    """
    what = "cannot read the list of files " + ("on stdin" if name == "-" else name)
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except (OSError, ValueError) as error:
        got = (
            (error.strerror or str(error)).lower() if name == "-" and isinstance(error, OSError) else content_kind(name)
        )
        raise SourceError(
            what, got=got, expected="one file a line, or names divided by NULs", hint="check the path"
        ) from error
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\0") if b"\0" in data else _lines(data)
    paths = [Path(os.fsdecode(line)) for line in lines if line]
    if not paths:
        raise SourceError(what, got="no names", expected="one file a line, or names divided by NULs")
    return paths


def _lines(data: bytes) -> list[bytes]:
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    is_windows = all(line.endswith(b"\r") for line in lines if line)
    return [line.removesuffix(b"\r") for line in lines] if is_windows else lines
