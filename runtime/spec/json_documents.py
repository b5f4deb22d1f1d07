"""JSON documents: of edgeclf's own, in files that anybody may have changed, every value of its type; and written for people."""

import functools
import json
import math
import os
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from edgeclf.runtime.files import kind_of

# The types of a document's values, by key: a type (`Path` is a text that can name a file); a list of one; a record of known keys,
# others may stand beside them; or, under `*`, one of any keys. Null may stand for the value of a known key, and for no other.
Shape: TypeAlias = "type | list[Shape] | dict[str, Shape]"

_TYPE_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
# A run of a million images records a few hundred bytes of each in other files; a document beyond this is none of ours.
_MOST_BYTES = 1 << 28
# Of lists and records in each other. Ours have six; what copies and prints values calls itself once or twice for each.
_MOST_DEPTH = 64
_TOO_DEEP = "brackets that nest too deep"
_MOST_SHOWN = 40
_Record = TypeVar("_Record")
# In JSON with indents: a list of numbers alone, over several lines.
_NUMBERS = re.compile(r"\[\n\s*-?\d[\d.eE+-]*(?:,\n\s*-?\d[\d.eE+-]*)*\n\s*\]")
_NOT_ASCII = re.compile(r"[\x7f-\U0010ffff]+")


class _Nothing:
    """Stands for null where it may not stand: in a list, and under any key."""


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401 - JSON
    """The values of a JSON document, which can be written as one again.

    Raises:
        ValueError: It is none: also where Python would read on, with numbers that are infinite, none, or of thousands of digits,
            and where it gives up on brackets that nest too deep.
    """
    try:
        document = json.loads(text, parse_float=_finite, parse_int=_whole, parse_constant=_finite)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    check_depth(document)
    return document


def check_depth(document: object, most: int = _MOST_DEPTH) -> None:
    """Checks that lists and records are not in each other more often than programs that call themselves for each can take.

    Raises:
        ValueError: They are.
    """
    level: list[object] = [document]
    for _ in range(most):
        level = [item for value in level for item in _items(value)]
        if not level:
            return
    raise ValueError(_TOO_DEEP)


def read_json(path: Path, shape: Shape) -> Any:  # noqa: ANN401 - JSON
    """The values of a JSON file, each of the type that its place has in `shape`.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no JSON, has a value of another type, or is no ordinary file.
    """
    if kind_of(path) == "other":
        raise ValueError("a device or a pipe")
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise ValueError(f"{size:,} bytes")
    document = parse_json(path.read_text(encoding="utf-8"))
    if document is None:
        raise ValueError("null")
    check_shape(document, shape)
    return document


def check_shape(value: object, shape: Shape, place: str = "") -> None:
    """Checks that the values of a JSON document have the types that programs expect.

    Args:
        value: What `parse_json` gave.
        shape: Its types.
        place: Keys and indices of the value in the whole document, for the error; empty for all of it.

    Raises:
        ValueError: One has another type.
    """
    if value is None:
        return
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise _unexpected(place, "a record", value)
        for key, item in value.items():
            if (of_item := shape.get(key, shape.get("*"))) is not None:
                name = key if key.isprintable() else ascii(key)
                checked = _Nothing if item is None and key not in shape else item
                check_shape(checked, of_item, f"{place}.{name}" if place else name)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise _unexpected(place, "a list", value)
        for number, item in enumerate(value):
            check_shape(_Nothing if item is None else item, shape[0], f"{place}[{number}]")
    elif not _is_of_type(value, shape):
        raise _unexpected(place, _TYPE_NAMES[shape], value)


def record_from_json(record: type[_Record], document: object, place: str = "") -> _Record:
    """A dataclass from a record of its fields, each of its type; a list becomes a tuple, null the default where None may not stand.

    Args:
        record: The dataclass; what it checks itself raises what it raises.
        document: What `parse_json` gave, or `asdict` of an instance.
        place: As for `check_shape`.

    Raises:
        ValueError: It is no record, has a field that the class does not have or one of another type, or lacks one.
    """
    # A class is hashable, whatever its type variable stands for.
    of_record: type = record
    shape, required, optional = _shape_of(of_record)
    if not isinstance(document, dict):
        raise _unexpected(place, "a record", document)
    check_shape(document, dict(shape), place)
    known = {name: value for name, value in document.items() if value is not None or name in optional}
    if unknown := sorted(set(known) - set(shape)):
        raise _unexpected(place, f"none but {', '.join(shape)}", unknown[0])
    if missing := [name for name in required if name not in known]:
        raise ValueError(f"no {f'{place}.' if place else ''}{missing[0]}")
    return record(**{name: tuple(value) if isinstance(value, list) else value for name, value in known.items()})


@functools.cache
def _shape_of(record: type) -> tuple[dict[str, Shape], tuple[str, ...], frozenset[str]]:
    """The shape of a dataclass, its fields without a default, and those that may be None."""
    hints = get_type_hints(record)
    of_fields = fields(record)
    shapes = {item.name: _shape_of_type(hints[item.name]) for item in of_fields}
    required = tuple(item.name for item in of_fields if item.default is MISSING and item.default_factory is MISSING)
    return shapes, required, frozenset(name for name in shapes if type(None) in get_args(hints[name]))


def _shape_of_type(hint: Any) -> Shape:  # noqa: ANN401 - a type, as the type checker sees it
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType}:
        (of_value,) = {item for item in arguments if item is not type(None)}
        return _shape_of_type(of_value)
    if origin is Literal:
        return str
    if origin is tuple:
        (of_item,) = {item for item in arguments if item is not ...}
        return [_shape_of_type(of_item)]
    if hint in _TYPE_NAMES:
        found: type = hint
        return found
    raise TypeError(f"no type of JSON: {hint}")


def check_writable(document: Mapping[str, Any]) -> None:
    """Checks that the texts of a document can be written as UTF-8: JSON can name half of a character.

    Raises:
        ValueError: One cannot.
    """
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half of a character, {error.object[error.start]!a}") from error


def json_text(document: object, encoding: str = "utf-8") -> str:
    """A document as indented JSON, lists of numbers - the rows of a matrix - on one line each, escaped as by `json_line`.

    Args:
        document: Plain JSON values; NaN and infinity are a ValueError.
        encoding: What the text will be encoded in.
    """
    # Ends of lines in strings are escaped: those in the text are the layout's.
    text = _NUMBERS.sub(
        lambda found: "[" + ", ".join(found[0][1:-1].replace(",", " ").split()) + "]",
        json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False),
    )
    return _escaped(text, encoding)


def json_line(document: object) -> str:
    """A document as JSON on one line, without its end; what moves a terminal's cursor or turns text around is escaped.

    So are parts of file names that are no Unicode. Readers get the same values.

    Args:
        document: Plain JSON values; NaN and infinity are a ValueError.
    """
    return _escaped(json.dumps(document, ensure_ascii=False, allow_nan=False), "utf-8")


def _escaped(text: str, encoding: str) -> str:
    def escape(found: re.Match[str]) -> str:
        return "".join(item if _is_shown(item, encoding) else _escape_of(item) for item in found[0])

    return text if text.isascii() and "\x7f" not in text else _NOT_ASCII.sub(escape, text)


def _escape_of(character: str) -> str:
    # JSON's writer leaves DEL as it is.
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]


def _is_shown(character: str, encoding: str) -> bool:
    if character == "\x7f" or not character.isprintable():
        return False
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _items(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _is_of_type(value: object, of: type) -> bool:
    # JSON writes 1 for 1.0; true is no number.
    if isinstance(value, bool):
        return of is bool
    if of is Path:
        return isinstance(value, str) and _names_a_file(value)
    return isinstance(value, (int, float) if of is float else of)


def _names_a_file(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        # Half of a character, where it is no byte of a name that is not Unicode.
        return False


def _finite(text: str) -> float:
    """A number of a JSON document; Python would also read NaN, Infinity and 1e999, which it cannot write again."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {_cut(text)}")
    return number


def _whole(text: str) -> int:
    """A whole number of a JSON document; Python would also read one that is too large for a float."""
    _finite(text)
    return int(text)


def shown(value: object) -> str:
    """A value of a JSON document in a sentence, cut where it is long."""
    return "null" if value is None or value is _Nothing else _cut(repr(value))


def _unexpected(place: str, expected: str, value: object) -> ValueError:
    got = shown(value)
    return ValueError(f"{place}: expected {expected}, got {got}" if place else f"{got} instead of {expected}")


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
