"""Can groups of pictures be told apart, and by how much more than chance? Linear classifiers that every picture is held out from."""

from dataclasses import dataclass

import numpy as np

from edgeclf.runtime.arrays import BoolArray, Float64Array, FloatArray, IntArray
from edgeclf.toolkit.doctor.statistics import best_balanced_accuracy, centred_within, rows_by_stratum, stratified_auc

# Directions of features that are looked at, and shuffles that chance is estimated from.
_MAX_DIRECTIONS = 256
_SHUFFLES = 60
_FOLDS = 5
# Strength of the ridge, in mean eigenvalues.
_RIDGE = 0.1
# Bins that a property is cut into, so that a linear classifier sees any dependence on it.
_BINS = 10


def principal_components(vectors: FloatArray) -> Float64Array:
    """(N, D) the same pictures by the directions in which they differ most: what is left out is what few differ in.

    Args:
        vectors: (N, F).
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    if len(centred) < centred.shape[1]:
        values, left = np.linalg.eigh(centred @ centred.T)
        kept = slice(None, -_MAX_DIRECTIONS - 1, -1)
        return np.asarray(left[:, kept] * np.sqrt(np.maximum(values[kept], 0.0)), np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    return np.asarray(centred @ axes[:, : -_MAX_DIRECTIONS - 1 : -1], np.float64)


@dataclass(frozen=True)
class Separability:
    """How well two groups are told apart.

    Attributes:
        auc: Chance that a picture of the one group scores above one of the other, each held out; 0.5 is guessing.
        accuracy: Mean of both groups' shares of right answers, the threshold where held-out scores do best.
        chance_auc: Mean of `auc` with the groups shuffled.
        z: By how many standard deviations of the shuffled ones `auc` is above them.
        scores: (N,) held-out scores, higher for the group that is True.
    """

    auc: float
    accuracy: float
    chance_auc: float
    z: float
    scores: Float64Array


def measure_separability(
    design: Float64Array, group: BoolArray, strata: IntArray | None = None, *, seed: int = 0
) -> Separability:
    """How well a linear classifier tells two groups apart.

    Ridge regression, whose shuffled groups, which say what chance gives, cost no more than a column each.

    Args:
        design: (N, F) what it may look at.
        group: (N,) which group each picture is in; both must occur.
        strata: (N,) classes: groups are compared, and shuffled, within each, so that another mix of classes is no
            difference. None for one.
        seed: Of the shuffles.
    """
    strata = np.zeros(len(group), np.int64) if strata is None else strata
    generator = np.random.default_rng(seed)
    targets = np.empty((len(group), 1 + _SHUFFLES), np.float64)
    targets[:, 0] = group
    for rows in rows_by_stratum(strata):
        for column in range(1, targets.shape[1]):
            targets[rows, column] = group[generator.permutation(rows)]
    scores = held_out_scores(design, targets, strata)
    aucs = stratified_auc(scores, targets > 0.5, strata)
    spread = max(float(aucs[1:].std()), 1e-6)
    return Separability(
        auc=float(aucs[0]),
        accuracy=best_balanced_accuracy(centred_within(scores[:, :1], strata)[:, 0], group),
        chance_auc=float(aucs[1:].mean()),
        z=float((aucs[0] - aucs[1:].mean()) / spread),
        scores=scores[:, 0],
    )


def held_out_scores(
    design: Float64Array, targets: Float64Array, strata: IntArray | None = None, *, seed: int = 0
) -> Float64Array:
    """(N, T) predictions of ridge regression for each target, each picture's from four fifths that it is not in.

    Leaving single pictures out would order those that look alike by the answers they were not to know.

    Args:
        design: (N, F).
        targets: (N, T).
        strata: (N,) means within these are taken out of both, None for one.
        seed: Of the fifths.
    """
    strata = np.zeros(len(design), np.int64) if strata is None else strata
    directions, ridge = _directions(centred_within(design, strata))
    wanted = centred_within(targets, strata)
    fold = np.random.default_rng(seed).permutation(len(design)) % _FOLDS
    scores = np.zeros(wanted.shape)
    whole, answers = directions.T @ directions, directions.T @ wanted
    for number in range(_FOLDS):
        held = directions[fold == number]
        gram = whole - held.T @ held + ridge * np.eye(directions.shape[1])
        scores[fold == number] = held @ np.linalg.solve(gram, answers - held.T @ wanted[fold == number])
    # Equal pictures get equal scores, whatever the last digits say.
    return np.round(scores, 9)


def head_accuracies(
    vectors: Float64Array, labels: IntArray, other_vectors: Float64Array, other_labels: IntArray, *, seed: int = 0
) -> tuple[float, float, float]:
    """How a linear head that learned the one part does on that part, held out, and on the other; and the drop's z.

    Accuracies are means of the classes' own, over classes that both have, so that their mix does not matter.

    Args:
        vectors: (N, F) features of what is learned.
        labels: (N,) its classes.
        other_vectors: (M, F) features of the other part.
        other_labels: (M,) its classes.
        seed: Of the folds.
    """
    classes = np.unique(labels)
    mean = vectors.mean(axis=0)
    values, axes = np.linalg.eigh((vectors - mean).T @ (vectors - mean))
    count = min(_MAX_DIRECTIONS, max(1, len(vectors) // 4), vectors.shape[1])
    axes = axes[:, ::-1][:, :count]
    ridge = float(values[::-1][:count].mean()) * _RIDGE + 1e-9
    known, unknown = (vectors - mean) @ axes, (other_vectors - mean) @ axes
    targets = (labels[:, None] == classes[None, :]) - np.array([(labels == label).mean() for label in classes])
    whole, answers = known.T @ known, known.T @ targets
    fold = np.random.default_rng(seed).permutation(len(labels)) % _FOLDS
    right = np.zeros(len(labels), bool)
    for number in range(_FOLDS):
        held = fold == number
        gram = whole - known[held].T @ known[held] + ridge * np.eye(count)
        weights = np.linalg.solve(gram, answers - known[held].T @ targets[held])
        right[held] = classes[(known[held] @ weights).argmax(axis=1)] == labels[held]
    weights = np.linalg.solve(whole + ridge * np.eye(count), answers)
    other_right = classes[(unknown @ weights).argmax(axis=1)] == other_labels
    common = np.intersect1d(labels, other_labels)
    own, own_variance = _mean_of_classes(right, labels, common)
    other, other_variance = _mean_of_classes(other_right, other_labels, common)
    return own, other, (own - other) / max(float(np.sqrt(own_variance + other_variance)), 1e-9)


def _mean_of_classes(right: BoolArray, labels: IntArray, classes: IntArray) -> tuple[float, float]:
    """Mean of the classes' accuracies, and its variance (Agresti and Coull's, which is never nothing)."""
    shares, variances = [], []
    for label in classes:
        hits, count = int(right[labels == label].sum()), int((labels == label).sum())
        share = (hits + 2.0) / (count + 4.0)
        shares.append(hits / count)
        variances.append(share * (1 - share) / (count + 4.0))
    return float(np.mean(shares)), float(np.sum(variances)) / len(classes) ** 2


def _directions(centred: Float64Array) -> tuple[Float64Array, float]:
    """(N, D) the directions in which the pictures differ most, and how strongly regression on them is to be held back."""
    count = min(_MAX_DIRECTIONS, max(1, len(centred) // 4), centred.shape[1])
    values, vectors = np.linalg.eigh(centred.T @ centred)
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    kept = values > max(1e-9 * float(values[0]), 1e-12)
    if not kept.any():
        return np.zeros((len(centred), 1)), 1.0
    return centred @ vectors[:, kept], float(values[kept].mean()) * _RIDGE


def binned(columns: Float64Array) -> Float64Array:
    """(N, B) one-hot bins of each property, at its deciles; values that are missing have a bin of their own.

    Args:
        columns: (N, P).
    """
    parts = []
    for values in columns.T:
        there = values[~np.isnan(values)]
        edges = np.unique(np.quantile(there, np.linspace(0, 1, _BINS + 1)[1:-1])) if len(there) else np.empty(0)
        bins = np.searchsorted(edges, values, side="right")
        # Where one value makes up several bins' worth, it has one to itself, apart from what lies above it.
        bins = 2 * bins - np.isin(values, edges)
        bins[np.isnan(values)] = 2 * len(edges) + 1
        found = np.unique(bins)
        parts.append((bins[:, None] == found[None, :]).astype(np.float64))
    return np.concatenate(parts, axis=1)
