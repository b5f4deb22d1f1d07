"""What became of inputs drawn at random, by kind: counts, sentences, faults, and their report."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from benchmarks.common import Report


@dataclass
class Outcomes:
    """Counts of inputs by kind.

    Attributes:
        noun: What the inputs are, in the plural.
        read: The kinds that must be read; the others must be refused.
        drawn: Inputs by kind.
        right: Those that were read or refused as they must be, by kind.
        sentences: Refusals by their sentence.
        faulty: Inputs by kind and fault.
    """

    noun: str
    read: Collection[str]
    drawn: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    sentences: Counter[str] = field(default_factory=Counter)
    faulty: Counter[str] = field(default_factory=Counter)
    _examples: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, fault: str | None, sentence: str | None, example: str) -> None:
        """Counts an input.

        Args:
            kind: Its kind.
            fault: What is wrong with what became of it, up to a colon by kind; None for nothing.
            sentence: Its refusal, without what is of this input alone; None where it was read.
            example: The input in words, for the first of a fault.
        """
        self.drawn[kind] += 1
        if fault is not None:
            name = f"{kind}: {fault.split(':')[0]}"
            self.faulty[name] += 1
            self._examples.setdefault(name, f"{example}: {fault[:500]}")
            return
        self.right[kind] += 1
        if sentence is not None:
            self.sentences[sentence.split(": got")[0]] += 1

    @property
    def tracebacks(self) -> int:
        """Inputs that ended with anything but a sentence."""
        return sum(count for kind, count in self.faulty.items() if kind.endswith("traceback"))

    def of_read(self, counts: Counter[str]) -> int:
        """The sum of counts over the kinds that must be read."""
        return sum(count for kind, count in counts.items() if kind in self.read)

    def print(self, report: Report) -> None:
        """Prints the table by kind, the sentences and the faults."""
        report.columns({"kind": "<40", "must be": ">8", self.noun: ">9", "right": ">8"})
        for kind, count in self.drawn.items():
            report.row(kind, "read" if kind in self.read else "refused", count, self.right[kind])
        for sentence, count in self.sentences.most_common():
            report.line(f"{count:>8}  {sentence}")
        for kind, count in self.faulty.items():
            report.line(f"FAULT {kind}: {count}, first {self._examples[kind]}")

    def to_json(self) -> dict[str, Any]:
        """Counts by kind, sentences and faults."""
        return {
            "tracebacks": self.tracebacks,
            "by_kind": {kind: {self.noun: count, "right": self.right[kind]} for kind, count in self.drawn.items()},
            "sentences": dict(self.sentences.most_common()),
            "faults": {kind: {"count": count, "first": self._examples[kind]} for kind, count in self.faulty.items()},
        }
