"""Pictures of a kind that only one part of the data has, such as people among the cats of the test images."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from edgeclf.runtime.arrays import Float64Array, FloatArray, IntArray
from edgeclf.toolkit.doctor.facts import SPLITS, Check, DataFacts, Facts
from edgeclf.toolkit.doctor.findings import Finding

# Nearest pictures whose mean distance says how unlike a picture is to all of a part.
_NEIGHBOURS = 5
# How much it counts that a picture has its like in its own part, next to having none in the other.
_COMPANY = 0.5
# Fewer pictures than this give no distances to compare with.
_FEWEST = 20
# A class with fewer in a part is measured from the medians of all.
_CLASS_FEWEST = 10
# A surplus of outlying pictures is believed where chance gives it less often than exp(-_SURPRISE).
_SURPRISE = 9.5
# What lies out by fewer standard deviations is no other kind, and what most of a class is, is not hidden.
_OUTLYING, _MOST_OF_CLASS = 1.8, 0.34
# So few may be hidden that their number alone says nothing. Then so many must lie farther out than so many standard
# deviations, and so many times as far as any picture of the other part: by distance alone, and with company.
_FAR = (("distance", 2, 4.0, 1.6), ("distance", 3, 3.3, 1.6), ("company", 3, 5.0, 2.0))
# Rows of the distance matrix that are in memory at a time.
_CHUNK = 1024
# From this share of its class, and so many, on, hidden pictures are a problem.
_PROBLEM_SHARE, _PROBLEM_IMAGES = 0.02, 3


@dataclass(frozen=True, eq=False)
class HiddenGroup:
    """Pictures of one part that are like none of another.

    Attributes:
        part: Whose pictures they are, and `other`, which has nothing like them.
        other: See `part`.
        rows: (K,) their rows in the image table, the farthest first.
        distances: (K,) how far out they are, in standard deviations of their part.
        expected: How many as far out the other part, against itself, would lead to expect.
        surprise: Minus the logarithm of the bound on the chance of as many.
        compared: Pictures of both parts that were compared.
    """

    part: str
    other: str
    rows: IntArray
    distances: Float64Array
    expected: float
    surprise: float
    compared: tuple[int, int]


def find_hidden_groups(data: DataFacts) -> tuple[HiddenGroup, ...]:
    """What is hidden in train and in test or, without test images, in validation."""
    if data.features is None or not data.has_splits:
        return ()
    rows, vectors = data.features.rows, data.features.vectors
    parts, labels = data.images.parts[rows], data.images.labels[rows]
    found = []
    for part in ("test", "val"):
        first, second = parts == SPLITS.index(part), parts == SPLITS.index("train")
        # A class that one part lacks altogether is said without any distances.
        both = np.isin(labels, np.intersect1d(labels[first], labels[second]))
        first, second = np.flatnonzero(first & both), np.flatnonzero(second & both)
        if min(len(first), len(second)) < _FEWEST:
            continue
        for name, members, other_name, others in ((part, first, "train", second), ("train", second, part, first)):
            result = detect_outliers(vectors[members], labels[members], vectors[others], labels[others])
            if result is not None:
                positions, distances, expected, surprise = result
                compared = (len(members), len(others))
                found.append(
                    HiddenGroup(name, other_name, rows[members[positions]], distances, expected, surprise, compared)
                )
    return tuple(found)


def detect_outliers(
    vectors: FloatArray, labels: IntArray, other_vectors: FloatArray, other_labels: IntArray
) -> tuple[IntArray, Float64Array, float, float] | None:
    """Which pictures are unlike all of another part, as that part's pictures are not unlike each other; None for none.

    A picture lies out by its mean distance to its five nearest in the other part, and by how much nearer its like in its
    own part is. The other part's pictures, each left out, say what is usual: were the two drawn alike, both would have the
    same distribution. Classes are measured from their own medians, so that a part which is darker as a whole hides
    nothing. The threshold is where the surplus beyond it is the most surprising, by Hoeffding's bound for sampling without
    replacement (JASA 58, 1963).

    Args:
        vectors: (N, F) features of the part that may hide something.
        labels: (N,) its classes.
        other_vectors: (M, F) features of the part that would not have it.
        other_labels: (M,) its classes.

    Returns:
        Positions, farthest first; how far out each is; how many were expected; and how surprising that is.
    """
    own, other = _unit(vectors, other_vectors)
    away, usual_away = _nearest(own, other, itself=False), _nearest(other, other, itself=True)
    company = away - _nearest(own, own, itself=True)
    usual_company = usual_away - _nearest(other, own, itself=False)
    distance, usual_distance = _standardized(away, labels, usual_away, other_labels)
    company, usual_company = _standardized(company, labels, usual_company, other_labels)
    outlying, usual = (
        far + _COMPANY * near * (far > 0) for far, near in ((distance, company), (usual_distance, usual_company))
    )
    order = np.argsort(-outlying, kind="stable")
    above = np.arange(1, len(order) + 1)
    beyond = len(usual) - np.searchsorted(np.sort(usual), outlying[order], side="left")
    surprise = np.where(outlying[order] > _OUTLYING, _surprise(above, beyond, len(outlying), len(usual)), 0.0)
    best = int(np.argmax(surprise))
    most = max(
        float((labels[order[: best + 1]] == label).sum() / (labels == label).sum()) for label in np.unique(labels)
    )
    if surprise[best] >= _SURPRISE and best >= 1 and most <= _MOST_OF_CLASS:
        return (
            order[: best + 1],
            outlying[order[: best + 1]],
            float(beyond[best]) * len(own) / len(other),
            float(surprise[best]),
        )
    measures = {"distance": (distance, usual_distance), "company": (outlying, usual)}
    for name, fewest, least, times in _FAR:
        values, others = measures[name]
        far_out = np.flatnonzero(values > max(least, times * float(others.max())))
        if len(far_out) >= fewest:
            far_out = far_out[np.argsort(-values[far_out], kind="stable")]
            chance = _surprise(np.array([len(far_out)]), np.array([0]), len(own), len(other))
            return far_out, values[far_out], 0.0, float(chance[0])
    return None


def _surprise(above: IntArray, beyond: IntArray, count: int, other_count: int) -> Float64Array:
    """Minus the logarithm of the bound on the chance that so many of the outermost are of the one part."""
    total = above + beyond
    fraction, share = above / total, count / (count + other_count)
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = np.where(beyond > 0, (1 - fraction) * np.log((1 - fraction) / (1 - share)), 0.0)
    return np.where(fraction > share, total * (fraction * np.log(fraction / share) + rest), 0.0)


def _unit(vectors: FloatArray, others: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Both, measured from their common mean, at length one."""
    mean = np.concatenate([vectors, others]).mean(axis=0, dtype=np.float64).astype(np.float32)
    first, second = (values - mean for values in (vectors, others))
    return tuple(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6) for values in (first, second))


def _nearest(vectors: FloatArray, others: FloatArray, *, itself: bool) -> Float64Array:
    """(N,) logarithm of the mean distance to the nearest others; without itself where both are the same."""
    result = np.empty(len(vectors))
    count = min(_NEIGHBOURS, len(others) - int(itself))
    for start in range(0, len(vectors), _CHUNK):
        nearness = vectors[start : start + _CHUNK] @ others.T
        if itself:
            nearness[np.arange(len(nearness)), start + np.arange(len(nearness))] = -np.inf
        closest = np.partition(nearness, -count, axis=1)[:, -count:]
        result[start : start + _CHUNK] = np.sqrt(np.maximum(0.0, 2.0 - 2.0 * closest)).mean(axis=1)
    # Copies have no distance; their logarithm must not be the spread of all.
    return np.log(np.maximum(result, 0.02))


def _standardized(
    values: Float64Array, labels: IntArray, others: Float64Array, other_labels: IntArray
) -> tuple[Float64Array, Float64Array]:
    """Both from the others' median, in units of their own spread, after the classes' medians were made the same."""
    moved = np.array(values)
    for label in np.unique(labels):
        own, other = labels == label, other_labels == label
        few = min(own.sum(), other.sum()) < _CLASS_FEWEST
        moved[own] -= (
            np.median(values) - np.median(others) if few else np.median(values[own]) - np.median(others[other])
        )
    middle = float(np.median(others))
    return (moved - middle) / _spread(moved), (others - middle) / _spread(others)


def _spread(values: Float64Array) -> float:
    """Standard deviation of the normal distribution with the same median absolute deviation."""
    return max(1.4826 * float(np.median(np.abs(values - np.median(values)))), 1e-3)


def _find(facts: Facts) -> list[Finding]:
    if facts.data is None:
        return []
    return [
        *_missing_classes(facts.data),
        *(_finding(facts.data, hidden) for hidden in facts.data.derived(find_hidden_groups)),
    ]


_PART_WORDS = {"train": "training", "val": "validation", "test": "test"}


def _finding(data: DataFacts, hidden: HiddenGroup) -> Finding:
    images = data.images
    paths = tuple(images.paths[row] for row in hidden.rows)
    counts = Counter(int(label) for label in images.labels[hidden.rows])
    label, most = counts.most_common(1)[0]
    members = int(((images.labels == label) & (images.parts == SPLITS.index(hidden.part))).sum())
    share = most / members
    part, other = _PART_WORDS[hidden.part], _PART_WORDS[hidden.other]
    of_class = f", {most} of them {data.classes[label]!r}," if len(data.classes) > 1 else ""
    return Finding(
        cause="hidden-class",
        severity="problem"
        if share >= _PROBLEM_SHARE and len(paths) - hidden.expected >= _PROBLEM_IMAGES
        else "warning",
        title=f"{len(paths)} {part} images{of_class} look like nothing among the {other} images",
        fix="Look at them: move out what is of no class, and give a kind that belongs there to both parts",
        evidence={
            "part": hidden.part,
            "other_part": hidden.other,
            "class": data.classes[label],
            "images": len(paths),
            "expected_images": round(hidden.expected, 1),
            "share_of_class": round(share, 4),
            "log10_chance": round(-hidden.surprise / np.log(10), 1),
            "compared_images": list(hidden.compared),
        },
        items=paths,
        details=tuple(
            f"{data.classes[images.labels[row]]}, {distance:.1f} standard deviations from anything in {hidden.other}"
            for row, distance in zip(hidden.rows, hidden.distances, strict=True)
        ),
        weight=min(1.0, 0.5 + share),
    )


def _missing_classes(data: DataFacts) -> list[Finding]:
    """Classes that one part has and another, which is not empty, has not."""
    if not data.has_splits:
        return []
    counts = {
        part: np.bincount(data.images.labels[data.images.rows_of(part)], minlength=len(data.classes)) for part in SPLITS
    }
    findings = []
    for part in ("test", "val"):
        if not counts[part].any() or not counts["train"].any():
            continue
        for having, lacking in ((part, "train"), ("train", part)):
            missing = [c for c in range(len(data.classes)) if counts[having][c] and not counts[lacking][c]]
            if not missing:
                continue
            names = [data.classes[number] for number in missing]
            rows = data.images.rows_of(having)
            rows = rows[np.isin(data.images.labels[rows], missing)]
            shown = ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            findings.append(
                Finding(
                    cause="hidden-class",
                    severity="problem",
                    title=f"The {_PART_WORDS[lacking]} part has no image of {shown}, the {_PART_WORDS[having]} part has {len(rows)}",
                    fix="Put images of every class into every part, or take the class out",
                    evidence={"part": having, "other_part": lacking, "classes": names, "images": len(rows)},
                    items=tuple(data.images.paths[row] for row in rows[:24]),
                    weight=1.0,
                )
            )
    return findings


CHECKS: tuple[Check, ...] = (
    Check(
        name="hidden-class",
        theme="split",
        causes=("hidden-class",),
        condition=(
            "a class is in one part only; or more images of a part lie far from all images of another than that part's own do "
            f"(features of a pretrained network, chance below exp(-{_SURPRISE:g})), or a few lie {_FAR[0][3]:g} times as "
            f"far out as any, {_FAR[-1][3]:g} times together; a problem from {_PROBLEM_SHARE:.0%} of a class on"
        ),
        find=_find,
    ),
)
