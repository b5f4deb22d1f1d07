"""Labels of foreign models: from text files, JSON, and what exporters write; names that repeat are told apart."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgeclf.runtime.errors import InputError
from edgeclf.runtime.files import parse_failure, read_text
from edgeclf.runtime.session.graph_outline import GraphOutline

# Attributes in which the classifiers of scikit-learn and their ZipMap have the classes, in the order of the probabilities.
_CLASS_ATTRIBUTES = ("classlabels_strings", "classlabels_int64s", "classlabels_ints")
_MOST_DIGITS = 9
# More than any list of classes; Python's parser takes memory for what it reads.
_LONGEST_LITERAL = 1 << 22
_NUMBERED = re.compile(r"(\d+)(?:[\s:,]|[.)](?=\s))\s*(\S.*)")
_NAME_AND_NUMBER = re.compile(r"(.*\S)\s*[,\t]\s*(\d+)")
# Where files that say more than the names have them: of Hugging Face, Teachable Machine, timm, Ultralytics.
_KEYS_OF_NAMES = ("id2label", "names", "labels", "classes", "class_names", "label_names")
_YAML = frozenset((".yaml", ".yml"))


class LabelFile(NamedTuple):
    """Labels that were read from a file.

    Attributes:
        labels: Class names in the order of the model's outputs.
        note: What the user has to know of them; None for nothing.
    """

    labels: tuple[str, ...]
    note: str | None = None


def read_labels(path: Path) -> LabelFile:
    """Reads class names from a file.

    Args:
        path: A text file with one name a line, where the lines may be numbered as Teachable Machine does ("0 Cat"); or JSON, a
            list of names, or an object of names by index or of indices by name, also as a part of another object.

    Raises:
        InputError: It cannot be read, or has no names.
    """
    text = read_text(
        path,
        what=f"cannot read labels {path}",
        expected="a UTF-8 text file with one class name a line, or JSON",
        hint="name such a file",
    )
    if path.suffix.lower() in _YAML:
        raise InputError(
            f"cannot use labels {path}",
            got="a YAML file",
            expected="a text file with one class name a line, or JSON",
            hint="write its names into one, in the order of the model's outputs",
        )
    note = None
    document = _document(path, text)
    if document is not None:
        names = _from_document(path, document)
    else:
        names = tuple(line.strip() for line in text.splitlines() if line.strip())
        numbered = _without_numbers(names)
        # Names of numbers, such as sums of money, are left as they are.
        if numbered is not None and (len(set(numbered)) > 1 or len(names) == 1):
            names, note = numbered, f"the lines of {path} are numbered: the names are what stands beside the numbers"
    if not names:
        raise InputError(f"cannot use labels {path}", got="no names", expected="one class name a line")
    return LabelFile(names, note)


def labels_in_graph(outline: GraphOutline) -> tuple[str, ...] | None:
    """The classes that operators of `ai.onnx.ml` name, in the order of their probabilities.

    Args:
        outline: The graph.

    Returns:
        The names; None where there are none, where operators name different ones, and where they are the indices.
    """
    found = {
        tuple(map(str, values))
        for node in outline.nodes
        if node.domain == "ai.onnx.ml"
        for values in (node.attributes.get(name) for name in _CLASS_ATTRIBUTES)
        if isinstance(values, tuple) and values and not any(isinstance(value, bytes) for value in values)
    }
    names = found.pop() if len(found) == 1 else None
    return None if names is None or names == indices(len(names)) else names


def _without_numbers(lines: Sequence[str]) -> tuple[str, ...] | None:
    """Names of lines that are numbered from 0 or 1 on, in the order of the numbers; None where not all are."""
    pairs = _numbered(lines, _NUMBERED, 1) or _numbered(lines, _NAME_AND_NUMBER, 2)
    if not pairs or len(pairs) != len(lines):
        return None
    pairs.sort(key=lambda pair: pair[0])
    first = pairs[0][0]
    if first > 1 or [number for number, _ in pairs] != list(range(first, first + len(pairs))):
        return None
    return tuple(name for _, name in pairs)


def _numbered(lines: Sequence[str], pattern: re.Pattern[str], group: int) -> list[tuple[int, str]]:
    """Numbers and names of lines; none where a line is another. More digits than any index has are a name."""
    matches = [pattern.fullmatch(line) for line in lines]
    pairs = [(int(match[group]), match[3 - group]) for match in matches if match and len(match[group]) <= _MOST_DIGITS]
    return pairs if len(pairs) == len(lines) else []


def _document(path: Path, text: str) -> object:
    """What a file that is JSON, by its name or its content, holds; None of any other. Python's literals count as JSON."""
    import json

    is_json = path.suffix.lower() == ".json"
    if not is_json and not text.lstrip().startswith(("[", "{")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if not is_json:
            return literal_of(text)
        raise InputError(
            f"cannot read labels {path}", got=parse_failure(error), expected="JSON", hint="save it again"
        ) from error


def _from_document(path: Path, document: object) -> tuple[str, ...]:
    names = labels_from(document)
    if names is None and isinstance(document, Mapping):
        names = next((found for key in _KEYS_OF_NAMES if (found := labels_from(document.get(key))) is not None), None)
    if names is None:
        raise InputError(
            f"cannot use labels {path}",
            got=_other_form(document),
            expected='a list of names, {"0": "name", ...} or {"name": 0, ...}',
            hint="write the names into such a list, in the order of the model's outputs",
        )
    return names


def _other_form(document: object) -> str:
    """What is wrong with JSON that has no labels, as the noun of an error."""
    if not isinstance(document, Mapping) or not document:
        return "JSON of another form"
    values = [value for value in document.values() if isinstance(value, int) and not isinstance(value, bool)]
    keys = [int(key) for key in map(str, document) if key.isascii() and key.isdigit() and len(key) <= _MOST_DIGITS]
    numbers = values if len(values) == len(document) else keys
    if len(numbers) != len(document):
        return "JSON of another form"
    if sorted(numbers) == list(range(len(numbers))):
        return "JSON with values that are no names"
    return f"indices from {min(numbers)} to {max(numbers)} of {len(set(numbers))} names, and not all from 0 on"


def literal_of(text: str | None) -> object:
    """The value of a Python literal, as Ultralytics writes its dictionaries; None for any other text."""
    import ast

    if not text or len(text) > _LONGEST_LITERAL:
        return None
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def labels_from(document: Any) -> tuple[str, ...] | None:  # noqa: ANN401 - whatever JSON or Python wrote
    """Class names from a list, from an object of names by index, or of indices by name; None for any other value.

    In place of a name, a list may give an object with its `name`, and an index a list with an identifier before the name, as
    Keras writes ImageNet's.
    """
    if isinstance(document, list | tuple):
        names = [item.get("name") if isinstance(item, Mapping) else item for item in document]
        return tuple(map(str, names)) if names and all(map(_is_name, names)) else None
    if not isinstance(document, Mapping) or not document:
        return None
    pairs = list(document.items())
    if all(isinstance(value, int) and not isinstance(value, bool) and _is_name(name) for name, value in pairs):
        by_index = {value: name for name, value in pairs}
    else:
        # Of Keras: {"0": ["n01440764", "tench"], ...}
        pairs = [(index, name[1] if _is_pair(name) else name) for index, name in pairs]
        try:
            by_index = {int(index): name for index, name in pairs if _is_name(name)}
        except (TypeError, ValueError, OverflowError):
            return None
    if sorted(by_index) != list(range(len(pairs))):
        return None
    return tuple(by_index[index] for index in range(len(pairs)))


def _is_pair(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_name, value))


def _is_name(value: object) -> bool:
    """Whether a value is text that can be written: JSON and Python can name half of a character."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def told_apart(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels, each of those that repeat with its index behind it: "crane (134)"."""
    counts = Counter(labels)
    # Until no name is left that another one has by itself.
    while max(counts.values(), default=1) > 1:
        labels = [f"{label} ({index})" if counts[label] > 1 else label for index, label in enumerate(labels)]
        counts = Counter(labels)
    return tuple(labels)


def indices(count: int) -> tuple[str, ...]:
    """Labels where nothing names the classes: "0", "1", ..."""
    return tuple(str(index) for index in range(count))
