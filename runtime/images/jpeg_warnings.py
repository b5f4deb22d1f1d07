"""Damaged JPEG pixels, which libjpeg decodes all the same: its warnings, heard one picture at a time.

Where the entropy-coded data of a JPEG is damaged and its end is intact, libjpeg fills up with grey, or shifts what follows.
It says so on C's `stderr` and nowhere else, and OpenCV passes nothing on. So while a JPEG is decoded, the variable `stderr`
of the C library - neither descriptor 2 nor Python's `sys.stderr` - is a stream in memory. What others write to it meanwhile
is passed on; what decoders of other formats say there of an unusable file, which is an error of its own, is not. Pictures that are decoded at the same time in several threads cannot be told apart there: where a warning
came up, each of them is decoded once more, alone.

Only glibc has that variable; elsewhere nothing is heard.
"""

import contextlib
import ctypes
import os
import re
import threading
from collections.abc import Callable
from typing import NamedTuple, TypeVar

ResultT = TypeVar("ResultT")

# libjpeg's warnings (jerror.h) after which pixels are wrong.
_DAMAGE = re.compile(
    rb"premature end|bad huffman|bad arithmetic|found marker .* instead of RST|inconsistent progression", re.IGNORECASE
)
# Bytes left over before the end of the image (0xd9), which some cameras write, are harmless; before any other marker the
# pixels ended too soon.
_LEFT_OVER = re.compile(rb"extraneous bytes before marker 0x(?!d9)")
_OF_LIBJPEG = re.compile(rb"JPEG|JFIF|Adobe|progression", re.IGNORECASE)
_OF_LIBPNG = re.compile(rb"^libpng (warning|error): ")
_UNBUFFERED = 2  # _IONBF of stdio.h
_SEGMENTS_KEPT = frozenset((*range(0xC0, 0xD0), 0xDB, 0xDD, 0xEE))
_SEQUENTIAL = frozenset((0xC0, 0xC1))


class _Stream(NamedTuple):
    """C's `stderr`, and what stands in for it."""

    variable: ctypes.c_void_p
    usual: int | None
    ours: int
    descriptor: int


class _Listeners:
    """Decoders that run at present, and those that wait to run alone."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.running = 0
        self.started = 0
        self.waiting_alone = 0
        self.stream: _Stream | None = None


_listeners = _Listeners()


def hears_damage() -> bool:
    """Whether `heard_damage` can hear anything here."""
    return _libc_stderr() is not None


def heard_damage(data: bytes, decode: Callable[[bytes], ResultT]) -> tuple[ResultT, bool]:
    """Decodes a JPEG and hears whether libjpeg found its pixels damaged.

    Args:
        data: The file.
        decode: Decodes it; called twice where it is not sure whose warning came up.

    Returns:
        What `decode` gave, and whether the pixels are damaged, as far as that can be heard.
    """
    if _libc_stderr() is None:
        return decode(data), False
    result, warnings = _decode_and_listen(data, decode)
    if warnings and not _DAMAGE.search(warnings):
        # libjpeg tells its first warning alone. This one may be harmless, and hide another.
        _, warnings = _decode_and_listen(without_oddities(data), decode)
    return result, (_DAMAGE.search(warnings) or _LEFT_OVER.search(warnings)) is not None


def decoded_without_words(decode: Callable[[], ResultT]) -> ResultT:
    """What `decode` returns; libpng and libjpeg warn of nothing meanwhile, where that can be heard."""
    return decode() if _libc_stderr() is None else _listen(b"", lambda _: decode(), alone=False)[0]


def _decode_and_listen(data: bytes, decode: Callable[[bytes], ResultT]) -> tuple[ResultT, bytes]:
    result, warnings, is_sure = _listen(data, decode, alone=False)
    if warnings and not is_sure:
        result, warnings, _ = _listen(data, decode, alone=True)
    return result, warnings


def _listen(data: bytes, decode: Callable[[bytes], ResultT], *, alone: bool) -> tuple[ResultT, bytes, bool]:
    """The result, libjpeg's warnings meanwhile, and whether no other picture was decoded meanwhile."""
    state = _listeners
    with state.changed:
        state.waiting_alone += alone
        state.changed.wait_for(lambda: not state.running if alone else not state.waiting_alone)
        stream = state.stream or _swap(state)
        state.running += 1
        state.started += 1
        number, is_sure = state.started, state.running == 1
        begin = os.fstat(stream.descriptor).st_size
    warnings = b""
    try:
        result = decode(data)
    finally:
        with state.changed:
            length = os.fstat(stream.descriptor).st_size - begin
            if length:
                warnings = os.pread(stream.descriptor, length, begin)
            state.running -= 1
            state.waiting_alone -= alone
            is_sure &= state.started == number
            if not state.running:
                _swap_back(state, stream)
            state.changed.notify_all()
    return result, b"".join(line for line in warnings.splitlines(keepends=True) if _OF_LIBJPEG.search(line)), is_sure


def _swap(state: _Listeners) -> _Stream:
    stream = _libc_stderr()
    if stream is None:
        raise AssertionError("there is no stderr to listen to")
    # Whatever stands there now: a program may have set it itself.
    state.stream = stream = stream._replace(usual=stream.variable.value)
    stream.variable.value = stream.ours
    return stream


def _swap_back(state: _Listeners, stream: _Stream) -> None:
    stream.variable.value = stream.usual
    state.stream = None
    if length := os.fstat(stream.descriptor).st_size:
        lines = os.pread(stream.descriptor, length, 0).splitlines(keepends=True)
        os.ftruncate(stream.descriptor, 0)
        of_others = b"".join(line for line in lines if not _OF_LIBJPEG.search(line) and not _OF_LIBPNG.search(line))
        with contextlib.suppress(OSError):
            os.write(2, of_others)


_opened: list[_Stream | None] = []


def _libc_stderr() -> _Stream | None:
    """The variable and a stream of our own, opened once for the process; None where there is no such variable."""
    if not _opened:
        with _listeners.changed:
            if not _opened:
                _opened.append(_open_stream())
    return _opened[0]


def _open_stream() -> _Stream | None:
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018 - only glibc has it, and its variable alone can be set
        variable = ctypes.c_void_p.in_dll(libc, "stderr")
        descriptor = os.memfd_create("edgeclf-stderr")
    except (AttributeError, OSError, ValueError):
        return None
    libc.fdopen.restype = ctypes.c_void_p
    libc.fdopen.argtypes = [ctypes.c_int, ctypes.c_char_p]
    libc.setvbuf.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    # Appending, so that it may be emptied; never closed, as a thread may write to it long after.
    ours = libc.fdopen(descriptor, b"a")
    if not ours:
        os.close(descriptor)
        return None
    libc.setvbuf(ours, None, _UNBUFFERED, 0)
    return _Stream(variable, variable.value, ours, descriptor)


def _forget_the_parent() -> None:
    """In a forked process: the threads that decoded are gone, and the stream is the parent's as well."""
    global _listeners  # noqa: PLW0603 - locks that other threads held stay locked
    if (stream := _listeners.stream) is not None:
        stream.variable.value = stream.usual
    _listeners = _Listeners()
    _opened.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_the_parent)


def without_oddities(data: bytes) -> bytes:
    """A JPEG without what libjpeg warns of though it harms no pixel: bytes between segments, application data, odd scan parameters.

    Args:
        data: A JPEG whose segments can be followed to its first scan.
    """
    kept = [data[:2]]
    position = 2
    is_sequential = False
    while 0 <= (position := data.find(b"\xff", position)) < len(data) - 4:
        marker = data[position + 1]
        if marker in {0x00, 0x01, 0xFF} or 0xD0 <= marker <= 0xD9:
            position += 1
            continue
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xDA:
            parameters = bytes((0, 63, 0)) if is_sequential else data[end - 3 : end]
            return b"".join([*kept, data[position : end - 3], parameters, data[end:]])
        is_sequential |= marker in _SEQUENTIAL
        if marker in _SEGMENTS_KEPT:
            kept.append(data[position:end])
        position = end
    return data
