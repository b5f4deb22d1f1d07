"""Checks of duplicates: leakage between splits, contradicting labels, repetitions in a class, overlapping images."""

from collections import Counter
from collections.abc import Iterable, Sequence

from edgeclf.toolkit.doctor.checks.duplicates import candidates
from edgeclf.toolkit.doctor.checks.duplicates.copies import Pair, find_copies
from edgeclf.toolkit.doctor.facts import NO_SPLIT, SPLITS, Check, DataFacts, Facts
from edgeclf.toolkit.doctor.findings import Finding, Severity
from edgeclf.toolkit.doctor.remedies import list_images

# Fraction of a held-out split that leaked for a problem: test accuracy may be off by as much.
LEAKAGE_PROBLEM = 0.01
# Fraction of images under two classes for a problem.
CONTRADICTION_PROBLEM = 0.01
# Fraction of surplus copies for a warning: they weight what they show.
SURPLUS_WARNING = 0.02
_TRAIN = SPLITS.index("train")


def find_leakage(facts: Facts) -> list[Finding]:
    """Leakage: test and validation images with a copy in a split that the model is trained or selected on."""
    data = facts.data
    if data is None or not data.has_splits:
        return []
    copies = data.derived(find_copies)
    splits = data.images.splits
    # Test is held out from train and val, val from train.
    leaked: dict[int, tuple[int, ...]] = {}
    for group in copies.groups:
        for row in group:
            others = [other for other in group if splits[row] != NO_SPLIT and NO_SPLIT < splits[other] < splits[row]]
            if others:
                leaked[row] = (row, *others)
    if not leaked:
        return []
    rows = sorted(leaked, key=lambda row: (-int(splits[row]), row))
    of = {SPLITS[split]: int((splits == split).sum()) for split in (_TRAIN + 1, _TRAIN + 2)}
    found = Counter(SPLITS[splits[row]] for row in rows)
    shares = {split: found[split] / of[split] for split in ("test", "val") if found[split]}
    text = " and ".join(
        f"{found[split]} of {of[split]:,} {split} images ({share:.1%})" for split, share in shares.items()
    )
    where = sorted({SPLITS[splits[other]] for row in rows for other in leaked[row][1:]})
    severity: Severity = "problem" if max(shares.values()) >= LEAKAGE_PROBLEM else "warning"
    return [
        Finding(
            "leakage",
            severity,
            f"{text} {'is' if len(rows) == 1 else 'are'} in {' and '.join(where)} as well",
            f"Delete their copies from {' and '.join(where)} (listed by `{list_images(data)}`) and train again",
            evidence={
                "images": len(rows),
                "share": {split: round(share, 4) for split, share in shares.items()},
                "kinds": _kinds(copies.pairs, leaked.values()),
                "not_verified": copies.left_out,
            },
            items=_paths(data, rows),
            groups=tuple(_paths(data, leaked[row]) for row in rows),
            details=tuple(f"also {', '.join(_paths(data, leaked[row][1:]))}" for row in rows),
            weight=min(1.0, max(shares.values()) * 10.0),
        )
    ]


def find_contradictions(facts: Facts) -> list[Finding]:
    """Copies of one image under different classes."""
    data = facts.data
    if data is None:
        return []
    copies = data.derived(find_copies)
    labels = data.images.labels
    groups = [group for group in copies.groups if len({int(labels[row]) for row in group}) > 1]
    if not groups:
        return []
    rows = [row for group in groups for row in group]
    share = len(rows) / len(data.images)
    names = Counter(" and ".join(sorted({data.classes[labels[row]] for row in group})) for group in groups)
    ((most, _),) = names.most_common(1)
    return [
        Finding(
            "label-noise",
            "problem" if share >= CONTRADICTION_PROBLEM else "warning",
            f"{_count(len(groups), 'image')} {'lies' if len(groups) == 1 else 'lie'} under two classes, "
            f"{'as' if len(names) == 1 else 'most often'} {most}",
            f"Look at them (`{list_images(data)}` lists them) and keep each under one class",
            evidence={
                "kind": "contradicting-copies",
                "pictures": len(groups),
                "share": round(share, 4),
                "classes": dict(names.most_common()),
                "kinds": _kinds(copies.pairs, groups),
            },
            items=_paths(data, rows),
            groups=tuple(_paths(data, group) for group in groups),
            details=tuple(f"labelled {data.classes[labels[row]]}" for row in rows),
            weight=min(1.0, share * 10.0),
        )
    ]


def find_repeated(facts: Facts) -> list[Finding]:
    """Copies of one image in the same class and split."""
    data = facts.data
    if data is None:
        return []
    copies = data.derived(find_copies)
    groups = []
    for group in copies.groups:
        by_place: dict[tuple[int, int], list[int]] = {}
        for row in group:
            by_place.setdefault((int(data.images.splits[row]), int(data.images.labels[row])), []).append(row)
        groups += [tuple(rows) for rows in by_place.values() if len(rows) > 1]
    if not groups:
        return []
    surplus = [row for group in groups for row in group[1:]]
    share = len(surplus) / len(data.images)
    advice = (
        "Delete all but one of each"
        if data.has_splits
        else "Delete all but one of each before training: a random split would put them into training and test data"
    )
    return [
        Finding(
            "duplicates",
            "warning" if share >= SURPLUS_WARNING or not data.has_splits else "note",
            f"{_count(len(surplus), 'image')} ({share:.1%}) {'repeats' if len(surplus) == 1 else 'repeat'} "
            f"another one of the same class",
            f"{advice} (`{list_images(data)}` lists them)",
            evidence={
                "kind": "repeated",
                "images": len(surplus),
                "share": round(share, 4),
                "kinds": _kinds(copies.pairs, groups),
            },
            items=_paths(data, surplus),
            groups=tuple(_paths(data, group) for group in groups),
            weight=min(1.0, share),
        )
    ]


def find_overlapping(facts: Facts) -> list[Finding]:
    """Images that share 90 % or more of their area, neither containing the other, such as frames of one video."""
    data = facts.data
    if data is None:
        return []
    splits = data.images.splits
    pairs = sorted(data.derived(find_copies).overlapping, key=lambda pair: (-pair.overlap, pair.rows))
    across = [pair for pair in pairs if len({int(splits[row]) for row in pair.rows}) > 1]
    held_out = {max(pair.rows, key=lambda row: int(splits[row])) for pair in across}
    if not pairs:
        return []
    of = int((splits > _TRAIN).sum())
    share = len(held_out) / of if of else 0.0
    chosen = across or pairs
    rows = list(dict.fromkeys(max(pair.rows, key=lambda row: (int(splits[row]), row)) for pair in chosen))
    title = (
        f"{_count(len(held_out), 'held-out image')} of {of:,} ({share:.1%}) show 90 % or more of what an image of another "
        "split shows"
        if across
        else f"{_count(len(rows), 'image')} show 90 % or more of what another one shows"
    )
    return [
        Finding(
            "duplicates",
            "warning" if share >= LEAKAGE_PROBLEM else "note",
            f"{title}, such as crops of one image or frames of one video",
            "Keep what comes from one image or one video in one split",
            evidence={
                "kind": "overlapping",
                "pairs": len(pairs),
                "pairs_across_parts": len(across),
                "share_of_held_out": round(share, 4),
                "smallest_overlap": round(min(pair.overlap for pair in pairs), 3),
            },
            items=_paths(data, rows),
            groups=tuple(_paths(data, pair.rows) for pair in chosen),
            weight=min(1.0, share),
        )
    ]


def find_left_out(facts: Facts) -> list[Finding]:
    """Pairs of similar images that were too many to be verified."""
    data = facts.data
    if data is None or not (left_out := data.derived(find_copies).left_out):
        return []
    return [
        Finding(
            "unchecked",
            "note",
            f"Only the {candidates.MAX_PAIRS:,} most similar pairs of images were looked at for copies; {left_out:,} more are similar",
            "Delete the copies that are found and run edgeclf doctor again",
            evidence={"pairs": candidates.MAX_PAIRS, "left_out": left_out},
        )
    ]


def _paths(data: DataFacts, rows: Iterable[int]) -> tuple[str, ...]:
    return tuple(data.images.paths[row] for row in rows)


def _kinds(pairs: Sequence[Pair], groups: Iterable[Sequence[int]]) -> dict[str, int]:
    """Number of pairs inside the groups by kind of copy."""
    places: dict[int, set[int]] = {}
    for number, group in enumerate(groups):
        for row in group:
            places.setdefault(row, set()).add(number)
    inside = [pair for pair in pairs if places.get(pair.rows[0], set()) & places.get(pair.rows[1], set())]
    return dict(Counter(pair.kind for pair in inside).most_common())


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


CHECKS: tuple[Check, ...] = (
    Check(
        "copies-across-parts",
        "duplicates",
        ("leakage",),
        "a test or validation image, or one that holds it or lies in it (re-encoded, resized, cropped by up to about "
        "10 %, mirrored, turned), is in an earlier split; a problem from 1 % of the split on",
        find_leakage,
    ),
    Check(
        "copies-across-classes",
        "duplicates",
        ("label-noise",),
        "copies of one image have different labels; a problem from 1 % of the images on",
        find_contradictions,
    ),
    Check(
        "copies-in-a-class",
        "duplicates",
        ("duplicates",),
        "copies of one image are in the same split and class; a warning from 2 % of the images on, or without splits",
        find_repeated,
    ),
    Check(
        "overlapping-pictures",
        "duplicates",
        ("duplicates",),
        "two images share 90 % of their area and neither holds the other; a warning where 1 % of the held-out images "
        "do with an image of another split",
        find_overlapping,
    ),
    Check(
        "copies-not-verified",
        "duplicates",
        ("unchecked",),
        f"more than {candidates.MAX_PAIRS:,} pairs of images are similar, of which so many are verified; of more than {candidates.EXHAUSTIVE:,} images, "
        "each is compared with those of the nearest cells of an index, and no longer with all",
        find_left_out,
    ),
)
