"""Files: atomic writing, identity, and where caches are kept."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from edgeclf.runtime.errors import OutputError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its place when the block ends without an exception.

    The parent folder is made when it is missing. When the block raises - KeyboardInterrupt included - the temporary
    file is removed and whatever stood at `path` before stays as it was.

    Args:
        path: The file to write.

    Yields:
        A path in the same folder (so that the final rename is atomic) with the same suffix (some writers choose the
        format by it).

    Raises:
        OutputError: The folder cannot be made or written, the disk is full, or `path` is a folder, a device or a pipe.
    """
    if kind_of(path) == "folder":
        raise OutputError(
            f"cannot write {path}", got="an existing folder", expected="a file path", hint="name a file inside it"
        )
    if os.path.islink(path):  # noqa: PTH114 - Path.is_symlink raises for some impossible names
        # What the link points to is replaced, the link stays.
        path = path.resolve()
    if kind_of(path) == "other":
        raise OutputError(
            f"cannot write {path}", got="a device or a pipe", expected="an ordinary file", hint="choose another path"
        )
    temporary = path.with_name(f".{os.urandom(6).hex()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(path, error) from error
    try:
        yield temporary
        temporary.replace(path)
    except BrokenPipeError:
        raise
    except OSError as error:
        # Only a failure of writing here is an output error; one that names another file is the block's own business.
        if error.filename is not None and Path(os.fsdecode(error.filename)).parent != path.parent:
            raise
        raise output_error(path, error) from error
    finally:
        # A name that could not be created (too long, forbidden characters) cannot be removed either.
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8 to `path`, whole or not at all.

    Raises:
        OutputError: See `replacing`.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` to `path`, whole or not at all.

    Raises:
        OutputError: See `replacing`.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def kind_of(path: Path | str) -> Literal["file", "folder", "other"] | None:
    """What is at a path, links followed; `other` is a pipe, a socket or a device.

    None where nothing is, where a link leads nowhere, and, unlike with the methods of `Path`, where nothing can be looked
    at: a name that is too long or impossible, a folder above that may not be searched.
    """
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - text that is no path is one of the cases
    except (OSError, ValueError):
        return None
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


class FileIdentity(NamedTuple):
    """A file's identity: equal for as long as the file is neither replaced nor written to.

    Attributes:
        device: Number of the file system.
        inode: The file's number there.
        size: Bytes.
        mtime_ns: Time of the last modification, which a program can set back.
        ctime_ns: Time of the last change of content or status, which none can.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileIdentity":
        """The identity of the file that `os.stat` or `os.fstat` described."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def file_identity(path: Path) -> FileIdentity | None:
    """The identity of the file at a path, links followed; None where there is none, or none that may be looked at."""
    try:
        return FileIdentity.of(path.stat())
    except (OSError, ValueError):
        # A name with a NUL is a ValueError.
        return None


def default_cache_folder() -> Path:
    """`$EDGECLF_CACHE`, else `$XDG_CACHE_HOME/edgeclf`, else `~/.cache/edgeclf`."""
    if os.environ.get("EDGECLF_CACHE"):
        return Path(os.environ["EDGECLF_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgeclf"


def output_error(path: Path, error: OSError) -> OutputError:
    """The error that says `path` cannot be written, from the operating system's own words."""
    return OutputError(
        f"cannot write {path}",
        got=(error.strerror or type(error).__name__).lower(),
        expected="a writable place with enough free space",
        hint="choose another path or free some space",
    )
