"""The wire format by hand: every way in which a message can be damaged, and both forms of repeated numbers."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime.session import protobuf
from edgeclf.runtime.session.protobuf import DamagedMessageError, MessageReader

from .onnx_models import varint


def number(field, content):
    return varint(field << 3) + varint(content)


def block(field, content):
    return varint(field << 3 | 2) + varint(len(content)) + content


@pytest.fixture(scope="module")
def message_of(tmp_path_factory):
    path = tmp_path_factory.mktemp("messages") / "message"
    opened = []

    def read(data):
        path.write_bytes(data)
        while opened:
            opened.pop().close()
        opened.append(path.open("rb", buffering=0))
        return MessageReader(opened[0]).message()

    yield read
    opened[0].close()


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30))
def test_packed_and_unpacked_numbers_are_the_same(message_of, numbers):
    unsigned = [item % 2**64 for item in numbers]
    unpacked = b"".join(number(7, item) for item in unsigned)
    packed = block(7, b"".join(map(varint, unsigned)))
    assert message_of(unpacked).integers(7) == message_of(packed).integers(7) == numbers
    assert message_of(unpacked + packed).integers(7) == numbers * 2
    assert message_of(unpacked).integer(7) == (numbers[-1] if numbers else 0)


@pytest.mark.parametrize(("code", "wire_type", "method"), [("f", 5, "floats"), ("d", 1, "doubles")])
def test_packed_and_unpacked_real_numbers_are_the_same(message_of, code, wire_type, method):
    numbers = [0.0, -1.5, float("inf"), 2.0**-20]
    parts = [struct.pack(f"<{code}", item) for item in numbers]
    unpacked = b"".join(varint(3 << 3 | wire_type) + part for part in parts)
    packed = block(3, b"".join(parts))
    assert getattr(message_of(unpacked), method)(3) == getattr(message_of(packed), method)(3) == numbers
    with pytest.raises(DamagedMessageError, match="packed numbers of 7 bytes"):
        getattr(message_of(block(3, bytes(7))), method)(3)


def test_an_absent_field_is_zero_and_empty(message_of):
    message = message_of(number(1, 5))
    assert (message.has(1), message.has(2)) == (True, False)
    assert (message.integer(2), message.text(2), message.texts(2), message.floats(2)) == (0, "", [], [])
    assert (list(message.messages(2)), message.message(2).has(1), message.spans(2)) == ([], False, [])


def test_the_last_of_several_counts_and_messages_are_merged(message_of):
    message = message_of(number(1, 5) + block(2, b"a") + number(1, 6) + block(2, b"b"))
    assert (message.integer(1), message.text(2), message.texts(2)) == (6, "b", ["a", "b"])
    merged = message_of(block(3, number(1, 5)) + block(3, number(2, 6))).message(3)
    assert (merged.integer(1), merged.integer(2)) == (5, 6)


def test_unknown_fields_of_all_wire_types_are_passed_over(message_of):
    unknown = number(1000, 2**64 - 1) + block(1001, bytes(50)) + varint(1002 << 3 | 1) + bytes(8)
    assert message_of(unknown + varint(1003 << 3 | 5) + bytes(4) + number(1, 7)).integer(1) == 7


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x08", "a number that is cut off at byte 1"),
        (b"\x08\xff", "a number that is cut off at byte 1"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "a number of more than 10 bytes at byte 1"),
        (b"\x0a\x05abc", "field 1 of 5 bytes at byte 0, where 3 bytes are left"),
        (b"\x0a" + varint(2**64 - 1) + b"a", "where 1 bytes are left"),
        (b"\x09abc", "field 1 of 8 bytes at byte 0, where 3 bytes are left"),
        (b"\x0dabc", "field 1 of 4 bytes at byte 0, where 3 bytes are left"),
        (b"\x0b\x0c", "wire type 3 in field 1"),
        (b"\x0c", "wire type 4 in field 1"),
        (b"\x0e", "wire type 6 in field 1"),
        (b"\x00\x01", "field number 0"),
        (varint(1 << 32) + b"\x01", "field number 536870912"),
    ],
)
def test_a_message_that_cannot_be_divided_into_fields_is_damage(message_of, data, words):
    with pytest.raises(DamagedMessageError, match=words):
        message_of(data)


def test_a_field_does_not_reach_beyond_its_message(message_of):
    # Whole in the file, and cut off in the inner message.
    outer = message_of(block(1, b"\x0a\x05abc") + block(2, bytes(10)))
    with pytest.raises(DamagedMessageError, match="where 3 bytes are left"):
        outer.message(1)
    packed = message_of(block(1, b"\xff") + b"\x08\x01\x08\x01")
    with pytest.raises(DamagedMessageError, match="cut off"):
        packed.integers(1)


@pytest.mark.parametrize(
    "read",
    [
        lambda message: message.text(1),
        lambda message: message.message(1),
        lambda message: message.floats(1),
        lambda message: message.doubles(1),
    ],
)
def test_a_known_field_of_another_wire_type_is_damage(message_of, read):
    with pytest.raises(DamagedMessageError, match="wire type 0 in field 1, which has another"):
        read(message_of(number(1, 5)))
    with pytest.raises(DamagedMessageError, match="wire type 2 in field 1, which has another"):
        message_of(block(1, b"")).integer(1)


def test_text_is_utf8(message_of):
    assert message_of(block(1, "größe".encode())).text(1) == "größe"
    with pytest.raises(DamagedMessageError, match=r"text that is not UTF-8, .*, in field 1"):
        message_of(block(1, b"gr\xf6\xdfe")).text(1)
    assert message_of(block(1, b"gr\xf6\xdfe")).data(1) == [b"gr\xf6\xdfe"]


def test_numbers_and_texts_that_lie_across_the_window_are_read(message_of):
    for length in range(protobuf._WINDOW_BYTES - 24, protobuf._WINDOW_BYTES + 4):
        inner = block(1, bytes(length)) + number(2, 2**63 - 1) + block(3, b"text of some length")
        message = message_of(inner + block(4, inner))
        for found in (message, message.message(4), message):
            assert (found.integer(2), found.text(3)) == (2**63 - 1, "text of some length")


def test_absurd_numbers_of_fields_values_messages_and_bytes_are_refused(message_of, monkeypatch):
    monkeypatch.setattr(protobuf, "MOST_FIELDS", 100)
    monkeypatch.setattr(protobuf, "MOST_BYTES", 50)
    assert message_of(number(1, 5) * 80).integers(1) == [5] * 80
    with pytest.raises(DamagedMessageError, match="more than 100 fields"):
        message_of(number(1, 5) * 101)
    with pytest.raises(DamagedMessageError, match="more than 100 fields"):
        message_of(block(1, b"\x05" * 101)).integers(1)
    with pytest.raises(DamagedMessageError, match="more than 100 fields"):
        message_of(block(1, bytes(404))).floats(1)
    with pytest.raises(DamagedMessageError, match="more than 100 fields"):
        list(message_of(block(1, b"") * 20).messages(1))
    assert message_of(block(1, bytes(50))).text(1) == "\0" * 50
    with pytest.raises(DamagedMessageError, match="more than 50 bytes"):
        message_of(block(1, bytes(51))).text(1)


def test_a_file_that_is_cut_while_it_is_read_is_damage(tmp_path):
    path = tmp_path / "message"
    path.write_bytes(block(1, bytes(100_000)) + block(2, number(1, 5)))
    with path.open("rb", buffering=0) as file:
        message = MessageReader(file).message()
        with path.open("r+b") as other:
            other.truncate(10)
        with pytest.raises(DamagedMessageError, match="became shorter"):
            message.data(1)
