"""Images that a training used, told by content: whole digests of a run, short ones of a model file."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeclf.training.data.dataset import SPLITS, Sample
from edgeclf.training.data.seen_images import (
    changed_images,
    changed_words,
    images_of_record,
    images_of_split,
    record_images,
)

NOWHERE = Path("/nowhere/image.png")
digests = st.binary(min_size=16, max_size=16).map(bytes.hex)
splits = st.dictionaries(digests, st.sampled_from(SPLITS), min_size=1, max_size=40)


def samples_of(split_by_digest):
    return [Sample(f"{n}.png", "cat", split, digest) for n, (digest, split) in enumerate(split_by_digest.items())]


def new_digest(rng):
    return rng.bytes(16).hex()


@given(splits)
def test_a_run_knows_all_its_images_and_a_file_those_that_trained_and_validated(split_by_digest):
    samples = samples_of(split_by_digest)
    run, recorded = images_of_split(samples), record_images(samples)
    file = images_of_record(recorded or {})
    for digest, split in split_by_digest.items():
        assert run.split_of(digest, NOWHERE) == split
        if split != "test":
            assert file.split_of(digest, NOWHERE) == split
    assert (recorded is None) == (not {"train", "val"} & set(split_by_digest.values()))
    assert recorded == record_images(samples[::-1])


def test_other_images_are_unknown(rng):
    samples = samples_of({new_digest(rng): "train", new_digest(rng): "val"})
    other = new_digest(rng)
    for images in (images_of_split(samples), images_of_record(record_images(samples))):
        assert images.split_of(other, NOWHERE) is None
        assert images.split_of(None, NOWHERE) is None


def test_copies_of_one_file_are_told_apart_by_their_path_and_count_as_training_elsewhere(rng):
    digest = new_digest(rng)
    run = images_of_split([Sample("a/1.png", "a", "test", digest), Sample("a/2.png", "a", "train", digest)])
    assert run.split_of(digest, Path("/photos/a/1.png")) == "test"
    assert run.split_of(digest, Path("/photos/a/2.png")) == "train"
    assert run.split_of(digest, Path("/elsewhere/3.png")) == "train"


def test_a_record_keeps_the_images_of_the_run_that_a_training_goes_on_from(rng):
    before, both, now = (new_digest(rng) for _ in range(3))
    earlier = record_images(samples_of({before: "train", both: "val"}))
    file = images_of_record(record_images(samples_of({both: "train", now: "val"}), earlier))
    assert [file.split_of(digest, NOWHERE) for digest in (before, both, now)] == ["train", "train", "val"]
    run = images_of_split(samples_of({now: "test"}), earlier)
    assert [run.split_of(digest, NOWHERE) for digest in (before, now)] == ["train", "test"]


def test_a_record_stays_small(rng):
    samples = samples_of({new_digest(rng): "train" for _ in range(12)})
    assert len(record_images(samples, most=12)["train"]) == 12 * 4 / 3 * 4
    assert record_images(samples, most=11) is None
    assert record_images([Sample("a.png", "a", "train", None)]) is None


@pytest.mark.parametrize("damaged", [{"train": "!!"}, {"train": 7}, {"train": None}, {}, {"val": "AAA="}, []])
def test_a_damaged_record_names_no_image(damaged):
    assert images_of_record(damaged).split_of("00" * 16, NOWHERE) is None


def test_what_replaced_an_image_of_the_training_counts_as_that(rng, tmp_path):
    known = [new_digest(rng) for _ in range(3)]
    samples = [Sample(f"{split}.png", "a", split, digest) for split, digest in zip(SPLITS, known, strict=True)]
    run, without = images_of_split(samples, root=tmp_path), images_of_split(samples)
    for split, digest in zip(SPLITS, known, strict=True):
        place = tmp_path / f"{split}.png"
        other = new_digest(rng)
        assert run.split_of(other, place) == run.changed_at(other, place) == split
        assert run.changed_at(digest, place) is None
        assert run.split_of(other, tmp_path / "elsewhere" / place.name) is None
        assert without.split_of(other, place) is None
    # Files that were renamed are what they were.
    assert run.split_of(known[0], tmp_path / "val.png") == "train"
    assert run.changed_at(known[0], tmp_path / "val.png") is None


def test_changed_images_are_counted_with_the_first_of_them(rng):
    before = [Sample(f"{n}.png", "a", "train", new_digest(rng) if n else None) for n in range(5)]
    now = [
        replace(before[0], digest="x"),
        before[1],
        replace(before[2], digest=None),
        replace(before[3], digest="y"),
        before[4],
    ]
    assert changed_images(before, now) == ["3.png"]
    assert changed_words(["3.png"]) == "images that have changed since it began (1, such as 3.png)"
    assert changed_words(changed_images(before, before)) is None
