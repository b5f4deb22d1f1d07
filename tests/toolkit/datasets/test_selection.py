"""Which of the given images are evaluated, and what is said about it."""

import pytest

from edgeclf.toolkit.datasets.selection import select_images

TRAIN, VAL, TEST = "train", "val", "test"


@pytest.mark.parametrize(
    ("known", "named", "split", "rows", "name"),
    [
        # Nothing is known of the images: the test split where folders name one, else all.
        ([None, None], [None, None], "auto", (0, 1), "given"),
        ([None, None], [TRAIN, TEST], "auto", (1,), "test"),
        ([None, None], [TRAIN, VAL], "auto", (0, 1), "given"),
        ([None, None], [TRAIN, TEST], "all", (0, 1), "given"),
        # The model's own photographs, with one that it does not know.
        ([TRAIN, VAL, TEST], [None] * 3, "auto", (2,), "test"),
        ([TRAIN, VAL, TEST, None], [None] * 4, "auto", (2, 3), "unseen"),
        ([TRAIN, VAL, None], [None] * 3, "auto", (2,), "unseen"),
        ([TRAIN, VAL, TEST], [None] * 3, "val", (1,), "validation"),
        ([TRAIN, VAL, TEST], [None] * 3, "test", (2,), "test"),
        ([TRAIN, VAL, TEST], [None] * 3, "all", (0, 1, 2), "given"),
        # What was named a test image trained the model; what was named a training image did not.
        ([TRAIN, TEST, None], [TEST, TEST, TRAIN], "auto", (1,), "test"),
        ([TRAIN, TEST, None], [TEST, TEST, TRAIN], "test", (0, 1), "test"),
        # Validation was carved out of train/.
        ([TRAIN, VAL, TEST], [TRAIN, TRAIN, TEST], "val", (1,), "validation"),
        # None is left: what was asked for.
        ([TRAIN, VAL], [None] * 2, "auto", (0, 1), "given"),
        ([TRAIN, TRAIN], [TRAIN, TEST], "auto", (1,), "test"),
        ([TRAIN, VAL], [None] * 2, "test", (), "test"),
    ],
)
def test_images_are_selected_by_what_the_training_did_with_them(known, named, split, rows, name):
    selection = select_images(known, named, split)
    assert (selection.rows, selection.name) == (rows, name)
    assert selection.given == len(known)


@pytest.mark.parametrize(
    ("known", "split", "said"),
    [
        ([None, None], "auto", None),
        ([TEST, None], "auto", None),
        ([TRAIN, VAL], "train", None),
        ([TRAIN, VAL, TEST], "auto", "1 of the 3 given images trained it and 1 validated it: left out (--split all"),
        (
            [TRAIN, VAL, TEST],
            "all",
            "1 of the 3 given images trained it and 1 validated it: accuracy on those is too good",
        ),
        (
            [TRAIN, TRAIN],
            "auto",
            "2 of the 2 given images trained it and 0 validated it, and no other can be evaluated",
        ),
    ],
)
def test_a_user_is_told_what_the_model_has_seen(known, split, said):
    sentence = select_images(known, [None] * len(known), split).sentence("it")
    assert sentence is None if said is None else sentence.startswith(said)


def test_images_that_changed_are_told():
    sentence = select_images([TRAIN, VAL, None], [None] * 3, "auto", 2).sentence("it")
    assert sentence.startswith("1 of the 3 given images trained it and 1 validated it - 2 images have changed since")
    assert (
        select_images([TEST, None], [None] * 2, "auto", 1).sentence("it")
        == "1 image has changed since it was tested on them"
    )
    assert select_images([TEST, None], [None] * 2, "auto", 1).to_json()["changed"] == 1
