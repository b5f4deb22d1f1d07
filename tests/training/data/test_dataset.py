"""What is found in folders and CSVs, and what is refused with which words."""

import os

import pytest

from edgeclf.runtime.errors import DatasetError
from edgeclf.training.data.dataset import fingerprint
from edgeclf.training.data.discovery import discover_dataset


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def found(data, **options):
    return [(s.path, s.label, s.split) for s in discover_dataset(data, **options).samples]


def write_csv(folder, text, encoding="utf-8"):
    path = folder / "data.csv"
    path.write_text(text, encoding=encoding)
    return path


def test_class_folders(tmp_path):
    touch(tmp_path, "dog/2.png", "dog/1.JPG", "cat/a.webp", "cat/notes.txt", "loose.jpg", "readme.md")
    dataset = discover_dataset(tmp_path)
    assert [(s.path, s.label, s.split) for s in dataset.samples] == [
        ("cat/a.webp", "cat", None),
        ("dog/1.JPG", "dog", None),
        ("dog/2.png", "dog", None),
    ]
    assert dataset.labels == ("cat", "dog")
    assert dataset.root == tmp_path.resolve()
    assert (dataset.count(None), dataset.count("train")) == (3, 0)


def test_folders_inside_a_class_folder_belong_to_the_class(tmp_path):
    touch(tmp_path, "cat/indoors/monday/1.jpg", "cat/2.jpg", "dog/train/1.jpg")
    assert found(tmp_path) == [
        ("cat/2.jpg", "cat", None),
        ("cat/indoors/monday/1.jpg", "cat", None),
        ("dog/train/1.jpg", "dog", None),
    ]


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", None, "test"),
        ("Train", "VAL", "Test"),
        ("training", "validation", None),
        ("train", "valid", "testing"),
    ],
)
def test_part_folders_by_their_usual_names(tmp_path, train, val, test):
    parts = {name: split for name, split in ((train, "train"), (val, "val"), (test, "test")) if name}
    touch(tmp_path, *(f"{name}/{label}/1.jpg" for name in parts for label in ("cat", "dog")))
    expected = sorted((f"{n}/{label}/1.jpg", label, split) for n, split in parts.items() for label in ("cat", "dog"))
    assert found(tmp_path) == expected


def test_a_folder_of_test_images_alone_can_be_evaluated_but_not_trained_on(tmp_path):
    touch(tmp_path, "test/cat/1.jpg", "test/dog/1.jpg")
    assert found(tmp_path, for_training=False) == [("test/cat/1.jpg", "cat", "test"), ("test/dog/1.jpg", "dog", "test")]
    with pytest.raises(DatasetError, match="no train split: got test"):
        discover_dataset(tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    touch(tmp_path, "car/1.jpg", "plane/1.jpg", "train/1.jpg", "train/steam/1.jpg")
    assert discover_dataset(tmp_path).labels == ("car", "plane", "train")


def test_a_folder_without_images_beside_train_and_test_is_passed_over_and_one_with_images_is_an_error(tmp_path):
    touch(tmp_path, "docs/licence/text.txt", *(f"{p}/{c}/1.jpg" for p in ("train", "test") for c in ("cat", "dog")))
    assert discover_dataset(tmp_path).labels == ("cat", "dog")
    touch(tmp_path, "extra/1.jpg")
    with pytest.raises(DatasetError, match="mixes train/, test/ and other folders: got 'extra' beside them"):
        discover_dataset(tmp_path)


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    touch(tmp_path, "cat/1.jpg", "cat/._1.jpg", "cat/.thumbs/1.jpg", ".git/1.jpg", "dog/1.jpg")
    assert [path for path, _, _ in found(tmp_path)] == ["cat/1.jpg", "dog/1.jpg"]


def test_what_is_named_like_an_image_is_listed_whatever_it_is(tmp_path):
    touch(tmp_path, "cat/1.jpg", "dog/1.jpg", "dog/folder.jpg/inside.png")
    (tmp_path / "dog" / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    assert [path for path, _, _ in found(tmp_path)] == ["cat/1.jpg", "dog/1.jpg", "dog/dangling.png", "dog/folder.jpg"]


def test_file_names_need_not_be_unicode(tmp_path):
    touch(tmp_path, "cat/1.jpg", "dog/caf\udce9.jpg")
    assert [path for path, _, _ in found(tmp_path)] == ["cat/1.jpg", "dog/caf\udce9.jpg"]


def test_links_to_folders_end_no_loop(tmp_path):
    touch(tmp_path, "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "dog" / "again").symlink_to(tmp_path / "dog")
    assert [path for path, _, _ in found(tmp_path)] == ["cat/1.jpg", "dog/1.jpg"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "no labelled images in .*: got an empty folder"),
        (["1.jpg", "2.jpg"], "got 2 images that lie in no class folder"),
        (["cat/notes.txt", "dog/notes.txt"], "got 2 folders without an image"),
        (["cat/1.jpg", "cat/2.jpg"], "has one class only: got 'cat'"),
        (["train/cat/1.jpg", "test/cat/1.jpg"], "has one class only: got 'cat'"),
        (["cat/1.jpg", "Cat/1.jpg"], "have the same name: got 'Cat' and 'cat'"),
        (["cat/1.jpg", "cat /1.jpg"], "have the same name: got 'cat' and 'cat '"),
        (["cat/1.jpg", "dog/1.jpg", "emu/notes.txt", "fox/notes.txt"], "fewer images than classes: got 2 .* for 4"),
        (["cat/1.jpg", "dog/1.jpg", "dog/2.jpg", "emu/notes.txt"], "a class folder of .* has no image: got 'emu'"),
        (
            ["train/cat/1.jpg", "train/dog/1.jpg", "test/cat/1.jpg", "test/emu/1.jpg"],
            "'dog', 'emu' in one of them only",
        ),
        (["train/cat/1.jpg", "train/dog/1.jpg", "test/cat/1.jpg"], "train and test of .* different classes: got 'dog'"),
        (["train/cat/1.jpg", "train/dog/1.jpg", "val/cat/1.jpg"], "train and val of .* different classes: got 'dog'"),
        (["train/cat/1.jpg", "training/cat/1.jpg", "test/dog/1.jpg"], "two train folders: got test, train, training"),
    ],
)
def test_folders_that_cannot_be_trained_on(tmp_path, names, words):
    touch(tmp_path, *names)
    with pytest.raises(DatasetError, match=words) as caught:
        discover_dataset(tmp_path)
    assert caught.value.expected
    assert caught.value.exit_code == 3


def test_one_class_or_parts_that_differ_are_enough_to_evaluate(tmp_path):
    touch(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "test/cat/1.jpg")
    assert len(found(tmp_path, for_training=False)) == 3


def test_nothing_there(tmp_path):
    with pytest.raises(DatasetError, match="no such path"):
        discover_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="cannot list data"):
        discover_dataset(tmp_path / ("x" * 300))


def test_a_csv_without_parts(tmp_path):
    path = write_csv(tmp_path, "label, path\ncat, a/1.jpg\n\n dog ,b/2.jpg\n", encoding="utf-8-sig")
    assert found(path) == [("a/1.jpg", "cat", None), ("b/2.jpg", "dog", None)]
    assert discover_dataset(path).root == tmp_path.resolve()


def test_a_csv_with_parts_quotes_and_other_columns(tmp_path):
    text = 'path,label,split,weight\n"a, b.jpg","big ""cat""",train,1\n/abs/2.jpg,dog,Training,1\n'
    text += '3.jpg,dog,val,2\n4.jpg,"big ""cat""",validation,2\n'
    assert found(write_csv(tmp_path, text)) == [
        ("/abs/2.jpg", "dog", "train"),
        ("3.jpg", "dog", "val"),
        ("4.jpg", 'big "cat"', "val"),
        ("a, b.jpg", 'big "cat"', "train"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "got an empty file"),
        ("path,label\n", "no labelled images in .*: got no rows"),
        ("file,class\n1.jpg,cat\n", "got the first line 'file,class'"),
        ("path,label\n1.jpg,cat\n2.jpg,\n", "line 3 is incomplete: got path '2.jpg', label ''"),
        ("path,label\n1.jpg,cat\n\n\n2.jpg\n", "line 5 is incomplete"),
        ("path,label\n,cat\n", "line 2 is incomplete"),
        ("path,label,split\n1.jpg,cat,somewhere\n", "line 2 names an unknown split: got 'somewhere'"),
        ("path,label,split\n1.jpg,cat,train\n2.jpg,dog,\n", "only some images of .* have a split: got 1 without"),
        ("path,label\n1.jpg,cat\n2.jpg,dog\n./1.jpg,dog\n", "line 4 repeats an image: got 1.jpg, also in line 2"),
        ("path,label\n1.jpg,cat\n2.jpg,cat\n", "has one class only"),
        ('path,label\n"1.jpg,cat\n', "double quote that does not end"),
    ],
)
def test_csvs_that_cannot_be_used(tmp_path, text, words):
    with pytest.raises(DatasetError, match=words):
        discover_dataset(write_csv(tmp_path, text))


def test_a_file_that_is_no_csv(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(os.urandom(4096) + b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match=r"model\.onnx .*got (binary data|an ONNX model|UTF-16 text)"):
        discover_dataset(path)
    path.write_bytes(b"path,label\n1\0.jpg,cat\n2.jpg,dog\n")
    with pytest.raises(DatasetError, match="got binary data"):
        discover_dataset(path)
    rows = b"".join(b"%d.jpg,dog\n" % number for number in range(1000))
    path.write_bytes(b"path,label\n" + rows + b"1\0.jpg,cat\n")
    with pytest.raises(DatasetError, match=r"impossible path|NUL"):
        discover_dataset(path)
    path.write_bytes(b"path,label\n" + rows + "x.jpg,köter\n".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"not UTF-8, in line 1002,.*; save it as UTF-8"):
        discover_dataset(path)


def test_the_fingerprint_is_of_content_and_label_only():
    pairs = [("cat", "d1"), ("dog", "d2"), ("dog", "d3")]
    assert fingerprint(pairs) == fingerprint(reversed(pairs))
    assert fingerprint(pairs) != fingerprint([("dog", "d1"), ("cat", "d2"), ("dog", "d3")])
    assert fingerprint(pairs) != fingerprint(pairs[:2])
    assert fingerprint(pairs).startswith("blake2b:")
