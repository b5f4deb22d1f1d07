"""Which images train, choose and report: properties of any split, and what is refused."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.runtime.errors import DatasetError, RunFolderError, UsageError
from edgeclf.training.data.dataset import SPLITS, Dataset, Sample
from edgeclf.training.data.split import contradiction_sentence, divide, group_keys, shared_sentences
from edgeclf.training.data.training_data import read_split, split_to_csv

ROOT = Path("/data")


def dataset(counts, split=None):
    """`counts` images of each class, by label, sorted by path as discovery leaves them."""
    return Dataset(
        ROOT,
        tuple(Sample(f"{label}/{n:04d}.jpg", label, split) for label in sorted(counts) for n in range(counts[label])),
    )


def both(*parts):
    return Dataset(ROOT, tuple(sorted((s for part in parts for s in part.samples), key=lambda s: s.path)))


def split_samples(whole, **options):
    return divide(whole, **options).samples


def tally(samples):
    return Counter((sample.label, sample.split) for sample in samples)


def parts_of(samples, label):
    return {sample.path: sample.split for sample in samples if sample.label == label}


labels = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8).filter(lambda s: "/" not in s)
class_counts = st.dictionaries(labels, st.integers(3, 60), min_size=2, max_size=5)
fractions = st.floats(0.01, 0.3)


@given(class_counts, fractions, st.one_of(st.just(0.0), fractions), st.integers(0, 2**32))
def test_every_class_is_in_every_part(counts, val, test, seed):
    given_samples = dataset(counts)
    samples = split_samples(given_samples, val_fraction=val, test_fraction=test, seed=seed)
    # The same images in the same order, each in one part.
    assert [(s.path, s.label) for s in samples] == [(s.path, s.label) for s in given_samples.samples]
    assert {s.split for s in samples} == {"train", "val"} | ({"test"} if test else set())
    there = tally(samples)
    for label in counts:
        assert there[label, "train"] >= 1
        for split, share in (("val", val), ("test", test)):
            assert (there[label, split] >= 1) == (share > 0)


@given(st.integers(0, 2**32), fractions, fractions)
def test_the_shares_are_those_asked_for_up_to_chance(seed, val, test):
    counts = {"cat": 1500, "dog": 500}
    there = tally(split_samples(dataset(counts), val_fraction=val, test_fraction=test, seed=seed))
    for label, count in counts.items():
        for split, share in (("val", val), ("test", test)):
            # Six standard deviations of a binomial: once in 500 million.
            assert abs(there[label, split] - count * share) <= 6 * (count * share * (1 - share)) ** 0.5 + 1


@given(class_counts, st.integers(0, 2**32))
def test_the_seed_decides(counts, seed):
    assert split_samples(dataset(counts), seed=seed) == split_samples(dataset(counts), seed=seed)


def test_another_seed_is_another_split():
    assert split_samples(dataset({"cat": 50, "dog": 50}), seed=1) != split_samples(
        dataset({"cat": 50, "dog": 50}), seed=2
    )


@given(class_counts, st.data())
def test_adding_images_to_a_class_leaves_the_others_as_they_were(counts, data):
    grown = data.draw(st.sampled_from(sorted(counts)))
    before = split_samples(dataset(counts))
    after = split_samples(dataset({**counts, grown: counts[grown] + 7}))
    for label in set(counts) - {grown}:
        assert parts_of(before, label) == parts_of(after, label)


@given(st.integers(0, 2**32), st.integers(1, 10), st.data())
def test_images_that_are_added_move_none_of_the_others(seed, added, data):
    counts = {"cat": 40, "dog": 30}
    before = divide(dataset(counts), seed=seed)
    grown = data.draw(st.sampled_from(sorted(counts)))
    after = divide(dataset({**counts, grown: counts[grown] + added}), seed=seed)
    # But for those that were moved because chance had left a split empty.
    if not before.filled:
        there = parts_of(after.samples, grown)
        assert {path: there[path] for path in parts_of(before.samples, grown)} == parts_of(before.samples, grown)


def test_a_class_that_chance_leaves_without_a_split_gets_its_nearest_image_and_that_is_told():
    found = [divide(dataset({"cat": 4, "dog": 400}), seed=seed) for seed in range(60)]
    told = [division for division in found if division.filled]
    assert told
    assert len(told) < len(found)
    for division in found:
        assert {split for (label, split), _ in tally(division.samples).items() if label == "cat"} == set(SPLITS)
        assert (division.sentence() is None) == (not division.filled)
    assert told[0].sentence().startswith("by chance a class had no image in a split, its nearest was taken: 'cat' (")


def keyed(samples, digests, copies=()):
    whole = Dataset(ROOT, tuple(samples))
    keys, pictures = group_keys(whole.samples, digests, copies)
    return whole, keys, pictures


def straddling(samples, keys):
    splits = {}
    for sample, key in zip(samples, keys, strict=True):
        splits.setdefault(key, set()).add(sample.split)
    return sum(len(its) > 1 for its in splits.values())


def test_copies_and_groups_stay_in_one_split_and_more_images_move_none(rng):
    """2,000 images, one in ten a copy of another, one in ten of a group of several classes."""
    names = [f"{n:04d}" for n in range(2000)]
    samples = [
        Sample(f"{label}/{name}.jpg", label, group=f"video {rng.integers(40)}" if n % 10 == 3 else None)
        for n, name in enumerate(names)
        for label in [str(rng.choice(["cat", "dog", "emu"]))]
    ]
    digests = {n: f"digest {n if n % 10 else rng.integers(1, 2000)}" for n in range(2000)}
    copies = [[1, 11], [21, 31, 41]]
    whole, keys, pictures = keyed(samples, digests, copies)
    split = split_samples(whole, keys=keys)
    assert straddling(split, keys) == straddling(split, pictures) == 0
    assert straddling(split, [digests[n] for n in range(2000)]) == 0
    assert straddling(split, [sample.group or sample.path for sample in samples]) == 0
    assert split[1].split == split[11].split
    assert straddling(split_samples(whole), pictures) > 0
    # Ten more: new ones, and copies of some that are there.
    more = [Sample(f"cat/new{n}.jpg", "cat") for n in range(10)]
    grown, more_keys, _ = keyed(
        [*samples, *more], {**digests, **{2000 + n: f"digest {n if n < 5 else 9000 + n}" for n in range(10)}}, copies
    )
    assert split_samples(grown, keys=more_keys)[:2000] == split


def test_a_class_of_copies_alone_is_too_small():
    samples = [Sample(f"{label}/{n}.jpg", label) for label in ("cat", "dog") for n in range(6)]
    whole, keys, _ = keyed(samples, {n: "one" if n < 6 else f"{n}" for n in range(12)})
    with pytest.raises(
        DatasetError, match=r"too few different images of class 'cat': got 1 group of copies.*in 6 images"
    ):
        split_samples(whole, keys=keys)


def test_images_in_two_splits_that_the_data_set_brings_are_counted():
    samples = [Sample(f"{split}/{n}.jpg", "cat", split, group=f"{n}") for split in SPLITS for n in range(5)]
    digests = {n: f"{n}" for n in range(15)} | {10: "0", 11: "1", 12: "5"}
    _, _, pictures = keyed([replace(sample, group=None) for sample in samples], digests)
    sentences = shared_sentences([replace(sample, group=None) for sample in samples], pictures)
    assert sentences == [
        "2 test images are training images as well, the same picture: the test figures are too good",
        "1 test image is a validation image as well, the same picture: the test figures are too good",
    ]
    assert sum("groups of --group-by are in" in text for text in shared_sentences(samples, pictures)) == 3


def test_pictures_in_several_classes_are_told():
    samples = [Sample("a/1.jpg", "a"), Sample("b/1.jpg", "b"), Sample("a/2.jpg", "a"), Sample("a/3.jpg", "a")]
    told = contradiction_sentence(samples, ["x", "x", "y", "y"])
    assert told is not None
    assert told.startswith("1 picture is in more than one class, such as a/1.jpg and b/1.jpg: ")
    assert contradiction_sentence(samples, ["x", "z", "y", "y"]) is None
    samples.append(Sample("c/2.jpg", "c"))
    assert (contradiction_sentence(samples, ["x", "x", "y", "y", "y"]) or "").startswith("2 pictures are in more")


@given(class_counts, labels)
def test_adding_a_class_leaves_the_others_as_they_were(counts, new):
    before = split_samples(dataset({label: n for label, n in counts.items() if label != new} or {"other": 9}))
    after = split_samples(dataset({**counts, new: 12}))
    for label in set(counts) - {new}:
        assert parts_of(before, label) == parts_of(after, label)


def test_validation_is_carved_from_train_where_a_test_part_is_given():
    whole = both(dataset({"cat": 400, "dog": 200}, "train"), Dataset(ROOT, (Sample("z/1.jpg", "dog", "test"),)))
    there = tally(split_samples(whole))
    assert there["dog", "test"] == 1
    assert there["cat", "test"] == 0
    # 0.2 of them, six standard deviations to either side.
    assert abs(there["cat", "val"] - 80) <= 48
    assert abs(there["dog", "val"] - 40) <= 34
    assert abs(tally(split_samples(whole, val_fraction=0.5))["cat", "val"] - 200) <= 60


def test_given_parts_are_kept():
    whole = both(dataset({"cat": 4}, "train"), Dataset(ROOT, (Sample("v/1.jpg", "cat", "val"),)))
    assert split_samples(whole, seed=5) == whole.samples


def test_the_defaults_hold_out_fifteen_percent_twice():
    there = tally(split_samples(dataset({"cat": 10_000})))
    assert abs(there["cat", "val"] - 1500) <= 215
    assert abs(there["cat", "test"] - 1500) <= 215


@pytest.mark.parametrize(
    ("val", "test"), [(0.0, 0.1), (1.0, 0.0), (-0.1, 0.1), (0.5, 0.5), (0.2, -0.1), (0.2, 1.0), (float("nan"), 0.1)]
)
def test_fractions_out_of_range(val, test):
    with pytest.raises(UsageError, match="bad fractions"):
        split_samples(dataset({"cat": 50, "dog": 50}), val_fraction=val, test_fraction=test)


def test_a_test_fraction_of_data_with_parts_is_refused():
    with pytest.raises(UsageError, match="no meaning"):
        split_samples(dataset({"cat": 5, "dog": 5}, "train"), test_fraction=0.1)


def test_classes_too_small_for_every_part():
    with pytest.raises(DatasetError, match="too few images of class 'dog': got 2, expected at least 3"):
        split_samples(dataset({"cat": 50, "dog": 2}))
    with pytest.raises(DatasetError, match="got 1, expected at least 2"):
        split_samples(dataset({"cat": 50, "dog": 1}), test_fraction=0.0)
    assert {s for _, s in tally(split_samples(dataset({"cat": 3})))} == set(SPLITS)
    assert {s for _, s in tally(split_samples(dataset({"cat": 2}), test_fraction=0.0))} == {"train", "val"}


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


def test_known_parts_are_kept_and_the_rest_is_drawn():
    animals = dataset({"cat": 40, "dog": 20})
    before = split_samples(animals, seed=1)
    known = {position: sample.split for position, sample in enumerate(before) if position % 2}
    after = split_samples(animals, seed=2, earlier=known)
    assert all(after[position].split == split for position, split in known.items())
    assert [sample.split for sample in after] != [sample.split for sample in before]


def test_a_class_that_trained_as_a_whole_before_gets_validation_images_and_no_test_images():
    animals = dataset({"cat": 12, "dog": 12})
    known = {n: "train" for n, sample in enumerate(animals.samples) if sample.label == "cat"}
    there = tally(split_samples(animals, earlier=known))
    assert there["cat", "val"] == 1
    assert there["cat", "test"] == 0
    assert there["dog", "test"] >= 1


def test_copies_that_had_several_splits_before_have_that_of_the_first_use():
    animals = dataset({"cat": 12, "dog": 12})
    keys = ["one" if n < 3 else f"{n}" for n in range(24)]
    after = split_samples(animals, earlier={0: "test", 1: "train"}, keys=keys)
    assert [after[n].split for n in range(3)] == ["train"] * 3
    from edgeclf.training.fit.transfer import count_leaked, split_by_digest

    earlier = [Sample("a.jpg", "cat", "train", "one"), Sample("b.jpg", "cat", "test", "one")]
    for order in (earlier, earlier[::-1]):
        assert split_by_digest(order) == {"one": "train"}
        assert count_leaked(order, [Sample("c.jpg", "cat", "test", "one")]) == 1


def test_a_known_test_image_may_train_where_the_data_set_brings_its_tests():
    samples = (
        *(Sample(f"train/cat/{n}.jpg", "cat", "train") for n in range(10)),
        Sample("test/cat/1.jpg", "cat", "test"),
    )
    after = split_samples(Dataset(ROOT, samples), earlier={0: "test", 1: "val", 10: "train"})
    assert after[0].split in {"train", "val"}
    assert after[1].split == "val"
    assert after[10].split == "test"
