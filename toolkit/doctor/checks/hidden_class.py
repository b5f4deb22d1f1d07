"""Check for content that only one split has: classes missing from a split, and outlying groups inside a class."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from edgeclf.runtime.arrays import Float64Array, FloatArray, IntArray
from edgeclf.toolkit.doctor.facts import SPLIT_NAMES, SPLITS, Check, DataFacts, Facts
from edgeclf.toolkit.doctor.findings import Finding

# Nearest neighbours whose mean distance is the outlier score.
_NEIGHBOURS = 5
# Weight of the second score, by how much nearer an image's neighbours in its own split are than those in the other split.
_CLUSTER_WEIGHT = 0.5
# Fewest images of a split for a comparison.
_FEWEST = 20
# Fewest images of a class in a split for a median of its own.
_CLASS_FEWEST = 10
# A surplus of outlying images is significant where the bound on its probability is below exp(-_SURPRISE).
_SURPRISE = 9.5
# Smallest outlier score of a hidden group in standard deviations, and largest fraction of its class.
_MIN_SCORE, _MAX_CLASS_FRACTION = 1.8, 0.34
# Rules for groups too small to be significant by number: score, fewest images, least score in standard deviations, and least
# ratio to the largest score of the other split. `combined` is the score with its second term.
_SMALL_GROUP_RULES = (("distance", 2, 4.0, 1.6), ("distance", 3, 3.3, 1.6), ("combined", 3, 5.0, 2.0))
# Rows of the distance matrix in memory at a time.
_CHUNK = 1024
# Fraction of its class and number of images from which on a hidden group is a problem.
_PROBLEM_FRACTION, _PROBLEM_IMAGES = 0.02, 3


@dataclass(frozen=True, eq=False)
class HiddenGroup:
    """Group of images of one split that have no like in another split.

    Attributes:
        split: Split of the images.
        other: Split without images like these.
        rows: (K,) rows in the image table, the most outlying first.
        distances: (K,) outlier scores in standard deviations.
        expected: Number of images with such scores if both splits were drawn alike.
        surprise: Minus the natural logarithm of the bound on the probability of so many.
        compared: Number of compared images of `split` and of `other`.
    """

    split: str
    other: str
    rows: IntArray
    distances: Float64Array
    expected: float
    surprise: float
    compared: tuple[int, int]


def find_hidden_groups(data: DataFacts) -> tuple[HiddenGroup, ...]:
    """Hidden groups between train and test and between train and validation, in both directions."""
    if data.features is None or not data.has_splits:
        return ()
    rows, vectors = data.features.rows, data.features.vectors
    splits, labels = data.images.splits[rows], data.images.labels[rows]
    found = []
    for split in ("test", "val"):
        first, second = splits == SPLITS.index(split), splits == SPLITS.index("train")
        # A class that one split lacks altogether has a finding of its own.
        both = np.isin(labels, np.intersect1d(labels[first], labels[second]))
        first, second = np.flatnonzero(first & both), np.flatnonzero(second & both)
        if min(len(first), len(second)) < _FEWEST:
            continue
        for name, members, other_name, others in ((split, first, "train", second), ("train", second, split, first)):
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
    """Detects a group of images that has no like in another split; None where there is none.

    The outlier score of an image is its mean distance to its five nearest neighbours in the other split, plus half of by how
    much nearer its neighbours in its own split are. Leave-one-out scores within the other split are the reference: were both
    splits drawn alike, both scores would have the same distribution. Scores are centred by class, so that a split that is
    darker as a whole has no outliers. The threshold is where the surplus of images beyond it is least probable, by Hoeffding's
    bound for sampling without replacement (JASA 58, 1963).

    Args:
        vectors: (N, F) features of the split with the possible group.
        labels: (N,) its classes.
        other_vectors: (M, F) features of the other split.
        other_labels: (M,) its classes.

    Returns:
        Positions of the group in `vectors`, most outlying first; their scores in standard deviations; the expected number of
        images with such scores; and minus the logarithm of the bound on the probability of so many.
    """
    own, other = _unit(vectors, other_vectors)
    log_distances, reference_log_distances = _nearest(own, other, itself=False), _nearest(other, other, itself=True)
    cohesion = log_distances - _nearest(own, own, itself=True)
    reference_cohesion = reference_log_distances - _nearest(other, own, itself=False)
    distance, reference_distance = _standardized(log_distances, labels, reference_log_distances, other_labels)
    cohesion, reference_cohesion = _standardized(cohesion, labels, reference_cohesion, other_labels)
    scores, reference_scores = (
        far + _CLUSTER_WEIGHT * near * (far > 0)
        for far, near in ((distance, cohesion), (reference_distance, reference_cohesion))
    )
    order = np.argsort(-scores, kind="stable")
    above = np.arange(1, len(order) + 1)
    beyond = len(reference_scores) - np.searchsorted(np.sort(reference_scores), scores[order], side="left")
    surprise = np.where(scores[order] > _MIN_SCORE, _surprise(above, beyond, len(scores), len(reference_scores)), 0.0)
    best = int(np.argmax(surprise))
    most = max(
        float((labels[order[: best + 1]] == label).sum() / (labels == label).sum()) for label in np.unique(labels)
    )
    if surprise[best] >= _SURPRISE and best >= 1 and most <= _MAX_CLASS_FRACTION:
        return (
            order[: best + 1],
            scores[order[: best + 1]],
            float(beyond[best]) * len(own) / len(other),
            float(surprise[best]),
        )
    measures = {"distance": (distance, reference_distance), "combined": (scores, reference_scores)}
    for name, fewest, least, times in _SMALL_GROUP_RULES:
        values, others = measures[name]
        far_out = np.flatnonzero(values > max(least, times * float(others.max())))
        if len(far_out) >= fewest:
            far_out = far_out[np.argsort(-values[far_out], kind="stable")]
            chance = _surprise(np.array([len(far_out)]), np.array([0]), len(own), len(other))
            return far_out, values[far_out], 0.0, float(chance[0])
    return None


def _surprise(above: IntArray, beyond: IntArray, count: int, other_count: int) -> Float64Array:
    """(K,) minus the logarithm of Hoeffding's bound that `above` of the outermost images are of the one split."""
    total = above + beyond
    fraction, share = above / total, count / (count + other_count)
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = np.where(beyond > 0, (1 - fraction) * np.log((1 - fraction) / (1 - share)), 0.0)
    return np.where(fraction > share, total * (fraction * np.log(fraction / share) + rest), 0.0)


def _unit(vectors: FloatArray, others: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Both sets of features, minus their common mean, normalised to unit length."""
    mean = np.concatenate([vectors, others]).mean(axis=0, dtype=np.float64).astype(np.float32)
    first, second = (values - mean for values in (vectors, others))
    return tuple(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-6) for values in (first, second))


def _nearest(vectors: FloatArray, others: FloatArray, *, itself: bool) -> Float64Array:
    """(N,) log mean distance to the nearest neighbours in `others`; `itself` excludes the image itself from them."""
    result = np.empty(len(vectors))
    count = min(_NEIGHBOURS, len(others) - int(itself))
    for start in range(0, len(vectors), _CHUNK):
        nearness = vectors[start : start + _CHUNK] @ others.T
        if itself:
            nearness[np.arange(len(nearness)), start + np.arange(len(nearness))] = -np.inf
        closest = np.partition(nearness, -count, axis=1)[:, -count:]
        result[start : start + _CHUNK] = np.sqrt(np.maximum(0.0, 2.0 - 2.0 * closest)).mean(axis=1)
    # Copies have distance 0, whose logarithm must not dominate the spread.
    return np.log(np.maximum(result, 0.02))


def _standardized(
    values: Float64Array, labels: IntArray, others: Float64Array, other_labels: IntArray
) -> tuple[Float64Array, Float64Array]:
    """Both sets of scores in robust standard deviations from the others' median, after the classes' medians were aligned."""
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
    """Robust standard deviation, by the median absolute deviation."""
    return max(1.4826 * float(np.median(np.abs(values - np.median(values)))), 1e-3)


def _find(facts: Facts) -> list[Finding]:
    if facts.data is None:
        return []
    return [
        *_missing_classes(facts.data),
        *(_finding(facts.data, hidden) for hidden in facts.data.derived(find_hidden_groups)),
    ]


def _finding(data: DataFacts, hidden: HiddenGroup) -> Finding:
    images = data.images
    paths = tuple(images.paths[row] for row in hidden.rows)
    counts = Counter(int(label) for label in images.labels[hidden.rows])
    label, most = counts.most_common(1)[0]
    members = int(((images.labels == label) & (images.splits == SPLITS.index(hidden.split))).sum())
    share = most / members
    split, other = SPLIT_NAMES[hidden.split], SPLIT_NAMES[hidden.other]
    of_class = f", {most} of them {data.classes[label]!r}," if len(data.classes) > 1 else ""
    return Finding(
        cause="hidden-class",
        severity="problem"
        if share >= _PROBLEM_FRACTION and len(paths) - hidden.expected >= _PROBLEM_IMAGES
        else "warning",
        title=f"{len(paths)} {split} images{of_class} look like nothing among the {other} images",
        fix="Look at them: move out what is of no class, and give a kind that belongs there to both splits",
        evidence={
            "part": hidden.split,
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
    """Classes that occur in one split and not in another non-empty one."""
    if not data.has_splits:
        return []
    counts = {
        split: np.bincount(data.images.labels[data.images.rows_of(split)], minlength=len(data.classes))
        for split in SPLITS
    }
    findings = []
    for split in ("test", "val"):
        if not counts[split].any() or not counts["train"].any():
            continue
        for having, lacking in ((split, "train"), ("train", split)):
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
                    title=f"The {SPLIT_NAMES[lacking]} split has no image of {shown}, the {SPLIT_NAMES[having]} split has {len(rows)}",
                    fix="Put images of every class into every split, or take the class out",
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
            "a class is in one split only; or more images of a split lie far from all images of another than that split's own do "
            f"(features of a pretrained network, chance below exp(-{_SURPRISE:g})), or a few lie {_SMALL_GROUP_RULES[0][3]:g} times as "
            f"far out as any, {_SMALL_GROUP_RULES[-1][3]:g} times together; a problem from {_PROBLEM_FRACTION:.0%} of a class on"
        ),
        find=_find,
    ),
)
