"""Layouts of folders: which are classes, which are parts, and which are refused with a sentence."""

import itertools

import pytest

from edgeclf.runtime.errors import DatasetError
from edgeclf.training.data.class_folders import folders_alike, layout_sentence, split_of_folder
from edgeclf.training.data.dataset import Sample
from edgeclf.training.data.discovery import discover_dataset


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def touch_classes(root, *folders, labels=("cat", "dog")):
    touch(root, *(f"{folder}/{label}/1.jpg" for folder in folders for label in labels))


def splits(root, **options):
    return {(s.label, s.split) for s in discover_dataset(root, **options).samples}


@pytest.mark.parametrize(
    "names",
    [
        {"training_set": "train", "test_set": "test"},
        {"train_data": "train", "val_data": "val"},
        {"seg_train": "train", "seg_test": "test"},
        {"train": "train", "dev": "val", "test": "test"},
        {"TrainSet": "train", "eval": "val"},
        {"Trainingsdaten": "train", "Validierungsdaten": "val", "Testdaten": "test"},
        {"trainval": "train", "test": "test"},
        {"训练集": "train", "测试集": "test"},
        {"обучение": "train", "проверка": "val", "тест": "test"},
    ],
)
def test_parts_by_plain_names(tmp_path, names):
    touch_classes(tmp_path, *names)
    assert splits(tmp_path) == set(itertools.product(("cat", "dog"), names.values()))


def test_the_folder_of_a_part_may_be_there_twice_as_archives_have_it(tmp_path):
    touch_classes(tmp_path, "seg_train/seg_train", "seg_test/seg_test")
    (tmp_path / "seg_pred").mkdir()
    assert splits(tmp_path) == set(itertools.product(("cat", "dog"), ("train", "test")))


def test_what_surrounds_the_classes_is_passed_over(tmp_path):
    touch_classes(tmp_path, ".")
    touch_classes(tmp_path, "__MACOSX", labels=("cat", "._dog"))
    touch(tmp_path, "@eaDir/cat/1.jpg", ".git/x.jpg", "cat/._1.jpg", "dog/Thumbs.db", "dog/@eaDir/1.jpg")
    touch(tmp_path, "runs/first/run.json", "runs/first/split.csv", "runs/first/curves.png")
    touch(tmp_path, "last/run.json", "last/split.csv", "last/confusion.png", "dog/run/run.json", "dog/run/split.csv")
    touch(tmp_path, "dog/run/curves.png")
    dataset = discover_dataset(tmp_path)
    assert [sample.path for sample in dataset.samples] == ["cat/1.jpg", "dog/1.jpg"]
    assert dataset.not_read == {}


def test_files_that_are_not_read_are_counted_by_kind(tmp_path):
    touch_classes(tmp_path, ".")
    touch(tmp_path, "cat/2.cr2", "dog/deep/3.CR2", "dog/4", "dog/5.jpg.1", "loose.jpg", "readme.md", "dog/6.jfif")
    dataset = discover_dataset(tmp_path)
    assert dataset.not_read == {".cr2": 2, "no suffix": 1, ".jpg.1": 1, "in no class folder": 1}
    assert [sample.path for sample in dataset.samples] == ["cat/1.jpg", "dog/1.jpg", "dog/6.jfif"]


@pytest.mark.parametrize("parts", [("train",), ("train", "test"), ("seg_train/seg_train", "seg_test/seg_test")])
def test_folders_of_runs_beside_the_parts_are_passed_over(tmp_path, parts):
    touch_classes(tmp_path, *parts)
    expected = splits(tmp_path)
    assert {split for _, split in expected} == {split_of_folder(part.split("/")[0]) for part in parts}
    for folder in ("my runs/1", "experiments/july/2"):
        touch(tmp_path, *(f"{folder}/{name}" for name in ("run.json", "split.csv", "curves.png")))
    assert splits(tmp_path) == expected


def test_a_folder_of_runs_with_an_image_is_none(tmp_path):
    touch_classes(tmp_path, "train", "test")
    touch(tmp_path, "my runs/1/run.json", "my runs/1/split.csv", "my runs/photo.jpg")
    with pytest.raises(DatasetError, match="'my runs' beside them"):
        discover_dataset(tmp_path)


@pytest.mark.parametrize(
    ("loose", "count"),
    [("1.jpg", 1), ("train/1.jpg", 1), ("seg_test/1.jpg", 1), ("seg_test/seg_test/1.jpg", 1), ("train/cat/2.jpg", 0)],
)
def test_images_in_no_class_folder_are_counted_wherever_they_lie(tmp_path, loose, count):
    touch_classes(tmp_path, "train", "seg_test/seg_test")
    touch(tmp_path, loose)
    assert discover_dataset(tmp_path).not_read == ({"in no class folder": 1} if count else {})


def test_class_folders_may_be_links_and_a_second_name_for_one_is_no_class(tmp_path):
    touch(tmp_path, "store/a/1.jpg", "data/dog/2.jpg", "data/dog/3.jpg")
    (tmp_path / "data/cat").symlink_to(tmp_path / "store/a")
    assert splits(tmp_path / "data") == {("cat", None), ("dog", None)}
    (tmp_path / "data/kitten").symlink_to(tmp_path / "store/a")
    with pytest.raises(DatasetError, match=r"a class folder of .* has no image: got 'kitten'"):
        discover_dataset(tmp_path / "data")


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["train/cat", "train/dog", "test1"], "look like train, val and test"),
        (["train2017/cat", "train2017/dog", "val2017/cat", "val2017/dog"], "look like train, val and test"),
        (["my_train/cat", "my_train/dog", "my_test/cat", "my_test/dog"], "look like train, val and test"),
        (
            ["train/cat", "train/dog", "predict/cat", "predict/dog"],
            "look like train, val and test, .*: got 'predict', 'train'",
        ),
        (["train/cat", "train/dog", "fold/cat", "fold/dog", "rest/cat", "rest/dog"], "look like train, val and test"),
        (["test/cat", "test/dog", "elsewhere/cat", "elsewhere/dog"], "got 'elsewhere', 'test'"),
        (["train/cat", "train/dog", "unlabeled"], "look like train, val and test, .*: got 'train', 'unlabeled'"),
        (["train/cat", "train/dog", "Unlabelled", "extra"], "got 'train', 'Unlabelled', 'extra'"),
        (["train/cat", "train/dog", "photographs"], "got 'train', 'photographs'"),
        (["archive/data/cat", "archive/data/dog"], "one class only: got 'archive', .*; name .*archive/data if its"),
        (
            ["train/emu/day", "train/emu/night", "test/emu/day"],
            "one class only: got 'emu', .*; add another class folder",
        ),
        (["images/cat", "images/dog", "labels"], "are no classes: got images/, labels/"),
        (["JPEGImages", "annotations", "masks"], "are no classes"),
        (["train/images", "train/labels", "valid/images", "valid/labels"], "folders of .*train are no classes"),
        (["train/cat", "trainset/cat", "test/dog"], "two train folders"),
        (["PetImages/cat", "PetImages/dog"], "one class only: got 'PetImages', .*; name .*PetImages if its folders"),
    ],
)
def test_layouts_that_are_refused_with_a_sentence(tmp_path, folders, words):
    touch(tmp_path, *(f"{folder}/{number}.jpg" for folder in folders for number in range(2)))
    with pytest.raises(DatasetError, match=words) as caught:
        discover_dataset(tmp_path)
    assert caught.value.hint


def test_classes_that_are_named_like_parts_are_classes(tmp_path):
    touch(tmp_path, "train_station/1.jpg", "test_tube/1.jpg", "evaluation form/1.jpg")
    assert len(discover_dataset(tmp_path).labels) == 3


def test_accents_spelled_in_two_ways_are_one_class_and_keep_their_paths(tmp_path):
    touch(tmp_path, "caf\u00e9/1.jpg", "cafe\u0301/2.jpg", "th\u00e9/1.jpg")
    dataset = discover_dataset(tmp_path)
    assert dataset.labels == ("caf\u00e9", "th\u00e9")
    assert {sample.path for sample in dataset.samples} == {"caf\u00e9/1.jpg", "cafe\u0301/2.jpg", "th\u00e9/1.jpg"}


def test_folders_alike():
    parts = [f"{outer}/{inner}/{n}.jpg" for outer in ("a", "b") for inner in ("x", "y") for n in range(2)]
    assert folders_alike(parts) == (("a", "b"), ("x", "y"))
    assert folders_alike([*parts, "a/1.jpg"]) is None
    assert folders_alike([*parts, "c/x/1.jpg"]) is None
    assert folders_alike(["a/x/1.jpg", "b/x/1.jpg"]) is None
    assert folders_alike(["a/1.jpg", "b/1.jpg"]) is None


def test_a_class_of_files_that_are_not_read_is_said_to_have_them(tmp_path):
    for label in ("cat", "dog", "emu"):
        (tmp_path / label).mkdir()
        for number in range(4):
            (tmp_path / label / f"{number}{'.nef' if label == 'emu' else '.jpg'}").write_bytes(b"x")
    with pytest.raises(
        DatasetError, match=r"has no image: got 'emu'.*4 files in such folders are not read: 4 \.nef; convert them"
    ):
        discover_dataset(tmp_path)
    for path in (tmp_path / "emu").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=r"has no image: got 'emu'.*; add images or remove the folder"):
        discover_dataset(tmp_path)


def test_a_class_called_train_is_a_class(tmp_path):
    """Among vehicles; also where folders of sites lie in some of them."""
    touch(tmp_path, *(f"{label}/{n}.jpg" for label in ("train", "bus", "tram") for n in range(3)), "bus/north/9.jpg")
    assert splits(tmp_path) == {("train", None), ("bus", None), ("tram", None)}


def test_a_class_called_train_with_its_kinds_in_folders_is_a_class(tmp_path):
    """With images beside the folders, or with two other classes and none that is called unlabeled."""
    touch(tmp_path / "a", "train/steam/1.jpg", "train/diesel/2.jpg", "train/3.jpg", "bus/4.jpg")
    assert splits(tmp_path / "a") == {("train", None), ("bus", None)}
    touch(tmp_path / "b", "train/steam/1.jpg", "train/diesel/2.jpg", "tram/3.jpg", "bus/4.jpg")
    assert splits(tmp_path / "b") == {("train", None), ("tram", None), ("bus", None)}


def test_a_folder_for_the_images_of_a_split_is_read_through(tmp_path):
    touch_classes(tmp_path / "a", "train/images", "valid/Bilder")
    assert splits(tmp_path / "a") == set(itertools.product(("cat", "dog"), ("train", "val")))
    # A class may be called so.
    touch(tmp_path / "b", "test/data/1.jpg", "test/data/by day/2.jpg")
    assert splits(tmp_path / "b", for_training=False) == {("data", "test")}


def test_images_that_are_in_no_class_folder_are_counted_where_they_lie(tmp_path):
    """Competitions have a folder of images, and a table beside it."""
    touch(tmp_path, "train/1.jpg", "train/2.jpg", "test/3.jpg")
    with pytest.raises(
        DatasetError,
        match=r"got 3 images that lie in no class folder, such as those of 'test', 'train', .*; sort the images by class",
    ):
        discover_dataset(tmp_path)
    (tmp_path / "labels.csv").write_text("id,breed")
    with pytest.raises(
        DatasetError, match=r"; name .*labels\.csv if it lists their classes, or sort them into folders"
    ):
        discover_dataset(tmp_path)
    touch(tmp_path / "one", "1.jpg")
    with pytest.raises(DatasetError, match=r"got 1 image that lies in no class folder, expected"):
        discover_dataset(tmp_path / "one")


def test_class_folders_that_may_hold_the_classes_are_told():
    paths = [f"{outer}/{inner}/{n}.jpg" for outer in ("batch1", "batch2") for inner in ("cat", "dog") for n in range(2)]
    samples = [Sample(path, path.split("/", maxsplit=1)[0]) for path in paths]
    told = layout_sentence(samples)
    assert told is not None
    assert told.startswith(
        "the folders 'batch1', 'batch2' are taken for the classes, and each has the same folders inside"
    )
    # Not of splits, of classes that a table names, or where the folders differ.
    assert layout_sentence([Sample(sample.path, sample.label, "train") for sample in samples]) is None
    assert layout_sentence([Sample(path, path.split("/")[1]) for path in paths]) is None
    assert layout_sentence([*samples, Sample("batch3/emu/1.jpg", "batch3")]) is None


def test_a_folder_that_archives_have_twice_is_read(tmp_path):
    root = tmp_path / "Flowers"
    touch_classes(root, "flowers")
    assert {sample.path for sample in discover_dataset(root).samples} == {
        "flowers/cat/1.jpg",
        "flowers/dog/1.jpg",
    }
    parts = tmp_path / "birds"
    touch_classes(parts, "birds/train", "birds/test")
    touch(parts, "birds/loose.jpg")
    assert splits(parts) == set(itertools.product(("cat", "dog"), ("train", "test")))
    assert discover_dataset(parts).not_read == {"in no class folder": 1}
    # One class of its data set's name, to evaluate on, stays one.
    touch(tmp_path / "cat", "cat/1.jpg", "cat/by day/2.jpg")
    assert splits(tmp_path / "cat", for_training=False) == {("cat", None)}


@pytest.mark.parametrize("names", [("fold1", "fold2"), ("Fold 1", "Fold 2", "Fold 10"), ("k-fold_0", "k-fold_1")])
@pytest.mark.parametrize("inside", ["cat/", ""])
def test_folds_are_refused_with_the_way_out(tmp_path, names, inside):
    touch(tmp_path, *(f"{name}/{inside}1.jpg" for name in names))
    with pytest.raises(
        DatasetError, match=r"are folds of one data set, not classes: got .*; merge all but one as train/"
    ):
        discover_dataset(tmp_path)


def test_train_beside_another_train_is_refused_and_classes_of_that_name_are_read(tmp_path):
    touch_classes(tmp_path / "a", "train")
    touch_classes(tmp_path / "a", "extra_train", labels=("bird", "fish"))
    with pytest.raises(
        DatasetError, match="look like train, val and test, not like classes: got 'extra_train', 'train'"
    ):
        discover_dataset(tmp_path / "a")
    touch(tmp_path / "b", "train/1.jpg", "train_station/1.jpg", "bus/1.jpg", "fold1/1.jpg")
    assert {label for label, _ in splits(tmp_path / "b")} == {"train", "train_station", "bus", "fold1"}


@pytest.mark.parametrize(
    ("whole", "part"), [("flowers", "flowers_train"), ("my birds", "MyBirds-TestSet"), ("set_a", "a_val")]
)
def test_a_part_beside_the_folder_that_it_is_of_is_refused(tmp_path, whole, part):
    """Whatever lies in that folder: other classes, or images alone."""
    touch_classes(tmp_path / "a", part, labels=("rose", "tulip"))
    touch_classes(tmp_path / "a", whole, labels=("bird", "fish"))
    touch_classes(tmp_path / "b", part, labels=("rose", "tulip"))
    touch(tmp_path / "b", f"{whole}/1.jpg")
    for root in (tmp_path / "a", tmp_path / "b"):
        with pytest.raises(
            DatasetError, match=f"look like train, val and test, not like classes: got {whole!r}, {part!r}"
        ):
            discover_dataset(root)
    # Classes of such names have images, not folders of them.
    touch(tmp_path / "c", f"{whole}/1.jpg", f"{part}/1.jpg", "other/1.jpg")
    assert {label for label, _ in splits(tmp_path / "c")} == {whole, part, "other"}
    touch_classes(tmp_path / "d", part, labels=("rose", "tulip"))
    touch(tmp_path / "d", "other/1.jpg")
    assert {label for label, _ in splits(tmp_path / "d")} == {part, "other"}
