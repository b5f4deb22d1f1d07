"""Registry of the checks, and their execution on gathered facts."""

from edgeclf.runtime.errors import MissingPackageError
from edgeclf.runtime.progress import Progress, no_progress
from edgeclf.toolkit.doctor.facts import Check, Facts
from edgeclf.toolkit.doctor.findings import Finding, most_important_first, split_remedy

# Themes whose checks need no labels.
_THEMES_WITHOUT_LABELS = frozenset({"files", "use"})
# Themes of a model file on photographs, which are neither split nor learned from.
_THEMES_OF_A_FILE = frozenset({"files", "labels", "duplicates", "shortcuts", "use", "field"})


def all_checks() -> tuple[Check, ...]:
    """All checks, in the order in which they run."""
    from edgeclf.toolkit.doctor.checks import (
        classes,
        files,
        hidden_class,
        labels,
        model,
        shortcuts,
        split,
        split_shift,
        unusable,
    )
    from edgeclf.toolkit.doctor.checks.duplicates import checks as duplicates
    from edgeclf.toolkit.doctor.checks.training import failures, fit, reliability
    from edgeclf.toolkit.doctor.checks.use import answers, label_order, preprocessing

    data_checks = (unusable, files, classes, labels, duplicates, hidden_class, split_shift, split, shortcuts)
    run_checks = (failures, fit, reliability, model)
    use_checks = (preprocessing, label_order, answers)
    return tuple(check for module in (*data_checks, *run_checks, *use_checks) for check in module.CHECKS)


def checks_for(facts: Facts) -> tuple[Check, ...]:
    """The checks that apply to the facts, in the order in which they run: without labels few, and of a model file its own."""
    labelled = facts.data is None or bool(facts.data.classes)
    return tuple(
        check
        for check in all_checks()
        if (labelled or check.theme in _THEMES_WITHOUT_LABELS)
        and (check.theme != "use" if facts.use is None else check.theme in _THEMES_OF_A_FILE)
    )


def examine(facts: Facts, progress: Progress = no_progress) -> list[Finding]:
    """Runs the checks that apply; a check whose optional package is missing becomes a note.

    Args:
        facts: Gathered facts.
        progress: Reports the running check.

    Returns:
        The findings, most important first.
    """
    checks = checks_for(facts)
    findings: list[Finding] = []
    missing: dict[str, list[str]] = {}
    for number, check in enumerate(checks):
        progress(f"check: {check.name}", number, len(checks))
        try:
            findings.extend(check.find(facts))
        except MissingPackageError as error:
            missing.setdefault(str(error), []).append(check.name)
    progress("check:", len(checks), len(checks))
    findings.extend(_not_run(sentence, names) for sentence, names in missing.items())
    return most_important_first(findings)


def _not_run(sentence: str, names: list[str]) -> Finding:
    what, remedy = split_remedy(sentence)
    return Finding(
        cause="unchecked",
        severity="note",
        title=f"Not checked: {', '.join(names)}, because {what}",
        fix=remedy or "Install what is missing",
        evidence={"checks": names, "reason": sentence},
    )
