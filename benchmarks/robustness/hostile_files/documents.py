"""A document that edgeclf reads from a file, and the types that what it gives must have."""

import contextlib
import dataclasses
import io
import json
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

import numpy as np

from benchmarks.robustness.hostile_files.specs import damage_text, draw_document_text

# Writes a text into a folder as the file that edgeclf reads, reads it in every way that edgeclf does, uses what it gave, and
# returns the values that must have the types which their classes name.
Read: TypeAlias = Callable[[Path, str], Sequence[object]]


@dataclass(frozen=True)
class Document:
    """A kind of document.

    Attributes:
        name: Its name.
        text: A valid one.
        read: What reads it.
        is_json: Whether values in it are changed; of others the text alone is damaged.
    """

    name: str
    text: str
    read: Read
    is_json: bool = True

    def draw(self, rng: np.random.Generator) -> str:
        """A text changed at random."""
        return draw_document_text(json.loads(self.text), rng) if self.is_json else damage_text(self.text, rng)


def wrong_types(value: object, hint: Any, place: str) -> Iterator[str]:  # noqa: ANN401 - a type, as the type checker sees it
    """The places in a value that have another type than the class of the value, or `hint`, names."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in {Union, types.UnionType}:
        if all(any(True for _ in wrong_types(value, one, place)) for one in arguments):
            yield f"{place}: {value!r:.60}, no {hint}"
    elif origin is Literal:
        if value not in arguments:
            yield f"{place}: {value!r:.60}, none of {arguments}"
    elif hint is Any:
        return
    elif not isinstance(value, _plain(origin or hint)) or (isinstance(value, bool) and hint in {int, float}):
        yield f"{place}: {value!r:.60}, no {hint}"
    else:
        for name, item, of_item in _parts(value, arguments):
            yield from wrong_types(item, of_item, f"{place}{name}")


def _parts(value: object, arguments: Sequence[Any]) -> Iterator[tuple[str, object, Any]]:
    """The values inside one, each with its place and its type."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = get_type_hints(type(value), {"Mapping": Mapping, "Sequence": Sequence, "Path": Path})
        yield from (
            (f".{item.name}", getattr(value, item.name), hints[item.name]) for item in dataclasses.fields(value)
        )
    elif isinstance(value, Mapping) and len(arguments) == 2:
        yield from ((" key", key, arguments[0]) for key in value)
        yield from ((f"[{key!r}]", item, arguments[1]) for key, item in value.items())
    elif isinstance(value, tuple | list) and arguments:
        is_uniform = arguments[-1] is ... or isinstance(value, list)
        of_items = [arguments[0]] * len(value) if is_uniform else list(arguments)
        if len(of_items) != len(value):
            yield " (its length)", len(value), type(None)
        yield from ((f"[{n}]", item, of_item) for n, (item, of_item) in enumerate(zip(value, of_items, strict=False)))


def _plain(hint: Any) -> Any:  # noqa: ANN401
    return {float: (int, float), None: type(None)}.get(hint, hint)


def quietly(read: Read, folder: Path, text: str) -> Sequence[object]:
    """Reads a document; what edgeclf prints on the way is dropped."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return read(folder, text)
