"""Label issues by confident learning: out-of-sample probabilities of a logistic regression on frozen features."""

import warnings
from dataclasses import dataclass

import numpy as np

from edgeclf.runtime.arrays import BoolArray, Float64Array, FloatArray, IntArray
from edgeclf.runtime.errors import MissingPackageError, install_hint
from edgeclf.toolkit.doctor.checks.duplicates.copies import find_copies
from edgeclf.toolkit.doctor.facts import DataFacts

FOLDS = 5
# Probability of another class from which on a label may be suspect; its own class then has less than 0.3.
CONFIDENT = 0.7
# Fraction of a class's images that must be predicted confidently for its labels to be judged: below it, the features may not
# represent the class.
KNOWN_CLASS_FRACTION = 0.5
# Principal components of the features that are used; more cost time without effect.
_DIRECTIONS = 256
# Most images for the choice of the regularization.
_TUNING_IMAGES = 2_000
_STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1)


@dataclass(frozen=True, eq=False)
class Suspects:
    """Label issues of the images that have features.

    Attributes:
        rows: (M,) rows of the judged images in the image table.
        classes: (K,) class indices of the judged classes.
        probabilities: (M, K) out-of-sample probabilities.
        flagged: (M,) whether the label is suspect.
        undecided: Number of images whose labelled class has a probability between 1 - `CONFIDENT` and `CONFIDENT`.
        inseparable: Pairs of positions in `classes` that the features hardly separate, at least one of which is not judged.
        too_small: Class indices with too few images to be judged.
    """

    rows: IntArray
    classes: IntArray
    probabilities: Float64Array
    flagged: BoolArray
    undecided: int
    inseparable: tuple[tuple[int, int], ...]
    too_small: tuple[int, ...]


def find_suspects(data: DataFacts) -> Suspects | None:
    """Finds suspect labels; None where there are no features, or fewer than two classes with enough images.

    Copies of one image are in the same fold, so that none supports the label of another. Use it through
    `DataFacts.derived`, since it takes seconds.

    Raises:
        MissingPackageError: scikit-learn or cleanlab is not installed.
    """
    if data.features is None:
        return None
    rows, vectors = data.features.rows, data.features.vectors
    copies = data.derived(find_copies)
    groups = copies.group_of(len(data.images))
    for pair in copies.overlapping:
        first, second = groups[list(pair.rows)]
        groups[groups == second] = first
    present = np.unique(data.images.labels)
    labels = data.images.labels[rows]
    counts = np.array([len(np.unique(groups[rows[labels == label]])) for label in present])
    classes = present[counts >= FOLDS]
    if len(classes) < 2:
        return None
    judged = np.isin(labels, classes)
    rows, vectors = rows[judged], vectors[judged]
    targets = np.searchsorted(classes, labels[judged])
    probabilities = out_of_sample(vectors, targets, groups[rows])
    flagged, inseparable, undecided = judge_labels(probabilities, targets)
    return Suspects(
        rows, classes, probabilities, flagged, undecided, inseparable, tuple(present[counts < FOLDS].tolist())
    )


def out_of_sample(vectors: FloatArray, targets: IntArray, groups: IntArray, seed: int = 0) -> Float64Array:
    """Out-of-sample class probabilities by a logistic regression that is trained without the image and its copies.

    The regularization is the one of the lowest out-of-sample log loss. The regression is then fitted once more without the
    images whose labels it contradicts: what they taught it lies between them and the truth (prune and retrain, Northcutt et
    al. 2021, https://arxiv.org/abs/1911.00068).

    Args:
        vectors: (M, F) features.
        targets: (M,) labels 0..K-1, each in at least `FOLDS` different groups.
        groups: (M,) group numbers, the same for copies of one image.
        seed: Seed of the folds.

    Returns:
        (M, K) probabilities, rows sum to 1.
    """
    folds = _folds(targets, groups, seed)
    features = _projected(vectors)
    some = np.random.default_rng(seed).permutation(len(targets))[:_TUNING_IMAGES]
    everything = np.ones(len(targets), bool)
    count = int(targets.max()) + 1
    # A class that the sample misses in some fold would have probability 0.
    if len(some) == len(targets) or _complete(targets[some], folds[some], count):
        choose = some
    else:
        choose = np.arange(len(targets))
    losses = [
        _log_loss(
            _predicted(features[choose], targets[choose], folds[choose], everything[choose], strength), targets[choose]
        )
        for strength in _STRENGTHS
    ]
    strength = _STRENGTHS[int(np.argmin(losses))]
    first = _predicted(features, targets, folds, everything, strength)
    believed = first[np.arange(len(targets)), targets] >= 1.0 - CONFIDENT
    if not _complete(targets[believed], folds[believed], count):
        return first
    # Cleaner labels allow a weaker regularization.
    again = [_predicted(features, targets, folds, believed, strength * factor) for factor in (1.0, 3.0, 10.0)]
    losses = [_log_loss(found[believed], targets[believed]) for found in again]
    return again[int(np.argmin(losses))]


def judge_labels(probabilities: Float64Array, targets: IntArray) -> tuple[BoolArray, tuple[tuple[int, int], ...], int]:
    """Suspect labels, inseparable classes and undecided images, from out-of-sample probabilities.

    A label is suspect where confident learning counts it as an issue (cleanlab, `filter_by="both"`) and another class has a
    probability of `CONFIDENT` or more. Labels of a class that the features hardly represent are not judged. Overlapping
    classes with correct labels have at least about as many undecided images as images on the wrong side: fewer would mean
    that the density of a class grows beyond the border.

    Args:
        probabilities: (M, K) out-of-sample probabilities.
        targets: (M,) labels 0..K-1.

    Returns:
        (M,) whether each label is suspect, pairs of inseparable classes, and the number of undecided images.
    """
    positions = np.arange(len(targets))
    # Probabilities for equally frequent classes: otherwise all images of a rare class that resembles a frequent one would
    # be suspect.
    probabilities = probabilities / np.bincount(targets, minlength=probabilities.shape[1])
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    looks_like = probabilities.argmax(axis=1)
    flagged = (probabilities[positions, looks_like] >= CONFIDENT) & (looks_like != targets)
    own = probabilities[positions, targets]
    decided = (own >= CONFIDENT) | (own <= 1.0 - CONFIDENT)
    of_class = np.bincount(targets, minlength=probabilities.shape[1])
    known = np.bincount(targets[own >= CONFIDENT], minlength=len(of_class)) >= KNOWN_CLASS_FRACTION * of_class
    doubtful = flagged & ~known[targets]
    pairs = sorted({(min(pair), max(pair)) for pair in zip(targets[doubtful], looks_like[doubtful], strict=True)})
    inseparable = tuple((int(first), int(second)) for first, second in pairs)
    flagged &= ~doubtful
    decided |= ~known[targets]
    if flagged.any():
        flagged &= _confident_issues(probabilities, targets)
    return flagged, inseparable, int((~decided).sum())


def _confident_issues(probabilities: Float64Array, targets: IntArray) -> BoolArray:
    try:
        from cleanlab.filter import find_label_issues
    except ImportError as error:
        raise _missing(error) from error
    with warnings.catch_warnings():
        # cleanlab warns where a class is never predicted.
        warnings.simplefilter("ignore")
        return np.asarray(find_label_issues(targets, probabilities, filter_by="both", n_jobs=1), bool)


def _missing(error: ImportError) -> MissingPackageError:
    return MissingPackageError(
        "cannot look for wrong labels",
        got=str(error),
        expected="scikit-learn and cleanlab",
        hint=install_hint("doctor"),
    )


def _folds(targets: IntArray, groups: IntArray, seed: int) -> IntArray:
    """(M,) folds 0..FOLDS-1, stratified by class; copies of one image share a fold."""
    generator = np.random.default_rng(seed)
    fold_of: dict[int, int] = {}
    for target in np.unique(targets):
        members = [group for group in np.unique(groups[targets == target]).tolist() if group not in fold_of]
        for number, position in enumerate(generator.permutation(len(members)).tolist()):
            fold_of[members[position]] = number % FOLDS
    return np.array([fold_of[group] for group in groups.tolist()], np.int64)


def _complete(targets: IntArray, folds: IntArray, count: int) -> bool:
    """Whether every class occurs outside of each fold."""
    return all(len(np.unique(targets[folds != fold])) == count for fold in range(FOLDS))


def _projected(vectors: FloatArray) -> Float64Array:
    """(M, D) standardized features on their first principal components, at most 256; labels are not used."""
    standard = (vectors - vectors.mean(axis=0)) / np.maximum(vectors.std(axis=0), 1e-6)
    if standard.shape[1] <= _DIRECTIONS:
        return np.asarray(standard, np.float64)
    _, directions = np.linalg.eigh(standard.T @ standard)
    return np.asarray(standard @ directions[:, -_DIRECTIONS:], np.float64)


def _predicted(
    features: Float64Array, targets: IntArray, folds: IntArray, used: BoolArray, strength: float
) -> Float64Array:
    """(M, K) out-of-sample probabilities: each fold predicted by a logistic regression on the `used` images of the others."""
    try:
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise _missing(error) from error
    probabilities = np.zeros((len(targets), int(targets.max()) + 1))
    # On a busy machine BLAS threads spend most of their time waiting for each other.
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        # Where a hundred steps do not converge they are close enough.
        warnings.simplefilter("ignore")
        for fold in range(FOLDS):
            seen, asked = used & (folds != fold), folds == fold
            if asked.any():
                model = LogisticRegression(C=strength, max_iter=100).fit(features[seen], targets[seen])
                probabilities[np.ix_(asked, model.classes_)] = model.predict_proba(features[asked])
    return probabilities


def _log_loss(probabilities: Float64Array, targets: IntArray) -> float:
    return float(-np.log(probabilities[np.arange(len(targets)), targets] + 1e-9).mean())
