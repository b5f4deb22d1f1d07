"""Separability of groups of images: cross-validated ridge classifiers, against shuffled groups."""

from dataclasses import dataclass

import numpy as np

from edgeclf.runtime.arrays import BoolArray, Float64Array, FloatArray, IntArray
from edgeclf.toolkit.doctor.statistics import best_balanced_accuracy, centred_within, rows_by_stratum, stratified_auc

# Most principal components used, and shuffles that the null distribution is estimated from.
_MAX_DIRECTIONS = 256
_SHUFFLES = 60
_FOLDS = 5
# Shuffles that reach a class, after which there are no more.
_ENOUGH = 10
# Ridge strength relative to the mean eigenvalue.
_RIDGE = 0.1
# Bins per property, so that a linear classifier can use any dependence on it.
_BINS = 10


def principal_components(vectors: FloatArray) -> Float64Array:
    """(N, D) scores of the first principal components, at most 256.

    Args:
        vectors: (N, F) features.
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
    """Separability of two groups by a linear classifier.

    Attributes:
        auc: Area under the ROC curve of held-out scores; 0.5 is guessing.
        accuracy: Balanced accuracy at the threshold that is best for the held-out scores.
        chance_auc: Mean AUC with the groups shuffled.
        z: `auc` minus `chance_auc`, in standard deviations of the shuffled AUCs.
        scores: (N,) held-out scores, higher for members of the group.
    """

    auc: float
    accuracy: float
    chance_auc: float
    z: float
    scores: Float64Array


def measure_separability(
    design: Float64Array, group: BoolArray, strata: IntArray | None = None, *, seed: int = 0
) -> Separability:
    """Measures the separability of two groups by cross-validated ridge regression.

    Shuffled groups, which give the null distribution, cost only a target column each.

    Args:
        design: (N, F) design matrix.
        group: (N,) membership of the group; both values must occur.
        strata: (N,) classes within which groups are compared and shuffled, so that another class distribution is no
            difference; None for one stratum.
        seed: Seed of the shuffles.
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
    """(N, T) out-of-fold predictions of ridge regression, five folds.

    Leave-one-out would leak: its predictions order similar images by the very target that was left out.

    Args:
        design: (N, F) design matrix.
        targets: (N, T) targets.
        strata: (N,) strata whose means are removed from both; None for one stratum.
        seed: Seed of the folds.
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
    # Equal images get equal scores in spite of rounding.
    return np.round(scores, 9)


def class_chances(
    design: Float64Array, labels: IntArray, *, fewest: int = 1, shuffles: int = 999, seed: int = 0
) -> Float64Array:
    """(C,) exact p-values, over all classes together, that a class differs from the others in a design matrix.

    The statistic of a class is the squared length of its mean along the principal components, each divided by its standard
    deviation with the ridge: the variance that ridge regression explains. The p-value is the share of shuffled labels under
    which any class reaches it (maxT; Westfall and Young, Resampling-Based Multiple Testing, 1993). Ranks of held-out scores
    have no such p-value: what joins an image of one fold to an image of another counts in the scores of both, so that folds
    taken as independent have half the variance of their sum.

    Args:
        design: (N, F) design matrix.
        labels: (N,) class indices.
        fewest: Fewest images of a class that is compared; the p-value of others is 1.
        shuffles: Most shuffles; the smallest p-value is 1 / (shuffles + 1). They end earlier where every class has been reached
            `_ENOUGH` times (Besag and Clifford, Biometrika 78, 1991).
        seed: Seed of the shuffles.

    Returns:
        p-values of the classes that occur, ascending.
    """
    order, counts = np.argsort(labels, kind="stable"), np.unique(labels, return_counts=True)[1]
    chances, compared = np.ones(len(counts)), (counts >= fewest) & (counts < len(labels))
    if not compared.any():
        return chances
    directions, ridge = _directions(centred_within(design, np.zeros(len(design), np.int64)))
    rows = directions / np.sqrt((directions**2).sum(axis=0) + ridge)
    begins = np.cumsum(counts) - counts
    # Each class's statistic over its mean among shuffled labels.
    scale = 1.0 / (counts[compared] * (1.0 - counts[compared] / len(labels)))

    def statistics(shown: IntArray) -> Float64Array:
        sums = np.add.reduceat(rows[shown], begins, axis=0)[compared]
        return np.asarray(scale * (sums**2).sum(axis=1))

    # Equal statistics are equal in spite of rounding.
    observed = statistics(order) * (1 - 1e-9)
    reached, generator = np.zeros(len(observed), np.int64), np.random.default_rng(seed)
    found = np.zeros(len(observed))
    for number in range(1, shuffles + 1):
        reached += statistics(generator.permutation(len(labels))).max() >= observed
        found[(found == 0) & (reached == _ENOUGH)] = _ENOUGH / number
        if found.all():
            break
    chances[compared] = np.where(found > 0, found, (reached + 1) / (shuffles + 1))
    return chances


def head_accuracies(
    vectors: Float64Array, labels: IntArray, other_vectors: Float64Array, other_labels: IntArray, *, seed: int = 0
) -> tuple[float, float, float]:
    """Balanced accuracy of a linear head on its own split, held out, and on another split.

    Accuracies are means over the classes that both splits have, so that their class distributions do not matter.

    Args:
        vectors: (N, F) features that the head is trained on.
        labels: (N,) their classes.
        other_vectors: (M, F) features of the other split.
        other_labels: (M,) their classes.
        seed: Seed of the folds.

    Returns:
        Held-out accuracy on the own split, accuracy on the other, and their difference in standard deviations.
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
    """Mean of the classes' accuracies, and its variance by Agresti and Coull, which is never zero."""
    shares, variances = [], []
    for label in classes:
        hits, count = int(right[labels == label].sum()), int((labels == label).sum())
        share = (hits + 2.0) / (count + 4.0)
        shares.append(hits / count)
        variances.append(share * (1 - share) / (count + 4.0))
    return float(np.mean(shares)), float(np.sum(variances)) / len(classes) ** 2


def _directions(centred: Float64Array) -> tuple[Float64Array, float]:
    """(N, D) scores of the principal components, and ridge strength."""
    count = min(_MAX_DIRECTIONS, max(1, len(centred) // 4), centred.shape[1])
    values, vectors = np.linalg.eigh(centred.T @ centred)
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    kept = values > max(1e-9 * float(values[0]), 1e-12)
    if not kept.any():
        return np.zeros((len(centred), 1)), 1.0
    return centred @ vectors[:, kept], float(values[kept].mean()) * _RIDGE


def binned(columns: Float64Array) -> Float64Array:
    """(N, B) one-hot encoded decile bins of each property; missing values have a bin of their own.

    Args:
        columns: (N, P) properties, NaN where missing.
    """
    encoded = []
    for values in columns.T:
        present = values[~np.isnan(values)]
        edges = np.unique(np.quantile(present, np.linspace(0, 1, _BINS + 1)[1:-1])) if len(present) else np.empty(0)
        bins = np.searchsorted(edges, values, side="right")
        # A value as frequent as several bins has a bin of its own, apart from the values above it.
        bins = 2 * bins - np.isin(values, edges)
        bins[np.isnan(values)] = 2 * len(edges) + 1
        found = np.unique(bins)
        encoded.append((bins[:, None] == found[None, :]).astype(np.float64))
    return np.concatenate(encoded, axis=1)
