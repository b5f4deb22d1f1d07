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
_NUMBERED = re.compile(r"(\d+)[\s:,]\s*(\S.*)")


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
        path: A text file with one name a line, where the lines may be numbered as Teachable Machine does ("0 Cat"); or a
            `.json` file with a list of names, or an object of names by index or of indices by name.

    Raises:
        InputError: It cannot be read, or has no names.
    """
    text = read_text(
        path,
        what=f"cannot read labels {path}",
        expected="a UTF-8 text file with one class name a line, or JSON",
        hint="name such a file",
    )
    note = None
    if path.suffix.lower() == ".json":
        names = _from_json_text(path, text)
    else:
        names = tuple(line.strip() for line in text.splitlines() if line.strip())
        numbered = _without_numbers(names)
        if numbered is not None:
            names, note = numbered, f"the lines of {path} are numbered: the names are what stands behind the numbers"
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
    """Names of lines that are numbered from 0 or 1 on, in their order; None where not all are."""
    matches = [_NUMBERED.fullmatch(line) for line in lines]
    if not lines or not all(matches):
        return None
    # More digits than any index has are a name.
    if any(match is not None and len(match[1]) > _MOST_DIGITS for match in matches):
        return None
    numbers = [int(match[1]) for match in matches if match is not None]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))) or numbers[0] > 1:
        return None
    return tuple(match[2] for match in matches if match is not None)


def _from_json_text(path: Path, text: str) -> tuple[str, ...]:
    import json

    try:
        names = labels_from(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"cannot read labels {path}", got=parse_failure(error), expected="JSON", hint="save it again"
        ) from error
    if names is None:
        raise InputError(
            f"cannot use labels {path}",
            got="JSON of another form",
            expected='a list of names, {"0": "name", ...} or {"name": 0, ...}',
        )
    return names


def labels_from(document: Any) -> tuple[str, ...] | None:  # noqa: ANN401 - whatever JSON or Python wrote
    """Class names from a list, from an object of names by index, or of indices by name; None for any other value."""
    if isinstance(document, list | tuple):
        return tuple(document) if document and all(map(_is_name, document)) else None
    if not isinstance(document, Mapping) or not document:
        return None
    pairs = list(document.items())
    if all(isinstance(value, int) and not isinstance(value, bool) and _is_name(name) for name, value in pairs):
        by_index = {value: name for name, value in pairs}
    else:
        try:
            by_index = {int(index): name for index, name in pairs if _is_name(name)}
        except (TypeError, ValueError, OverflowError):
            return None
    if sorted(by_index) != list(range(len(pairs))):
        return None
    return tuple(by_index[index] for index in range(len(pairs)))


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
