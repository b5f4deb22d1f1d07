"""Checks of usability: data that training refuses, unreadable files, and facts that could not be gathered."""

from collections import Counter

from edgeclf.runtime.batch.listing import unread_sentence
from edgeclf.toolkit.doctor.facts import SPLIT_NAMES, SPLITS, Check, DataFacts, Facts
from edgeclf.toolkit.doctor.findings import Finding, split_remedy
from edgeclf.toolkit.doctor.remedies import train_again, train_data
from edgeclf.training.data.class_folders import folders_alike, label_of

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


def find_not_read(facts: Facts) -> list[Finding]:
    """Files in the class folders that are no images by their names, which training passes over."""
    data = facts.data
    if data is None or (sentence := unread_sentence(data.not_read, "the class folders")) is None:
        return []
    count, images = sum(data.not_read.values()), len(data.images)
    return [
        Finding(
            cause="not-read",
            severity="warning" if count >= _PROBLEM_FRACTION * (count + images) else "note",
            title=sentence,
            fix="Give images the suffix of their format, or convert them to JPEG or PNG; move what is no image elsewhere",
            evidence={"count": count, "kinds": dict(data.not_read)},
            weight=count / (count + images),
        )
    ]


def find_changed(facts: Facts) -> list[Finding]:
    """Images whose files have another content than when the run was trained with them."""
    data, run = facts.data, facts.run
    if data is None or not data.changed:
        return []
    count, images = len(data.changed), len(data.images)
    by_split = Counter(split for _, split in data.changed)
    parts = ", ".join(f"{by_split[split]:,} {name}" for split, name in SPLIT_NAMES.items() if by_split[split])
    is_unfinished = run is not None and run.record.get("ending") == "unfinished"
    cannot_go_on = is_unfinished and by_split["train"] + by_split["val"] > 0
    then = "it cannot be resumed" if cannot_go_on else "its figures are not those of what lies there now"
    return [
        Finding(
            cause="changed-images",
            severity="problem" if cannot_go_on or count >= _PROBLEM_FRACTION * images else "warning",
            title=(
                f"{count:,} of {images:,} images {'has' if count == 1 else 'have'} changed since the run was trained with them "
                f"({parts}), such as {data.changed[0][0]}: {then}"
            ),
            fix=(
                "Bring back the files as they were, or train with them as they are: "
                f"{train_data(facts) if run is None else train_again(run)}"
            ),
            evidence={"count": count, "images": images, "by_split": {name: by_split[name] for name in SPLITS}},
            items=tuple(path for path, _ in data.changed),
            weight=count / images,
        )
    ]


def find_layout(facts: Facts) -> list[Finding]:
    """Class folders with the same folders inside: parts, or places, that have the classes inside."""
    data = facts.data
    if data is None or not data.classes or data.has_splits or not _has_class_folders(data):
        return []
    alike = folders_alike(data.images.paths)
    if alike is None:
        return []
    outer, inner = (", ".join(repr(name) for name in names[:5]) for names in alike)
    return [
        Finding(
            cause="layout",
            severity="warning",
            title=f"The folders {outer} are taken for the classes, and each has the same folders inside: {inner}",
            fix="If those are the classes, bring each into one folder, or name the outer ones train/, val/ and test/",
            evidence={"classes": list(alike[0]), "inside": list(alike[1])},
        )
    ]


def _has_class_folders(data: DataFacts) -> bool:
    """Whether the first folder of each path is its class, which in a CSV it need not be."""
    firsts = (label_of(path.split("/", 1)[0]) for path in data.images.paths)
    return all(first == data.classes[label] for first, label in zip(firsts, data.images.labels, strict=True))


def find_unchecked(facts: Facts) -> list[Finding]:
    """Facts that are missing, so that other checks cannot judge: labels, images outside the sample, features."""
    data = facts.data
    if data is None:
        return []
    found = []
    if not data.classes and facts.use is None:
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
        "layout",
        "files",
        ("layout",),
        "all class folders have the same two or more folders inside and no image beside these",
        find_layout,
    ),
    Check(
        "not-read",
        "files",
        ("not-read",),
        f"files in class folders are no images by their names; a warning from {_PROBLEM_FRACTION:.0%} of the files on",
        find_not_read,
    ),
    Check(
        "changed-images",
        "files",
        ("changed-images",),
        "files of a run have another content than its split.csv records; a problem where that keeps the training from being "
        f"resumed, and from {_PROBLEM_FRACTION:.0%} of the images on",
        find_changed,
    ),
    Check(
        "unchecked",
        "files",
        ("unchecked",),
        "there are no labels, a sample was looked at, or no pretrained network is there",
        find_unchecked,
    ),
)
