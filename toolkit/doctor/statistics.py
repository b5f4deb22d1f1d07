"""Tests, effect sizes and standard errors that several checks share: pure functions of counts and arrays."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from edgeclf.runtime.arrays import BoolArray, Float64Array, IntArray
from edgeclf.runtime.metrics import Z_95

# False alarms that are accepted: one in a thousand data sets or trainings, over all comparisons made within one of them.
FALSE_ALARM_RATE = 0.001
# Quantile of the normal distribution for a power of 80 %.
_Z_POWER = 0.841621


# Fractions and counts ---------------------------------------------------------------------------------------------------


def binomial_standard_error(fraction: float, count: int) -> float:
    """Standard error of a binomial fraction after adding two successes and two failures (Agresti & Coull 1998).

    Unlike the plain formula it is not zero for fractions of 0 and 1.

    Args:
        fraction: Observed fraction, 0..1.
        count: Trials.
    """
    fraction = (fraction * count + 2) / (count + 4)
    return math.sqrt(fraction * (1 - fraction) / (count + 4))


def is_above_chance(accuracy: float, chance: float, count: int, *, trials: int = 1) -> bool:
    """One-sided binomial test (normal approximation) that an accuracy is above chance, at `FALSE_ALARM_RATE`.

    Args:
        accuracy: Observed accuracy, or the best of several; False where it is not finite.
        chance: Accuracy of guessing.
        count: Images that each accuracy was measured on; False for none.
        trials: Accuracies that the best was chosen from (Bonferroni).
    """
    if not math.isfinite(accuracy) or count < 1 or chance >= 1:
        return False
    z = NormalDist().inv_cdf(1 - FALSE_ALARM_RATE / max(1, trials))
    return accuracy > chance + z * math.sqrt(chance * (1 - chance) / count)


def paired_drop(before: BoolArray, after: BoolArray) -> tuple[float, float]:
    """Drop of accuracy on the same images, and its one-sided p-value by McNemar's exact test (McNemar 1947).

    Args:
        before: (N,) whether each image is classified correctly.
        after: (N,) the same under the other condition.

    Returns:
        Accuracy before minus accuracy after, -1..1, and the probability of at least this drop by chance.
    """
    lost, won = int((before & ~after).sum()), int((~before & after).sum())
    changed = lost + won
    tail = sum(math.comb(changed, k) for k in range(lost, changed + 1)) / 2**changed if changed else 1.0
    return (lost - won) / max(1, len(before)), min(1.0, tail)


def fisher_tails(counts: IntArray, marked: IntArray) -> Float64Array:
    """One-sided p-values of Fisher's exact test of each group against all others together (Fisher 1935).

    Args:
        counts: (G,) members of each group, at least one.
        marked: (G,) how many of them are marked, such as misclassified.

    Returns:
        (G,) probability that a group has as many marked members or more when the marks are dealt out at random.
    """
    total, marks = int(counts.sum()), int(marked.sum())
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])

    def log_ways(members: IntArray | int, chosen: IntArray | int) -> Float64Array:
        ways: Float64Array = logs[members] - logs[chosen] - logs[np.subtract(members, chosen)]
        return ways

    tails = np.ones(len(counts))
    for group, (members, own) in enumerate(zip(counts.tolist(), marked.tolist(), strict=True)):
        possible = np.arange(max(own, marks - (total - members)), min(members, marks) + 1)
        shares = log_ways(members, possible) + log_ways(total - members, marks - possible) - log_ways(total, marks)
        tails[group] = min(1.0, float(np.exp(shares).sum()))
    return tails


def binomial_tail(count: int, trials: int, probability: float) -> float:
    """Probability of `count` or more successes in so many trials."""
    if count <= 0 or probability >= 1.0:
        return 1.0
    if probability <= 0.0:
        return 0.0
    most, success, failure = math.lgamma(trials + 1), math.log(probability), math.log1p(-probability)
    logs = (
        most - math.lgamma(k + 1) - math.lgamma(trials - k + 1) + k * success + (trials - k) * failure
        for k in range(count, trials + 1)
    )
    return min(1.0, math.fsum(map(math.exp, logs)))


def holm_rejects(tails: Float64Array, level: float) -> BoolArray:
    """Which of several hypotheses are rejected with a chance of at most `level` for any false rejection (Holm 1979).

    Args:
        tails: (H,) p-values.
        level: The chance, 0..1.
    """
    order = np.argsort(tails, kind="stable")
    held = tails[order] > level / np.arange(len(tails), 0, -1)
    rejected = np.zeros(len(tails), bool)
    rejected[order[: int(held.argmax()) if held.any() else len(tails)]] = True
    return rejected


def detectable_difference(accuracy: float, count: int) -> float:
    """Smallest difference in accuracy that McNemar's test detects with 80 % power at 5 %, both models on the same images.

    Connor's formula (Biometrics 43, 1987) solved for the difference. The fraction of discordant answers is taken to be
    2 p (1 - p), that of two models with independent errors: related models are discordant less often, so they need less.

    Args:
        accuracy: Accuracy of one of the models.
        count: Images.
    """
    discordant = max(2 * accuracy * (1 - accuracy), 1.0 / count)

    def needed(difference: float) -> float:
        rest = max(0.0, discordant - difference**2)
        return ((Z_95 * math.sqrt(discordant) + _Z_POWER * math.sqrt(rest)) / difference) ** 2

    low, high = 1e-6, discordant
    if needed(high) > count:
        return min(1.0, high * math.sqrt(needed(high) / count))
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if needed(middle) > count else (low, middle)
    return high


def class_mix_difference(first: Sequence[int] | IntArray, second: Sequence[int] | IntArray) -> tuple[float, float]:
    """Total variation distance of two class distributions, and the p-value of Pearson's chi-square test.

    The p-value is that of the cube-root normal approximation (Wilson and Hilferty, PNAS 17, 1931).

    Args:
        first: (C,) images of each class in one split.
        second: (C,) in the other split, same order.

    Returns:
        Distance, 0..1, and p-value; 0 and 1 where one of them is empty or there is only one class.
    """
    table = np.array([first, second], np.float64)
    table = table[:, table.sum(axis=0) > 0]
    totals = table.sum(axis=1, keepdims=True)
    if not totals.all() or table.shape[1] < 2:
        return 0.0, 1.0
    expected = totals * table.sum(axis=0, keepdims=True) / table.sum()
    statistic, freedom = float(((table - expected) ** 2 / expected).sum()), table.shape[1] - 1
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    fractions = table / totals
    return 0.5 * float(np.abs(fractions[0] - fractions[1]).sum()), 0.5 * math.erfc(z / math.sqrt(2))


def poisson_tail(count: int, mean: float) -> float:
    """Probability of `count` or more events of a Poisson distribution with the given mean."""
    if mean <= 0.0:
        return 0.0 if count else 1.0
    below = sum(math.exp(number * math.log(mean) - mean - math.lgamma(number + 1)) for number in range(count))
    return max(0.0, 1.0 - below)


def mann_tail(count: int, rises: int) -> float:
    """Exact p-value of Mann's test for a falling trend (Mann 1945).

    Args:
        count: Values in the series.
        rises: Pairs of values of which the later one is higher.

    Returns:
        Probability of so few rises, or fewer, in random order.
    """
    ways = [1]
    for number in range(2, count + 1):
        # The number-th value may rise above 0..number - 1 of those before it, each equally often.
        ways = [sum(ways[max(0, total - number + 1) : total + 1]) for total in range(len(ways) + number - 1)]
    return sum(ways[: rises + 1]) / math.factorial(count)


# Ranks and areas under the ROC curve, within strata ---------------------------------------------------------------------


def rows_by_stratum(strata: IntArray) -> list[IntArray]:
    """Positions of the members of each stratum, strata ascending."""
    return [np.flatnonzero(strata == value) for value in np.unique(strata)]


def centred_within(values: Float64Array, strata: IntArray) -> Float64Array:
    """(N, ...) the values minus the mean of their stratum."""
    centred = np.array(values, np.float64)
    for rows in rows_by_stratum(strata):
        centred[rows] -= centred[rows].mean(axis=0)
    return centred


def mid_ranks(values: Float64Array) -> Float64Array:
    """(N, T) ranks from 1 within each column, ties sharing their mean rank."""
    order = np.argsort(values, axis=0, kind="stable")
    ranks = np.empty(values.shape)
    for column in range(values.shape[1]):
        ordered = values[order[:, column], column]
        first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        number = np.cumsum(first) - 1
        bounds = np.append(np.flatnonzero(first), len(ordered))
        ranks[order[:, column], column] = ((bounds[:-1] + bounds[1:] + 1) / 2.0)[number]
    return ranks


def stratified_auc(scores: Float64Array, groups: BoolArray, strata: IntArray | None = None) -> Float64Array:
    """(T,) areas under the ROC curve within strata, averaged by the strata's precision.

    Args:
        scores: (N, T), higher for members of the group.
        groups: (N, T) membership of the group, a column each.
        strata: (N,) stratum of each row; None for one stratum.

    Returns:
        Areas, 0.5 where no stratum has both members and others.
    """
    strata = np.zeros(len(scores), np.int64) if strata is None else strata
    total, weight = np.zeros(scores.shape[1]), 0.0
    for rows in rows_by_stratum(strata):
        inside = groups[rows]
        ones = inside.sum(axis=0)
        zeros = len(rows) - ones
        if not (ones.all() and zeros.all()):
            continue
        ranks = mid_ranks(scores[rows])
        areas = ((ranks * inside).sum(axis=0) - ones * (ones + 1) / 2) / (ones * zeros)
        precision = float(ones[0] * zeros[0] / len(rows))
        total, weight = total + precision * areas, weight + precision
    return total / weight if weight else np.full(scores.shape[1], 0.5)


def best_balanced_accuracy(scores: Float64Array, group: BoolArray) -> float:
    """Balanced accuracy at the best threshold: mean of the true positive and the true negative rate, at least 0.5.

    Args:
        scores: (N,), higher for members of the group.
        group: (N,) membership of the group.
    """
    order = np.argsort(scores, kind="stable")
    ordered, inside = scores[order], group[order]
    above = 1.0 - np.cumsum(inside) / inside.sum()
    below = np.cumsum(~inside) / (~inside).sum()
    last_of_equals = np.append(ordered[1:] != ordered[:-1], True)
    return float(max(0.5, ((above + below) / 2.0)[last_of_equals].max()))


def cliffs_delta(values: Float64Array, group: BoolArray, strata: IntArray, margin: float) -> float:
    """Cliff's delta (Psychological Bulletin 114, 1993) within strata, differences up to a margin counted as ties.

    Args:
        values: (N,), NaN where missing, which is left out.
        group: (N,) membership of the group.
        strata: (N,) stratum of each value.
        margin: Smallest difference that counts, in the unit of the values.

    Returns:
        P(member is larger) - P(member is smaller), -1..1; 0 where there is nothing to compare.
    """
    total, weight = 0.0, 0.0
    for rows in rows_by_stratum(strata):
        ones, zeros = (
            np.sort(found[~np.isnan(found)]) for found in (values[rows[group[rows]]], values[rows[~group[rows]]])
        )
        if not len(ones) or not len(zeros):
            continue
        above = np.searchsorted(zeros, ones - margin, side="left").mean() / len(zeros)
        below = 1.0 - np.searchsorted(zeros, ones + margin, side="right").mean() / len(zeros)
        precision = len(ones) * len(zeros) / (len(ones) + len(zeros))
        total, weight = total + precision * float(above - below), weight + precision
    return total / weight if weight else 0.0


def van_elteren_z(values: Float64Array, group: BoolArray, strata: IntArray) -> float:
    """Stratified rank-sum statistic in standard deviations (van Elteren, 1960), corrected for ties.

    Args:
        values: (N,), NaN where missing, which is left out.
        group: (N,) membership of the group.
        strata: (N,) stratum of each value.

    Returns:
        Positive where members of the group have the higher ranks; 0 where there is nothing to compare.
    """
    statistic, variance = 0.0, 0.0
    for members in rows_by_stratum(strata):
        rows = members[~np.isnan(values[members])]
        ones = int(group[rows].sum())
        zeros = len(rows) - ones
        if not ones or not zeros:
            continue
        ranks = mid_ranks(values[rows][:, None])[:, 0]
        weight = 1.0 / (len(rows) + 1)
        statistic += weight * (ranks[group[rows]].sum() - ones * (len(rows) + 1) / 2)
        variance += weight**2 * ones * zeros / len(rows) * float(ranks.var()) * len(rows) / max(1, len(rows) - 1)
    return statistic / float(np.sqrt(variance)) if variance > 0 else 0.0
