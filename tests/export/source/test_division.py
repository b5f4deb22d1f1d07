"""Division of images by content: stable, disjoint, whatever the files are called."""

from hypothesis import given
from hypothesis import strategies as st

from edgeclf.export.source.division import MOST_CHOOSING, MOST_REPORTED, divide_by_content

digests = st.lists(st.integers(0, 60).map(lambda number: f"{number * 2654435761 % 2**32:08x}"), max_size=80)
splits = st.sampled_from(["train", "val", "test", None])


def contents(positions, of):
    return {of[position] for position in positions}


@given(st.data(), digests)
def test_no_content_calibrates_and_is_judged_and_none_is_used_twice(data, its):
    named = data.draw(st.lists(splits, min_size=len(its), max_size=len(its)))
    division = divide_by_content(its, named)
    parts = [division.calibration, division.validation, division.test]
    sets = [contents(part, its) for part in parts]
    assert [len(part) for part in parts] == [len(found) for found in sets]
    assert len(set().union(*sets)) == sum(map(len, sets))
    assert division.copies == len(its) - len(set(its))


@given(digests, st.randoms())
def test_order_and_names_of_the_files_do_not_matter(its, random):
    shuffled = list(its)
    random.shuffle(shuffled)
    one, other = divide_by_content(its, [None] * len(its)), divide_by_content(shuffled, [None] * len(its))
    for part in ("calibration", "validation", "test"):
        assert contents(getattr(one, part), its) == contents(getattr(other, part), shuffled)


def shares(count, **options):
    division = divide_by_content(
        [f"{number * 40503 % 2**20:06x}" for number in range(count)], [None] * count, **options
    )
    return len(division.calibration), len(division.validation), len(division.test)


def test_shares_by_the_number_of_images():
    assert shares(0) == (0, 0, 0)
    assert shares(1) == (0, 1, 0)
    assert shares(20) == (8, 8, 4)
    assert shares(100) == (40, 40, 20)
    assert shares(1000) == (256, 496, 248)
    assert shares(50_000) == (256, MOST_CHOOSING, MOST_REPORTED)
    assert shares(2000, calibration_images=600) == (600, 934, 466)


def test_known_splits_are_kept_and_what_is_missing_comes_from_the_others():
    names = [f"{number:02x}" for number in range(12)]

    def parts(*named):
        division = divide_by_content(names, named)
        return division.calibration, division.validation, division.test

    train, val, test, none = (["train"] * 4, ["val"] * 4, ["test"] * 4, [None] * 4)
    assert parts(*train, *val, *test) == ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11))
    assert parts(*train, *val, *none) == ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11))
    # No validation images: two in three of the test images choose, the others are only reported.
    calibration, validation, reported = parts(*train, *test, *test)
    assert (calibration, len(validation), len(reported)) == ((0, 1, 2, 3), 6, 2)
    # Nothing but images that trained: some are judged all the same.
    assert [len(part) for part in parts(*train, *train, *train)] == [5, 5, 2]


def test_a_copy_in_another_split_is_never_judged():
    division = divide_by_content(["aa", "bb", "aa", "bb", "cc"], ["test", "val", "train", "test", "test"])
    assert (division.calibration, division.validation, division.test) == ((2,), (1,), (4,))
    assert division.copies == 2
