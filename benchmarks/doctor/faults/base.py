"""Faults of the doctor's battery: a change of a clean copy of a labelled folder, and the finding that it must bring."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Truth:
    """The finding that a changed copy must bring.

    Attributes:
        causes: Any of these, as a finding's `cause`, is right.
        evidence: What the evidence of that finding must say, such as `{"property": "brightness"}`; a tuple means any of
            its values.
        items: Paths, relative to the copy, of the images that must be named; None where none are.
        must_rank_first: Whether no other finding of the same or a higher severity may come before.
    """

    causes: tuple[str, ...]
    evidence: Mapping[str, Any] = field(default_factory=dict)
    items: frozenset[str] | None = None
    must_rank_first: bool = False


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Attributes:
        name: For the table, severity included.
        line: Group of faults, for the order of the table.
        inject: Changes the copy (a folder with train/ and test/, class folders in each) in place, by the generator.
        needs_run: Whether the doctor looks at a run: `inject` then makes that as well and leaves it in `run/` beside
            `data/` of the folder it is given.
    """

    name: str
    line: int
    inject: Callable[[Path, np.random.Generator], Truth]
    needs_run: bool = False


@dataclass(frozen=True)
class Verdict:
    """How the doctor's findings answer one fault.

    Attributes:
        found: Whether a finding of severity problem or warning names a right cause with the right evidence.
        rank: Its position among the findings, from 1; None where it was not found.
        recall: Share of the images that must be named which are; None where none must be.
        precision: Share of the named images that must be; None where none must be, or none is named.
    """

    found: bool
    rank: int | None
    recall: float | None
    precision: float | None


def judge(findings: Sequence[Mapping[str, Any]], truth: Truth) -> Verdict:
    """Compares the doctor's findings, as its JSON, with the truth."""
    matching = [
        (rank, finding)
        for rank, finding in enumerate(findings, 1)
        if finding["cause"] in truth.causes and finding["severity"] != "note" and _agrees(finding["evidence"], truth)
    ]
    if not matching:
        return Verdict(found=False, rank=None, recall=0.0 if truth.items else None, precision=None)
    rank, _ = matching[0]
    if truth.items is None:
        return Verdict(found=True, rank=rank, recall=None, precision=None)
    named = {item for _, finding in matching for item in finding["items"]}
    right = len(named & truth.items)
    return Verdict(
        found=True, rank=rank, recall=right / len(truth.items), precision=right / len(named) if named else None
    )


def _agrees(evidence: Mapping[str, Any], truth: Truth) -> bool:
    return all(
        evidence.get(key) in (wanted if isinstance(wanted, tuple) else (wanted,))
        for key, wanted in truth.evidence.items()
    )
