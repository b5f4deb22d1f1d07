"""Lists of files for `edgeclf infer --files-from`: names divided by newlines or NULs, as `find`, `ls` and `find -print0` write them."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from edgeclf.runtime.errors import SourceError, UsageError
from edgeclf.runtime.files import WIDE_TEXT, content_kind, kind_of_bytes


def read_file_list(name: str) -> list[Path]:
    """The files that a list names, in its order; relative names are relative to the present folder.

    Args:
        name: The list's file, or `-` for stdin. A list with a NUL in it is divided by NULs, every other one by newlines,
            with or without carriage returns; empty names are passed over.

    Raises:
        SourceError: The list cannot be read, or names nothing.
        UsageError: It names an address.
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
    if (kind := kind_of_bytes(data[:4096])) in WIDE_TEXT:
        raise SourceError(what, got=kind, expected="one file a line, or names divided by NULs", hint="save it as UTF-8")
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\0") if b"\0" in data else _lines(data)
    names = [os.fsdecode(line) for line in lines if line]
    refuse_addresses(names)
    paths = list(map(Path, names))
    if not paths:
        raise SourceError(what, got="no names", expected="one file a line, or names divided by NULs")
    return paths


def refuse_addresses(sources: Iterable[str]) -> None:
    """An address that is taken for a path would be shown with its password, in every record.

    Raises:
        UsageError: A source that is no file looks like an address.
    """
    # Only with a colon: files need no code of cameras.
    for source in (source for source in sources if ":" in source and not os.path.exists(source)):  # noqa: PTH110 - the text as given
        from edgeclf.runtime.live.masking import looks_like_address, masked_attempt

        if looks_like_address(source):
            raise UsageError(
                f"cannot read {masked_attempt(source)}",
                got="an address",
                expected="an image, a video, a folder or a glob pattern",
                hint="give the address of a camera with --camera, and download a file first",
            )


def _lines(data: bytes) -> list[bytes]:
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    is_windows = all(line.endswith(b"\r") for line in lines if line)
    return [line.removesuffix(b"\r") for line in lines] if is_windows else lines
