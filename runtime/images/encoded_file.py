"""Reading of an image file: bounded in bytes and in time, whatever is at the path."""

import errno
import os
import select
import stat
from pathlib import Path

from edgeclf.runtime.errors import ImageError
from edgeclf.runtime.images.header import begins_like_image

# Metadata beside the pixels: panoramas and motion photographs carry whole videos.
_METADATA_BYTES = 256 << 20
# What 16 bits of four channels take without compression.
_BYTES_PER_PIXEL = 8
# A program that feeds a pipe may have to start first.
_SILENCE_S = 10.0
_READ_BYTES = 1 << 20
_HEAD_BYTES = 4096


def read_image_file(path: Path, max_pixels: int) -> bytes:
    """The bytes of an image file, or of a pipe or device as far as they can be those of an image.

    Args:
        path: The file.
        max_pixels: Pixels of the largest image; a file of more bytes than it can take is not read.

    Raises:
        ImageError: The file is missing, unreadable or too large, or a pipe gives nothing for 10 s.
    """
    limit = max_pixels * _BYTES_PER_PIXEL + _METADATA_BYTES
    try:
        with open(path, "rb", buffering=0, opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return _read_stream(path, file.fileno(), limit)
            if status.st_size > limit:
                raise _too_large(path, f"{status.st_size:,} bytes", limit)
            return file.readall()
    except OSError as error:
        # Pathlib's would raise the very error again, for a name that is too long or a folder that may not be searched.
        is_dangling = os.path.islink(path) and not os.path.exists(path)  # noqa: PTH110, PTH114
        got = "a dangling link" if is_dangling else _os_words(error)
        raise ImageError(
            f"cannot read {path}", got=got, expected="a readable image file", hint="check the path and its permissions"
        ) from error
    except ValueError as error:
        raise ImageError(
            f"cannot read {path}", got="an impossible name", expected="a readable image file", hint="check the path"
        ) from error


def _open_without_waiting(name: str, flags: int) -> int:
    # Opening a named pipe would wait for somebody to write into it.
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


def _read_stream(path: Path, descriptor: int, limit: int) -> bytes:
    """What a pipe or a device gives until its end; its beginning alone where that is not an image's."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    data = bytearray()
    while len(data) <= limit:
        if not poll.poll(_SILENCE_S * 1e3):
            raise ImageError(
                f"cannot read {path}",
                got=f"a device or a pipe that gave nothing for {_SILENCE_S:g} s",
                expected="an image file",
                hint="name a file, or let a program write an image into it",
            )
        try:
            part = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            continue
        data += part
        if not part or (len(data) >= _HEAD_BYTES and not begins_like_image(bytes(data[:_HEAD_BYTES]))):
            return bytes(data)
    raise _too_large(path, "a device or a pipe that does not end", limit)


def _too_large(path: Path, got: str, limit: int) -> ImageError:
    return ImageError(
        f"will not read {path}", got=got, expected=f"at most {limit:,} bytes", hint="shrink the image first"
    )


def _os_words(error: OSError) -> str:
    if isinstance(error, IsADirectoryError):
        return "a folder"
    if error.errno == errno.ENXIO:
        return "a device or a pipe"
    return (error.strerror or type(error).__name__).lower()
