"""Tests, effect sizes and standard errors that several checks share: pure functions of counts and arrays."""

import math
from collections.abc import Sequence

import numpy as np

from edgeclf.runtime.arrays import BoolArray, Float64Array, IntArray
from edgeclf.runtime.metrics import Z_95

# False alarms that are accepted: one in a thousand data sets or trainings, over all comparisons made within one of them.
FALSE_ALARM_RATE = 0.001
# Tables drawn for the test of a class mix, and how many at a time: p-values from 1 in 2,000 on.
_MIX_DRAWS, _MIX_CHUNK = 2_000, 500
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
    """One-sided exact binomial test that an accuracy is above chance, at `FALSE_ALARM_RATE`.

    Args:
        accuracy: Observed accuracy, or the best of several; False where it is not finite.
        chance: Accuracy of guessing.
        count: Images that each accuracy was measured on; False for none.
        trials: Accuracies that the best was chosen from (Bonferroni).
    """
    if not math.isfinite(accuracy) or count < 1 or accuracy <= chance:
        return False
    return binomial_tail(round(accuracy * count), count, chance) < FALSE_ALARM_RATE / max(1, trials)


def is_below(accuracy: float, bound: float, count: int) -> bool:
    """One-sided exact binomial test that an accuracy is below a bound, at `FALSE_ALARM_RATE`.

    Args:
        accuracy: Observed accuracy; False where it is not finite.
        bound: Accuracy that is to be ruled out.
        count: Images that it was measured on; False for none.
    """
    return below_tail(accuracy, bound, count) < FALSE_ALARM_RATE


def below_tail(accuracy: float, bound: float, count: int) -> float:
    """One-sided p-value of the exact binomial test that an accuracy is below a bound.

    Args:
        accuracy: Observed accuracy; 1 where it is not finite, or not below the bound.
        bound: Accuracy that is to be ruled out.
        count: Images that it was measured on; 1 for none.
    """
    if not math.isfinite(accuracy) or count < 1 or accuracy >= bound:
        return 1.0
    return binomial_tail(count - round(accuracy * count), count, 1 - bound)


def less_accurate_tail(accuracy: float, images: int, other: float, other_images: int) -> float:
    """One-sided p-value of Fisher's exact test that an accuracy is below another one, each on images of its own.

    On images that both share it is larger than it has to be: what is hard for one is mostly hard for the other.

    Args:
        accuracy: Accuracy that may be lower; 1 where one of them is not finite, or where it is not lower.
        images: Images that it was measured on; 1 for none.
        other: The other accuracy.
        other_images: Images that this was measured on; 1 for none.
    """
    if not (math.isfinite(accuracy) and math.isfinite(other)) or min(images, other_images) < 1 or accuracy >= other:
        return 1.0
    counts = np.array([images, other_images])
    wrong = counts - np.rint(np.array([accuracy, other]) * counts).astype(np.int64)
    return float(fisher_tails(counts, wrong)[0])


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
    if count <= 0:
        return 1.0
    if count > trials or probability <= 0.0:
        return 0.0
    if probability >= 1.0:
        return 1.0
    most, success, failure = math.lgamma(trials + 1), math.log(probability), math.log1p(-probability)
    total = 0.0
    for k in range(count, trials + 1):
        term = math.exp(most - math.lgamma(k + 1) - math.lgamma(trials - k + 1) + k * success + (trials - k) * failure)
        total += term
        # Beyond the mean the terms fall, faster and faster: the rest is no more than rounding.
        if k > trials * probability and term <= 1e-17 * total:
            break
    return min(1.0, total)


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
    """How much two class distributions differ beyond chance, and the p-value of an exact test of Pearson's statistic.

    Both are from tables with the same margins, drawn at random (`_MIX_DRAWS`): with many classes of few images the
    distributions of two random halves are far apart, and the chi-square distribution is not that of the statistic.

    Args:
        first: (C,) images of each class in one split.
        second: (C,) in the other split, same order.

    Returns:
        Total variation distance minus its mean in the drawn tables, at most 1, and p-value; 0 and 1 where one of them is
        empty or there is only one class.
    """
    table = np.array([first, second], np.int64)
    table = table[:, table.sum(axis=0) > 0]
    sizes, both = table.sum(axis=1), table.sum(axis=0)
    if not sizes.all() or table.shape[1] < 2:
        return 0.0, 1.0
    expected = both * sizes[1] / both.sum()
    statistic = float(((table[1] - expected) ** 2 / both).sum())
    rng = np.random.default_rng(0)
    beyond, drawn_distance = 1, 0.0
    # In chunks: a thousand classes make a table of 8 KB.
    for _ in range(_MIX_DRAWS // _MIX_CHUNK):
        drawn = rng.multivariate_hypergeometric(both, int(sizes[1]), size=_MIX_CHUNK, method="marginals")
        away = drawn - expected
        beyond += int((((away**2) / both).sum(axis=1) >= statistic * (1 - 1e-9)).sum())
        drawn_distance += float(np.abs(away).sum())
    # |p - q| = |away| (1 / n + 1 / m) for each class, as the margins are fixed.
    scale = 0.5 * (1 / sizes[0] + 1 / sizes[1])
    distance = scale * (float(np.abs(table[1] - expected).sum()) - drawn_distance / _MIX_DRAWS)
    return float(distance), beyond / (_MIX_DRAWS + 1)


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


def van_elteren(values: Float64Array, group: BoolArray, strata: IntArray) -> tuple[float, float]:
    """Stratified rank-sum statistic in standard deviations (van Elteren, 1960), corrected for ties, and its p-value.

    The p-value is that of the Pearson type III distribution with the mean, variance and skewness that the statistic has where
    the group is dealt out at random within the strata (Mielke and Berry, Permutation Methods, 2007): of a value that few images
    have, such as a frame, a normal distribution makes accidents far too rare.

    Args:
        values: (N,), NaN where missing, which is left out.
        group: (N,) membership of the group.
        strata: (N,) stratum of each value.

    Returns:
        Statistic, positive where members of the group have the higher ranks, and two-sided p-value; 0 and 1 where there is
        nothing to compare.
    """
    statistic, variance, third = 0.0, 0.0, 0.0
    for members in rows_by_stratum(strata):
        rows = members[~np.isnan(values[members])]
        count, ones = len(rows), int(group[rows].sum())
        zeros = count - ones
        if not ones or not zeros:
            continue
        scores = mid_ranks(values[rows][:, None])[:, 0] / (count + 1) - 0.5
        statistic += float(scores[group[rows]].sum())
        # Moments of the sum of `ones` scores that are drawn without replacement.
        variance += ones * zeros / (count * max(1, count - 1)) * float((scores**2).sum())
        if count > 2:
            third += ones * zeros * (zeros - ones) / (count * (count - 1) * (count - 2)) * float((scores**3).sum())
    if variance <= 0:
        return 0.0, 1.0
    z, skewness = statistic / math.sqrt(variance), third / variance**1.5
    tail = pearson3_tail(z, skewness) if z > 0 else pearson3_tail(-z, -skewness)
    return float(z), min(1.0, 2 * tail)


def pearson3_tail(z: float, skewness: float) -> float:
    """Probability that a standardized Pearson type III variable is `z` or more."""
    if abs(skewness) < 1e-3:
        return 0.5 * math.erfc(z / math.sqrt(2))
    shape = 4 / skewness**2
    point = shape + math.copysign(z, skewness * z) * math.sqrt(shape)
    upper = gamma_tail(shape, max(0.0, point))
    return upper if skewness > 0 else 1 - upper


def gamma_tail(shape: float, point: float) -> float:
    """Probability that a gamma variable of unit scale exceeds a point (Abramowitz and Stegun 6.5.29 and 6.5.31)."""
    if point <= 0:
        return 1.0
    scale = math.exp(shape * math.log(point) - point - math.lgamma(shape))
    if point < shape + 1:
        term = total = 1 / shape
        number = shape
        while term > 1e-16 * total:
            number += 1
            term *= point / number
            total += term
        return max(0.0, 1 - scale * total)
    # Lentz's method.
    b = point + 1 - shape
    c, d = 1e300, 1 / b
    fraction = d
    for k in range(1, 10_000):
        a = -k * (k - shape)
        b += 2
        d = 1 / (a * d + b or 1e-300)
        c = b + a / c or 1e-300
        fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return min(1.0, scale * fraction)
