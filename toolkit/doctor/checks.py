"""All checks, theme by theme. Heavy packages are imported by the checks that need them, when they run."""

from edgeclf.toolkit.doctor.facts import Check, Facts
from edgeclf.toolkit.doctor.findings import Finding, most_important_first


def all_checks() -> tuple[Check, ...]:
    """Every check, in the order in which they run."""
    from edgeclf.toolkit.doctor import field, run

    return (*run.CHECKS, *field.CHECKS)


def examine(facts: Facts) -> list[Finding]:
    """The findings of every check, most important first."""
    return most_important_first([finding for check in all_checks() for finding in check.find(facts)])
