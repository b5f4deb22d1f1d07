"""Checks of usability: data that training refuses, unreadable files, and facts that could not be gathered."""

from collections import Counter

from edgeclf.toolkit.doctor.facts import Check, Facts
from edgeclf.toolkit.doctor.findings import Finding, split_remedy

# Fraction of unreadable files from which on they are a problem: training leaves them out, which changes what is measured.
_PROBLEM_FRACTION = 0.01


def find_refused(facts: Facts) -> list[Finding]:
    """Data that training would refuse, with training's own error."""
    data = facts.data
    if data is None or data.refusal is None:
        return []
    sentence, remedy = split_remedy(data.refusal)
    return [
        Finding(
            cause="refused",
            severity="problem",
            title=f"Training would refuse this data: {sentence}",
            fix=remedy or "Fix it and run edgeclf doctor again",
            evidence={"labels": bool(data.classes)},
        )
    ]


def find_unreadable(facts: Facts) -> list[Finding]:
    """Image files that cannot be decoded, which training leaves out."""
    data = facts.data
    if data is None or not data.unreadable:
        return []
    total = len(data.images) + len(data.unreadable)
    count = len(data.unreadable)
    return [
        Finding(
            cause="unreadable",
            severity="problem" if count >= _PROBLEM_FRACTION * total else "warning",
            title=f"{count} of {total} files cannot be read, such as {data.unreadable[0][0]}: {data.unreadable[0][1]}",
            fix="Copy them again or remove them; training leaves them out",
            evidence={"count": count, "files": total, "reasons": dict(Counter(why for _, why in data.unreadable))},
            items=tuple(path for path, _ in data.unreadable),
            details=tuple(why for _, why in data.unreadable),
            weight=min(1.0, count / total),
        )
    ]


def find_unchecked(facts: Facts) -> list[Finding]:
    """Facts that are missing, so that other checks cannot judge: labels, images outside the sample, features."""
    data = facts.data
    if data is None:
        return []
    found = []
    if not data.classes:
        found.append(
            Finding(
                cause="unchecked",
                severity="note",
                title="The images have no labels that could be used: only the files were looked at",
                fix="Sort the images into class folders, or list them with their labels in a CSV",
                evidence={"labels": False},
            )
        )
    if data.sampled_from is not None:
        seen = len(data.images) + len(data.unreadable)
        found.append(
            Finding(
                cause="unchecked",
                severity="note",
                title=f"Only {seen:,} of {data.sampled_from:,} images were looked at, of every class in every split the same share",
                fix="Leave out --max-images to look at all",
                evidence={"looked_at": seen, "images": data.sampled_from},
            )
        )
    if data.why_no_features is not None and len(data.images):
        why, remedy = split_remedy(data.why_no_features)
        found.append(
            Finding(
                cause="unchecked",
                severity="note",
                title=f"What the images show was not looked at, only the files: {why}",
                fix=remedy or "Leave out --fast",
                evidence={"reason": data.why_no_features},
            )
        )
    return found


CHECKS: tuple[Check, ...] = (
    Check("refused", "files", ("refused",), "edgeclf train would refuse the data", find_refused),
    Check(
        "unreadable",
        "files",
        ("unreadable",),
        f"a file named like an image cannot be decoded whole; a problem from {_PROBLEM_FRACTION:.0%} of the files on",
        find_unreadable,
    ),
    Check(
        "unchecked",
        "files",
        ("unchecked",),
        "there are no labels, a sample was looked at, or no pretrained network is there",
        find_unchecked,
    ),
)
