"""Analysis of a model file's use: which of the ways that were tried fits labelled photographs, and which output is which class.

Pure functions of the facts, shared by the checks and by what is gathered after them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeclf.runtime.arrays import BoolArray, FloatArray, IntArray
from edgeclf.toolkit.datasets.class_folders import match_class_folders
from edgeclf.toolkit.doctor.facts import UseFacts
from edgeclf.toolkit.doctor.statistics import FALSE_ALARM_RATE, is_above_chance, paired_drop

# Least gain of accuracy by another use for a finding, and from which on it is a problem.
GAIN_WARNING, GAIN_PROBLEM = 0.05, 0.2
# Least gain of accuracy by another order of the labels.
_ORDER_GAIN = 0.2
# Two uses whose difference has at least this probability by chance are taken for equal, and the simpler one is named.
_EQUAL = 0.05
_UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Judgement:
    """What labelled photographs say of the ways in which a model file was used.

    Attributes:
        by_name: (F,) output of each folder by the names; -1 where no label has its name.
        by_answers: (F,) output of each folder by the answers of the best way, one to one; -1 where none is left.
        follows_answers: Whether the answers, and not the names, say which output is which class.
        right: For each trial, (M,) whether the images are classified correctly by what decides.
        best: Position of the best trial, the simplest among equals.
        gain: Its accuracy minus that of the given way.
        chance: One-sided p-value of that gain.
        count: Images that were compared.
    """

    by_name: IntArray
    by_answers: IntArray
    follows_answers: bool
    right: tuple[BoolArray, ...]
    best: int
    gain: float
    chance: float
    count: int

    @property
    def is_better(self) -> bool:
        """Whether another way fits better than the given one, beyond chance over all that were tried."""
        return self.best > 0 and self.gain > GAIN_WARNING and self.chance < FALSE_ALARM_RATE / len(self.right)

    @property
    def outputs(self) -> IntArray:
        """(F,) output of each folder, by what decides; -1 where there is none."""
        return self.by_answers if self.follows_answers else self.by_name

    def accuracy(self, trial: int) -> float:
        """Accuracy of a trial on the images that it was shown."""
        return float(self.right[trial].mean())


def judge_use(use: UseFacts) -> Judgement | None:
    """The judgement of labelled photographs; None where there are none, or nothing tells which output is which class."""
    if not use.folders or not len(use.true) or not _gives_numbers(use):
        return None
    by_name = outputs_by_name(use.folders, use.labels) if use.has_names else np.full(len(use.folders), _UNKNOWN)
    answers = tuple(answers_of(trial.probabilities) for trial in use.trials)
    named = tuple(np.equal(by_name[use.true[: len(its)]], its, dtype=bool) for its in answers)
    held_out = tuple(_right_by_answers(its, use.true[: len(its)], len(use.folders), len(use.labels)) for its in answers)
    follows = _answers_decide(use, named, held_out)
    if not follows and not (by_name != _UNKNOWN).any():
        return None
    right = held_out if follows else named
    best = _best(use, right)
    gain, chance = paired_drop(right[best], right[0])
    by_answers = _one_to_one(_counts(answers[best], use.true, len(use.folders), len(use.labels)))
    return Judgement(by_name, by_answers, follows, right, best, gain, chance, len(use.true))


def answers_of(probabilities: FloatArray) -> IntArray:
    """(N,) the most probable class of each image; -1 where there are no numbers."""
    finite: BoolArray = np.asarray(np.isfinite(probabilities).all(axis=1))
    answers = np.where(finite[:, None], probabilities, 0.0).argmax(axis=1)
    return np.where(finite, answers, _UNKNOWN)


def outputs_by_name(folders: Sequence[str], labels: Sequence[str]) -> IntArray:
    """(F,) position of each folder's name among the labels, as `match_class_folders` finds it; -1 for none."""
    index = match_class_folders(folders, labels)
    return np.array([index.get(folder, _UNKNOWN) for folder in folders], np.int64)


def _gives_numbers(use: UseFacts) -> bool:
    return any(np.isfinite(trial.probabilities).all(axis=1).any() for trial in use.trials)


def _answers_decide(use: UseFacts, named: Sequence[BoolArray], held_out: Sequence[BoolArray]) -> bool:
    """Whether an order of the labels that the answers show explains the folders much better than the names do."""
    complete = [n for n, its in enumerate(held_out) if len(its) == len(use.true)]
    by_answers = max((held_out[n] for n in complete), key=lambda its: float(its.mean()))
    by_names = max((named[n] for n in complete), key=lambda its: float(its.mean()))
    gain, chance = paired_drop(by_answers, by_names)
    largest = float(np.bincount(use.true).max() / len(use.true))
    return (
        gain > _ORDER_GAIN
        and chance < FALSE_ALARM_RATE
        and is_above_chance(float(by_answers.mean()), largest, len(use.true), trials=len(use.trials))
    )


def _right_by_answers(answers: IntArray, true: IntArray, folders: int, classes: int) -> BoolArray:
    """(M,) whether an answer is that of its folder, by the order that the other half of the images shows."""
    half = np.zeros(len(true), np.int64)
    for folder in range(folders):
        rows = np.flatnonzero(true == folder)
        half[rows] = np.arange(len(rows)) % 2
    right = np.zeros(len(true), bool)
    for side in (0, 1):
        order = _one_to_one(_counts(answers[half != side], true[half != side], folders, classes))
        own = half == side
        right[own] = (order[true[own]] == answers[own]) & (answers[own] != _UNKNOWN)
    return right


def _counts(answers: IntArray, true: IntArray, folders: int, classes: int) -> IntArray:
    """(F, C) how often each folder's images got each answer."""
    table = np.zeros((folders, classes), np.int64)
    known = answers != _UNKNOWN
    np.add.at(table, (true[: len(answers)][known], answers[known]), 1)
    return table


def _one_to_one(counts: IntArray) -> IntArray:
    """(F,) an output for each folder, none twice, the most frequent pairs first; -1 where none is left."""
    order = np.full(len(counts), _UNKNOWN, np.int64)
    taken: set[int] = set()
    for place in np.argsort(-counts, axis=None, kind="stable").tolist():
        folder, output = divmod(place, counts.shape[1])
        if counts[folder, output] == 0:
            break
        if order[folder] == _UNKNOWN and output not in taken:
            order[folder] = output
            taken.add(output)
    return order


def _best(use: UseFacts, right: Sequence[BoolArray]) -> int:
    complete = [n for n, its in enumerate(right) if len(its) == len(use.true)]
    best = max(complete, key=lambda n: float(right[n].mean()))
    for number in sorted(complete, key=lambda n: (len(use.trials[n].changes), -float(right[n].mean()))):
        # The given way is named only where it is as good as the best itself.
        is_equal = paired_drop(right[best], right[number])[1] > _EQUAL
        if is_equal and (number > 0 or float(right[number].mean()) >= float(right[best].mean())):
            return number
    return best
