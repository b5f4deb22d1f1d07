"""Protocol buffers' wire format, read from a file piece by piece: what is not asked for is neither read nor kept.

The file may be gigabytes of weights and may be hostile. Every length is compared with the bytes that are really there
before anything is read by it, messages are opened one at a time by their caller, so that no nesting in the file becomes
recursion here, and fields and bytes are counted against a limit. The format: protobuf.dev/programming-guides/encoding.
"""

import struct
from collections.abc import Iterator, Sequence
from io import FileIO

# Far more than an image classifier has: 16,000 nodes with four attributes each. A message that is opened counts as
# several fields, since it costs as much time, and memory for what is kept of it.
MOST_FIELDS = 1 << 20
FIELDS_PER_MESSAGE = 8
MOST_BYTES = 1 << 26
_WINDOW_BYTES = 1 << 14
_LONGEST_VARINT = 10
_LARGEST_FIELD_NUMBER = (1 << 29) - 1
_UINT64 = (1 << 64) - 1
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_WIRE_TYPES = (_VARINT, _FIXED64, _LENGTH, _FIXED32)
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}

Span = tuple[int, int]


class DamagedMessageError(Exception):
    """Bytes that are no message of the expected form; the text says what is wrong, as the noun of an error's `got`."""


class MessageReader:
    """Reads one file of one message.

    The file is read through a small window, not mapped into memory: a mapped file that another program cuts short, as
    `cp` does with the model that it overwrites, ends this process with SIGBUS.

    Args:
        file: An unbuffered regular file, open for as long as its messages are asked.
    """

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._size = file.seek(0, 2)
        self._window = b""
        self._window_start = 0
        # The last offset in the window from which a whole varint lies in it.
        self._last_offset = -1
        self._fields_left = MOST_FIELDS
        self._bytes_left = MOST_BYTES

    def message(self, spans: Sequence[Span] | None = None) -> "Message":
        """The message in one or more spans of the file, which are merged; None for the whole file.

        Raises:
            DamagedMessageError: Its fields cannot be told from each other.
        """
        self.count(FIELDS_PER_MESSAGE)
        fields: dict[int, list[int]] = {}
        for start, end in ((0, self._size),) if spans is None else spans:
            position = start
            while position < end:
                position = self._field(fields, position, end)
        return Message(self, fields)

    def _field(self, fields: dict[int, list[int]], position: int, end: int) -> int:
        """Appends the field at a position to those of its tag; the position behind it."""
        self.count(1)
        tag, value_at = self.varint(position, end)
        wire_type = tag & 7
        if not 0 < tag >> 3 <= _LARGEST_FIELD_NUMBER:
            raise DamagedMessageError(f"field number {tag >> 3} at byte {position}")
        values = fields.setdefault(tag, [])
        if wire_type == _VARINT:
            value, value_at = self.varint(value_at, end)
            values.append(value)
            return value_at
        if wire_type == _LENGTH:
            length, value_at = self.varint(value_at, end)
        elif wire_type in _FIXED_BYTES:
            length = _FIXED_BYTES[wire_type]
        else:
            raise DamagedMessageError(f"wire type {wire_type} in field {tag >> 3} at byte {position}")
        if length > end - value_at:
            raise DamagedMessageError(
                f"field {tag >> 3} of {length} bytes at byte {position}, where {end - value_at} bytes are left"
            )
        # Positions one after the other: a tuple for each field would take three times the memory.
        values += (value_at, value_at + length)
        return value_at + length

    def varint(self, position: int, end: int) -> tuple[int, int]:
        """The unsigned 64-bit number at a position, and the position behind it.

        Raises:
            DamagedMessageError: It does not end before `end`, or is longer than 10 bytes.
        """
        if position >= end:
            raise DamagedMessageError(f"a number that is cut off at byte {position}")
        offset = position - self._window_start
        if not 0 <= offset <= self._last_offset:
            self._load_window(position)
            offset = 0
        window = self._window
        if window[offset] < 0x80:
            return window[offset], position + 1
        value = 0
        for index in range(_LONGEST_VARINT):
            if position + index >= end:
                raise DamagedMessageError(f"a number that is cut off at byte {position}")
            byte = window[offset + index]
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                return value & _UINT64, position + index + 1
        raise DamagedMessageError(f"a number of more than {_LONGEST_VARINT} bytes at byte {position}")

    def _load_window(self, position: int) -> None:
        self._window = self._read(position, min(_WINDOW_BYTES, self._size - position))
        self._window_start = position
        reaches_end = position + len(self._window) == self._size
        self._last_offset = len(self._window) - (1 if reaches_end else _LONGEST_VARINT)

    def bytes_at(self, start: int, end: int) -> bytes:
        """The bytes of a span.

        Raises:
            DamagedMessageError: More bytes have been asked for than are kept of one file.
        """
        self._bytes_left -= end - start
        if self._bytes_left < 0:
            raise DamagedMessageError(f"more than {MOST_BYTES:,} bytes of names and texts")
        offset = start - self._window_start
        if offset >= 0 and end - self._window_start <= len(self._window):
            return self._window[offset : end - self._window_start]
        return self._read(start, end - start)

    def _read(self, start: int, count: int) -> bytes:
        self._file.seek(start)
        data = self._file.read(count)
        if len(data) != count:
            raise DamagedMessageError("a file that became shorter while it was read")
        return data

    def count(self, fields: int) -> None:
        """Counts fields, or values that are packed in one, against the limit."""
        self._fields_left -= fields
        if self._fields_left < 0:
            raise DamagedMessageError(f"more than {MOST_FIELDS:,} fields")


class Message:
    """Fields of one message by their number; one that is not there has the value 0, "" or no elements.

    Each method raises `DamagedMessageError` where the field is there in a form that its type cannot have.

    Args:
        reader: The file's.
        fields: Values by tag (the number times 8, plus the wire type): numbers themselves for varints, and where each
            begins and ends for all others.
    """

    __slots__ = ("_fields", "_reader")

    def __init__(self, reader: MessageReader, fields: dict[int, list[int]]) -> None:
        self._reader = reader
        self._fields = fields

    def has(self, number: int) -> bool:
        """Whether the field is there."""
        return any(number << 3 | wire_type in self._fields for wire_type in _WIRE_TYPES)

    def spans(self, number: int) -> list[Span]:
        """Where each occurrence of a text, a message or packed numbers lies in the file."""
        self._check_wire_type(number, _LENGTH)
        return self._positions(number, _LENGTH)

    def message(self, number: int) -> "Message":
        """A message; several are merged, as the format demands."""
        return self._reader.message(self.spans(number))

    def messages(self, number: int) -> "Iterator[Message]":
        """Repeated messages, each opened when it is asked for."""
        return (self._reader.message([span]) for span in self.spans(number))

    def data(self, number: int) -> list[bytes]:
        """Repeated bytes."""
        return [self._reader.bytes_at(*span) for span in self.spans(number)]

    def texts(self, number: int) -> list[str]:
        """Repeated texts."""
        try:
            return [data.decode() for data in self.data(number)]
        except UnicodeDecodeError as error:
            raise DamagedMessageError(f"text that is not UTF-8, {error.object[:40]!r}, in field {number}") from error

    def text(self, number: int) -> str:
        """A text."""
        return (self.texts(number) or [""])[-1]

    def integers(self, number: int) -> list[int]:
        """Repeated numbers of a varint type, packed or not, as signed 64-bit ones."""
        self._check_wire_type(number, _VARINT, _LENGTH)
        values = list(self._fields.get(number << 3 | _VARINT, ()))
        for position, end in self._positions(number, _LENGTH):
            while position < end:
                self._reader.count(1)
                value, position = self._reader.varint(position, end)  # noqa: PLW2901 - it walks through its span
                values.append(value)
        return [value - (1 << 64) if value >> 63 else value for value in values]

    def integer(self, number: int) -> int:
        """A number of a varint type, as a signed 64-bit one."""
        self._check_wire_type(number, _VARINT)
        return (self.integers(number) or [0])[-1]

    def floats(self, number: int) -> list[float]:
        """Repeated float32, packed or not."""
        return self._fixed(number, _FIXED32, "f")

    def doubles(self, number: int) -> list[float]:
        """Repeated float64, packed or not."""
        return self._fixed(number, _FIXED64, "d")

    def _fixed(self, number: int, wire_type: int, code: str) -> list[float]:
        self._check_wire_type(number, wire_type, _LENGTH)
        values: list[float] = []
        for span in self._positions(number, wire_type) + self._positions(number, _LENGTH):
            count, rest = divmod(span[1] - span[0], struct.calcsize(f"<{code}"))
            if rest:
                raise DamagedMessageError(f"packed numbers of {span[1] - span[0]} bytes in field {number}")
            self._reader.count(count)
            values += struct.unpack(f"<{count}{code}", self._reader.bytes_at(*span))
        return values

    def _positions(self, number: int, wire_type: int) -> list[Span]:
        positions = self._fields.get(number << 3 | wire_type, ())
        return list(zip(positions[::2], positions[1::2], strict=True))

    def _check_wire_type(self, number: int, *allowed: int) -> None:
        for wire_type in _WIRE_TYPES:
            if wire_type not in allowed and number << 3 | wire_type in self._fields:
                raise DamagedMessageError(f"wire type {wire_type} in field {number}, which has another")
