"""Which images train, choose and report: properties of any split, and what is refused."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime.errors import DatasetError, RunFolderError, UsageError
from edgeclf.training.data.dataset import SPLITS, Dataset, Sample
from edgeclf.training.data.training_data import assign_splits, read_split, split_to_csv

ROOT = Path("/data")


def dataset(counts, split=None):
    """`counts` images of each class, by label, sorted by path as discovery leaves them."""
    return Dataset(
        ROOT,
        tuple(Sample(f"{label}/{n:04d}.jpg", label, split) for label in sorted(counts) for n in range(counts[label])),
    )


def both(*parts):
    return Dataset(ROOT, tuple(sorted((s for part in parts for s in part.samples), key=lambda s: s.path)))


def tally(samples):
    return Counter((sample.label, sample.split) for sample in samples)


def parts_of(samples, label):
    return {sample.path: sample.split for sample in samples if sample.label == label}


labels = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8).filter(lambda s: "/" not in s)
class_counts = st.dictionaries(labels, st.integers(3, 60), min_size=2, max_size=5)
fractions = st.floats(0.01, 0.3)


@given(class_counts, fractions, st.one_of(st.just(0.0), fractions), st.integers(0, 2**32))
def test_every_class_is_in_every_part_in_proportion(counts, val, test, seed):
    given_samples = dataset(counts)
    samples = assign_splits(given_samples, val_fraction=val, test_fraction=test, seed=seed)
    # The same images in the same order, each in one part.
    assert [(s.path, s.label) for s in samples] == [(s.path, s.label) for s in given_samples.samples]
    assert {s.split for s in samples} == {"train", "val"} | ({"test"} if test else set())
    there = tally(samples)
    for label, count in counts.items():
        assert there[label, "train"] >= 1
        for split, share in (("val", val), ("test", test)):
            assert abs(there[label, split] - count * share) <= (1 if share else 0)
            assert (there[label, split] >= 1) == (share > 0)


@given(class_counts, st.integers(0, 2**32))
def test_the_seed_decides(counts, seed):
    assert assign_splits(dataset(counts), seed=seed) == assign_splits(dataset(counts), seed=seed)


def test_another_seed_is_another_split():
    assert assign_splits(dataset({"cat": 50, "dog": 50}), seed=1) != assign_splits(
        dataset({"cat": 50, "dog": 50}), seed=2
    )


@given(class_counts, st.data())
def test_adding_images_to_a_class_leaves_the_others_as_they_were(counts, data):
    grown = data.draw(st.sampled_from(sorted(counts)))
    before = assign_splits(dataset(counts))
    after = assign_splits(dataset({**counts, grown: counts[grown] + 7}))
    for label in set(counts) - {grown}:
        assert parts_of(before, label) == parts_of(after, label)


@given(class_counts, labels)
def test_adding_a_class_leaves_the_others_as_they_were(counts, new):
    before = assign_splits(dataset({label: n for label, n in counts.items() if label != new} or {"other": 9}))
    after = assign_splits(dataset({**counts, new: 12}))
    for label in set(counts) - {new}:
        assert parts_of(before, label) == parts_of(after, label)


def test_validation_is_carved_from_train_where_a_test_part_is_given():
    whole = both(dataset({"cat": 20, "dog": 10}, "train"), Dataset(ROOT, (Sample("z/1.jpg", "dog", "test"),)))
    assert tally(assign_splits(whole)) == {
        ("cat", "train"): 16,
        ("cat", "val"): 4,
        ("dog", "train"): 8,
        ("dog", "val"): 2,
        ("dog", "test"): 1,
    }
    assert tally(assign_splits(whole, val_fraction=0.5))["cat", "val"] == 10


def test_given_parts_are_kept():
    whole = both(dataset({"cat": 4}, "train"), Dataset(ROOT, (Sample("v/1.jpg", "cat", "val"),)))
    assert assign_splits(whole, seed=5) == whole.samples


def test_the_defaults_hold_out_fifteen_percent_twice():
    assert tally(assign_splits(dataset({"cat": 100}))) == {
        ("cat", "train"): 70,
        ("cat", "val"): 15,
        ("cat", "test"): 15,
    }


@pytest.mark.parametrize(
    ("val", "test"), [(0.0, 0.1), (1.0, 0.0), (-0.1, 0.1), (0.5, 0.5), (0.2, -0.1), (0.2, 1.0), (float("nan"), 0.1)]
)
def test_fractions_out_of_range(val, test):
    with pytest.raises(UsageError, match="bad fractions"):
        assign_splits(dataset({"cat": 50, "dog": 50}), val_fraction=val, test_fraction=test)


def test_a_test_fraction_of_data_with_parts_is_refused():
    with pytest.raises(UsageError, match="no meaning"):
        assign_splits(dataset({"cat": 5, "dog": 5}, "train"), test_fraction=0.1)


def test_classes_too_small_for_every_part():
    with pytest.raises(DatasetError, match="too few images of class 'dog': got 2, expected at least 3"):
        assign_splits(dataset({"cat": 50, "dog": 2}))
    with pytest.raises(DatasetError, match="got 1, expected at least 2"):
        assign_splits(dataset({"cat": 50, "dog": 1}), test_fraction=0.0)
    assert {s for _, s in tally(assign_splits(dataset({"cat": 3})))} == set(SPLITS)
    assert {s for _, s in tally(assign_splits(dataset({"cat": 2}), test_fraction=0.0))} == {"train", "val"}


@given(st.lists(st.tuples(labels, labels, st.sampled_from(SPLITS)), min_size=1, max_size=8))
def test_a_split_is_read_as_it_was_written(tmp_path_factory, rows):
    samples = tuple(Sample(*row) for row in rows)
    path = tmp_path_factory.getbasetemp() / "split.csv"
    path.write_text(split_to_csv(samples), encoding="utf-8")
    assert read_split(path) == samples


@pytest.mark.parametrize(
    "text",
    [
        "",
        "path,label,split\n",
        "path,label\n1.jpg,cat\n",
        "path,label,split\n1.jpg,cat,some\n",
        "path,label,split\n1.jpg\n",
    ],
)
def test_a_damaged_split_is_refused(tmp_path, text):
    path = tmp_path / "split.csv"
    path.write_text(text)
    with pytest.raises(RunFolderError, match=r"split\.csv"):
        read_split(path)
    with pytest.raises(RunFolderError, match="cannot read"):
        read_split(tmp_path / "nowhere.csv")


def test_known_parts_are_kept_and_the_fractions_as_well():
    animals = dataset({"cat": 40, "dog": 20})
    before = assign_splits(animals, seed=1)
    known = {position: sample.split for position, sample in enumerate(before) if position % 2}
    after = assign_splits(animals, seed=2, earlier=known)
    assert all(after[position].split == split for position, split in known.items())
    assert [sample.split for sample in after] != [sample.split for sample in before]
    for label in ("cat", "dog"):
        assert Counter(s.split for s in after if s.label == label) == Counter(
            s.split for s in before if s.label == label
        )


def test_a_known_test_image_may_train_where_the_data_set_brings_its_tests():
    samples = (
        *(Sample(f"train/cat/{n}.jpg", "cat", "train") for n in range(10)),
        Sample("test/cat/1.jpg", "cat", "test"),
    )
    after = assign_splits(Dataset(ROOT, samples), earlier={0: "test", 1: "val", 10: "train"})
    assert after[0].split in {"train", "val"}
    assert after[1].split == "val"
    assert after[10].split == "test"
