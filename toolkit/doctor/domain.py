"""Can groups of pictures be told apart, and by how much more than chance? Linear classifiers that every picture is held out from."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Directions of features that are looked at, and shuffles that chance is estimated from.
_MAX_DIRECTIONS = 96
_SHUFFLES = 60
# Bins that a property is cut into, so that a linear classifier sees any dependence on it.
_BINS = 10


@dataclass(frozen=True)
class Told:
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
    scores: Floats


def tell_apart(design: Floats, group: npt.NDArray[np.bool_], strata: Ints | None = None, *, seed: int = 0) -> Told:
    """How well a linear classifier tells two groups apart.

    Ridge regression whose every prediction is without the picture itself, in closed form (PRESS: Allen, Technometrics 16,
    1974), so that shuffled groups, which say what chance gives, cost no more than a column each.

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
    for rows in _members(strata):
        for column in range(1, targets.shape[1]):
            targets[rows, column] = group[generator.permutation(rows)]
    scores = held_out_scores(design, targets, strata)
    aucs = stratified_auc(scores, targets > 0.5, strata)
    spread = max(float(aucs[1:].std()), 1e-6)
    return Told(
        auc=float(aucs[0]),
        accuracy=best_accuracy(_centred(scores[:, :1], strata)[:, 0], group),
        chance_auc=float(aucs[1:].mean()),
        z=float((aucs[0] - aucs[1:].mean()) / spread),
        scores=scores[:, 0],
    )


def held_out_scores(design: Floats, targets: Floats, strata: Ints | None = None) -> Floats:
    """(N, T) predictions of ridge regression for each target, each from the other pictures.

    Args:
        design: (N, F).
        targets: (N, T).
        strata: (N,) means within these are taken out of both, None for one.
    """
    strata = np.zeros(len(design), np.int64) if strata is None else strata
    left, strength = _directions(_centred(design, strata))
    wanted = _centred(targets, strata)
    predicted = left @ (strength[:, None] * (left.T @ wanted))
    own = (left**2 @ strength)[:, None]
    # The means that were taken out hold a share of every picture as well.
    own = own + (1.0 / np.bincount(strata, minlength=1)[strata])[:, None]
    return np.asarray((predicted - (own * wanted)) / np.maximum(1.0 - own, 1e-6), np.float64)


def _directions(centred: Floats) -> tuple[Floats, Floats]:
    """Orthonormal directions of the pictures, and how far ridge regression believes each."""
    count = min(_MAX_DIRECTIONS, max(1, len(centred) // 8), centred.shape[1])
    if centred.shape[1] <= len(centred):
        values, vectors = np.linalg.eigh(centred.T @ centred)
        values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
        kept = values > 1e-9 * max(float(values[0]), 1e-30)
        left = centred @ vectors[:, kept] / np.sqrt(values[kept])
    else:
        values, vectors = np.linalg.eigh(centred @ centred.T)
        values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
        kept = values > 1e-9 * max(float(values[0]), 1e-30)
        left = vectors[:, kept]
    strengths = values[kept]
    if not len(strengths):
        return np.zeros((len(centred), 1)), np.zeros(1)
    return left, strengths / (strengths + strengths[-1])


def stratified_auc(scores: Floats, groups: npt.NDArray[np.bool_], strata: Ints | None = None) -> Floats:
    """(T,) areas under the ROC curve within strata, averaged by the precision that each stratum gives.

    Args:
        scores: (N, T).
        groups: (N, T) which of the two groups each picture is in, a column each.
        strata: (N,), None for one.
    """
    strata = np.zeros(len(scores), np.int64) if strata is None else strata
    total, weight = np.zeros(scores.shape[1]), 0.0
    for rows in _members(strata):
        inside = groups[rows]
        ones = inside.sum(axis=0)
        zeros = len(rows) - ones
        if not (ones.all() and zeros.all()):
            continue
        ranks = mid_ranks(scores[rows])
        areas = ((ranks * inside).sum(axis=0) - ones * (ones + 1) / 2) / (ones * zeros)
        share = float(ones[0] * zeros[0] / len(rows))
        total, weight = total + share * areas, weight + share
    return total / weight if weight else np.full(scores.shape[1], 0.5)


def mid_ranks(values: Floats) -> Floats:
    """(N, T) ranks from 1 within each column, equal values sharing the mean of theirs."""
    order = np.argsort(values, axis=0, kind="stable")
    ranks = np.empty(values.shape)
    for column in range(values.shape[1]):
        ordered = values[order[:, column], column]
        first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        number = np.cumsum(first) - 1
        bounds = np.append(np.flatnonzero(first), len(ordered))
        ranks[order[:, column], column] = ((bounds[:-1] + bounds[1:] + 1) / 2.0)[number]
    return ranks


def best_accuracy(scores: Floats, group: npt.NDArray[np.bool_]) -> float:
    """Mean of both groups' shares on the right side of the best threshold."""
    order = np.argsort(scores, kind="stable")
    ordered, inside = scores[order], group[order]
    above = 1.0 - np.cumsum(inside) / inside.sum()
    below = np.cumsum(~inside) / (~inside).sum()
    last_of_equals = np.append(ordered[1:] != ordered[:-1], True)
    return float(max(0.5, ((above + below) / 2.0)[last_of_equals].max()))


def binned(columns: Floats) -> Floats:
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


def superiority(values: Floats, group: npt.NDArray[np.bool_], strata: Ints, margin: float) -> float:
    """How much oftener a picture of the group has more than one outside it, differences within the margin counting for none.

    Cliff's delta (Psychological Bulletin 114, 1993) with a margin, within strata: -1..1. Missing values are left out.
    """
    total, weight = 0.0, 0.0
    for rows in _members(strata):
        rows = rows[~np.isnan(values[rows])]
        ones, zeros = np.sort(values[rows[group[rows]]]), np.sort(values[rows[~group[rows]]])
        if not len(ones) or not len(zeros):
            continue
        above = np.searchsorted(zeros, ones - margin, side="left").mean() / len(zeros)
        below = 1.0 - np.searchsorted(zeros, ones + margin, side="right").mean() / len(zeros)
        share = len(ones) * len(zeros) / len(rows)
        total, weight = total + share * float(above - below), weight + share
    return total / weight if weight else 0.0


def rank_z(values: Floats, group: npt.NDArray[np.bool_], strata: Ints) -> float:
    """Standard deviations by which the group's ranks within strata are above chance (van Elteren, 1960); ties are counted.

    0 where there is nothing to compare.
    """
    statistic, variance = 0.0, 0.0
    for rows in _members(strata):
        rows = rows[~np.isnan(values[rows])]
        ones = int(group[rows].sum())
        zeros = len(rows) - ones
        if not ones or not zeros:
            continue
        ranks = mid_ranks(values[rows][:, None])[:, 0]
        share = 1.0 / (len(rows) + 1)
        statistic += share * (ranks[group[rows]].sum() - ones * (len(rows) + 1) / 2)
        variance += share**2 * ones * zeros / len(rows) * float(ranks.var()) * len(rows) / max(1, len(rows) - 1)
    return statistic / float(np.sqrt(variance)) if variance > 0 else 0.0


def _members(strata: Ints) -> list[Ints]:
    return [np.flatnonzero(strata == value) for value in np.unique(strata)]


def _centred(values: Floats, strata: Ints) -> Floats:
    centred = np.array(values, np.float64)
    for rows in _members(strata):
        centred[rows] -= centred[rows].mean(axis=0)
    return centred
