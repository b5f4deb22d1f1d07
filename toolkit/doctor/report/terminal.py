"""Terminal report of an examination: the summary, then each finding with evidence, images and remedy."""

import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgeclf.toolkit.console import print_json, print_table, printable
from edgeclf.toolkit.doctor.findings import Finding
from edgeclf.toolkit.doctor.remedies import COMMAND

if TYPE_CHECKING:
    from rich.console import Console

    from edgeclf.toolkit.doctor.examination import Examination

# Most images or groups listed per finding; the page and the JSON have more.
_MOST_NAMED = 5
_STYLES = {"problem": "bold red", "warning": "bold yellow", "note": "bold cyan"}
# Line width in characters where stdout is not a terminal.
_WIDTH = 110
_INDENT = "    "
_NO_BREAK = "\u00a0"
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


def print_checks(*, as_json: bool) -> None:
    """Prints the registered checks with their conditions."""
    from edgeclf.toolkit.doctor.registry import all_checks

    checks = all_checks()
    if as_json:
        print_json(
            [
                {"name": check.name, "theme": check.theme, "causes": list(check.causes), "condition": check.condition}
                for check in checks
            ]
        )
        return
    rows = [[check.theme, check.name, check.condition] for check in checks]
    print_table("", ["theme", "check", "finds something when"], rows, numeric=False)


def print_examination(examination: "Examination") -> None:
    """Prints the terminal report of an examination."""
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    width = console.width if sys.stdout.isatty() else _WIDTH
    _print(console, width, [(examination.summary, "bold")])
    _print(console, width, [(scope_text(examination), "dim")])
    for finding in examination.findings:
        console.print()
        style = _STYLES[finding.severity]
        _print(console, width, [(finding.severity, style), (f" {finding.cause}: ", "bold"), (finding.title, "")])
        evidence = [evidence_text(finding.evidence)] if finding.evidence else []
        for line in [*evidence, *_named(finding)]:
            _print(console, width, [(line, "dim")], _INDENT)
        _print(console, width, [(f"-> {finding.fix}", "green")], _INDENT)


def _print(console: "Console", width: int, pieces: Sequence[tuple[str, str]], indent: str = "") -> None:
    """Prints (text, style) pieces as one wrapped paragraph, without breaks at hyphens of commands and file names."""
    import textwrap

    from rich.text import Text

    encoding = sys.stdout.encoding or "utf-8"
    shown = [(printable(t).encode(encoding, "backslashreplace").decode(encoding), style) for t, style in pieces]
    plain = "".join(text for text, _ in shown)
    # A line break inside a quoted argument would be part of it once it is pasted. `printable` leaves no such space in texts.
    unbroken = COMMAND.sub(lambda command: _QUOTED.sub(lambda word: word[0].replace(" ", _NO_BREAK), command[0]), plain)
    text = textwrap.fill(
        unbroken,
        max(width, 40),
        initial_indent=indent,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    ).replace(_NO_BREAK, " ")
    # The last piece may wrap, and its style is that of the paragraph; the others fit on the first line.
    line, position = Text(text, style=shown[-1][1]), len(indent)
    for piece, style in shown[:-1]:
        line.stylize(style, position, position + len(piece))
        position += len(piece)
    console.print(line, soft_wrap=True)


def _named(finding: Finding) -> list[str]:
    """Lines that name the first images or groups of a finding, and how many more there are."""
    if finding.groups:
        shown = [" = ".join(group) for group in finding.groups[:_MOST_NAMED]]
        more, kind = len(finding.groups) - len(shown), "groups"
    else:
        details = finding.details or ("",) * len(finding.items)
        pairs = list(zip(finding.items, details, strict=True))[:_MOST_NAMED]
        shown = [f"{path} ({detail})" if detail else path for path, detail in pairs]
        more, kind = len(finding.items) - len(shown), "images"
    return [*shown, *([f"and {more} more {kind} (--json names them)"] if more > 0 else [])]


def scope_text(examination: "Examination") -> str:
    """Scope of an examination as a sentence: run, images, classes, images shown to the network, checks."""
    data = examination.facts.data
    if data is None:
        return "Looked at: the run, without its images"
    seen = len(data.images) + len(data.unreadable)
    of = f" of {data.sampled_from:,}" if data.sampled_from is not None else ""
    classes = f"{len(data.classes)} class{'es' if len(data.classes) != 1 else ''}" if data.classes else "without labels"
    network = f", {len(data.features.rows):,} of them shown to {data.features.network}" if data.features else ""
    what = {"run": "the run and ", "model": "the model and ", "data": ""}[examination.kind]
    return f"Looked at: {what}{seen:,}{of} images, {classes}{network}; {len(examination.checks)} checks"


def evidence_text(evidence: Mapping[str, Any], most: int = 12) -> str:
    """Evidence as one line: names without underscores, numbers with four digits, `most` entries per collection."""
    return "; ".join(f"{key.replace('_', ' ')} {value_text(value, most)}" for key, value in evidence.items())


def value_text(value: object, most: int = 12) -> str:
    """A JSON value as text: numbers with four digits, collections with `most` entries at most."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    if isinstance(value, Mapping):
        parts = [f"{key} {value_text(item, most)}" for key, item in list(value.items())[:most]]
        return "(" + ", ".join(parts) + (", …" if len(value) > most else "") + ")"
    if isinstance(value, list | tuple):
        parts = [value_text(item, most) for item in value[:most]]
        return "[" + ", ".join(parts) + (", …" if len(value) > most else "") + "]"
    return str(value)
