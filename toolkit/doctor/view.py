"""What `edgeclf doctor` prints: one sentence to act on, then every finding with its evidence and what mends it."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgeclf.toolkit.console import print_json, print_table
from edgeclf.toolkit.doctor.findings import SEVERITIES, Finding

if TYPE_CHECKING:
    from rich.console import Console

    from edgeclf.toolkit.doctor.examination import Examination

# Pictures and groups that a finding names on the terminal; the page and the JSON have more.
_MOST_NAMED = 5
_STYLES = {"problem": "bold red", "warning": "bold yellow", "note": "bold cyan"}
_WIDTH = 110


def print_checks(*, as_json: bool) -> None:
    """Lists the checks."""
    from edgeclf.toolkit.doctor.checks import all_checks

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
    """Shows what the doctor says."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    width = None if sys.stdout.isatty() else _WIDTH
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False, width=width)
    console.print(Text(printable(examination.summary), style="bold"))
    console.print(Text(looked_at(examination), style="dim"))
    for severity in SEVERITIES:
        for finding in examination.findings:
            if finding.severity == severity:
                console.print()
                _print_finding(console, finding, Padding, Text)


def _print_finding(console: "Console", finding: Finding, padding: Any, text: Any) -> None:  # noqa: ANN401 - rich's classes
    heading = text()
    heading.append(finding.severity, style=_STYLES[finding.severity])
    heading.append(f"  {finding.cause}: ", style="bold")
    heading.append(printable(finding.title))
    console.print(heading)
    lines = [("", evidence_text(finding.evidence))] if finding.evidence else []
    named = [("", line) for line in _named(finding)]
    for style, line in [*lines, *named]:
        console.print(padding(text(printable(line), style=style or "dim"), (0, 0, 0, 4)))
    console.print(padding(text(f"-> {printable(finding.fix)}", style="green"), (0, 0, 0, 4)))


def _named(finding: Finding) -> list[str]:
    """The images it is about, the first few."""
    if finding.groups:
        shown = [" = ".join(group) for group in finding.groups[:_MOST_NAMED]]
        more, kind = len(finding.groups) - len(shown), "groups"
    else:
        details = finding.details or ("",) * len(finding.items)
        pairs = list(zip(finding.items, details, strict=True))[:_MOST_NAMED]
        shown = [f"{path} ({detail})" if detail else path for path, detail in pairs]
        more, kind = len(finding.items) - len(shown), "images"
    return [*shown, *([f"and {more} more {kind} (--json and --html have them)"] if more > 0 else [])]


def looked_at(examination: "Examination") -> str:
    """What was looked at, in a sentence."""
    data = examination.facts.data
    if data is None:
        return "Looked at: the run, without its images"
    seen = len(data.images) + len(data.unreadable)
    of = f" of {data.listed:,}" if data.listed is not None else ""
    classes = f"{len(data.classes)} class{'es' if len(data.classes) != 1 else ''}" if data.classes else "without labels"
    network = f", {len(data.features.rows):,} of them shown to {data.features.network}" if data.features else ""
    what = "the run and " if examination.kind == "run" else ""
    return f"Looked at: {what}{seen:,}{of} images, {classes}{network}; {len(examination.checks)} checks"


def evidence_text(evidence: Mapping[str, Any], most: int = 12) -> str:
    """Evidence as text: names without underscores, numbers with the digits that matter."""
    return "; ".join(f"{key.replace('_', ' ')} {value_text(value, most)}" for key, value in evidence.items())


def value_text(value: object, most: int = 12) -> str:
    """A JSON value as a person reads it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        parts = [f"{key} {value_text(item, most)}" for key, item in list(value.items())[:most]]
        return "(" + ", ".join(parts) + (", …" if len(value) > most else "") + ")"
    if isinstance(value, list | tuple):
        parts = [value_text(item, most) for item in value[:most]]
        return "[" + ", ".join(parts) + (", …" if len(value) > most else "") + "]"
    return str(value)


def printable(text: str) -> str:
    """Text that every terminal and page can show: bytes of file names that are not Unicode, and control characters, escaped."""
    shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        character if character.isprintable() or character == "\n" else character.encode("unicode_escape").decode()
        for character in shown
    )
