"""Wrong labels are named and ranked; right labels of classes that overlap are not taken for wrong ones."""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeclf.runtime.errors import MissingPackageError
from edgeclf.toolkit.doctor.checks.labels import is_surplus
from edgeclf.toolkit.doctor.checks.suspects import FOLDS, _folds, find_suspects, judge_labels, out_of_sample
from edgeclf.toolkit.doctor.facts import THUMBNAIL, DataFacts, Facts, Features, ImageTable
from edgeclf.toolkit.doctor.findings import Finding
from edgeclf.toolkit.doctor.registry import all_checks

pytestmark = pytest.mark.slow

Features2D = np.ndarray


def facts(
    vectors: Features2D | None,
    labels: np.ndarray,
    rows: np.ndarray | None = None,
    digests: list[str] | None = None,
    seed: int = 0,
) -> Facts:
    """A data set whose images are noise: no copies but those of the same digest."""
    count = len(labels)
    table = ImageTable(
        paths=tuple(f"{label}/{number}.png" for number, label in enumerate(labels)),
        labels=labels.astype(np.int64),
        splits=np.zeros(count, np.int64),
        digests=tuple(digests or map(str, range(count))),
        formats=("png",) * count,
        properties={},
        thumbnails=np.random.default_rng(seed).integers(0, 255, (count, THUMBNAIL, THUMBNAIL, 3), np.uint8),
    )
    rows = np.arange(count) if rows is None else rows
    features = None if vectors is None else Features(rows.astype(np.int64), vectors.astype(np.float32), "network")
    names = tuple(f"class {number}" for number in range(int(labels.max()) + 1))
    return Facts(data=DataFacts("photos", Path("/photos"), names, table, (), None, features, has_splits=True))


def examine(known: Facts) -> dict[str, Finding]:
    found = [f for check in all_checks() if check.theme == "labels" for f in check.find(known)]
    return {f.evidence["kind"]: f for f in found}


def clusters(
    generator: np.random.Generator, counts: list[int], spread: float = 3.0, size: int = 40
) -> tuple[Features2D, np.ndarray]:
    """Gaussian classes whose middles lie about `spread * sqrt(2)` apart."""
    labels = np.repeat(np.arange(len(counts)), counts)
    middles = np.linalg.qr(generator.normal(size=(size, size)))[0][: len(counts)] * spread
    return middles[labels] + generator.normal(size=(len(labels), size)), labels


@pytest.mark.parametrize(
    ("counts", "share"), [([200, 200], 0.05), ([200, 200], 0.1), ([100] * 4, 0.08), ([50, 500], 0.05)]
)
def test_flipped_labels_are_named_and_ranked(counts: list[int], share: float):
    generator = np.random.default_rng(0)
    vectors, true = clusters(generator, counts, spread=7.0)
    labels = true.copy()
    flipped = generator.permutation(len(true))[: round(share * len(true))]
    labels[flipped] = (true[flipped] + generator.integers(1, len(counts), len(flipped))) % len(counts)

    finding = examine(facts(vectors, labels))["suspects"]

    named = {int(path.split("/")[1].split(".")[0]) for path in finding.items}
    assert len(named & set(flipped.tolist())) >= 0.75 * len(flipped)
    assert len(named & set(flipped.tolist())) >= 0.85 * len(named)
    assert finding.severity in {"problem", "warning"}
    assert len(finding.details) == len(finding.items) == finding.evidence["images"]
    assert f"looks like class {true[int(finding.items[0].split('/')[1][:-4])]}" in finding.details[0]
    own = [float(detail.split("(")[1].split("%")[0]) for detail in finding.details]
    assert own == sorted(own)
    assert finding.evidence["share_95"][0] < finding.evidence["share"] < finding.evidence["share_95"][1]


@pytest.mark.parametrize("spread", [0.7, 1.0, 1.4, 2.0, 3.0])
@pytest.mark.parametrize("counts", [[300, 300], [60, 400], [30, 500], [60] * 6])
def test_right_labels_of_classes_that_overlap_are_at_most_a_note(spread: float, counts: list[int]):
    vectors, labels = clusters(np.random.default_rng(len(counts) * 100 + counts[0]), counts, spread)
    assert all(finding.severity == "note" for finding in examine(facts(vectors, labels)).values())


def test_classes_that_the_features_cannot_tell_apart_are_named_instead_of_their_images():
    generator = np.random.default_rng(0)
    vectors, kinds = clusters(generator, [300, 200], spread=6.0)
    # Of the first kind, half are called otherwise, whatever they look like.
    labels = np.where((kinds == 0) & (generator.random(500) < 0.5), 2, kinds)
    found = examine(facts(vectors, labels))
    assert all(finding.severity == "note" for finding in found.values())
    # Half of the labels of one kind are arbitrary: what is named is few next to those 150, and only worth a note.
    if "suspects" in found:
        assert len(found["suspects"].items) < 50


def test_what_cannot_be_judged_is_left_alone_or_said():
    generator = np.random.default_rng(0)
    vectors, labels = clusters(generator, [60, 60, FOLDS - 1], spread=5.0)
    labels[:5] = 1
    finding = examine(facts(vectors, labels))["suspects"]
    assert finding.evidence["classes_too_small"] == ["class 2"]
    assert finding.evidence["looked_at"] == 120

    assert examine(facts(vectors[:60], np.zeros(60, np.int64))) == {}
    assert examine(facts(vectors[:6], np.array([0, 0, 0, 1, 1, 1]))) == {}
    assert examine(Facts()) == {}
    said = examine(facts(None, labels))["not-looked-at"]
    assert said.severity == "note"
    assert "edgeclf[train,doctor]" in said.fix


def test_only_the_images_with_features_are_judged():
    generator = np.random.default_rng(0)
    vectors, labels = clusters(generator, [100, 100], spread=5.0)
    labels[:8] = 1
    rows = np.flatnonzero(np.arange(200) % 4 != 0)
    finding = examine(facts(vectors[rows], labels, rows))["suspects"]
    assert set(finding.items) <= {f"1/{number}.png" for number in range(8) if number % 4}
    assert len(finding.items) >= 4


def test_a_copy_does_not_vouch_for_a_wrong_label():
    generator = np.random.default_rng(0)
    vectors, labels = clusters(generator, [100, 100], spread=5.0)
    # One mislabelled image, six times, with features of its own: seen in training, any of them gives the others away.
    vectors[:6] = vectors[0] + 8.0 * np.eye(40)[-1]
    labels[:6] = 1
    digests = ["same" if number < 6 else str(number) for number in range(200)]
    own = find_suspects(facts(vectors, labels, digests=digests).data).probabilities[:6, 1]
    alone = find_suspects(facts(vectors, labels).data).probabilities[:6, 1]
    assert own.max() < 0.5 < alone.min()


@settings(max_examples=30, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 5))
def test_folds_keep_copies_together_and_every_class_in_each(seed: int, count: int):
    generator = np.random.default_rng(seed)
    targets = np.repeat(np.arange(count), generator.integers(20, 50, count))
    groups = np.arange(len(targets))
    for _ in range(10):
        first, second = generator.integers(0, len(targets), 2)
        groups[groups == groups[second]] = groups[first]
    folds = _folds(targets, groups, seed)
    assert all(len(np.unique(folds[groups == group])) == 1 for group in np.unique(groups))
    assert set(folds.tolist()) == set(range(FOLDS))
    for target in range(count):
        if len(np.unique(groups[targets == target])) >= 2 * FOLDS:
            assert len(np.unique(folds[targets == target])) >= 2


def test_probabilities_sum_to_one_and_repeat():
    vectors, labels = clusters(np.random.default_rng(3), [40, 40, 40])
    groups = np.arange(120)
    found = out_of_sample(vectors.astype(np.float32), labels, groups)
    assert found.sum(axis=1) == pytest.approx(np.ones(120))
    assert np.array_equal(found, out_of_sample(vectors.astype(np.float32), labels, groups))


def test_judging_probabilities_counts_the_undecided():
    probabilities = np.array([[0.95, 0.05]] * 40 + [[0.05, 0.95]] * 40 + [[0.5, 0.5]] * 3)
    targets = np.array([0] * 40 + [1] * 40 + [0, 1, 0])
    targets[:3] = 1
    flagged, inseparable, undecided = judge_labels(probabilities, targets)
    assert np.flatnonzero(flagged).tolist() == [0, 1, 2]
    assert (inseparable, undecided) == ((), 3)


@pytest.mark.parametrize("package", ["cleanlab.filter", "sklearn.linear_model"])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, package: str):
    vectors, labels = clusters(np.random.default_rng(1), [60, 60], spread=5.0)
    labels[:5] = 1
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=r"edgeclf\[doctor\]") as caught:
        examine(facts(vectors, labels))
    assert caught.value.exit_code == 5


def test_a_surplus_of_suspects_is_judged_given_both_counts():
    # One or three strays without an undecided image are no news, which a Poisson distribution of mean zero takes them for.
    assert [count for count in range(8) if is_surplus(count, 0)] == [4, 5, 6, 7]
    assert not is_surplus(6, 2)
    assert is_surplus(7, 2)
    assert is_surplus(24, 10)
    assert not is_surplus(19, 10)


def test_right_labels_have_a_surplus_as_seldom_as_the_check_says(rng):
    for undecided in (0.2, 0.75, 2.0, 8.0, 30.0):
        suspects, others = rng.poisson(0.75 * undecided, 400), rng.poisson(undecided, 400)
        # Bin(400, 0.05): more than 45 once in 400,000 times.
        assert sum(map(is_surplus, suspects.tolist(), others.tolist())) <= 45
