"""Class folders matched with the labels of a model: by name, by the first of several names, or by number."""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

# Models of others spell their labels otherwise than file systems do: `golden retriever` lies in `golden_retriever`, and
# `tench, Tinca tinca` in `tench`.
_SPACES = str.maketrans("_-", "  ")


def _plain(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().translate(_SPACES).split())


def _first_name(name: str) -> str:
    return _plain(name.split(",", 1)[0])


def match_class_folders(names: Sequence[str], labels: Sequence[str]) -> Mapping[str, int]:
    """The index of the label that each class folder is named for; a folder that is named for none is not among them.

    A folder has the label that is spelled like it; else the only one that is spelled like it but for case, spaces, `_` and
    `-`; else the only one whose first name, before a comma, is. Where no folder has any of these and all are numbers below
    the number of labels, they are the indices of the labels.

    Args:
        names: The folders' names, or the labels of a CSV.
        labels: The model's labels, in their order.
    """
    exact = {label: index for index, label in enumerate(labels)}
    found = {name: exact[name] for name in names if name in exact}
    for spelling in (_plain, _first_name):
        by_spelling = _only_ones(labels, spelling)
        for name in names:
            index = by_spelling.get(_plain(name))
            if name not in found and index is not None and index not in found.values():
                found[name] = index
    if not found and all(name.isdecimal() and int(name) < len(labels) for name in names):
        return {name: int(name) for name in names}
    return found


def _only_ones(labels: Sequence[str], spelling: Callable[[str], str]) -> dict[str, int]:
    """Index by spelling, without spellings that several labels share."""
    indices: defaultdict[str, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        indices[spelling(label)].append(index)
    return {text: found[0] for text, found in indices.items() if len(found) == 1}
